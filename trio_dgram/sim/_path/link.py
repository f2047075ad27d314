"""The link of a pipe with a rate: it transmits one packet at a time, with a queue in front."""

from __future__ import annotations

from collections import deque


class Link:
    """Transmits one packet at a time; others wait in the queue, and are dropped if it is full (drop-tail).

    Args:
      rate: bits a second.
      queue: the bytes that can wait; the packet being sent is not among them.
      queue_delay: the longest queueing delay in seconds, instead of ``queue``; None for no such bound.
    """

    __slots__ = ("_free_at", "_waiting", "_waiting_bytes", "queue", "queue_delay", "rate")

    def __init__(self, rate: float, queue: int, queue_delay: float | None) -> None:
        self.rate = rate
        self.queue = queue
        self.queue_delay = queue_delay
        self._free_at = 0.0
        self._waiting: deque[tuple[float, int]] = deque()
        self._waiting_bytes = 0

    def send(self, now: float, size: int) -> float | None:
        """Return when the last bit of ``size`` bytes that arrive now is sent; None if they are dropped."""
        start = self._free_at
        if start <= now:
            start = now
        elif not self._has_room(now, start, size):
            return None
        else:
            self._waiting.append((start, size))
            self._waiting_bytes += size
        self._free_at = start + 8 * size / self.rate
        return self._free_at

    def _has_room(self, now: float, start: float, size: int) -> bool:
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting_bytes -= self._waiting.popleft()[1]
        if self.queue_delay is not None:
            return start - now <= self.queue_delay
        return self._waiting_bytes + size <= self.queue
