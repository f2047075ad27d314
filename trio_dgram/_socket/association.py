"""The association of a socket: its local address and its peer, and how it gets and loses either.

The two ends have a state each:

    local:  unbound -> binding -> bound             bind, or the first send, connect or add_membership
    remote: unconnected -> connecting -> connected  connect
            connected -> unconnected                disconnect

Rule 1: a failed or cancelled ``bind`` or ``connect`` leaves the state as it was.
Rule 2: a connected socket is bound.
Rule 3: a closed socket stays closed, whatever was in progress.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final

import trio

from .._codecs.ancillary import ControlMessage
from .._codecs.families import Destination, SocketAddress
from .._kernel.capabilities import not_supported
from .._values.addresses import (
    Address,
    ProxiedAddress,
    UnixAddress,
    format_address,
    is_mapped,
    transport_address,
)
from .._values.datagrams import PacketInfo
from .._values.errors import (
    AlreadyBoundError,
    AlreadyConnectedError,
    NotBoundError,
    NotConnectedError,
    with_context,
)
from .config import SocketConfig
from .interrupts import defer_interrupts
from .lifetime import Lifetime
from .proxy import ProxyDecoder
from .resolution import look_up
from .transport import Transport

_MOST_ROUTES: Final = 256
"""How many destinations are cached: the program may take them from the network."""

_MOST_INFOS: Final = 256
"""For how many infos the control messages are cached: the network may choose their local addresses."""


def _is_cacheable(info: PacketInfo) -> bool:
    """Whether the control messages depend on ``info`` and on the family of the destination only.

    ECN and DSCP share one byte, which the socket's options may complete, and a group has its own interface.
    """
    return info.local_address is not None and info.ecn is None and info.dscp is None


def _do_nothing() -> None:
    """Do nothing: a closed socket cannot become bound."""


@defer_interrupts
class Association:
    """The local address and the peer of one socket, by rules that the kernel does not enforce itself.

    Args:
      transport: what the socket runs on.
      lifetime: its lifetime.
      config: its options.
      on_bound: called whenever the socket has become bound.
      proxy: knows where the clients of proxies are.
    """

    __slots__ = (
        "_ancillary",
        "_binding",
        "_config",
        "_connecting",
        "_descriptor",
        "_lifetime",
        "_on_bound",
        "_own_port",
        "_peer_route",
        "_proxy",
        "_routes",
        "_source_type",
        "_transport",
        "bound",
        "peer",
    )

    def __init__(
        self,
        transport: Transport,
        lifetime: Lifetime,
        config: SocketConfig,
        on_bound: Callable[[], None],
        proxy: ProxyDecoder | None,
    ) -> None:
        self.bound = False
        self.peer: Address | None = None
        self._transport = transport
        self._descriptor = transport.descriptor
        self._lifetime = lifetime
        self._config = config
        self._on_bound = on_bound
        self._proxy = proxy
        self._binding: trio.Event | None = None
        self._connecting = False
        # While the socket's own address is filtered as a source, its port: a send to that port may end the filter.
        self._own_port = 0
        # What route() may return, kept up to date by every change of state.
        self._source_type: type[Address] | None = None
        self._routes: dict[Any, Destination] = {}
        self._peer_route: Destination | None = None
        # By identity, which the reference to the info keeps unique: comparing two of them costs more than encoding one.
        # An empty one would take 64 bytes of each idle socket.
        self._ancillary: dict[int, tuple[PacketInfo, list[ControlMessage], bool]] | None = None
        if config.adopted is not None:
            self._recognize()

    def _recognize(self) -> None:
        """Find out the state of an adopted socket."""
        self.bound = self._descriptor.is_bound
        with suppress(OSError):
            self.peer = self._descriptor.remote_address()
            # One end of a socketpair(2) has no name and receives all the same.
            self.bound = self.bound or not self.peer.host
        self._update_routes()

    # Binding

    async def bind(self, local: Address, *, exclusive: bool) -> None:
        """Bind to ``local``, a name being resolved, or take the socket of that address that this process was passed."""
        self._lifetime.check("bind")
        if self.bound or self._binding is not None:
            raise AlreadyBoundError("bind: the socket is bound already, or is being bound")
        with self._in_progress():
            await trio.lowlevel.checkpoint()
            address, sockaddr = (await self._numeric(local))[0]
            self._lifetime.check("bind")
            ipv6_only = self._config.ipv6_only if self._config.ipv6_only_named else None
            with self._becoming_bound(address):
                if not self._descriptor.take_passed(sockaddr, ipv6_only=ipv6_only, exclusive=exclusive):
                    await self._transport.bind(address, sockaddr)
        self._on_bound()

    def ensure_bound(self) -> None:
        """Bind to an automatically chosen port on all interfaces, without waiting, unless the socket is bound."""
        if not self.bound:
            address, sockaddr = self._anywhere
            with self._becoming_bound(address):
                self._transport.bind_now(address, sockaddr)
            self._on_bound()

    async def _ensure_bound(self) -> None:
        if not self.bound:
            address, sockaddr = self._anywhere
            with self._in_progress(), self._becoming_bound(address):
                await self._transport.bind(address, sockaddr)
            self._on_bound()

    @property
    def _anywhere(self) -> tuple[Address, SocketAddress]:
        wildcard = self._descriptor.family.wildcard
        return wildcard, b"" if isinstance(wildcard, UnixAddress) else wildcard

    @contextmanager
    def _in_progress(self) -> Generator[None]:
        """Make other tasks that need a local address wait for the block."""
        self._binding = trio.Event()
        try:
            yield
        finally:
            self._binding.set()
            self._binding = None

    @contextmanager
    def _becoming_bound(self, address: Address) -> Generator[None]:
        if self._config.reuse_port and not self._descriptor.shares_port:
            refused = OSError(errno.ENOTSUP, "this system cannot share a port (SO_REUSEPORT)")
            raise with_context(refused, "bind", address)
        try:
            yield
        except OSError as error:
            raise with_context(error, "bind", address) from None
        self.bound = True
        has_port_alone = self._config.has_port_alone and self._descriptor.passed is None
        if has_port_alone and not self._descriptor.memberships.list():
            self._own_port = self._descriptor.filter_own()
        self._update_routes()

    @property
    def is_binding(self) -> bool:
        """Whether a ``bind`` is in progress."""
        return self._binding is not None

    async def _end_of_binding(self) -> None:
        while self._binding is not None:
            with self._lifetime.waiting():
                await self._binding.wait()

    def check_bound(self, operation: str) -> None:
        """Raise :class:`NotBoundError` without a local address."""
        self._lifetime.check(operation)
        if not self.bound:
            raise NotBoundError(f"{operation}: the socket has no local address yet: bind it, or send first")

    def accept_own(self) -> None:
        """Hand out datagrams whose source is the socket itself from now on."""
        if self._own_port:
            self._own_port = 0
            self._descriptor.accept_own()

    # Connecting

    async def connect(self, to: Address, check_allowed: Callable[[Address], None]) -> None:
        """Fix the peer: the first address of ``to`` that can be connected."""
        self._lifetime.check("connect")
        if self._descriptor.passed is not None:
            raise ValueError(
                "connect: a socket that was passed to this process must not be connected, because later processes "
                "would get it with that peer: create another socket"
            )
        if self.peer is not None or self._connecting:
            raise AlreadyConnectedError("connect: the socket is connected already, or is being connected")
        self._connecting = True
        try:
            await trio.lowlevel.checkpoint()
            candidates = await self._numeric(to)
            await self._end_of_binding()
            first: OSError | None = None
            for address, sockaddr in candidates:
                self._lifetime.check("connect")
                try:
                    check_allowed(address)
                    await self._connect(address, sockaddr)
                except OSError as error:
                    with_context(error, "connect", address)
                    first = first or error
                else:
                    return
            raise first or OSError(errno.EADDRNOTAVAIL, "the name has no address")
        finally:
            self._connecting = False

    async def _connect(self, address: Address, sockaddr: SocketAddress) -> None:
        if not self.bound:
            # connect() would bind it implicitly, and the port would be lost when it is disconnected.
            self._transport.probe(sockaddr)
            await self._ensure_bound()
        await self._transport.connect(sockaddr)
        self.peer = self._descriptor.remote_address()
        self._note_own(address)
        self._update_routes()

    def disconnect(self) -> None:
        """Dissolve the association with the peer and keep the port."""
        before = self._descriptor.local_address()
        try:
            self._transport.disconnect(before)
        except OSError as error:
            raise with_context(not_supported(error), "disconnect", self.peer) from None
        self.peer = None
        self._update_routes()

    def remote(self, operation: str) -> Address:
        """Return the address of the peer; :class:`NotConnectedError` without one."""
        self._lifetime.check(operation)
        if self.peer is None:
            raise NotConnectedError(f"{operation}: the socket is not connected")
        return self.peer

    def check_peer(self, peer: Address) -> None:
        """Raise :class:`NotConnectedError` unless ``peer`` is still the peer."""
        if self.peer != peer:
            raise NotConnectedError(f"send: the socket was disconnected from {format_address(peer)} meanwhile")

    # Routing: the destination of a datagram

    def route(self, to: Any) -> Destination | None:
        """Return the destination for ``to`` if it can be sent to at once, as the socket is; ``None`` for the peer.

        The result is ``None`` where :meth:`resolve` has to check, resolve or bind first. It is valid until another
        task runs.
        """
        kind = type(to)
        if kind is self._source_type and to[1] != self._own_port:
            return (to, to, None)  # type: ignore[return-value] # pyright: ignore[reportReturnType] -- the hot path
        if to is None:
            return self._peer_route
        if (kind is tuple or kind is Address) and len(to) == 2 and type(to[1]) is int and type(to[0]) is str:
            return self._routes.get(to)
        if kind is ProxiedAddress:
            transport = self._transport_address(to)
            if type(transport) is self._source_type:
                return Destination(to, transport, None)
        return None

    def _transport_address(self, to: ProxiedAddress) -> Address:
        """Return where to send what is for a client behind a proxy."""
        return to.proxy if self._proxy is None else self._proxy.transport_address(to)

    def route_with_info(self, to: Address, info: PacketInfo) -> Destination | None:
        """Do as :meth:`route` does, for a datagram that is sent with ``info``."""
        if type(to) is self._source_type and to[1] != self._own_port and self._ancillary is not None:
            known = self._ancillary.get(id(info))
            # IPv4 peers of an IPv6 socket need other control messages.
            if known is not None and known[2] == (to[0].startswith("::ffff:") and "." in to[0]):
                return (to, to, known[1])  # type: ignore[return-value] # pyright: ignore[reportReturnType] -- the hot path
        return None

    def check_destination(self, to: Address | None, *, from_datagram: bool) -> Address:
        """Return the destination of a datagram for ``to``; raise if the state of the socket forbids it.

        Args:
          to: the destination, ``None`` for the peer.
          from_datagram: whether ``to`` is the address of a Datagram, which may be the peer's.
        """
        self._lifetime.check("send")
        if self.peer is None:
            if to is None:
                raise NotConnectedError(
                    "send: the socket is not connected, so it needs a destination: pass (host, port)"
                )
            return to
        if to is not None and not (from_datagram and self._is_peer(to)):
            raise AlreadyConnectedError(
                f"send: the socket is connected to {format_address(self.peer)} and cannot send to {format_address(to)}"
            )
        return self.peer

    def _is_peer(self, to: Address) -> bool:
        to = transport_address(to)
        # The IPv4 peer of an IPv6 socket has a mapped address.
        return self.peer in (to, (f"::ffff:{to.host}", to.port))

    async def resolve(self, to: Address | None, info: PacketInfo | None, *, from_datagram: bool) -> list[Destination]:
        """Return the destinations for ``to``, to be tried in order: resolve a name and bind the socket as necessary."""
        candidates: list[tuple[Address, SocketAddress]] = [] if to is None else await self._numeric(to)
        await self._end_of_binding()
        destinations = [
            self.destination(self.check_destination(address, from_datagram=from_datagram), sockaddr, info)
            for address, sockaddr in candidates
        ] or [self.destination(self.check_destination(None, from_datagram=from_datagram), None, info)]
        await self._ensure_bound()
        self.remember(to, destinations[0])
        return destinations

    def resolve_bound(self, to: Address | None, info: PacketInfo | None, *, from_datagram: bool) -> Destination | None:
        """Do as :meth:`resolve` does, without waiting; ``None`` where that has to wait."""
        if not self.bound:
            return None
        sockaddr = None
        address = to
        if to is not None:
            address, sockaddr = self.locate(to)
            if sockaddr is None:
                return None
        destination = self.destination(self.check_destination(address, from_datagram=from_datagram), sockaddr, info)
        self.remember(to, destination)
        return destination

    def resolve_now(self, to: Address | None, info: PacketInfo | None, *, from_datagram: bool) -> Destination:
        """Do as :meth:`resolve` does, for a numeric address and without waiting.

        Raises:
          ValueError: if the host is a name.
          trio.WouldBlock: if a ``bind`` is in progress.
        """
        self._transport.check_synchronous()
        sockaddr = None
        numeric = to
        if to is not None:
            numeric, sockaddr = self.locate(to)
            if sockaddr is None:
                raise ValueError(f"send_nowait needs a numeric host, not {numeric.host!r}: resolve it first")
        address = self.check_destination(numeric, from_datagram=from_datagram)
        if self.is_binding:
            raise trio.WouldBlock
        destination = self.destination(address, sockaddr, info)
        self.ensure_bound()
        self.remember(to, destination)
        return destination

    def destination(self, address: Address, sockaddr: SocketAddress | None, info: PacketInfo | None) -> Destination:
        """Return the destination of a datagram to ``address`` with ``info``; the peer of a connected socket."""
        ancillary = None
        known = None if info is None else self.route_with_info(address, info)
        if known is not None:
            ancillary = known[2]
        elif info is not None:
            try:
                ancillary = self._descriptor.packet_info(info, address.host if sockaddr is None else sockaddr[0])
            except OSError as error:
                raise with_context(error, "send", address) from None
            if type(address) is self._source_type and ancillary and _is_cacheable(info):
                if self._ancillary is None or len(self._ancillary) >= _MOST_INFOS:
                    self._ancillary = {}
                self._ancillary[id(info)] = (info, ancillary, is_mapped(address.host))
        return Destination(address, sockaddr if self.peer is None else None, ancillary)

    def remember(self, to: Address | None, destination: Destination) -> None:
        """Cache the route to ``to``, a numeric address that the program chose, and note if it is the socket's own."""
        address, sockaddr, ancillary = destination
        if sockaddr is None or to is None or not self._descriptor.family.is_internet or type(to) is ProxiedAddress:
            return
        self._note_own(address)
        if type(to) is not Address:
            return
        # A name can resolve differently next time, and so can the index of a zone.
        if ancillary is None and len(sockaddr) == 2 and to.host == address.host and self.peer is None:
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()
            self._routes[to] = destination

    def _note_own(self, address: Address) -> None:
        if self._own_port and address.port == self._own_port and self._descriptor.reaches_itself(address):
            self.accept_own()

    def _update_routes(self) -> None:
        self._routes.clear()
        self._source_type = None
        self._peer_route = None
        if not self.bound or self._lifetime.closed:
            return
        if self.peer is None:
            self._source_type = self._descriptor.family.source_type
        else:
            self._peer_route = Destination(self.peer, None, None)

    def close(self) -> None:
        """Return no route any more."""
        # A reference to the socket would leave a closed one to the garbage collector.
        self._on_bound = _do_nothing
        self._routes.clear()
        self._ancillary = None
        self._source_type = self._peer_route = None

    def locate(self, to: Address) -> tuple[Address, SocketAddress | None]:
        """Return ``to``, an empty host replaced by loopback, and its form for the kernel: ``None`` for a name."""
        if type(to) is ProxiedAddress:
            _, sockaddr = self.locate(self._transport_address(to))
            return to, sockaddr
        return self._descriptor.family.locate(to, dual_stack=self._descriptor.dual_stack)

    async def _numeric(self, to: Address) -> list[tuple[Address, SocketAddress]]:
        """Do as :meth:`locate` does, for each address of a name."""
        address, sockaddr = self.locate(to)
        if sockaddr is not None:
            return [(address, sockaddr)]
        with self._lifetime.waiting():
            found = await look_up(address, self._descriptor.family, self._config.lookup)
        located = []
        for each in found:
            address, sockaddr = self.locate(each)
            if sockaddr is None:
                raise ValueError(f"lookup must return a numeric address, not {each.host!r}")
            located.append((address, sockaddr))
        return located
