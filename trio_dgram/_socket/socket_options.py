"""The options of a socket as its user sees them: properties and memberships."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar, overload

from .._kernel.descriptor import Kernel
from .._kernel.interfaces import Interface
from .._kernel.memberships import Membership, check_group, find_membership_interface
from .._kernel.options import MTUDiscovery, check_option, read_option, write_option
from .._values.errors import annotated
from .lifetime import Lifetime

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
GroupAddress: TypeAlias = str | ipaddress.IPv4Address | ipaddress.IPv6Address


class OptionProperty(Generic[T]):
    """A socket option as an attribute, read from the kernel and checked before it is written."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: SocketWithOptions, owner: type) -> T: ...
    def __get__(self, instance: SocketWithOptions | None, owner: type) -> Self | T:
        if instance is None:
            return self
        instance._lifetime.check()  # noqa: SLF001 -- a descriptor is a part of the class that it stands in
        value: T = read_option(instance._kernel.options, self._name)  # noqa: SLF001 -- likewise
        return value

    def __set__(self, instance: SocketWithOptions, value: T) -> None:
        check_option(self._name, value)
        instance._lifetime.check()  # noqa: SLF001 -- a descriptor is a part of the class that it stands in
        write_option(instance._kernel.options, self._name, value)  # noqa: SLF001 -- likewise


class SocketWithOptions:
    """The part of a socket that is about its options. They can be read and set any time before it is closed."""

    __slots__ = ("_kernel", "_lifetime")

    _kernel: Kernel
    _lifetime: Lifetime

    broadcast: OptionProperty[bool] = OptionProperty(
        "Whether datagrams may go to broadcast addresses (SO_BROADCAST, socket(7))."
    )
    ttl: OptionProperty[int] = OptionProperty(
        "The hop limit of unicast datagrams, 1 to 255 hops (IP_TTL, IPV6_UNICAST_HOPS)."
    )
    dscp: OptionProperty[int] = OptionProperty(
        "The Differentiated Services code point of what is sent, 0 to 63 (RFC 2474)."
    )
    ecn: OptionProperty[int] = OptionProperty(
        "The ECN bits of what is sent, 0 to 2 (RFC 3168); 3 means congestion, which only routers say."
    )
    multicast_ttl: OptionProperty[int] = OptionProperty(
        "The hop limit of multicast datagrams, 0 to 255 hops; 0 keeps them here."
    )
    multicast_loopback: OptionProperty[bool] = OptionProperty(
        "Whether members on this machine get the multicast datagrams that the socket sends (IP_MULTICAST_LOOP)."
    )
    multicast_interface: OptionProperty[str | int | None] = OptionProperty(
        "Where multicast datagrams leave: a local address, an interface's name or index, as it was set; None for "
        "the system's choice. OSError(ENODEV) where there is no such interface."
    )
    device: OptionProperty[str | None] = OptionProperty(
        "The name of the one interface that datagrams come in and go out by (SO_BINDTODEVICE, socket(7)), None "
        "for any. Linux only: OSError(ENOTSUP) elsewhere."
    )
    mtu_discovery: OptionProperty[MTUDiscovery] = OptionProperty(
        'How packets go about the MTU of their path (IP_MTU_DISCOVER, ip(7)): ``"dont"`` allows fragments on the way; '
        '``"want"`` forbids them and sends smaller ones; ``"do"`` forbids them, and a datagram that is too big for '
        'what is known of the path raises EMSGSIZE; ``"probe"`` forbids them and pays no regard to what is known. '
        "Linux only: OSError(ENOTSUP) elsewhere."
    )
    receive_buffer_size: OptionProperty[int] = OptionProperty(
        "The size of the receive buffer, in bytes (SO_RCVBUF). Linux doubles what is asked for, within bounds, and "
        "the effective size is what reads back."
    )
    send_buffer_size: OptionProperty[int] = OptionProperty(
        "The size of the send buffer, in bytes (SO_SNDBUF); reads back likewise."
    )

    def _ensure_bound(self) -> None:
        raise AssertionError("the socket says how it is bound")  # pragma: no cover -- always overridden

    def add_membership(
        self, group: GroupAddress, interface: str | int | None = None, *, source: GroupAddress | None = None
    ) -> tuple[Interface, ...]:
        """Join a multicast group, from any source or from one, binding the socket first where it is not bound.

        Args:
          group: a multicast address of the socket's family.
          interface: where to join: a local address, an interface's name or index. None for every interface that
            is up and can multicast, and loopback; those that turn out to be dead are passed over.
          source: the one sender to hear, a unicast address; None for any.

        Returns:
          The interfaces on which the group was joined.

        Raises:
          TypeError, ValueError: if an argument is not of that form; nothing happened then.
          OSError: what the kernel says (ip(7), ipv6(7), RFC 3678), with group and interface in its text:
            EADDRINUSE or EADDRNOTAVAIL where it was joined already, ENODEV where there is no such interface.
            ENOBUFS or ENOMEM where there are too many, after leaving what this call had joined. On every interface
            the others are raised only if the group could be joined on none: the first, from an
            ``ExceptionGroup`` of all.

        A socket gets only the groups that it joined itself where the platform lets it choose (Linux does).
        """
        self._kernel.family.check_internet("memberships")
        wanted = check_group(self._kernel.family, group, source)
        where = find_membership_interface("add_membership", wanted, interface)
        self._lifetime.check()
        self._ensure_bound()
        return self._kernel.memberships.add(wanted, where)

    def drop_membership(
        self, group: GroupAddress, interface: str | int | None = None, *, source: GroupAddress | None = None
    ) -> tuple[Interface, ...]:
        """Leave a multicast group; the arguments and errors are those of :meth:`add_membership`.

        Without an interface, the group is left wherever this socket had joined it.

        Returns:
          The interfaces on which the group was left.

        Raises:
          OSError: EADDRNOTAVAIL where it was not joined.
        """
        self._kernel.family.check_internet("memberships")
        wanted = check_group(self._kernel.family, group, source)
        where = find_membership_interface("drop_membership", wanted, interface)
        self._lifetime.check()
        return self._kernel.memberships.drop(wanted, where)

    @property
    def memberships(self) -> tuple[Membership, ...]:
        """What this socket has joined and not dropped, in the order of joining."""
        self._lifetime.check()
        return self._kernel.memberships.list()

    def rejoin(self) -> tuple[Membership, ...]:
        """Join again what was lost with an interface that went away and came back under its name.

        While an interface is merely down, the kernel keeps its memberships; once it was made again, as by unplugging
        it, they have to be joined anew. Since Linux does not tell which ones those are, each is left for a moment,
        in which a datagram may be missed. What belongs to an interface that is missing, down or unable to
        multicast is passed over, and remembered for the next time.

        Returns:
          The memberships that are in place now.

        Raises:
          trio.ClosedResourceError: if the socket is closed.
          OSError: what the kernel says (ip(7), ipv6(7), RFC 3678), with group and interface in its text, such as
            ENOBUFS or ENOMEM where there are too many. What was not joined by then is remembered.
        """
        self._lifetime.check()
        return self._kernel.memberships.rejoin()

    def path_mtu(self, address: tuple[str | None, int]) -> int | None:
        """Return the largest packet that the path to ``address`` takes, in bytes, as far as this machine knows.

        It is the outgoing interface's MTU until a smaller one was reported (RFC 1191, RFC 8201); the headers take 28
        bytes of it on IPv4, 48 on IPv6. ``None`` where the platform cannot tell.

        Args:
          address: the ``(host, port)`` of a peer, the host numeric; an empty one is loopback.

        Raises:
          TypeError, ValueError: if it is no such pair.
          socket.gaierror: if the socket cannot reach addresses of that family.
          OSError: what the kernel says, such as ENETUNREACH.
        """
        family = self._kernel.family
        family.check_internet("path MTU")
        named = family.check_address("address", address)
        wanted, sockaddr = family.locate(named, dual_stack=self._kernel.dual_stack)
        if sockaddr is None:
            raise ValueError(f"path_mtu takes numeric hosts, and {wanted.host!r} is a name: resolve it first")
        self._lifetime.check()
        try:
            return self._kernel.path_mtu(sockaddr)
        except OSError as error:
            raise annotated(error, "path_mtu", wanted) from None

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once the socket is closed."""
        return self._kernel.fileno()

    @overload
    def setsockopt(self, level: int, option: int, value: int | Buffer) -> None: ...
    @overload
    def setsockopt(self, level: int, option: int, value: None, length: int) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | Buffer | None, length: int | None = None) -> None:
        """Set an option that has no property here, as ``trio.SocketStream.setsockopt`` does (setsockopt(2))."""
        self._lifetime.check()
        if length is None:
            self._kernel.setsockopt(level, option, value)
        else:
            self._kernel.setsockopt(level, option, value, length)

    @overload
    def getsockopt(self, level: int, option: int) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, buffersize: int) -> bytes | int: ...
    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> int | bytes:
        """Read an option that has no property here, as ``trio.SocketStream.getsockopt`` does (getsockopt(2))."""
        self._lifetime.check()
        if buffersize == 0:
            return self._kernel.getsockopt(level, option)
        return self._kernel.getsockopt(level, option, buffersize)
