"""A kernel that answers as it is told: faults that the real one shows rarely or never."""

from __future__ import annotations

import os
import socket
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import attrs
import trio

from trio_dgram._system import SystemSocket


@attrs.define
class Faults:
    """What the next system calls answer, by the name of the socket's method: an errno, or None to go through.

    A call that nothing is planned for goes through. Every call is counted.
    """

    plan: defaultdict[str, deque[int | None]] = attrs.field(factory=lambda: defaultdict(deque))
    calls: Counter[str] = attrs.field(factory=Counter)
    hook: Callable[[str], None] = lambda _: None
    """Called with the name of each call that a fault is put in the place of."""

    def set(self, operation: str, *answers: int | None) -> None:
        """Plan the answers to the next calls of ``operation``."""
        self.plan[operation].extend(answers)

    def answer(self, operation: str) -> None:
        """Answer one call of ``operation``."""
        self.calls[operation] += 1
        planned = self.plan[operation]
        number = planned.popleft() if planned else None
        if number is not None:
            self.hook(operation)
            raise OSError(number, os.strerror(number))

    @property
    def pending(self) -> int:
        """How many planned answers have not been asked for."""
        return sum(map(len, self.plan.values()))


class FaultySocket(SystemSocket):
    """A real socket whose calls ask ``faults`` first."""

    faults: Faults

    def kernel_socket(self) -> SystemSocket:
        return self

    def _faulty(operation: str) -> Any:  # type: ignore[misc] # noqa: N805 -- a maker of methods, gone below
        def call(self: FaultySocket, *arguments: Any) -> Any:
            self.faults.answer(operation)
            return getattr(SystemSocket, operation)(self, *arguments)

        return call

    sendto = _faulty("sendto")
    send = _faulty("send")
    sendmsg = _faulty("sendmsg")
    recvfrom = _faulty("recvfrom")
    recvmsg = _faulty("recvmsg")
    bind = _faulty("bind")
    connect = _faulty("connect")
    setsockopt = _faulty("setsockopt")
    disconnect = _faulty("disconnect")
    del _faulty


class _Factory(trio.abc.SocketFactory):
    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> trio.socket.SocketType:
        made = FaultySocket(family, type, proto)
        made.settimeout(0)
        made.faults = self.faults
        return cast("trio.socket.SocketType", made)


@contextmanager
def faulty_kernel() -> Generator[Faults]:
    """Let sockets that are made in the block, inside a Trio run, answer by the faults that it is given."""
    faults = Faults()
    previous = trio.socket.set_custom_socket_factory(_Factory(faults))
    try:
        yield faults
    finally:
        trio.socket.set_custom_socket_factory(previous)
