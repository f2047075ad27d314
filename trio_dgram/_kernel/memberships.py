"""Multicast memberships: which groups a socket has joined, on which interfaces, from which sources."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs

from .._codecs.families import UDP4, Family
from .._values.arguments import describe_value
from .._values.errors import annotated
from .awaited import KernelSocket
from .interfaces import Interface, find_interface, interfaces
from .system_socket import MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP, capabilities_of

_OUT_OF_ROOM: Final = (errno.ENOBUFS, errno.ENOMEM)
"""What the kernel says when a socket may join no more groups or sources: IPv4's word and IPv6's."""

_JOINED_ALREADY: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""What the kernel says when a group is joined twice, from any source and from one."""

_UNABLE: Final = (errno.ENODEV, errno.EINVAL)
"""What the kernel says when an interface cannot multicast in that family, to groups that it has let in before."""


@attrs.frozen
class Group:
    """What can be joined: a group, from any source or from one."""

    family: Family
    group: str
    source: str | None

    def __str__(self) -> str:
        return self.group if self.source is None else f"{self.group} from {self.source}"


def check_group(family: Family, group: object, source: object) -> Group:
    """Return the group that the arguments name, if it is one that a socket of ``family`` can join."""
    address = _check_ip(family, "group", group)
    if not address.is_multicast:
        raise ValueError(f"group must be a multicast address, not {group!r}")
    if source is None:
        return Group(family, str(address), None)
    origin = _check_ip(family, "source", source)
    if origin.is_multicast or origin.is_unspecified:
        raise ValueError(f"source must be a unicast address, not {source!r}")
    return Group(family, str(address), str(origin))


def _check_ip(family: Family, name: str, value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if not isinstance(value, str | ipaddress.IPv4Address | ipaddress.IPv6Address):
        raise TypeError(f"{name} must be a numeric address, not {describe_value(value)}")
    version = 4 if family is UDP4 else 6
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in str(address):
        raise ValueError(f"{name} must be a numeric IPv{version} address, not {str(value)!r}")
    return address


@attrs.frozen
class Membership:
    """One group that a socket has joined on one interface."""

    group: str
    """The multicast address."""
    source: str | None
    """The one sender that is heard, ``None`` for any."""
    interface: str
    """The name of the interface."""
    index: int
    """The number that the interface had when the group was joined."""


class Memberships:
    """The memberships of one socket."""

    __slots__ = ("_joined", "_socket")

    def __init__(self, socket: KernelSocket) -> None:
        self._socket = socket
        self._joined: dict[tuple[Group, int], str] = {}
        """The interface's name, by group and index, in the order of joining."""

    def list(self) -> tuple[Membership, ...]:
        """Return what is joined where."""
        return tuple(
            Membership(group.group, group.source, name, index) for (group, index), name in self._joined.items()
        )

    def add(self, group: Group, interface: Interface | None) -> tuple[Interface, ...]:
        """Join ``group`` on one interface, or on every one that can; return where it was joined."""
        if interface is not None:
            self._change(group, interface, _join, "add_membership")
            self._forget_predecessors(group, interface)
            self._joined[group, interface.index] = interface.name
            return (interface,)
        joined: list[Interface] = []
        failures: list[OSError] = []
        for candidate in interfaces():
            if not (candidate.up and (candidate.multicast or candidate.loopback)):
                continue
            try:
                joined += self.add(group, candidate)
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:
                    for done in joined:
                        self.drop(group, done)
                    raise
                failures.append(error)
        if joined:
            return tuple(joined)
        if failures:
            raise failures[0] from ExceptionGroup(f"{group} could be joined on no interface", failures)
        no_device = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        raise annotated(no_device, "add_membership", f"{group} on every interface")

    def drop(self, group: Group, interface: Interface | None) -> tuple[Interface, ...]:
        """Leave ``group`` on one interface, or wherever it was joined; return where it was left."""
        if interface is not None:
            had_gone = self._forget_predecessors(group, interface)
            if (group, interface.index) in self._joined or not had_gone:
                self._change(group, interface, _leave, "drop_membership")
                self._joined.pop((group, interface.index), None)
            return (interface,)
        indices = [index for joined, index in self._joined if joined == group]
        if not indices:
            not_joined = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            raise annotated(not_joined, "drop_membership", f"{group} on every interface")
        present = {interface.index: interface for interface in interfaces()}
        left: list[Interface] = []
        for index in indices:
            del self._joined[group, index]
            if index in present:
                self._change(group, present[index], _leave, "drop_membership")
                left.append(present[index])
            else:
                self._leave_what_is_gone(group, index)
        return tuple(left)

    def rejoin(self) -> tuple[Membership, ...]:
        """Join everything again; return what is joined on interfaces that are up."""
        # The kernel keeps a membership while an interface is down or without addresses, but not once it is made again,
        # nor on IPv6 once its MTU falls below 1280. The socket's own list, which says EADDRINUSE, keeps it even then,
        # and a new interface can have the old number. So what looks joined may not be: only leaving it first is sure.
        present = interfaces()
        up = {interface.name: interface for interface in present if interface.up}
        indices = {interface.index for interface in present}
        in_place: set[tuple[Group, int]] = set()
        for (group, index), name in list(self._joined.items()):
            interface = up.get(name)
            if interface is None:
                continue
            if index in indices:
                with suppress(OSError):
                    _leave(self._socket, group, index)
            else:
                self._leave_what_is_gone(group, index)
            try:
                self._change(group, interface, _join, "rejoin")
            except OSError as error:
                if error.errno in _UNABLE:
                    continue
                if error.errno not in _JOINED_ALREADY:
                    raise
            if index != interface.index:
                del self._joined[group, index]
                self._joined[group, interface.index] = name
            in_place.add((group, interface.index))
        return tuple(membership for key, membership in zip(self._joined, self.list(), strict=True) if key in in_place)

    def _forget_predecessors(self, group: Group, interface: Interface) -> bool:
        """Forget ``group`` on interfaces that had this one's name before; return whether it was joined there."""
        former = [
            index
            for (joined, index), name in self._joined.items()
            if joined == group and name == interface.name and index != interface.index
        ]
        for index in former:
            del self._joined[group, index]
            self._leave_what_is_gone(group, index)
        return bool(former)

    def _leave_what_is_gone(self, group: Group, index: int) -> None:
        # It would go on taking one of the places that a socket has. Without its interface a source cannot be left, but
        # the group can, and all its sources there went with it.
        with suppress(OSError):
            _leave(self._socket, attrs.evolve(group, source=None), index)

    def _change(
        self, group: Group, interface: Interface, change: Callable[[KernelSocket, Group, int], None], operation: str
    ) -> None:
        try:
            change(self._socket, group, interface.index)
        except OSError as error:
            raise annotated(error, operation, f"{group} on {interface.name}") from None


def find_membership_interface(operation: str, group: Group, which: object) -> Interface | None:
    """Return the interface that the argument of a membership call names, ``None`` for every one."""
    if which is None:
        return None
    try:
        return find_interface(which)
    except OSError as error:
        raise annotated(error, operation, f"{group} on {which}") from None


def _join(sock: KernelSocket, group: Group, index: int) -> None:
    _set(sock, group, index, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP)


def _leave(sock: KernelSocket, group: Group, index: int) -> None:
    _set(sock, group, index, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP, MCAST_LEAVE_SOURCE_GROUP)


def _set(sock: KernelSocket, group: Group, index: int, ipv4: int, ipv6: int, with_source: int) -> None:
    packed = socket.inet_pton(group.family.family, group.group)
    is_ipv4 = group.family is UDP4
    level = socket.IPPROTO_IP if is_ipv4 else socket.IPPROTO_IPV6
    if group.source is not None:
        if not capabilities_of(sock).source_membership:
            raise OSError(errno.ENOTSUP, "this platform cannot join a group from one source")
        request = _group_source_request(group.family.family, index, group.group, group.source)
        sock.setsockopt(level, with_source, request)
    elif not is_ipv4:
        # struct ipv6_mreq (RFC 3493, 5.2)
        sock.setsockopt(level, ipv6, packed + struct.pack("@I", index))
    elif sys.platform == "win32":  # pragma: no cover -- struct ip_mreq with an index as 0.0.0.x
        sock.setsockopt(level, ipv4, packed + struct.pack("!I", index))
    else:
        # struct ip_mreqn (ip(7))
        sock.setsockopt(level, ipv4, packed + bytes(4) + struct.pack("@i", index))


def _group_source_request(family: socket.AddressFamily, index: int, group: str, source: str) -> bytes:
    """Return a struct group_source_req (RFC 3678, 4.2), whose addresses are aligned like a long."""
    return struct.pack("@I0L128s128s", index, _storage(family, group), _storage(family, source))


def _storage(family: socket.AddressFamily, host: str) -> bytes:
    # struct sockaddr_in and sockaddr_in6: the address follows the port, on IPv6 also the flow label.
    gap = 2 if family == socket.AF_INET else 6
    return struct.pack("=H", family) + bytes(gap) + socket.inet_pton(family, host)
