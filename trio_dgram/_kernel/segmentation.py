"""Segmentation: how many datagrams of a run the kernel may be asked to send at once, and what it refused.

Rule 1: all have the size of the first, but the last may be shorter; none is empty.
Rule 2: a refusal on account of a path (EMSGSIZE, and EINVAL on older kernels) is about that destination and size.
Rule 3: only EIO is about the socket: its device cannot do it.
"""

from __future__ import annotations

import errno
from typing import Final

_MOST_SEGMENTS: Final = 64
"""What every kernel with UDP_SEGMENT takes (UDP_MAX_SEGMENTS); newer ones take more."""
LARGEST_PAYLOAD: Final = 65507
"""The largest UDP payload over IPv4, which a dual-stack socket may send to as well."""
_REMEMBERED_PATHS: Final = 1024
"""How many refusals are kept: addresses that the network chose must not grow them."""


class Segmentation:
    """What one socket has learnt about sending segments."""

    __slots__ = ("_off", "_refused")

    def __init__(self, *, off: bool) -> None:
        self._off = off
        self._refused: dict[str, int] = {}

    def count(self, sizes: list[int], position: int, end: int, host: str) -> int:
        """Return how many of the datagrams from ``position`` to ``end``, all for ``host``, can go in one call.

        ``sizes`` are those of all, in bytes.
        """
        size = sizes[position]
        if self._off or not 0 < size < self._refused.get(host, LARGEST_PAYLOAD):
            return 1
        following = sizes[position : min(end, position + _MOST_SEGMENTS, position + LARGEST_PAYLOAD // size)]
        if following.count(size) == len(following):
            return len(following)
        first = next(count for count, other in enumerate(following) if other != size)
        return first + (0 < following[first] < size)

    def refused(self, host: str, size: int, error: OSError) -> bool:
        """Learn from what the kernel said against segments of ``size`` bytes for ``host``; return whether it was about
        those."""
        if error.errno == errno.EIO:
            self._off = True
        elif error.errno in (errno.EMSGSIZE, errno.EINVAL):
            if len(self._refused) == _REMEMBERED_PATHS:
                self._refused.clear()
            self._refused[host] = size
        else:
            return False
        return True
