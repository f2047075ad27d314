"""The transport of a socket: binding, connecting, moving datagrams, waiting and closing.

There are two: the one here runs on the kernel's sockets, and on what has the same synchronous interface, such as the
simulator's; ``factory_transport`` runs on the awaited sockets of a custom socket factory. No other module asks which of
the two it has.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from .._codecs.families import SocketAddress
from .._kernel.descriptor import Descriptor
from .._kernel.hot_calls import HotCalls
from .._values.addresses import Address
from .interrupts import defer_interrupts

HAS_EPOLL: Final = hasattr(select, "epoll")


class Transport(Protocol):
    """What a socket runs on."""

    descriptor: Descriptor
    """The options, addresses and counters."""

    @property
    def calls(self) -> HotCalls:
        """Sending and receiving, without waiting."""
        ...

    def check_synchronous(self) -> None:
        """Raise ENOTSUP if nothing can be sent or received without waiting."""

    def bind_now(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind without waiting; ENOTSUP where that is not possible."""

    async def bind(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind to ``address``."""

    async def connect(self, sockaddr: SocketAddress) -> None:
        """Fix the peer. A call that took effect returns."""

    def probe(self, sockaddr: SocketAddress) -> None:
        """Raise the error that connecting the unbound socket would raise, if that can be found out, and leave it
        unbound."""

    def disconnect(self, local: Address) -> None:
        """Dissolve the association with the peer and keep the port of ``local``; ENOTSUP where that is not possible."""

    async def wait_and_send(
        self, attempt: Callable[[], OSError | None], payload: bytes, sockaddr: SocketAddress | None
    ) -> OSError | None:
        """Wait until sending ``payload`` may succeed, then try it once; return the error.

        ``attempt`` is how to try it without waiting. A cancelled call has sent nothing.
        """

    @property
    def is_pollable(self) -> bool:
        """Whether an epoll can watch the descriptor instead of :meth:`wait_readable`."""
        ...

    async def wait_readable(self) -> None:
        """Wait until ``calls.receive`` may succeed; ``trio.ClosedResourceError`` when the socket is closed."""

    def close(self, *, notify: bool) -> None:
        """Close the descriptor and, with ``notify``, end the waits for it."""


@defer_interrupts
class KernelTransport:
    """The kernel's sockets.

    Args:
      descriptor: the socket.
      sock: the same, below the descriptor. If it has ``wait_readable`` and ``wait_writable``, these are awaited instead
        of the descriptor: a simulated socket knows itself when it is ready and when it is closed.
    """

    __slots__ = ("_waits", "calls", "descriptor")

    def __init__(self, descriptor: Descriptor, sock: Any) -> None:
        self.descriptor = descriptor
        self.calls = descriptor.calls
        self._waits: Any = sock if hasattr(sock, "wait_readable") else None

    def check_synchronous(self) -> None:
        """Return: every call can be made without waiting."""

    def bind_now(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind to ``address``."""
        self.descriptor.bind(address, sockaddr)

    async def bind(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind to ``address``; the kernel never makes it wait."""
        self.descriptor.bind(address, sockaddr)

    async def connect(self, sockaddr: SocketAddress) -> None:
        """Fix the peer; the kernel never makes it wait."""
        self.descriptor.connect(sockaddr)

    def probe(self, sockaddr: SocketAddress) -> None:
        """Raise the error that connecting the unbound socket would raise, and leave it unbound."""
        self.descriptor.probe(sockaddr)

    def disconnect(self, local: Address) -> None:
        """Dissolve the association with the peer and keep the port of ``local``."""
        self.descriptor.disconnect()
        self.descriptor.keep_port(local)
        if self.descriptor.must_renew:
            # Trio's epoll would keep watching the former socket.
            trio.lowlevel.notify_closing(self.descriptor.fileno())
            self.descriptor.renew()

    async def wait_and_send(
        self,
        attempt: Callable[[], OSError | None],
        payload: bytes,  # noqa: ARG002 -- another transport needs it
        sockaddr: SocketAddress | None,
    ) -> OSError | None:
        """Wait until the send buffer has space, then try once."""
        # An unconnected "unix" socket is always writable, and several tasks may send to several receivers.
        if sockaddr is None or self.descriptor.family.is_internet:
            await self._wait(trio.lowlevel.wait_writable, "wait_writable")
        return attempt()

    @property
    def is_pollable(self) -> bool:
        """Whether an epoll can watch the descriptor: not a simulated one, which knows itself when it is ready."""
        return HAS_EPOLL and self._waits is None

    async def wait_readable(self) -> None:
        """Wait until a datagram, or an error, is queued."""
        if self.calls.has_former:
            await trio.lowlevel.checkpoint()
            return
        await self._wait(trio.lowlevel.wait_readable, "wait_readable")

    async def _wait(self, wait: Callable[[int], Awaitable[None]], name: str) -> None:
        if self._waits is not None:
            await getattr(self._waits, name)()
            return
        try:
            await wait(self.descriptor.fileno())
        except trio.ClosedResourceError:
            # disconnect() ends the waits, too, when it exchanges the kernel's socket.
            if self.descriptor.fileno() == -1:
                raise

    def close(self, *, notify: bool) -> None:
        """Close the descriptor."""
        try:
            if notify and self._waits is None:
                trio.lowlevel.notify_closing(self.descriptor.fileno())
        finally:
            self.descriptor.close()
