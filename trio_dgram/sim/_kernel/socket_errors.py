"""What ICMP has said about the datagrams of a simulated socket, and what the socket says of it (ip(7), udp(7))."""

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
"""How many entries an error queue keeps."""


class SocketErrors:
    """The error queue of one socket, and the error that its next call fails with."""

    __slots__ = ("_queue", "_settings", "due")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[QueuedError] = deque()
        self.due = 0
        """The errno that the next call fails with, 0 if there is none (SO_ERROR)."""

    def __bool__(self) -> bool:
        return bool(self.due or self._queue)

    def told(self, message: Packet, said: Report, *, connected: bool) -> None:
        """Take an ICMP message; without an error queue only a connected socket says something of it."""
        ipv6 = said.about.is_ipv6
        number, hard = errno_of(said.type, said.code, ipv6=ipv6)
        if number == errno.EMSGSIZE:
            hard = self._settings[MTU_DISCOVERY[ipv6]] != DISCOVER_DONT
        if self._is_kept(ipv6=ipv6):
            self.note(QueuedError(number, said.about, message.source.host, said.type, said.code, said.mtu), due=True)
        elif hard and connected:
            self.due = number

    def note(self, error: QueuedError, *, due: bool) -> None:
        """Put an entry into the queue, if the program has asked for one; with ``due`` the next call fails with it."""
        if self._is_kept(ipv6=error.packet.is_ipv6):
            if len(self._queue) < _MOST:
                self._queue.append(error)
            if due:
                self.due = error.number

    def read(self) -> QueuedError:
        """Take the first entry; ``BlockingIOError`` if there is none."""
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        error = self._queue.popleft()
        # What is next in the queue is what the next call fails with.
        self.due = self._queue[0].number if self._queue and self._queue[0].offender else 0
        return error

    def clear(self) -> None:
        """Forget everything."""
        self._queue.clear()
        self.due = 0

    def _is_kept(self, *, ipv6: bool) -> bool:
        return self._settings.is_on(*ERROR_QUEUE[ipv6])
