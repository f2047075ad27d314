"""Segmentation: how many datagrams one call may send, and which sizes a path has refused.

Rule 1: all segments have the size of the first; the last may be shorter; none is empty.
Rule 2: EMSGSIZE, and EINVAL on older kernels, concern the destination and the size.
Rule 3: EIO concerns the socket: its device cannot segment.
"""

from __future__ import annotations

import errno
from typing import Final

_MOST_SEGMENTS: Final = 64
"""What every kernel with UDP_SEGMENT accepts (UDP_MAX_SEGMENTS); newer ones accept more."""
LARGEST_UDP_PAYLOAD: Final = 65507
"""The largest UDP payload over IPv4, in bytes; a dual-stack socket may send to IPv4 as well."""
_MOST_REMEMBERED: Final = 1024
"""How many refusals are remembered: addresses that the network chose must not grow them without a bound."""


class Segmentation:
    """What one socket has learned about sending segments."""

    __slots__ = ("_refused", "enabled")

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._refused: dict[str, int] = {}

    def count(self, sizes: list[int], position: int, end: int, host: str) -> int:
        """Return how many of the datagrams from ``position`` to ``end``, all to ``host``, one call can send.

        Args:
          sizes: the sizes of all datagrams, in bytes.
          position: the first datagram to send.
          end: the position after the last datagram to ``host``.
          host: their destination.
        """
        size = sizes[position]
        if not self.enabled or not 0 < size < self._refused.get(host, LARGEST_UDP_PAYLOAD):
            return 1
        following = sizes[position : min(end, position + _MOST_SEGMENTS, position + LARGEST_UDP_PAYLOAD // size)]
        if following.count(size) == len(following):
            return len(following)
        first = next(count for count, other in enumerate(following) if other != size)
        return first + (0 < following[first] < size)

    def learn(self, host: str, size: int, error: OSError) -> bool:
        """Record that segments of ``size`` bytes to ``host`` were refused; return whether that was the cause."""
        if error.errno == errno.EIO:
            self.enabled = False
        elif error.errno in (errno.EMSGSIZE, errno.EINVAL):
            if len(self._refused) == _MOST_REMEMBERED:
                self._refused.clear()
            self._refused[host] = size
        else:
            return False
        return True
