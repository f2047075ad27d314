"""The options of a simulated socket: stored, checked and read as Linux does (socket(7), ip(7), ipv6(7), udp(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from ..._codecs.ancillary import SO_TIMESTAMPNS
from ..._codecs.error_queue import IP_RECVERR, IPV6_RECVERR
from ..._kernel.capabilities import IP_MTU_DISCOVER, IP_MULTICAST_ALL, IPV6_MULTICAST_ALL, SO_MEMINFO
from ..._kernel.descriptor import SO_MEMINFO_DROPS
from ..._kernel.options import IPV6_MTU_DISCOVER
from .._values.places import INTERFACE_INDEX, INTERFACES, refusal
from .buffer import DEFAULT_SIZE, SMALLEST_SIZE, ReceiveBuffer
from .groups import GroupMemberships, decode_interface, decode_request
from .option_table import IP_UNICAST_IF, IPV6_UNICAST_IF, OF_IPV4, OF_IPV6, SO_RCVLOWAT, SO_TIMESTAMP, stored

_SO_PROTOCOL: Final = 38
_SO_DOMAIN: Final = 39
LARGEST_BUFFER: Final = 212_992
"""Linux's limit for a requested buffer size, in bytes (net.core.rmem_max)."""

_SOL, _IP, _IPV6, _UDP = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP
_TIMESTAMPS: Final = ((_SOL, SO_TIMESTAMP), (_SOL, SO_TIMESTAMPNS))
_STRUCTURES: Final = {(_SOL, socket.SO_LINGER): 8, (_SOL, socket.SO_RCVTIMEO): 16, (_SOL, socket.SO_SNDTIMEO): 16}
"""Options whose value is a structure that has no effect here, with its size."""
_HIGHEST: Final = 2**31 - 1
_UDP_ENCAP: Final = (_UDP, 100)
_ENCAPSULATIONS: Final = (0, 2)
# Options with a number of their own in each family, indexed by whether it is IPv6.
HOP_LIMIT: Final = ((_IP, socket.IP_TTL), (_IPV6, socket.IPV6_UNICAST_HOPS))
MULTICAST_HOP_LIMIT: Final = ((_IP, socket.IP_MULTICAST_TTL), (_IPV6, socket.IPV6_MULTICAST_HOPS))
MULTICAST_LOOPBACK: Final = ((_IP, socket.IP_MULTICAST_LOOP), (_IPV6, socket.IPV6_MULTICAST_LOOP))
MULTICAST_ALL: Final = ((_IP, IP_MULTICAST_ALL), (_IPV6, IPV6_MULTICAST_ALL))
TRAFFIC_CLASS: Final = ((_IP, socket.IP_TOS), (_IPV6, socket.IPV6_TCLASS))
MTU_DISCOVERY: Final = ((_IP, IP_MTU_DISCOVER), (_IPV6, IPV6_MTU_DISCOVER))
ERROR_QUEUE: Final = ((_IP, IP_RECVERR), (_IPV6, IPV6_RECVERR))
_MULTICAST_INTERFACES: Final = ((_IP, socket.IP_MULTICAST_IF), (_IPV6, socket.IPV6_MULTICAST_IF))


class Settings:
    """The options of one socket."""

    __slots__ = (
        "_family",
        "_fixed",
        "_index_of",
        "_known",
        "_structures",
        "_values",
        "buffer",
        "device",
        "memberships",
        "multicast_index",
    )

    def __init__(self, family: socket.AddressFamily, index_of: Callable[[str], int]) -> None:
        self._family = family
        self._known = OF_IPV6 if family == socket.AF_INET6 else OF_IPV4
        self._values = dict(_DEFAULTS[family])
        self._structures: dict[tuple[int, int], bytes] = {}
        self._fixed = {
            (_SOL, socket.SO_TYPE): int(socket.SOCK_DGRAM),
            (_SOL, socket.SO_ACCEPTCONN): 0,
            (_SOL, _SO_PROTOCOL): int(socket.IPPROTO_UDP),
            (_SOL, _SO_DOMAIN): int(family),
        }
        self._index_of = index_of
        self.buffer: ReceiveBuffer = ReceiveBuffer()
        self.device: str = ""
        self.multicast_index: int = 0
        self.memberships: GroupMemberships = GroupMemberships()

    def __getitem__(self, place: tuple[int, int]) -> int:
        return self._values[place]

    def is_on(self, level: int, number: int) -> bool:
        """Whether the option is known for this family and not 0."""
        return bool(self._values.get((level, number)))

    def set(self, level: int, number: int, value: int | bytes) -> None:
        """Set an option as setsockopt(2) does.

        Raises:
          OSError: the errno of Linux for an unknown option or an invalid value.
        """
        place = (level, number)
        if isinstance(value, bytes) and self._set_structure(place, value):
            return
        number_set = _integer(value)
        if place == (_SOL, socket.SO_RCVBUF):
            self.buffer.size = max(SMALLEST_SIZE, 2 * _capped(number_set))
        elif place == (_SOL, socket.SO_SNDBUF):
            self._values[place] = max(2 * SMALLEST_SIZE, 2 * _capped(number_set))
        elif place in _MULTICAST_INTERFACES or place in _UNICAST_INTERFACES:
            self._set_interface(place, number_set)
        elif place == _UDP_ENCAP and number_set in _ENCAPSULATIONS:
            self._values[place] = number_set
        elif place not in self._known:
            raise refusal(errno.EINVAL if place in _STRUCTURES else errno.ENOPROTOOPT)
        else:
            self._set_number(place, number_set)

    def _set_interface(self, place: tuple[int, int], index: int) -> None:
        if place in _MULTICAST_INTERFACES:
            if index and index not in INTERFACES:
                raise refusal(errno.ENODEV)
            self.multicast_index = index
        else:
            if socket.ntohl(index & 0xFFFFFFFF) not in (0, *INTERFACES):
                raise refusal(errno.EADDRNOTAVAIL)
            self._values[place] = index

    def _set_number(self, place: tuple[int, int], number_set: int) -> None:
        value = stored(self._known[place], number_set)
        if value is None:
            raise refusal(errno.EINVAL)
        if place == SO_RCVLOWAT:
            value = (value or 1) if value >= 0 else _HIGHEST
        if place in _TIMESTAMPS:
            # The kinds of timestamps exclude each other.
            self._values |= dict.fromkeys(_TIMESTAMPS, 0)
        self._values[place] = value

    def _set_structure(self, place: tuple[int, int], value: bytes) -> bool:
        """Set an option whose value is a structure; return whether it is one."""
        if place == (_SOL, socket.SO_BINDTODEVICE):
            name = os.fsdecode(value.rstrip(b"\0"))
            if name and name not in INTERFACES.values():
                raise refusal(errno.ENODEV)
            self.device = name
            return True
        if place == (_IP, socket.IP_MULTICAST_IF):
            which = decode_interface(value)
            try:
                index = self._interface(which)
            except OSError:
                index = -1
            if index and index not in INTERFACES:
                raise refusal(errno.EADDRNOTAVAIL)
            self.multicast_index = index
            return True
        if place in _STRUCTURES:
            if len(value) < _STRUCTURES[place]:
                raise refusal(errno.EINVAL)
            self._structures[place] = value[: _STRUCTURES[place]]
            return True
        request = decode_request(*place, value)
        if request is None:
            return False
        index = self._interface((request.index, request.address))
        self.memberships.change(request, index or INTERFACE_INDEX)
        return True

    def _interface(self, which: tuple[int, str]) -> int:
        index, address = which
        return index or (self._index_of(address) if address else 0)

    def get(self, level: int, number: int, size: int = 0) -> int | bytes:
        """Read an option as getsockopt(2) does: as bytes if ``size`` is given."""
        place = (level, number)
        if place == (_SOL, socket.SO_BINDTODEVICE):
            return os.fsencode(self.device) + b"\0" if self.device else b""
        if place in _STRUCTURES:
            structure = self._structures.get(place, bytes(_STRUCTURES[place]))
            return structure[:size] if size else int(struct.unpack_from("=i", structure)[0])
        if level == _IPV6 and self._family == socket.AF_INET:
            raise refusal(errno.EOPNOTSUPP)
        if place == (_SOL, SO_MEMINFO):
            words = [0] * 9
            words[0], words[1], words[SO_MEMINFO_DROPS] = self.buffer.charged, self.buffer.size, self.buffer.drops
            return struct.pack("=9I", *words)[:size]
        if place == (_SOL, socket.SO_RCVBUF):
            value = self.buffer.size
        elif place in _MULTICAST_INTERFACES:
            value = self.multicast_index
        else:
            found = self._values.get(place, self._fixed.get(place))
            if found is None:
                raise refusal(errno.ENOPROTOOPT)
            value = found
        return struct.pack("=i", value)[:size] if size else value


_UNICAST_INTERFACES: Final = ((_IP, IP_UNICAST_IF), (_IPV6, IPV6_UNICAST_IF))
_DEFAULTS: Final = {
    family: {place: number.default for place, number in known.items()}
    | {(_SOL, socket.SO_SNDBUF): DEFAULT_SIZE, _UDP_ENCAP: 0}
    for family, known in ((socket.AF_INET, OF_IPV4), (socket.AF_INET6, OF_IPV6))
}


def _capped(size: int) -> int:
    # The kernel reads it as unsigned.
    return LARGEST_BUFFER if size < 0 else min(size, LARGEST_BUFFER)


def _integer(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    if len(value) == 1:
        # Linux accepts the multicast options as a byte, too.
        return value[0]
    if len(value) < 4:
        raise refusal(errno.EINVAL)
    return int(struct.unpack_from("=i", value)[0])
