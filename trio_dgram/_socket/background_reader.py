"""Reading a socket in the background, for event channels.

While a channel takes datagrams, the channels have the claim to the inbox: a socket is either received from or
subscribed to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import trio

from .._values.datagrams import Datagram
from .._values.errors import with_context
from .event_channel import Subscription
from .event_hub import EventHub
from .inbox import Inbox
from .interrupts import defer_interrupts
from .pending_errors import PendingErrors

_BETWEEN_YIELDS: Final = 64
"""How many datagrams the channels get before other tasks run."""

_FALSE_WAKEUPS: Final = 2
"""After how many wake-ups in a row without a datagram, or an error, the descriptor is checked."""


class SocketOwner(Protocol):
    """What a socket needs of the nursery that it lives in."""

    def start_background(self, async_fn: Callable[..., Awaitable[object]], /, *args: Any) -> None:
        """Start a task that does not keep the nursery open."""

    def state_changed(self, socket: Any, /) -> None:
        """Take note that ``socket`` was bound, closed, or changed whether it keeps the nursery open."""


@defer_interrupts
class BackgroundReader:
    """The background tasks of one socket: one reads datagrams, one reads the error queue.

    Each task is shielded from cancellation, since the sockets of a nursery are closed after its tasks, which may still
    wait for an answer. It ends when the last channel that needs it, or the socket, is closed.
    """

    __slots__ = ("_hub", "_inbox", "_owner", "_pending", "_reading", "_space", "_watching")

    def __init__(self, hub: EventHub, inbox: Inbox, pending: PendingErrors, owner: SocketOwner) -> None:
        self._hub = hub
        self._inbox = inbox
        self._pending = pending
        self._owner = owner
        self._reading: trio.CancelScope | None = None
        self._watching: trio.CancelScope | None = None
        self._space: trio.lowlevel.ParkingLot | None = None
        hub.changed = self._changed

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription; ``trio.BusyResourceError`` if it takes datagrams and a task is receiving."""
        if Datagram in subscription.types and not self._hub.datagram_subscriptions:
            self._inbox.claim("events")
        self._hub.add(subscription)

    def start(self) -> None:
        """Start what the subscriptions need and what does not run yet; the socket is bound."""
        if self._reading is None and self._hub.datagram_subscriptions:
            self._reading = trio.CancelScope(shield=True)
            self._owner.start_background(self._read, self._reading)
        if self._watching is None and self._pending.has_queue and self._hub.takes_failures:
            self._watching = trio.CancelScope(shield=True)
            self._owner.start_background(self._watch, self._watching)

    def stop(self) -> None:
        """End both tasks: the socket was closed."""
        self._stop_reading()
        self._stop_watching()

    def _changed(self, subscription: Subscription) -> None:
        """React to a channel that has more space, or that was closed."""
        if subscription.closed and self._hub.remove(subscription):
            if Datagram in subscription.types and not self._hub.datagram_subscriptions:
                self._inbox.release()
                self._inbox.hand_back(subscription.queue.remove_datagrams())
                self._stop_reading()
            if not self._hub.takes_failures:
                self._stop_watching()
        if self._space is not None:
            self._space.unpark_all()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _read(self, scope: trio.CancelScope) -> None:
        inbox, pending = self._inbox, self._pending
        self._space = freed = trio.lowlevel.ParkingLot()
        false_wakeups = 0
        # A reader that was woken before the socket was closed finds it closed.
        with scope, suppress(trio.ClosedResourceError):
            while self._reading is scope:
                subscriptions = self._hub.datagram_subscriptions
                space = min(subscription.space for subscription in subscriptions)
                if not space:
                    await freed.park()
                elif inbox.ready:
                    false_wakeups = 0
                    for _ in range(int(min(space, _BETWEEN_YIELDS, len(inbox.ready)))):
                        datagram = inbox.ready.popleft()
                        for subscription in subscriptions:
                            subscription.offer(datagram)
                    await trio.lowlevel.checkpoint()
                else:
                    inbox.pull()
                    pending.report_due()
                    if inbox.ready:
                        continue
                    if inbox.has_datagrams:
                        # Filtered ones so far.
                        await trio.lowlevel.checkpoint()
                        continue
                    if false_wakeups >= _FALSE_WAKEUPS and not self._is_open():
                        await trio.sleep_forever()
                    await inbox.wait_readable()
                    false_wakeups += 1

    def _is_open(self) -> bool:
        try:
            self._inbox.check_open()
        except OSError as error:
            self._hub.report(error, "receive", None)
            return False
        return True

    async def _watch(self, scope: trio.CancelScope) -> None:
        # A program may subscribe to failures only, and never receive.
        with scope:
            # It may have been stopped before it began, perhaps because the socket was closed.
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                watch = self._pending.watch()
            except OSError as error:
                # Out of descriptors. The next channel that is opened starts it again.
                self._watching = None
                self._hub.report(with_context(error, "receive", None), "receive", None)
                return
            with watch:
                false_wakeups = 0
                while false_wakeups < _FALSE_WAKEUPS or self._is_open():
                    await trio.lowlevel.wait_readable(watch.fileno())
                    if self._watching is not scope:  # pragma: no cover -- it was closed after the task was woken
                        return
                    before = self._pending.count
                    self._pending.drain_all()
                    false_wakeups = 0 if self._pending.count > before else false_wakeups + 1
