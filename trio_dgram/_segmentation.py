"""Segmentation: how many datagrams of a run the kernel may be asked to send at once, and what it refused.

Rule 1: all have the size of the first, but the last may be shorter; none is empty.
Rule 2: a refusal on account of a path (EMSGSIZE, and EINVAL on older kernels) is about that destination and size.
Rule 3: only EIO is about the socket: its device cannot do it.
"""

from __future__ import annotations

import errno
from itertools import takewhile
from typing import Final

_MOST_SEGMENTS: Final = 64
"""What every kernel with UDP_SEGMENT takes (UDP_MAX_SEGMENTS); newer ones take more."""
_MOST_BYTES: Final = 65507
"""The largest UDP payload over IPv4, which a dual-stack socket may send to as well."""
_REMEMBERED_PATHS: Final = 1024
"""How many refusals are kept: addresses that the network chose must not grow them."""


class Segmentation:
    """What one socket has learnt about sending segments."""

    __slots__ = ("_off", "_refused")

    def __init__(self, *, off: bool) -> None:
        self._off = off
        self._refused: dict[str, int] = {}

    def count(self, payloads: list[bytes], position: int, host: str) -> int:
        """Return how many datagrams for ``host`` from ``position`` on can go in one call; 1 to send it singly."""
        size = len(payloads[position])
        if self._off or not 0 < size <= _MOST_BYTES // 2 or size >= self._refused.get(host, _MOST_BYTES):
            return 1
        sizes = list(map(len, payloads[position : position + min(_MOST_SEGMENTS, _MOST_BYTES // size)]))
        equal = sizes.count(size)
        if equal < len(sizes):
            equal = sum(1 for _ in takewhile(size.__eq__, sizes))
            if equal < len(sizes) and 0 < sizes[equal] < size:
                return equal + 1
        return equal

    def refused(self, host: str, size: int, error: OSError) -> None:
        """Learn from what the kernel said against segments of ``size`` bytes for ``host``."""
        if error.errno == errno.EIO:
            self._off = True
        elif error.errno in (errno.EMSGSIZE, errno.EINVAL):
            if len(self._refused) == _REMEMBERED_PATHS:
                self._refused.clear()
            self._refused[host] = size
