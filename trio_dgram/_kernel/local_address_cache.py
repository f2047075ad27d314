"""A bounded cache of local addresses: the control messages of received datagrams to one shared value for each.

A socket has few local addresses, so decoding each once makes the metadata of a datagram cost one look-up. The cache is
bounded, since a socket may receive the datagrams of any number of groups, or of a whole network (AnyIP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from .._codecs.ancillary import ControlMessage, decode_packet_info, packet_info_messages
from .._values.datagrams import PacketInfo

Key: TypeAlias = bytes | tuple[ControlMessage, ...]
"""The control messages of one datagram, as recvmmsg(2) or as ``socket.recvmsg`` returns them."""

_cached: Final[dict[Key, PacketInfo]] = {}
_LARGEST_CACHE: Final = 1024

cached_local_info: Final[Callable[[Key], PacketInfo | None]] = _cached.get
"""Returns the value for the control messages of a datagram, ``None`` if :func:`local_info` has to decode them. A value
implies that the datagram was not coalesced."""


def cached_local_infos(keys: list[bytes]) -> list[PacketInfo | None]:
    """Return :func:`cached_local_info` of each of the keys of a batch."""
    first = keys[0]
    # Comparing them costs a third of hashing them, and mostly they are equal.
    if keys.count(first) == len(keys):
        return [cached_local_info(first)] * len(keys)
    return list(map(cached_local_info, keys))


def local_info(messages: list[ControlMessage], key: Key) -> PacketInfo:
    """Return the local address and the interface that the control messages of a datagram report, and cache them.

    Args:
      messages: the control messages; those of other kinds are ignored.
      key: the same, as :func:`cached_local_info` takes them.
    """
    relevant = packet_info_messages(messages)
    info = _cached.get(relevant)
    if info is None:
        info = _store(relevant, decode_packet_info(relevant))
    # A segment size or a timestamp would make the keys of one address as many as its datagrams.
    return _store(key, info) if len(relevant) == len(messages) else info


def _store(key: Key, info: PacketInfo) -> PacketInfo:
    if len(_cached) >= _LARGEST_CACHE and key not in _cached:
        _cached.clear()
    return _cached.setdefault(key, info)
