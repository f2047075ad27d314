"""A kernel with planned faults, which the real one shows rarely or never."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter, defaultdict, deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs

from trio_dgram._codecs.ancillary import UDP_GRO, UDP_SEGMENT
from trio_dgram._kernel.system_socket import SystemSocket

from .socket_factory import sockets_from


@attrs.define
class Faults:
    """The results of the next system calls, by the name of the socket's method: an errno, or None to succeed.

    A call that nothing is planned for goes through. Every call is counted.
    """

    plan: defaultdict[str, deque[int | None]] = attrs.field(factory=lambda: defaultdict(deque))
    calls: Counter[str] = attrs.field(factory=Counter)
    nth: tuple[int, int] | None = None
    """The number of one call, counting from 1, and what it answers. It may be any but ``disconnect``, which Linux
    never refuses."""

    def set(self, operation: str, *answers: int | None) -> None:
        """Plan the answers to the next calls of ``operation``."""
        self.plan[operation].extend(answers)

    def answer(self, operation: str) -> None:
        """Answer one call of ``operation``."""
        self.calls[operation] += 1
        planned = self.plan[operation]
        number = planned.popleft() if planned else None
        if operation != "disconnect" and self.nth is not None and self.nth[0] == self.refusable:
            number = self.nth[1]
        if number is not None:
            raise OSError(number, os.strerror(number))

    @property
    def refusable(self) -> int:
        """How many calls there were that ``nth`` could have meant."""
        return self.calls.total() - self.calls["disconnect"]

    @property
    def pending(self) -> int:
        """How many planned answers have not been asked for."""
        return sum(map(len, self.plan.values()))


def _faulty(operation: str) -> Any:
    def call(self: FaultySocket, *arguments: Any, **options: Any) -> Any:
        self.faults.answer(operation)
        if operation in vars(SystemSocket):
            return getattr(SystemSocket, operation)(self, *arguments, **options)
        # It delegates the others.
        return getattr(self._sock, operation)(*arguments, **options)

    return call


class FaultySocket(SystemSocket):
    """A real socket whose calls ask ``faults`` first."""

    faults: Faults

    def kernel_socket(self) -> SystemSocket:
        return self

    def scratch(self) -> SystemSocket:
        made = FaultySocket(super().scratch()._sock)
        made.faults = self.faults
        return made

    sendto = _faulty("sendto")
    send = _faulty("send")
    sendmsg = _faulty("sendmsg")
    recvfrom = _faulty("recvfrom")
    recvmsg = _faulty("recvmsg")
    recvmmsg = _faulty("recvmmsg")
    bind = _faulty("bind")
    connect = _faulty("connect")
    setsockopt = _faulty("setsockopt")
    disconnect = _faulty("disconnect")


class RefusingSocket(FaultySocket):
    """A socket whose kernel accepts segments once, then refuses them, and coalesces nothing."""

    taken = False

    def sendmsg(self, buffers: Any, ancillary: Any = (), *rest: Any) -> int:
        if any(message[:2] == (socket.IPPROTO_UDP, UDP_SEGMENT) for message in ancillary):
            if self.taken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.taken = True
        sent: int = self._sock.sendmsg(buffers, ancillary, *rest)
        return sent

    def setsockopt(self, *arguments: Any) -> None:
        if arguments[:2] == (socket.IPPROTO_UDP, UDP_GRO):
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        self._sock.setsockopt(*arguments)


@contextmanager
def faulty_kernel() -> Generator[Faults]:
    """Create sockets with these faults in the block, inside a Trio run."""
    faults = Faults()

    def make(family: int, _type: int, _proto: int) -> FaultySocket:
        made = FaultySocket.create(family)
        made.faults = faults
        return made

    with sockets_from(make):
        yield faults
