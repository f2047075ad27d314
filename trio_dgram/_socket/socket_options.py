"""The options and memberships of a socket, as properties and methods."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar, overload

from .._kernel.descriptor import Descriptor
from .._kernel.interfaces import Interface
from .._kernel.memberships import Membership, check_group, find_membership_interface
from .._kernel.options import OPTIONS, MTUDiscovery, check_option, read_option, write_option
from .._values.errors import with_context
from .association import Association
from .interrupts import defer_interrupts
from .lifetime import Lifetime

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
GroupAddress: TypeAlias = str | ipaddress.IPv4Address | ipaddress.IPv6Address


@defer_interrupts
class OptionProperty(Generic[T]):
    """A socket option as an attribute: checked before it is written, read from the kernel."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = f"{OPTIONS[name].doc} Type: {OPTIONS[name].type}."

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: SocketWithOptions, owner: type) -> T: ...
    def __get__(self, instance: SocketWithOptions | None, owner: type) -> Self | T:
        if instance is None:
            return self
        instance._lifetime.check(self._name)  # noqa: SLF001 -- a descriptor is a part of its class
        value: T = read_option(instance._descriptor.options, self._name)  # noqa: SLF001 -- likewise
        return value

    def __set__(self, instance: SocketWithOptions, value: T) -> None:
        check_option(self._name, value)
        instance._lifetime.check(self._name)  # noqa: SLF001 -- a descriptor is a part of its class
        write_option(instance._descriptor.options, self._name, value)  # noqa: SLF001 -- likewise


@defer_interrupts
class SocketWithOptions:
    """The options of a socket. They can be read and set until it is closed."""

    __slots__ = ("_association", "_descriptor", "_lifetime")

    _association: Association
    _descriptor: Descriptor
    _lifetime: Lifetime

    broadcast: OptionProperty[bool] = OptionProperty()
    ttl: OptionProperty[int] = OptionProperty()
    dscp: OptionProperty[int] = OptionProperty()
    ecn: OptionProperty[int] = OptionProperty()
    multicast_ttl: OptionProperty[int] = OptionProperty()
    multicast_loopback: OptionProperty[bool] = OptionProperty()
    multicast_interface: OptionProperty[str | int | None] = OptionProperty()
    device: OptionProperty[str | None] = OptionProperty()
    mtu_discovery: OptionProperty[MTUDiscovery] = OptionProperty()
    receive_buffer_size: OptionProperty[int] = OptionProperty()
    send_buffer_size: OptionProperty[int] = OptionProperty()

    def add_membership(
        self, group: GroupAddress, interface: str | int | None = None, *, source: GroupAddress | None = None
    ) -> tuple[Interface, ...]:
        """Join a multicast group, from any source or from one. An unbound socket is bound first.

        Args:
          group: a multicast address of the socket's family; a dual-stack ``"udp6"`` socket can also join IPv4 groups.
          interface: a local address, or the name or index of an interface. None joins on loopback and on every
            interface that is up and can multicast; interfaces that refuse are skipped.
          source: the only source to receive from, a unicast address; None for any.

        Returns:
          The interfaces on which the group was joined.

        Raises:
          TypeError, ValueError: if an argument is wrong; nothing was joined.
          trio.ClosedResourceError: if the socket is closed.
          OSError: the kernel's error (ip(7), ipv6(7), RFC 3678), with group and interface in its text: EADDRINUSE or
            EADDRNOTAVAIL if the group was joined before, ENODEV if there is no such interface, ENOTSUP where the
            system cannot join from one source. ENOBUFS or ENOMEM for too many groups, after leaving those that this
            call had joined. Without ``interface``, other errors are raised only if the group was joined nowhere: the
            first, from an ``ExceptionGroup`` of all.

        A socket receives only the groups that it joined itself, where the system supports that (Linux does:
        IP_MULTICAST_ALL).
        """
        descriptor = self._descriptor
        descriptor.family.check_internet("memberships")
        wanted = check_group(descriptor.family, group, source, dual_stack=descriptor.dual_stack)
        where = find_membership_interface("add_membership", wanted, interface)
        self._lifetime.check("add_membership")
        self._association.ensure_bound()
        joined = descriptor.memberships.add(wanted, where)
        # Sockets of one port receive each other's multicast datagrams, and multicast_loopback those of this one.
        self._association.accept_own()
        return joined

    def drop_membership(
        self, group: GroupAddress, interface: str | int | None = None, *, source: GroupAddress | None = None
    ) -> tuple[Interface, ...]:
        """Leave a multicast group that :meth:`add_membership` joined.

        Args:
          group: the multicast address.
          interface: as in :meth:`add_membership`; None leaves the group wherever this socket had joined it.
          source: the source that the group was joined for; None if it was joined for any.

        Returns:
          The interfaces on which the group was left.

        Raises:
          TypeError, ValueError: if an argument is wrong; nothing was left.
          trio.ClosedResourceError: if the socket is closed.
          OSError: the kernel's error, with group and interface in its text: EADDRNOTAVAIL if the group was not joined,
            ENODEV if there is no such interface.
        """
        descriptor = self._descriptor
        descriptor.family.check_internet("memberships")
        wanted = check_group(descriptor.family, group, source, dual_stack=descriptor.dual_stack)
        where = find_membership_interface("drop_membership", wanted, interface)
        self._lifetime.check("drop_membership")
        return descriptor.memberships.drop(wanted, where)

    @property
    def memberships(self) -> tuple[Membership, ...]:
        """The groups that this socket has joined and not left, in the order of joining."""
        self._lifetime.check("memberships")
        return self._descriptor.memberships.list()

    def rejoin_memberships(self) -> tuple[Membership, ...]:
        """Join again the groups that were lost because an interface was removed and created again under its name.

        While an interface is down, the kernel keeps its memberships. It does not report which ones are lost, so
        each group is left and joined again; a datagram that arrives in between may be missed. Groups on interfaces
        that are missing, down or unable to multicast are skipped and remembered for the next call.

        Returns:
          The memberships that are in effect now.

        Raises:
          trio.ClosedResourceError: if the socket is closed.
          OSError: the kernel's error (ip(7), ipv6(7), RFC 3678), with group and interface in its text, such as ENOBUFS
            or ENOMEM for too many groups. Groups that were not joined by then are remembered.
        """
        self._lifetime.check("rejoin_memberships")
        return self._descriptor.memberships.rejoin()

    def path_mtu(self, address: tuple[str | None, int]) -> int | None:
        """Return the largest packet that the path to ``address`` accepts, in bytes, as far as this machine knows.

        It is the MTU of the outgoing interface until a smaller one was reported (RFC 1191, RFC 8201). The headers take
        28 bytes of it on IPv4, 48 on IPv6. ``None`` where the system does not report it.

        Args:
          address: the ``(host, port)`` of a peer; the host is numeric, an empty one is loopback. For a
            :class:`ProxiedAddress` it is the path to the proxy.

        Raises:
          TypeError, ValueError: if it is not such a pair.
          socket.gaierror: if a socket of this type cannot reach that address.
          trio.ClosedResourceError: if the socket is closed.
          OSError: the kernel's error, such as ENETUNREACH.
        """
        descriptor = self._descriptor
        descriptor.family.check_internet("path MTU")
        destination = descriptor.family.check_address("address", address)
        located, sockaddr = self._association.locate(destination)
        if sockaddr is None:
            raise ValueError(f"path_mtu needs a numeric host, not {located.host!r}: resolve it first")
        self._lifetime.check("path_mtu")
        try:
            return descriptor.path_mtu(sockaddr)
        except OSError as error:
            raise with_context(error, "path_mtu", located) from None

    def fileno(self) -> int:
        """Return the number of the descriptor, -1 once the socket is closed."""
        return self._descriptor.fileno()

    @overload
    def setsockopt(self, level: int, option: int, value: int | Buffer) -> None: ...
    @overload
    def setsockopt(self, level: int, option: int, value: None, length: int) -> None: ...
    def setsockopt(self, level: int, option: int, value: int | Buffer | None, length: int | None = None) -> None:
        """Set an option that has no property here, as ``trio.SocketStream.setsockopt`` does (setsockopt(2)).

        Args:
          level: the protocol level, such as ``socket.SOL_SOCKET``.
          option: the number of the option.
          value: an integer or bytes; None with ``length`` zero bytes.
          length: the size of the value, in bytes; only with None.

        Raises:
          trio.ClosedResourceError: if the socket is closed.
          OSError: the kernel's error.
        """
        self._lifetime.check("setsockopt")
        arguments = (level, option, value) if length is None else (level, option, value, length)
        try:
            self._descriptor.setsockopt(*arguments)
        except OSError as error:
            raise with_context(error, "setsockopt", None) from None

    @overload
    def getsockopt(self, level: int, option: int) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, buffersize: int) -> bytes | int: ...
    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> int | bytes:
        """Read an option that has no property here, as ``trio.SocketStream.getsockopt`` does (getsockopt(2)).

        Args:
          level: the protocol level, such as ``socket.SOL_SOCKET``.
          option: the number of the option.
          buffersize: the size of the value, in bytes; 0 for an integer. Default: 0.

        Raises:
          trio.ClosedResourceError: if the socket is closed.
          OSError: the kernel's error.
        """
        self._lifetime.check("getsockopt")
        arguments = (level, option) if buffersize == 0 else (level, option, buffersize)
        try:
            value: int | bytes = self._descriptor.getsockopt(*arguments)
        except OSError as error:
            raise with_context(error, "getsockopt", None) from None
        return value
