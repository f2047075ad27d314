"""A bounded cache of source addresses: the kernel's bytes to one shared value.

It pays where a few peers send repeatedly. It is bounded, since anyone can forge any number of sources.
"""

from __future__ import annotations

from typing import Final

from .._codecs.families import Family, PackedAddress
from .._values.addresses import ReceivedAddress, ScopedReceivedAddress

_cached: Final[dict[PackedAddress, ReceivedAddress]] = {}
"""Sources by the kernel's bytes."""
_LARGEST_CACHE: Final = 4096
_BATCHES_BYPASSED: Final = 256
"""How many batches bypass the cache after a batch of mostly unknown sources. A miss costs twice an uncached address,
and every entry adds to the work of the garbage collector."""


class SourceCache:
    """The view that one socket has of the cache, which all sockets share."""

    __slots__ = ("_bypassed", "_family")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._bypassed = 0

    def addresses(self, packed: bytes) -> list[ReceivedAddress | None]:
        """Return the sources of a batch as values, ``None`` for those that must not be answered.

        Args:
          packed: the sources as the kernel returns them (struct sockaddr, one after the other).
        """
        if self._bypassed:
            self._bypassed -= 1
            return self._family.sources(packed)
        keys = self._family.split(packed)
        addresses: list[ReceivedAddress | None] = list(map(_cached.get, keys))
        if not all(addresses):
            if addresses.count(None) * 2 > len(addresses):
                self._bypassed = _BATCHES_BYPASSED
            addresses = list(map(_cache, keys, self._family.sources(packed)))
        return addresses


def _cache(packed: PackedAddress, address: ReceivedAddress | None) -> ReceivedAddress | None:
    # The name of a zone can come to denote another interface.
    if address is None or type(address) is ScopedReceivedAddress:
        return address
    if len(_cached) >= _LARGEST_CACHE and packed not in _cached:
        _cached.clear()
    return _cached.setdefault(packed, address)
