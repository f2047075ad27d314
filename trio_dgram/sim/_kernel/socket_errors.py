"""The ICMP errors of a simulated socket: its error queue and its pending error (ip(7), udp(7))."""

from __future__ import annotations

import errno
from collections import deque
from typing import Final

from .._values.records import Packet, Report
from .control import QueuedError, errno_of
from .settings import ERROR_QUEUE, MTU_DISCOVERY, Settings

DISCOVER_DONT: Final = 0
DISCOVER_DO: Final = 2
DISCOVER_PROBE: Final = 3
"""Values of IP_MTU_DISCOVER."""
_MOST: Final = 512
"""The most entries of an error queue."""


class SocketErrors:
    """The error queue and the pending error of one socket."""

    __slots__ = ("_queue", "_settings", "due")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[QueuedError] = deque()
        self.due = 0
        """The errno of the pending error, which the next call raises; 0 if there is none (SO_ERROR)."""

    def __bool__(self) -> bool:
        return bool(self.due or self._queue)

    def received_icmp(self, message: Packet, report: Report, *, connected: bool) -> None:
        """Process an ICMP message; without an error queue only a connected socket reports it."""
        ipv6 = report.about.is_ipv6
        number, hard = errno_of(report.type, report.code, ipv6=ipv6)
        if number == errno.EMSGSIZE:
            hard = self._settings[MTU_DISCOVERY[ipv6]] != DISCOVER_DONT
        if self._is_kept(ipv6=ipv6):
            self.note(
                QueuedError(number, report.about, message.source.host, report.type, report.code, report.mtu), due=True
            )
        elif hard and connected:
            self.due = number

    def note(self, error: QueuedError, *, due: bool) -> None:
        """Queue an entry if the program has enabled the error queue; with ``due`` it becomes the pending error."""
        if self._is_kept(ipv6=error.packet.is_ipv6):
            if len(self._queue) < _MOST:
                self._queue.append(error)
            if due:
                self.due = error.number

    def read(self) -> QueuedError:
        """Remove and return the first entry; ``BlockingIOError`` if there is none."""
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        error = self._queue.popleft()
        # The next entry of the queue becomes the pending error.
        self.due = self._queue[0].number if self._queue and self._queue[0].offender else 0
        return error

    def clear(self) -> None:
        """Forget everything."""
        self._queue.clear()
        self.due = 0

    def _is_kept(self, *, ipv6: bool) -> bool:
        return self._settings.is_on(*ERROR_QUEUE[ipv6])
