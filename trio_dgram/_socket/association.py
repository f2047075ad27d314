"""The two ends of a socket: the local address that it has, the peer that it has, and getting either."""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import trio

from .._codecs.families import Destination, SocketAddress
from .._kernel.awaited import unsupported
from .._kernel.descriptor import Kernel
from .._values.addresses import Address, UnixAddress, written
from .._values.datagrams import PacketInfo
from .._values.errors import AlreadyBoundError, AlreadyConnectedError, NotBoundError, NotConnectedError, annotated
from .config import Creation
from .lifetime import Lifetime
from .resolution import look_up


class Association:
    """Whether a socket is bound and connected, or is being so, by rules that the kernel does not keep itself."""

    __slots__ = ("_binding", "_connecting", "_creation", "_kernel", "_lifetime", "bound", "peer")

    def __init__(self, kernel: Kernel, lifetime: Lifetime, creation: Creation) -> None:
        self.bound = False
        self.peer: Address | None = None
        if creation.adopted is not None:
            self.bound = kernel.is_bound
            with suppress(OSError):
                self.peer = kernel.remote_address()
                # One of a socketpair(2) has no name, and receives all the same.
                self.bound = self.bound or not self.peer.host
        self._kernel = kernel
        self._lifetime = lifetime
        self._creation = creation
        self._binding: trio.Event | None = None
        self._connecting = False

    @contextmanager
    def binding(self) -> Generator[None]:
        """Be the one call that gives the socket its local address."""
        self._lifetime.check()
        if self.bound or self._binding is not None:
            raise AlreadyBoundError("bind: the socket is bound already, or is being bound")
        self._binding = trio.Event()
        try:
            yield
        finally:
            self._binding.set()
            self._binding = None

    @property
    def is_binding(self) -> bool:
        """Whether a call is giving the socket its local address."""
        return self._binding is not None

    async def end_of_binding(self) -> None:
        """Wait until no call is giving the socket its local address."""
        while self._binding is not None:
            with self._lifetime.waiting():
                await self._binding.wait()

    async def bind(self, address: Address, sockaddr: SocketAddress) -> None:
        """Have the kernel bind to ``address``, within :meth:`binding`."""
        if self._kernel.awaited is None:
            self._bind(address, sockaddr)
            return
        with self._becoming_bound(address), self._lifetime.waiting(), self._kernel.taking_path(address):
            if not sockaddr:
                # Trio passes on nothing that asks Linux for an abstract name.
                raise unsupported("need a name to be bound to")
            await self._kernel.awaited.bind(sockaddr)

    def bind_anywhere(self) -> None:
        """Have the kernel bind to an ephemeral port on all interfaces."""
        if self._kernel.awaited is not None:
            raise unsupported("must be bound first")
        self._bind(*self.anywhere)

    @property
    def anywhere(self) -> tuple[Address, SocketAddress]:
        """Where a socket is bound that nobody has bound."""
        wildcard = self._kernel.family.wildcard
        return wildcard, b"" if isinstance(wildcard, UnixAddress) else wildcard

    def _bind(self, address: Address, sockaddr: SocketAddress) -> None:
        with self._becoming_bound(address):
            self._kernel.bind(address, sockaddr)

    @contextmanager
    def _becoming_bound(self, address: Address) -> Generator[None]:
        if self._creation.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
            raise annotated(OSError(errno.ENOTSUP, "this platform has no SO_REUSEPORT"), "bind", address)
        try:
            yield
        except OSError as error:
            raise annotated(error, "bind", address) from None
        self.bound = True

    def check_bound(self) -> None:
        """Raise :class:`NotBoundError` if there is no local address."""
        self._lifetime.check()
        if not self.bound:
            raise NotBoundError("the socket has no local address yet: bind it, or send first")

    @contextmanager
    def connecting(self) -> Generator[None]:
        """Be the one call that gives the socket its peer."""
        self._lifetime.check()
        if self.peer is not None or self._connecting:
            raise AlreadyConnectedError("connect: the socket is connected already, or is being connected")
        self._connecting = True
        try:
            yield
        finally:
            self._connecting = False

    def probe(self, sockaddr: SocketAddress) -> None:
        """Raise what connecting the unbound socket to ``sockaddr`` would, leaving it unbound."""
        self._kernel.probe(sockaddr)

    async def connect(self, sockaddr: SocketAddress) -> Address:
        """Have the kernel fix the peer and return its address as the kernel writes it."""
        if self._kernel.awaited is None:
            self._kernel.connect(sockaddr)
        else:
            # A Trio socket closes itself when its ``connect`` is cancelled. There is nothing to wait for here.
            with self._lifetime.waiting(shield=True):
                await self._kernel.awaited.connect(sockaddr)
        self.peer = self._kernel.remote_address()
        return self.peer

    def disconnect(self) -> None:
        """Have the kernel let the peer go, where there is one."""
        before = self._kernel.local_address()
        self._kernel.disconnect()
        self._kernel.rebind(before)
        self.peer = None

    def remote(self, operation: str) -> Address:
        """Return the peer's address; :class:`NotConnectedError` without one."""
        self._lifetime.check()
        if self.peer is None:
            raise NotConnectedError(f"{operation}: the socket is not connected")
        return self.peer

    def check_destination(self, wanted: Address | None, *, brought: bool) -> Address:
        """Return where a datagram for ``wanted`` goes, or raise what forbids to send it now.

        ``brought`` says that ``wanted`` came with the datagram: it may well be the peer's address then.
        """
        self._lifetime.check()
        if self.peer is None:
            if wanted is None:
                raise NotConnectedError("send: the socket is not connected, so it needs to know where to send")
            return wanted
        if wanted is not None and not (brought and self._is_peer(wanted)):
            raise AlreadyConnectedError(
                f"send: the socket is connected to {written(self.peer)}, so it cannot send to {written(wanted)}"
            )
        return self.peer

    def check_peer(self, wanted: Address) -> None:
        """Raise :class:`NotConnectedError` if the peer is not ``wanted`` any more."""
        if self.peer != wanted:
            raise NotConnectedError(f"send: the socket was disconnected from {written(wanted)} meanwhile")

    def _is_peer(self, wanted: Address) -> bool:
        # To an IPv6 socket an IPv4 peer is one with a mapped address, whichever way it is written.
        return self.peer in (wanted, (f"::ffff:{wanted.host}", wanted.port))

    def check_synchronous(self) -> None:
        """Raise ENOTSUP if the socket is of a kind that has to be awaited."""
        if self._kernel.awaited is not None:
            raise unsupported("can only be awaited")

    def destination(self, address: Address, sockaddr: SocketAddress | None, info: PacketInfo | None) -> Destination:
        """Return where a datagram for ``address`` goes, and as ``info`` says; to the peer if there is one."""
        ancillary = None
        if info is not None:
            ancillary = self._kernel.packet_info(info, address.host if sockaddr is None else sockaddr[0])
        return address, sockaddr if self.peer is None else None, ancillary

    def locate(self, wanted: Address) -> tuple[Address, SocketAddress | None]:
        """Return ``wanted``, an empty host as loopback, and the same as the kernel takes it: ``None`` for a name."""
        return self._kernel.family.locate(wanted, dual_stack=self._kernel.dual_stack)

    async def numeric(self, wanted: Address) -> tuple[Address, SocketAddress]:
        """Do as :meth:`locate`, resolving a name."""
        address, sockaddr = self.locate(wanted)
        if sockaddr is None:
            with self._lifetime.waiting():
                found = await look_up(address, self._kernel.family, self._creation.lookup)
            address, sockaddr = self.locate(found)
            if sockaddr is None:
                raise ValueError(f"lookup must return a numeric address, not {found.host!r}")
        return address, sockaddr
