"""Waiting for a simulated socket, and the descriptor that mirrors it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import attrs
import trio

from ..._kernel.capabilities import COMPLETE
from ..._values.addresses import unmapped
from .._kernel.endpoint import Endpoint
from .._kernel.machine_protocol import Machine


class Mirror:
    """A descriptor that can be read while something else can."""

    __slots__ = ("_ours", "_shown", "theirs")

    def __init__(self) -> None:
        theirs, ours = socket.socketpair()
        self.theirs: socket.socket = theirs
        self._ours = ours
        self.theirs.settimeout(0)
        self._ours.settimeout(0)
        self._shown = False

    def show(self, *, readable: bool) -> None:
        """Make the descriptor readable, or unreadable."""
        if readable != self._shown:
            self._shown = readable
            if readable:
                self._ours.send(b"!")
            else:
                # The program may have read from the descriptor itself.
                with suppress(BlockingIOError):
                    self.theirs.recv(1)

    def fileno(self) -> int:
        """Return the descriptor's number."""
        return self.theirs.fileno()

    def close(self) -> None:
        """Close it, and end every wait for it."""
        if self.theirs.fileno() != -1:
            trio.lowlevel.notify_closing(self.theirs)
            self.theirs.close()
            self._ours.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class KernelSocket(Endpoint):
    """A simulated socket with support for waiting."""

    capabilities: Final = attrs.evolve(COMPLETE, receive_offload=False)
    """Its capabilities, the same on every platform. Datagrams are never coalesced."""

    def __init__(self, machine: Machine, family: socket.AddressFamily) -> None:
        super().__init__(machine, family)
        self._waiting = trio.lowlevel.ParkingLot()
        self._mirror: Mirror | None = None
        self._error_mirror: Mirror | None = None
        self.original: socket.socket | None = None
        """The socket of the standard library that this one replaces."""
        self.changed: Callable[[], None] | None = self._show

    async def wait_readable(self) -> None:
        """Wait until the socket is readable; ``trio.ClosedResourceError`` when the socket is closed."""
        await self._wait_while(lambda: not self.readable)

    async def wait_writable(self) -> None:
        """Wait until the socket is writable: always, except on a paused host."""
        await self._wait_while(lambda: self.machine.paused)

    async def _wait_while(self, not_yet: Callable[[], bool]) -> None:
        if self.closed or not not_yet():
            await trio.lowlevel.checkpoint()
        while not self.closed and not_yet():
            await self._waiting.park()
        if self.closed:
            raise trio.ClosedResourceError("another task closed this socket")

    def is_local(self, host: str) -> bool:
        """Whether ``host`` is a numeric address of the host that the socket is on."""
        return self.machine.owns(unmapped(host.partition("%")[0]))

    def gettimeout(self) -> float:
        """Return the timeout of its calls in seconds: always 0, since none of them blocks."""
        return 0.0

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever the socket is; -1 once it is closed."""
        if self.closed:
            return -1
        if self._mirror is None:
            self._mirror = Mirror()
            self._show()
        return self._mirror.fileno()

    def watch_errors(self) -> Mirror:
        """Return a descriptor that is readable while there is an error."""
        # The caller closes each descriptor, so make a new one.
        self._error_mirror = Mirror()
        self._show()
        return self._error_mirror

    def close_mirrors(self) -> None:
        """Close its descriptors."""
        for mirror in (self._mirror, self._error_mirror):
            if mirror is not None:
                mirror.close()

    def _show(self) -> None:
        if self._waiting:
            self._waiting.unpark_all()
        if self.closed and self.original is not None:
            self.original.close()
        if self._mirror is not None:
            self._show_in(self._mirror, readable=self.readable)
        if self._error_mirror is not None:
            self._show_in(self._error_mirror, readable=self.has_errors)

    def _show_in(self, mirror: Mirror, *, readable: bool) -> None:
        if self.closed:
            mirror.close()
        elif mirror.fileno() != -1:
            mirror.show(readable=readable)
