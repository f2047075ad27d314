"""The addresses of senders, made of what the kernel writes, and kept for those who send again.

Keeping them pays where the same few send again and again. It is bounded, since anybody can forge as many as he likes.
"""

from __future__ import annotations

from typing import Final

from .._codecs.families import Family, PackedAddress
from .._values.addresses import ReceivedAddress, ScopedReceivedAddress

_interned: Final[dict[PackedAddress, ReceivedAddress]] = {}
"""Addresses of senders, by what the kernel writes."""
_MOST_INTERNED: Final = 4096
_BATCHES_OF_STRANGERS: Final = 256
"""How many batches after one of strangers nobody is looked up. A stranger who is costs twice as much, and each who is
kept is one more object that soon has Python collect garbage among all tasks that wait."""


class Senders:
    """Those who send to one socket."""

    __slots__ = ("_family", "_strange")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._strange = 0

    def addresses(self, sources: bytes) -> list[ReceivedAddress | None]:
        """Return the senders of a batch as values, ``None`` for those whom nobody can answer.

        Args:
          sources: what the kernel writes of them (struct sockaddr, one after the other).
        """
        if self._strange:
            self._strange -= 1
            return self._family.received(sources)
        packed = self._family.split(sources)
        addresses: list[ReceivedAddress | None] = list(map(_interned.get, packed))
        if not all(addresses):
            if addresses.count(None) * 2 > len(addresses):
                self._strange = _BATCHES_OF_STRANGERS
            addresses = list(map(_intern, packed, self._family.received(sources)))
        return addresses


def _intern(packed: PackedAddress, address: ReceivedAddress | None) -> ReceivedAddress | None:
    # A zone has a name, and that can come to mean another interface.
    if address is None or type(address) is ScopedReceivedAddress:
        return address
    # More than so many, if another thread was in between.
    if len(_interned) >= _MOST_INTERNED and packed not in _interned:
        _interned.clear()
    return _interned.setdefault(packed, address)
