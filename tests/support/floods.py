"""Floods: senders faster than any receiver, as other processes and as a kernel whose queue never runs empty."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, Final

import attrs
import trio

from trio_dgram._codecs.ancillary import UDP_GRO, UDP_SEGMENT
from trio_dgram._kernel.system_socket import MSG_ERRQUEUE, SystemSocket

from .socket_factory import sockets_from

SIZE: Final = 64
"""The payload of one datagram, in bytes."""
TRAIN: Final = 64
"""How many datagrams a flood with segmentation sends by one call."""
_BATCH_RECEIVES: Final = 64
_BATCH_SENDS: Final = 128
_PROGRAM: Final = """
import socket, sys, time
descriptor, segment, size, seconds = map(int, sys.argv[1:])
sender = socket.socket(fileno=descriptor)
if segment:
    sender.setsockopt(socket.IPPROTO_UDP, 103, segment)
payload, end = bytes(size), time.monotonic() + seconds
print("sending", flush=True)
while time.monotonic() < end:
    for _ in range(100):
        try:
            sender.send(payload)
        except (BlockingIOError, ConnectionRefusedError):
            pass
"""


@contextmanager
def flood(
    sender: socket.socket, *, segments: int = 1, size: int = SIZE, senders: int = 1, seconds: int = 20
) -> Generator[None]:
    """Have processes send by ``sender``, which is connected, as fast as they can, for ``seconds`` at the most.

    With ``segments`` the kernel makes that many datagrams of each send. The block begins when all are about to send.
    Whether ``sender`` blocks stays as it is: that belongs to the open file description, which a receiver may share.
    """
    arguments = (sender.fileno(), size if segments > 1 else 0, size * segments, seconds)
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, *map(str, arguments)]
    # The receiver closes first in some tests, so ignore the errors of its peers.
    with ExitStack() as stack:
        processes = []
        for _ in range(senders):
            process = subprocess.Popen(
                command, pass_fds=[sender.fileno()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline()
        yield


@cache
def one_batch(segments: int = 1) -> float:
    """Return the CPU time of one batch with Python's own sockets, in seconds: 128 sends and 64 receives.

    Args:
      segments: how many datagrams each receive brings, which are taken apart.
    """
    return min(_measure_batch(segments) for _ in range(20))


def _measure_batch(segments: int) -> float:
    taken: list[tuple[bytes, Any]] = []
    with pair_of_plain_sockets("127.0.0.1") as (sender, receiver):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        if segments > 1:
            receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        payload = bytes(SIZE * segments)
        start = time.thread_time()
        for _ in range(_BATCH_SENDS):
            sender.send(payload)
        for _ in range(_BATCH_RECEIVES):
            data, _, _, source = receiver.recvmsg(65536, 64)
            taken += [(data[at : at + SIZE], source) for at in range(0, len(data), SIZE)]
        return time.thread_time() - start


@contextmanager
def pair_of_plain_sockets(host: str) -> Generator[tuple[socket.socket, socket.socket]]:
    """Open a sender that is connected to a receiver."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
        receiver.bind((host, 0))
        sender.connect(receiver.getsockname())
        yield sender, receiver


@attrs.define(eq=False)
class EndlessSource(trio.abc.Instrument):
    """Refills the kernel's queue before each call that reads it, and counts the calls of every kind.

    So a reader that goes on until nothing is left never ends by itself. After ``cap`` operations in one task step, each
    a datagram or a call that brings none, the source stops until the next step: work without a bound shows as ``cap``
    operations, not as a hang.
    """

    cap: int
    seconds: float = 0.0
    """The CPU time of each call. A caller with a time budget makes fewer such calls per task step."""
    sender: socket.socket | None = None
    """What refills the queue of datagrams, connected to the socket under test."""
    segments: int = 1
    fails: Callable[[], object] | None = None
    """What refills the error queue."""
    calls: Counter[str] = attrs.field(factory=Counter)
    _in_step: int = 0

    def start(self, sender: socket.socket, segments: int = 1) -> None:
        """Refill by ``sender`` from now on, trains of ``segments`` datagrams, and have plenty queued already."""
        self.segments = segments
        if segments > 1:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        sender.settimeout(0)
        self.sender = sender
        self._refill(2 * _BATCH_RECEIVES)

    def stop(self) -> None:
        """Refill no more."""
        self.sender = self.fails = None
        self.seconds = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Resume the source."""
        del task
        self._in_step = 0

    def before_call(self, operation: str, arguments: Sequence[object]) -> None:
        """Prepare the answer to one call of the socket's method ``operation``."""
        reads_errors = operation == "recvmsg" and MSG_ERRQUEUE in arguments[2:]
        self.calls["read error" if reads_errors else operation] += 1
        count = _BATCH_RECEIVES if operation == "recvmmsg" else 1
        self._in_step += count * self.segments
        if self._in_step > self.cap:
            return
        if reads_errors:
            if self.fails is not None:
                self.fails()
        elif operation.startswith("recv"):
            self._refill(count)
        # Wall-clock time: where others have the processor too, even fewer calls fit.
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass

    def _refill(self, count: int) -> None:
        if self.sender is None:
            return
        payload = bytes(SIZE * self.segments)
        # A "unix" queue has a length; the reader empties it all the same.
        with suppress(BlockingIOError):
            for _ in range(count):
                self.sender.send(payload)


def _watched(operation: str) -> Any:
    def call(self: WatchedSocket, *arguments: Any, **options: Any) -> Any:
        self.source.before_call(operation, arguments)
        if operation in vars(SystemSocket):
            return getattr(SystemSocket, operation)(self, *arguments, **options)
        # It delegates the others.
        return getattr(self._sock, operation)(*arguments, **options)

    return call


class WatchedSocket(SystemSocket):
    """A real socket whose sends and receives use ``source``."""

    source: EndlessSource

    def kernel_socket(self) -> SystemSocket:
        return self


for _operation in ("send", "sendto", "sendmsg", "recvfrom", "recvmsg", "recvmmsg"):
    setattr(WatchedSocket, _operation, _watched(_operation))


@contextmanager
def endless_kernel(*, cap: int = 16384, seconds: float = 0.0) -> Generator[EndlessSource]:
    """Create sockets in the block, inside a Trio run, whose queue never runs empty once it is started."""
    source = EndlessSource(cap=cap, seconds=seconds)

    def make(family: int, _type: int, _proto: int) -> WatchedSocket:
        made = WatchedSocket.create(family)
        made.source = source
        return made

    with sockets_from(make):
        trio.lowlevel.add_instrument(source)
        try:
            yield source
        finally:
            source.stop()
            trio.lowlevel.remove_instrument(source)
