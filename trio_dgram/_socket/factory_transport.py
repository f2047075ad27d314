"""The transport over a custom socket factory that offers Trio's interface only: its calls are awaited.

A datagram that a wait received is kept until the next hot call returns it, so that the inbox need not distinguish
the transports.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

import attrs
import trio

from .._codecs.ancillary import ControlMessage
from .._codecs.families import Family, SocketAddress
from .._kernel.capabilities import Capabilities, capabilities
from .._kernel.descriptor import Descriptor
from .._kernel.hot_calls import ReceiveCounts
from .._kernel.python_calls import largest_payload
from .._values.addresses import Address
from .._values.datagrams import Datagram
from .interrupts import defer_interrupts
from .lifetime import Lifetime

_AWAITED: Final = "the sockets of this custom socket factory are awaited"


def unsupported(limitation: str) -> OSError:
    """Return the error for an operation that the sockets of the factory lack."""
    return OSError(errno.ENOTSUP, f"the sockets of this custom socket factory {limitation}")


class FactorySocket:
    """The synchronous part of a ``trio.socket.SocketType``, as the descriptor uses it.

    Sending and receiving without waiting always report that they would block.
    """

    def __init__(self, awaited: Any) -> None:
        self.awaited: Any = awaited
        self.capabilities: Capabilities = attrs.evolve(
            capabilities(),
            batches=False,
            receive_offload=False,
            send_offload=False,
            packet_info=False,
            error_queue=False,
            path_mtu=False,
            disconnect=False,
        )
        self.fileno: Callable[..., Any] = awaited.fileno
        self.getsockname: Callable[..., Any] = awaited.getsockname
        self.getpeername: Callable[..., Any] = awaited.getpeername
        self.getsockopt: Callable[..., Any] = awaited.getsockopt
        self.setsockopt: Callable[..., Any] = awaited.setsockopt
        self.close: Callable[..., Any] = awaited.close

    def send(self, *_: object) -> NoReturn:
        """Raise that it would block."""
        raise BlockingIOError(errno.EAGAIN, _AWAITED)

    sendto = recvfrom = recvmsg = sendmsg = send

    def disconnect(self) -> NoReturn:
        """Raise ENOTSUP: Trio's interface has no such call."""
        raise unsupported("cannot be disconnected")


@defer_interrupts
class FactoryCalls:
    """The hot calls over a socket whose calls are awaited: what a wait has received, and nothing to send with."""

    def __init__(self, sock: FactorySocket, family: Family) -> None:
        self.counts = ReceiveCounts()
        self.with_info = False
        self.with_local_address = False
        self.coalescing = False
        self.peer: Address | None = None
        self._socket = sock
        self._family = family
        self._arrived: deque[Datagram] = deque()
        self._error: OSError | None = None

    def filter_own(self, port: int, is_own: Callable[[str], bool] | None) -> None:
        """Do nothing: a factory need not know the addresses of this machine."""

    def receive(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Append what a wait has received; raise its error, or that it would block."""
        if not self._arrived and self._error is None:
            self._error = self._pending_error()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if not self._arrived:
            self._socket.send()
        while self._arrived and limit:
            datagram = self._arrived.popleft()
            # The factory does not report when its queue is empty, so datagrams from before connect() may still arrive.
            if self.peer is None or datagram.address == self.peer:
                into.append(datagram)
            else:
                self.counts.filtered += 1
            limit -= 1

    def _pending_error(self) -> OSError | None:
        number = 0
        with suppress(OSError):
            number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return OSError(number, os.strerror(number)) if number else None

    @property
    def has_arrived(self) -> bool:
        """Whether :meth:`receive` has something to return or raise."""
        return bool(self._arrived) or self._error is not None

    def store(self, data: bytes, sockaddr: Any) -> None:
        """Keep a datagram that a wait has received."""
        self.counts.received += 1
        source = self._family.source(sockaddr)
        if source is None:
            self.counts.filtered += 1
        else:
            self._arrived.append(Datagram(data, source))

    def store_error(self, error: OSError) -> None:
        """Keep the error of a wait."""
        self._error = error

    def discard(self) -> None:
        """Discard, and count, what a wait has received."""
        self.counts.discarded += len(self._arrived)
        self._arrived.clear()

    def send(self, payload: bytes) -> object:  # noqa: ARG002 -- it has to be awaited whatever it is
        """Raise that it would block."""
        self._socket.send()

    def sendto(self, payload: bytes, sockaddr: SocketAddress) -> object:  # noqa: ARG002 -- likewise
        """Raise that it would block."""
        self._socket.send()

    def sendmsg(self, *_: object) -> object:
        """Raise that it would block."""
        self._socket.send()  # pragma: no cover -- such a socket sends no PacketInfo

    def send_batch(
        self,
        payloads: Sequence[bytes],  # noqa: ARG002 -- likewise
        sockaddrs: Sequence[SocketAddress | None],  # noqa: ARG002 -- likewise
    ) -> tuple[int, OSError | None]:
        """Report that it would block."""
        return 0, BlockingIOError(errno.EAGAIN, _AWAITED)

    def send_segments(
        self,
        payload: bytes,  # noqa: ARG002 -- likewise
        size: int,  # noqa: ARG002 -- likewise
        ancillary: Sequence[ControlMessage],  # noqa: ARG002 -- likewise
        sockaddr: SocketAddress | None,  # noqa: ARG002 -- likewise
    ) -> object:
        """Raise that it would block."""
        self._socket.send()  # pragma: no cover -- such a socket does not segment

    @property
    def has_former(self) -> bool:
        """Never: there is no second socket."""
        return False

    def take_over(self, former: Any) -> None:  # noqa: ARG002 -- refused whatever it is
        """Refuse: such a socket is never exchanged."""
        raise AssertionError  # pragma: no cover -- it cannot be disconnected

    def close(self) -> None:
        """Do nothing: there is no second socket."""

    def disconnect(self) -> None:
        """Raise ENOTSUP."""
        self._socket.disconnect()


@defer_interrupts
class FactoryTransport:
    """The sockets of a custom socket factory whose calls are awaited."""

    __slots__ = ("_awaited", "_family", "_lifetime", "_receiving", "calls", "descriptor")

    def __init__(self, descriptor: Descriptor, sock: FactorySocket, calls: FactoryCalls, lifetime: Lifetime) -> None:
        self.descriptor = descriptor
        self.calls = calls
        self._awaited = sock.awaited
        self._family = descriptor.family
        self._lifetime = lifetime
        self._receiving = trio.Lock()

    def check_synchronous(self) -> None:
        """Raise ENOTSUP: every call has to be awaited."""
        raise unsupported("can only be awaited")

    def bind_now(self, address: Address, sockaddr: SocketAddress) -> None:  # noqa: ARG002 -- refused whatever it is
        """Raise ENOTSUP: binding has to be awaited."""
        raise unsupported("must be bound first")

    async def bind(self, address: Address, sockaddr: SocketAddress) -> None:
        """Bind to ``address``."""
        with self._lifetime.waiting(), self.descriptor.owning_path(address):
            if not sockaddr:
                # Trio refuses the empty address with which Linux is asked for an abstract name.
                raise unsupported("need a name to be bound to")
            await self._awaited.bind(sockaddr)

    async def connect(self, sockaddr: SocketAddress) -> None:
        """Fix the peer."""
        # A Trio socket closes itself when its connect is cancelled; on a datagram socket it never waits for long.
        with self._lifetime.waiting(shield=True):
            await self._awaited.connect(sockaddr)
        self.calls.peer = self.descriptor.remote_address()

    def probe(self, sockaddr: SocketAddress) -> None:
        """Do nothing: without disconnecting, the socket would stay connected."""

    def disconnect(self, local: Address) -> None:  # noqa: ARG002 -- refused whatever it is
        """Raise ENOTSUP."""
        self.calls.disconnect()

    async def wait_and_send(
        self,
        attempt: Callable[[], OSError | None],  # noqa: ARG002 -- it would always block
        payload: bytes,
        sockaddr: SocketAddress | None,
    ) -> OSError | None:
        """Await the socket's own send."""
        try:
            await (self._awaited.send(payload) if sockaddr is None else self._awaited.sendto(payload, sockaddr))
        except OSError as error:
            self._lifetime.check()
            return error
        return None

    @property
    def is_pollable(self) -> bool:
        """Never: receiving has to be awaited."""
        return False

    async def wait_readable(self) -> None:
        """Receive one datagram, or an error, for ``calls.receive``."""
        # A cancelled reader may still be receiving; this call returns its datagram.
        with self._lifetime.waiting():
            async with self._receiving:
                if self.calls.has_arrived:
                    return
                try:
                    data, source = await self._awaited.recvfrom(largest_payload(self._family))
                except OSError as error:
                    self._lifetime.check()
                    self.calls.store_error(error)
                else:
                    self.calls.store(data, source)
                    if self._lifetime.closed:
                        self.calls.discard()

    def close(self, *, notify: bool) -> None:  # noqa: ARG002 -- a Trio socket ends its own waits
        """Close the socket."""
        self.calls.discard()
        self.descriptor.close()
