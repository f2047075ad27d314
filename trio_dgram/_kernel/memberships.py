"""Multicast memberships: the groups that a socket has joined, by interface and source."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import attrs

from .._codecs.families import UDP4, UDP6, Family
from .._values.arguments import describe_value
from .._values.errors import with_context
from .capabilities import MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP, capabilities_of, not_supported
from .interfaces import Interface, find_interface, interfaces

_TOO_MANY: Final = (errno.ENOBUFS, errno.ENOMEM)
"""The errnos for a socket that may join no more groups or sources, of IPv4 and of IPv6."""

_ALREADY_JOINED: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""The errnos for joining a group twice, from any source and from one."""

_NO_MULTICAST: Final = (errno.ENODEV, errno.EINVAL)
"""The errnos of an interface that does not support multicast in the family of the group."""


@attrs.frozen
class Group:
    """A group that can be joined, from any source or from one."""

    family: Family
    group: str
    source: str | None

    def __str__(self) -> str:
        return self.group if self.source is None else f"{self.group} from {self.source}"


def check_group(family: Family, group: object, source: object, *, dual_stack: bool = False) -> Group:
    """Return the group that the arguments name, if a socket of ``family`` can join it.

    A dual-stack socket can also join IPv4 groups.
    """
    versions = (4, 6) if dual_stack else (4,) if family is UDP4 else (6,)
    address = _check_ip(versions, "group", group)
    if not address.is_multicast:
        raise ValueError(f"group must be a multicast address, not {group!r}")
    joined_as = UDP4 if address.version == 4 else UDP6
    if source is None:
        return Group(joined_as, str(address), None)
    origin = _check_ip((address.version,), "source", source)
    if origin.is_multicast or origin.is_unspecified:
        raise ValueError(f"source must be a unicast address, not {source!r}")
    return Group(joined_as, str(address), str(origin))


def _check_ip(versions: tuple[int, ...], name: str, value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if not isinstance(value, str | ipaddress.IPv4Address | ipaddress.IPv6Address):
        raise TypeError(f"{name} must be a numeric address, not {describe_value(value)}")
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        address = None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None and 4 in versions:
        address = address.ipv4_mapped
    if address is None or address.version not in versions or "%" in str(address):
        kinds = " or ".join(f"IPv{version}" for version in versions)
        raise ValueError(f"{name} must be a numeric {kinds} address, not {str(value)!r}")
    return address


@attrs.frozen
class Membership:
    """One group that a socket has joined on one interface.

    Attributes:
      group (str): the multicast address.
      source (str | None): the only source to receive from, None for any.
      interface (str): the name of the interface.
      index (int): the index that the interface had when the group was joined.
    """

    group: str
    source: str | None
    interface: str
    index: int


class Memberships:
    """The memberships of one socket."""

    __slots__ = ("_joined", "_socket", "keeps_former")

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.keeps_former: bool = False
        """Whether former processes may have joined groups on this socket, which joining again then confirms."""
        self._joined: dict[tuple[Group, int], str] = {}
        """The interface's name, by group and index, in the order of joining."""

    def list(self) -> tuple[Membership, ...]:
        """Return the memberships in the order of joining."""
        return tuple(
            Membership(group.group, group.source, name, index) for (group, index), name in self._joined.items()
        )

    def add(self, group: Group, interface: Interface | None) -> tuple[Interface, ...]:
        """Join ``group`` on one interface, or on every one that can multicast; return where it was joined."""
        if interface is not None:
            self._join_one(group, interface)
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
                if error.errno in _TOO_MANY:
                    for done in joined:
                        self.drop(group, done)
                    raise
                failures.append(error)
        if joined:
            return tuple(joined)
        if failures:
            raise failures[0] from ExceptionGroup(f"{group} could not be joined on any interface", failures)
        no_device = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        raise with_context(no_device, "add_membership", f"{group} on every interface")

    def _join_one(self, group: Group, interface: Interface) -> None:
        try:
            self._change(group, interface, _join, "add_membership")
        except OSError as error:
            is_former = self.keeps_former and (group, interface.index) not in self._joined
            if not is_former or error.errno not in _ALREADY_JOINED:
                raise

    def drop(self, group: Group, interface: Interface | None) -> tuple[Interface, ...]:
        """Leave ``group`` on one interface, or wherever it was joined; return where it was left."""
        if interface is not None:
            was_joined_before = self._forget_predecessors(group, interface)
            if (group, interface.index) in self._joined or not was_joined_before:
                self._change(group, interface, _leave, "drop_membership")
                self._joined.pop((group, interface.index), None)
            return (interface,)
        indices = [index for joined, index in self._joined if joined == group]
        if not indices:
            not_joined = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            raise with_context(not_joined, "drop_membership", f"{group} on every interface")
        present = {interface.index: interface for interface in interfaces()}
        left: list[Interface] = []
        for index in indices:
            del self._joined[group, index]
            if index in present:
                self._change(group, present[index], _leave, "drop_membership")
                left.append(present[index])
            else:
                self._leave_removed(group, index)
        return tuple(left)

    def restore(self) -> None:
        """Join everything on a new socket, where that is possible."""
        for group, index in self._joined:
            with suppress(OSError):
                _join(self._socket, group, index)

    def rejoin(self) -> tuple[Membership, ...]:
        """Join every group again; return the memberships on interfaces that are up."""
        # The kernel keeps a membership while an interface is down or without addresses, but not once the interface is
        # created again, nor on IPv6 once its MTU falls below 1280. The socket's own list, which causes EADDRINUSE,
        # keeps it even then, and a new interface can have the old index. So each group is left before it is joined.
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
                self._leave_removed(group, index)
            try:
                self._change(group, interface, _join, "rejoin_memberships")
            except OSError as error:
                if error.errno in _NO_MULTICAST:
                    continue
                if error.errno not in _ALREADY_JOINED:
                    raise
            if index != interface.index:
                del self._joined[group, index]
                self._joined[group, interface.index] = name
            in_place.add((group, interface.index))
        return tuple(membership for key, membership in zip(self._joined, self.list(), strict=True) if key in in_place)

    def _forget_predecessors(self, group: Group, interface: Interface) -> bool:
        """Remove ``group`` on earlier interfaces of the same name; return whether it was joined there."""
        former = [
            index
            for (joined, index), name in self._joined.items()
            if joined == group and name == interface.name and index != interface.index
        ]
        for index in former:
            del self._joined[group, index]
            self._leave_removed(group, index)
        return bool(former)

    def _leave_removed(self, group: Group, index: int) -> None:
        # The membership would still count towards the limit of the socket. Without its interface a source cannot be
        # left, but the group can, and that leaves all its sources there.
        with suppress(OSError):
            _leave(self._socket, attrs.evolve(group, source=None), index)

    def _change(
        self, group: Group, interface: Interface, change: Callable[[Any, Group, int], None], operation: str
    ) -> None:
        try:
            change(self._socket, group, interface.index)
        except OSError as error:
            raise with_context(not_supported(error), operation, f"{group} on {interface.name}") from None


def find_membership_interface(operation: str, group: Group, which: object) -> Interface | None:
    """Return the interface that the argument of a membership call names, ``None`` for every interface."""
    if which is None:
        return None
    try:
        return find_interface(which)
    except OSError as error:
        raise with_context(error, operation, f"{group} on {which}") from None


def _join(sock: Any, group: Group, index: int) -> None:
    _set(sock, group, index, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP)


def _leave(sock: Any, group: Group, index: int) -> None:
    _set(sock, group, index, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP, MCAST_LEAVE_SOURCE_GROUP)


def _set(sock: Any, group: Group, index: int, ipv4: int, ipv6: int, with_source: int) -> None:
    packed = socket.inet_pton(group.family.family, group.group)
    is_ipv4 = group.family is UDP4
    level = socket.IPPROTO_IP if is_ipv4 else socket.IPPROTO_IPV6
    if group.source is not None:
        if not capabilities_of(sock).source_membership:
            raise OSError(errno.ENOTSUP, "this system cannot join a group from one source")
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
