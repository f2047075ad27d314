"""The receiving side of a socket: the datagrams that were read ahead, and which task may take them.

The kernel is read in batches, and what was not asked for yet stays in the inbox, so that a burst costs one wake-up of
the task and not one per datagram.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from time import thread_time
from typing import Final, Literal, Protocol, TypeAlias

import trio

from .._values.addresses import Address
from .._values.datagrams import Datagram
from .._values.errors import with_context
from .budget import Budget
from .disposal import dispose
from .interrupts import defer_interrupts
from .lifetime import Lifetime
from .pending_errors import PendingErrors
from .proxy import ProxyDecoder
from .transport import Transport

Reader: TypeAlias = Literal["receive", "events", "group"]
"""The owner of the receiving side: a task in ``receive``, the event channels that receive datagrams, or a group."""

_HOLDERS: Final[dict[Reader, str]] = {
    "receive": "another task is receiving",
    "events": "event channels take its datagrams",
    "group": "it is in a SocketGroup",
}

LARGEST_BATCH: Final = 128
"""How many datagrams are read ahead at most by one pull."""

FLOOD: Final = 128
"""From how many datagrams in one batch on receive offload pays."""

_SLICE: Final = 2
"""How long a call reads before it returns, in multiples of the budget: 1 ms."""

_EMPTYING_BATCH: Final = 16
"""How many datagrams are read between two readings of the clock: a "unix" datagram may be large."""

_FALSE_WAKEUPS: Final = 2
"""After how many wake-ups in a row without a datagram the descriptor is checked: one may be a wrong checksum."""


class Follower(Protocol):
    """What follows an inbox that it has claimed for long."""

    def changed(self) -> None:
        """Take note that datagrams have to be filtered again, or that the descriptor was exchanged."""

    def closed(self) -> None:
        """Take note that the socket is being closed; its descriptor is still open."""


@defer_interrupts
class Inbox:
    """Datagrams read ahead, and the claim to the receiving side."""

    __slots__ = (
        "_batch",
        "_blocked",
        "_budget",
        "_follower",
        "_handed_back",
        "_lifetime",
        "_peer",
        "_pending",
        "_proxy",
        "_selects",
        "_slice",
        "_stale_until_drained",
        "_stopped",
        "_transport",
        "_waiting",
        "discarded",
        "filtered",
        "reader",
        "ready",
    )

    def __init__(
        self,
        transport: Transport,
        lifetime: Lifetime,
        budget: Budget,
        blocked: Callable[[str], bool] | None,
        pending: PendingErrors,
        proxy: ProxyDecoder | None,
    ) -> None:
        self.ready: deque[Datagram] = deque()
        """The datagrams that can be received now. It is replaced, so a reference to it must not outlive a wait."""
        self.reader: Reader | None = None
        self.filtered = 0
        self.discarded = 0
        self._transport = transport
        self._lifetime = lifetime
        self._budget = budget
        self._blocked = blocked
        self._pending = pending
        self._proxy = proxy
        # Whether datagrams pass through the inbox before they are received, on any socket that is not connected.
        self._selects = blocked is not None or proxy is not None
        self._batch = 1
        # In CPU time, so that a burst is returned whole by a call that other processes interrupt.
        self._slice = budget.seconds * _SLICE
        self._peer: Address | None = None
        # The kernel may still queue datagrams from before connect().
        self._stale_until_drained = False
        # Datagrams to be filtered again before they are received, the oldest last. An empty deque would take 760
        # bytes of each idle socket.
        self._handed_back: list[deque[Datagram]] = []
        self._waiting: trio.CancelScope | None = None
        self._stopped = False
        self._follower: Follower | None = None

    def claim(self, reader: Reader, follower: Follower | None = None) -> None:
        """Give the receiving side to ``reader``; ``trio.BusyResourceError`` if it is taken."""
        if self.reader is not None:
            raise trio.BusyResourceError(f"this datagram socket is being read: {_HOLDERS[self.reader]}")
        self.reader = reader
        self._follower = follower

    def release(self) -> None:
        """Give up the receiving side."""
        self.reader = self._follower = None

    def connected(self, peer: Address) -> None:
        """Hand out only the datagrams of ``peer`` from now on: others may be queued from before."""
        self._peer = peer
        self._stale_until_drained = True
        self.hand_back(deque())
        self._notify_changed()

    def disconnected(self) -> None:
        """Hand out the datagrams of any source again."""
        self._peer = None
        self._stale_until_drained = False
        self._notify_changed()

    def _notify_changed(self) -> None:
        if self._follower is not None:
            self._follower.changed()

    def hand_back(self, datagrams: deque[Datagram]) -> None:
        """Take over ``datagrams``, which an event channel has not delivered: they are older than what is ready."""
        # Filtering them now would take a time that depends on their number.
        if self.ready:
            self._handed_back.append(self.ready)
            self.ready = deque()
        if datagrams:
            self._handed_back.append(datagrams)

    @property
    def has_datagrams(self) -> bool:
        """Whether datagrams were read ahead; some may yet be filtered."""
        return bool(self.ready or self._handed_back)

    @property
    def hides_datagrams(self) -> bool:
        """Whether :meth:`pull` may find datagrams that the descriptor does not show."""
        return self.has_datagrams or self._transport.calls.has_former

    def pull(self, limit: int | None = None) -> bool:
        """Read about ``limit`` datagrams ahead and return whether a datagram can be received or an error raised.

        Without a limit it is a batch, which doubles while the kernel has more and halves while it has less, so that a
        socket that receives one datagram at a time costs one system call for it, and one that receives bursts does not
        start anew each time.
        """
        pending = self._pending
        if pending.has_queue:
            pending.drain()
        if self._handed_back or self._stopped:
            self._filter_handed_back()
            return self.has_datagrams or pending.due is not None
        ready = self.ready
        filtering = self._selects or self._stale_until_drained
        fresh: deque[Datagram] | list[Datagram] = [] if filtering else ready
        before = len(fresh)
        drained = False
        try:
            self._transport.calls.receive(fresh, limit or self._batch)
        except BlockingIOError:
            drained = True
        except InterruptedError:
            pass
        except OSError as error:
            pending.take(error)
        count = len(fresh) - before
        if limit is None and count:
            batch = self._batch
            self._batch = min(batch * 2, LARGEST_BATCH) if count >= batch else max(count, batch // 2)
        if count >= FLOOD:
            self._transport.descriptor.coalesce()
        if filtering:
            self._filter(fresh if self._proxy is None else self._proxy.decode(fresh))
            if drained:
                self._stale_until_drained = False
        return bool(ready) or pending.due is not None

    def stop(self) -> list[Datagram]:
        """Read no more from the kernel, not even by a task that was woken for that; return what was read ahead."""
        self._stopped = True
        taken = list(self.ready)
        self.ready.clear()
        return taken

    async def wait(self, wanted: int | None = None) -> None:
        """Wait until a datagram is ready, and with ``wanted`` for what else is queued, up to that number.

        A cancelled call has consumed nothing. It yields at least once where nothing is ready: a peer that was answered
        may answer during a yield, which costs less than to sleep and to wake up.
        """
        await (self._budget.checkpoint() if self.ready else self._budget.renew())
        # Only a call that may read more than one batch reads the clock.
        several = wanted is not None and wanted > LARGEST_BATCH
        deadline = thread_time() + self._slice if several else None
        false_wakeups = 0
        while True:
            self._lifetime.check("receive")
            self.raise_due()
            have = len(self.ready)
            if have and (wanted is None or have >= wanted or (deadline is not None and thread_time() >= deadline)):
                return
            limit = None if wanted is None else min(wanted - have, LARGEST_BATCH)
            if not self.pull(limit):
                if false_wakeups >= _FALSE_WAKEUPS:
                    self.check_open()
                await self.wait_readable()
                false_wakeups += 1
                deadline = thread_time() + self._slice if several else None
            elif self.ready and (limit is None or len(self.ready) < have + limit):
                # The kernel has no more.
                return
            elif deadline is None:
                deadline = thread_time() + self._slice
            elif not self.ready and thread_time() >= deadline:
                # Only filtered datagrams so far: other tasks must run before more of them are filtered.
                await self._budget.renew()
                deadline = None

    def check_open(self) -> None:
        """Raise ESHUTDOWN if another owner has shut the descriptor down: it would stay readable without a datagram."""
        if self._transport.descriptor.is_shut_down:
            error = OSError(errno.ESHUTDOWN, "another owner of the descriptor has ended receiving (shutdown(2))")
            raise with_context(error, "receive", self._peer)

    def empty_kernel(self) -> None:
        """Read what the kernel has queued, for a bounded time, because the kernel is about to discard it."""
        deadline = thread_time() + self._slice
        while True:
            before = len(self.ready)
            self.pull(_EMPTYING_BATCH)
            if len(self.ready) < before + _EMPTYING_BATCH or thread_time() >= deadline:
                break
        if self._waiting is not None:
            # The kernel has nothing queued any more that would wake the waiting task.
            self._waiting.cancel()
        self._notify_changed()

    async def wait_readable(self) -> None:
        """Wait until the kernel has a datagram or an error."""
        if self._transport.descriptor.family.is_internet:
            await self._transport.wait_readable()
        else:
            with trio.CancelScope() as self._waiting:
                await self._transport.wait_readable()
        self._budget.restart()

    def raise_due(self) -> None:
        """Raise the latest error that is due, once."""
        if self._pending.due is not None:
            self.pull()
            error, self._pending.due = self._pending.due, None
            raise error

    def discard(self) -> None:
        """Discard, and count, what was read ahead: the socket is being closed."""
        if self._follower is not None:
            self._follower.closed()
            self._follower = None
        self.discarded += len(self.ready) + sum(map(len, self._handed_back))
        for datagrams in (self.ready, *self._handed_back):
            dispose(datagrams)
        self.ready = deque()
        self._handed_back = []
        self._pending.due = None

    def _filter_handed_back(self) -> None:
        if not self._handed_back:
            return
        oldest = self._handed_back[-1]
        self._filter([oldest.popleft() for _ in range(min(len(oldest), LARGEST_BATCH))])
        if not oldest:
            self._handed_back.pop()

    def _filter(self, datagrams: Iterable[Datagram]) -> None:
        blocked, peer = self._blocked, self._peer
        for datagram in datagrams:
            address = datagram.address
            if (peer is None or address == peer) and not (blocked is not None and blocked(address.host)):
                self.ready.append(datagram)
            else:
                self.filtered += 1
