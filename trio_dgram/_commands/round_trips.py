"""Counting of requests and replies: losses, duplicates, reordering, round-trip times. No sockets, no clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

import attrs

_REMEMBERED: Final = 65536
"""How many answered requests are kept, to recognise duplicates."""


@attrs.frozen
class Reply:
    """A reply to a request.

    Attributes:
      sequence (int): the number of the request.
      rtt (float): the time since it was sent, in seconds.
      kind: whether it is the first reply; whether it is the first one but a later request was answered before; or a
        further one.
    """

    sequence: int
    rtt: float
    kind: Literal["in order", "reordered", "duplicate"]


class RoundTrips:
    """The requests of one ``ping``, numbered from 1.

    Rule 1: the first reply within the timeout answers a request; further ones are duplicates.
    Rule 2: a request without a reply in time is lost; a reply after that counts as nothing.
    Rule 3: a reply is reordered if a later request was answered before.

    Args:
      timeout: how long a request waits for its reply, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._in_flight: OrderedDict[int, float] = OrderedDict()
        self._answered: OrderedDict[int, float] = OrderedDict()
        self._highest = 0
        self._sum = 0.0
        self._last: float | None = None
        self._differences = 0.0
        self._fastest: float | None = None
        self._slowest: float | None = None
        self.sent = 0
        self.received = 0
        self.duplicates = 0
        self.reordered = 0

    @property
    def in_flight(self) -> int:
        """How many requests wait for their reply."""
        return len(self._in_flight)

    def oldest(self) -> int:
        """Return the first request that waits for its reply, otherwise the latest one."""
        return next(iter(self._in_flight), self.sent)

    def request(self, now: float) -> None:
        """Add the request that is sent ``now``, in seconds of any clock."""
        self.sent += 1
        self._in_flight[self.sent] = now

    def expire(self, now: float) -> list[int]:
        """Return the requests that are lost by ``now``, each once."""
        lost = [sequence for sequence, sent_at in self._in_flight.items() if now - sent_at >= self._timeout]
        for sequence in lost:
            del self._in_flight[sequence]
        return lost

    def reply(self, sequence: int, now: float) -> Reply | None:
        """Count a reply that arrived ``now``, and return it; ``None`` if its request is lost or was never sent."""
        if sequence in self._answered:
            self.duplicates += 1
            return Reply(sequence, now - self._answered[sequence], "duplicate")
        sent_at = self._in_flight.pop(sequence, None)
        if sent_at is None:
            return None
        self._answered[sequence] = sent_at
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        self._measure(now - sent_at)
        if sequence < self._highest:
            self.reordered += 1
            return Reply(sequence, now - sent_at, "reordered")
        self._highest = sequence
        return Reply(sequence, now - sent_at, "in order")

    def _measure(self, rtt: float) -> None:
        self.received += 1
        self._sum += rtt
        self._fastest = rtt if self._fastest is None else min(self._fastest, rtt)
        self._slowest = rtt if self._slowest is None else max(self._slowest, rtt)
        if self._last is not None:
            self._differences += abs(rtt - self._last)
        self._last = rtt

    def summary(self) -> dict[str, int | float | None]:
        """Return the counts, and times in seconds; the jitter is the mean difference between successive RTTs."""
        received = self.received
        return {
            "sent": self.sent,
            "received": received,
            "lost": self.sent - received,
            "duplicates": self.duplicates,
            "reordered": self.reordered,
            "rtt_min": self._fastest,
            "rtt_avg": self._sum / received if received else None,
            "rtt_max": self._slowest,
            "jitter": self._differences / (received - 1) if received > 1 else None,
        }


def milliseconds(seconds: float | None) -> str:
    """Format a time."""
    return "-" if seconds is None else f"{seconds * 1000:.3f}"
