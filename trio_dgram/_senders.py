"""The addresses of senders, made of what the kernel writes, and kept for those who send again.

Keeping them pays where the same few send again and again. It is bounded, since anybody can forge as many as he likes.
"""

from __future__ import annotations

from typing import Final

from ._addresses import ReceivedAddress
from ._families import Family

_interned: Final[dict[bytes, ReceivedAddress]] = {}
"""Addresses of senders, by what the kernel writes."""
_MOST_INTERNED: Final = 4096
_BATCHES_OF_STRANGERS: Final = 16
"""How many batches after one of strangers nobody is looked up. A stranger who is costs twice as much."""


class Senders:
    """Those who send to one socket."""

    __slots__ = ("_family", "_strange")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._strange = 0

    def addresses(self, sources: list[bytes]) -> list[ReceivedAddress | None]:
        """Return the senders of a batch as values, ``None`` for those whom nobody can answer.

        Args:
          sources: what the kernel writes of each (struct sockaddr).
        """
        if self._strange:
            self._strange -= 1
            return list(map(self._family.received, sources))
        addresses: list[ReceivedAddress | None] = list(map(_interned.get, sources))
        if not all(addresses):
            if addresses.count(None) * 2 > len(addresses):
                self._strange = _BATCHES_OF_STRANGERS
            addresses = list(map(self._address, sources))
        return addresses

    def _address(self, source: bytes) -> ReceivedAddress | None:
        address = _interned.get(source)
        if address is None:
            address = self._family.received(source)
            # A zone has a name, and that can come to mean another interface.
            if type(address) is ReceivedAddress:
                # More than so many, if another thread was in between.
                if len(_interned) >= _MOST_INTERNED:
                    _interned.clear()
                _interned[source] = address
        return address
