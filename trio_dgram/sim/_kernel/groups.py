"""The multicast memberships of a simulated socket (ip(7), ipv6(7), RFC 3678)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

import attrs

from ..._kernel.capabilities import MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP
from .._values.places import INTERFACES, kind_of, plain, refusal

IP_ADD_SOURCE_MEMBERSHIP: Final = 39
IP_DROP_SOURCE_MEMBERSHIP: Final = 40

_MOST_GROUPS: Final = 20
"""The most groups that an IPv4 socket can join (net.ipv4.igmp_max_memberships)."""
_MOST_SOURCES: Final = 10
"""The most sources for which it can join one group (net.ipv4.igmp_max_msf)."""

_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6


@attrs.frozen
class Request:
    """The request of a membership option."""

    group: str
    index: int
    """The index of the interface; 0 for that of the route to the group."""
    address: str
    """A local address that names the interface instead; empty without one."""
    source: str
    """The one source; empty for any source."""
    joins: bool = True


def decode_request(level: int, number: int, value: bytes) -> Request | None:
    """Return the request of a membership option, ``None`` for any other option.

    Raises:
      OSError: EINVAL if the value is too short.
    """
    if (level, number) not in _DECODERS:
        return None
    joins, decode = _DECODERS[level, number]
    return attrs.evolve(decode(value), joins=joins)


def decode_interface(value: bytes) -> tuple[int, str]:
    """Return the index, or else the local address, in a value of IP_MULTICAST_IF."""
    if len(value) < 4:
        raise refusal(errno.EINVAL)
    address = _text(value[4:8] if len(value) >= 8 else value[:4])
    index = int(struct.unpack_from("@i", value, 8)[0]) if len(value) >= 12 else 0
    return index, "" if address == "0.0.0.0" else address


def _ipv4(value: bytes) -> Request:
    # struct ip_mreq, or ip_mreqn, which has an index besides.
    if len(value) < 8:
        raise refusal(errno.EINVAL)
    group, address = _text(value[:4]), _text(value[4:8])
    index = int(struct.unpack_from("@i", value, 8)[0]) if len(value) >= 12 else 0
    return Request(group, index, "" if address == "0.0.0.0" else address, "")


def _ipv4_source(value: bytes) -> Request:
    # struct ip_mreq_source: on Linux the interface comes before the source.
    if len(value) < 12:
        raise refusal(errno.EINVAL)
    address = _text(value[4:8])
    return Request(_text(value[:4]), 0, "" if address == "0.0.0.0" else address, _text(value[8:12]))


def _ipv6(value: bytes) -> Request:
    # struct ipv6_mreq
    if len(value) < 20:
        raise refusal(errno.EINVAL)
    return Request(_text(value[:16]), int(struct.unpack_from("@I", value, 16)[0]), "", "")


def _any_source(value: bytes) -> Request:
    # struct group_source_req
    if len(value) < _GROUP_SOURCE_REQUEST.size:
        raise refusal(errno.EINVAL)
    index, group, source = _GROUP_SOURCE_REQUEST.unpack_from(value)
    return Request(_stored(group), index, "", _stored(source))


_GROUP_SOURCE_REQUEST: Final = struct.Struct("@I0L128s128s")

_DECODERS: Final[dict[tuple[int, int], tuple[bool, Callable[[bytes], Request]]]] = {
    (_IP, socket.IP_ADD_MEMBERSHIP): (True, _ipv4),
    (_IP, socket.IP_DROP_MEMBERSHIP): (False, _ipv4),
    (_IP, IP_ADD_SOURCE_MEMBERSHIP): (True, _ipv4_source),
    (_IP, IP_DROP_SOURCE_MEMBERSHIP): (False, _ipv4_source),
    (_IPV6, socket.IPV6_JOIN_GROUP): (True, _ipv6),
    (_IPV6, socket.IPV6_LEAVE_GROUP): (False, _ipv6),
    (_IP, MCAST_JOIN_SOURCE_GROUP): (True, _any_source),
    (_IP, MCAST_LEAVE_SOURCE_GROUP): (False, _any_source),
    (_IPV6, MCAST_JOIN_SOURCE_GROUP): (True, _any_source),
    (_IPV6, MCAST_LEAVE_SOURCE_GROUP): (False, _any_source),
}
"""By level and number of an option: whether it joins, and how its value is read."""


def _text(packed: bytes) -> str:
    return plain(socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed))


def _stored(storage: bytes) -> str:
    """Return the address in a struct sockaddr_storage."""
    (family,) = struct.unpack_from("=H", storage)
    return _text(storage[4:8] if family == socket.AF_INET else storage[8:24])


class GroupMemberships:
    """The groups that one socket has joined, with their interfaces and sources."""

    __slots__ = ("_joined",)

    def __init__(self) -> None:
        self._joined: dict[tuple[str, int], set[str] | None] = {}
        """The sources by group and interface, ``None`` for any source."""

    def change(self, request: Request, index: int) -> None:
        """Execute ``request`` on the interface ``index``."""
        if kind_of(request.group) != "group":
            raise refusal(errno.EINVAL)
        if index not in INTERFACES:
            raise refusal(errno.ENODEV)
        key = (request.group, index)
        if request.joins:
            self._join(key, request.source)
        else:
            self._leave(key, request.source)

    def _join(self, key: tuple[str, int], source: str) -> None:
        present = key in self._joined
        if present and not source:
            raise refusal(errno.EADDRINUSE)
        is_ipv4 = ":" not in key[0]
        if not present and is_ipv4 and len(self._joined) >= _MOST_GROUPS:
            raise refusal(errno.ENOBUFS)
        if not source:
            self._joined[key] = None
            return
        sources = self._joined.setdefault(key, set())
        if sources is None:
            # On Linux a socket that joined for any source may still add a source, which replaces the former join.
            sources = self._joined[key] = set()
        if is_ipv4 and len(sources) >= _MOST_SOURCES:
            raise refusal(errno.ENOBUFS)
        if source in sources:
            raise refusal(errno.EADDRNOTAVAIL)
        sources.add(source)

    def _leave(self, key: tuple[str, int], source: str) -> None:
        sources = self._joined.get(key, set())
        if key not in self._joined or (source and (sources is None or source not in sources)):
            raise refusal(errno.EADDRNOTAVAIL)
        if source and sources is not None:
            sources.remove(source)
        if not source or not sources:
            del self._joined[key]

    def accepts(self, group: str, index: int, source: str, *, default: bool) -> bool:
        """Whether a datagram from ``source`` to ``group`` is accepted; ``default`` if the group was not joined
        there."""
        try:
            sources = self._joined[group, index]
        except KeyError:
            return default
        return sources is None or source in sources

    def has_joined(self, group: str, index: int) -> bool:
        """Whether the group was joined on that interface, for any source."""
        return (group, index) in self._joined
