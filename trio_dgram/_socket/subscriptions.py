"""Who is told what happens to a socket: its event channels, and the reading on behalf of those that take
datagrams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from .._values.addresses import Address
from .._values.datagrams import Datagram
from .._values.errors import annotated
from .._values.events import Event, Failure
from .event_channel import EventChannel
from .inbox import Inbox

_BETWEEN_YIELDS: Final = 64
"""How many datagrams are handed to the channels before other tasks run."""


class SocketOwner(Protocol):
    """What a socket asks of the nursery that it lives in."""

    def start_background(self, async_fn: Callable[..., Awaitable[object]], /, *args: Any) -> None:
        """Start a task that does not keep the nursery open."""

    def state_changed(self, socket: Any, /) -> None:
        """Note that ``socket`` was bound, closed, or changed what it wants of the nursery."""


class Subscriptions:
    """The event channels of one socket.

    While one of them takes datagrams they have the claim to the inbox: a socket is pulled or it is listened to,
    not both.
    """

    __slots__ = ("_all", "_owner", "_reading", "_room", "_watching")

    def __init__(self, owner: SocketOwner) -> None:
        self._all: list[EventChannel[Any]] = []
        self._reading: trio.CancelScope | None = None
        self._watching: trio.CancelScope | None = None
        self._room: trio.lowlevel.ParkingLot | None = None
        self._owner = owner

    def add(self, channel: EventChannel[Any], inbox: Inbox) -> None:
        """Tell ``channel`` from now on; ``trio.BusyResourceError`` if it takes what a task is receiving."""
        if Datagram in channel.types and not self._readers():
            inbox.claim("events")
        self._all.append(channel)

    def announce(self, event: Event) -> None:
        """Tell every channel that takes its type of ``event``."""
        for channel in self._all:
            channel.offer(event)

    def report(self, error: OSError, operation: str, address: Address | None) -> bool:
        """Tell of an error that no task is there to be told; return whether anybody listens."""
        self.announce(Failure(error, operation, address))
        return self._reported_to()

    def read(self, inbox: Inbox) -> None:
        """Start to read ``inbox``, its socket bound by now, for those channels that nothing is read for yet."""
        # What reads is ended by the last channel's or the socket's closing. A cancellation from outside must leave
        # it: the sockets are closed after the nursery's tasks, which may still wait for an answer.
        if self._reading is None and self._readers():
            self._reading = trio.CancelScope(shield=True)
            self._owner.start_background(self._read, inbox, self._reading)
        if self._watching is None and inbox.tells_errors and self._reported_to():
            self._watching = trio.CancelScope(shield=True)
            self._owner.start_background(self._watch, inbox, self._watching)

    def changed(self, inbox: Inbox, channel: EventChannel[Any]) -> None:
        """React to ``channel`` having been received from or closed."""
        if channel.closed and channel in self._all:
            self._all.remove(channel)
            if Datagram in channel.types and not self._readers():
                inbox.release()
                inbox.ready.extendleft(reversed(channel.take_back()))
                self._stop_reading()
            if not self._reported_to():
                self._stop_watching()
        if self._room is not None:
            self._room.unpark_all()

    def end(self) -> None:
        """Let every channel end: the socket was closed."""
        self._stop_reading()
        self._stop_watching()
        for channel in self._all:
            channel.end()
        self._all.clear()

    def _readers(self) -> list[EventChannel[Any]]:
        return [channel for channel in self._all if Datagram in channel.types]

    def _reported_to(self) -> bool:
        return any(Failure in channel.types for channel in self._all)

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _read(self, inbox: Inbox, scope: trio.CancelScope) -> None:
        self._room = room_made = trio.lowlevel.ParkingLot()
        with scope:
            while self._reading is scope:
                readers = self._readers()
                room = min(channel.room for channel in readers)
                if not room:
                    await room_made.park()
                elif inbox.ready:
                    for _ in range(int(min(room, _BETWEEN_YIELDS, len(inbox.ready)))):
                        datagram = inbox.ready.popleft()
                        for channel in readers:
                            channel.offer(datagram)
                    await trio.lowlevel.checkpoint()
                else:
                    inbox.pull()
                    if inbox.error is not None and self.report(inbox.error, "receive", None):
                        inbox.error = None
                    if not inbox.ready:
                        await inbox.wait_readable()

    async def _watch(self, inbox: Inbox, scope: trio.CancelScope) -> None:
        # A program may wait for failures only, and never receive.
        with scope:
            # Stopped before it began, perhaps because the socket was closed.
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                watch = inbox.watch_errors()
            except OSError as error:
                # No descriptor is left. Whoever opens the next channel tries again.
                self._watching = None
                self.report(annotated(error, "receive", None), "receive", None)
                return
            with watch:
                while True:
                    await trio.lowlevel.wait_readable(watch.fileno())
                    inbox.take_errors()
