"""The receiving side of a socket: what has been read ahead, and who may have it.

The kernel is read in batches, and what nobody has asked for yet stays in the inbox, so that a burst costs one
wake-up of the task and not one per datagram.
"""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Literal, TypeAlias

import trio

from .._codecs.error_queue import ICMP, ICMP6
from .._kernel.descriptor import Kernel
from .._values.addresses import Address
from .._values.datagrams import Datagram
from .._values.errors import PeerUnreachable, annotated
from .budget import Budget
from .lifetime import Lifetime
from .waiting import wait_readable

Reader: TypeAlias = Literal["receive", "events"]
"""Who has the receiving side: a task in ``receive``, or the event channels that take datagrams."""

LARGEST_BATCH: Final = 128
"""How many datagrams are read ahead at most."""

_EVERYTHING: Final = 2**31
"""More datagrams than can be queued."""

FLOOD: Final = 128
"""How many datagrams in one batch make it worth while to have the kernel join them from then on."""

NEWS_OF_EARLIER: Final = frozenset(
    number
    for name in (
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTUNREACH",
        "EHOSTDOWN",
        "ENETUNREACH",
        "ENETDOWN",
        "ENETRESET",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPROTO",
        "EMSGSIZE",
        "EACCES",
        "WSAECONNRESET",
        "WSAENETRESET",
    )
    if (number := getattr(errno, name, None)) is not None
)
"""Errors by which the kernel passes on what ICMP said about a datagram sent earlier (Linux: ip(7))."""


class Inbox:
    """Datagrams read ahead, the error that is due, and the claim to both."""

    __slots__ = (
        "_batch",
        "_blocked",
        "_budget",
        "_kernel",
        "_lifetime",
        "_peer",
        "_report",
        "_sifted_for",
        "_turn",
        "_waiting",
        "discarded",
        "error",
        "errors",
        "filtered",
        "reader",
        "ready",
    )

    def __init__(
        self,
        kernel: Kernel,
        lifetime: Lifetime,
        budget: Budget,
        blocked: Callable[[str], bool] | None,
        report: Callable[[OSError, str, Address | None], bool],
    ) -> None:
        self.ready: deque[Datagram] = deque()
        self.error: OSError | None = None
        self.reader: Reader | None = None
        self.filtered = 0
        self.errors = 0
        self.discarded = 0
        self._kernel = kernel
        self._lifetime = lifetime
        self._budget = budget
        self._blocked = blocked
        self._report = report
        self._batch = 1
        self._peer: Address | None = None
        self._sifted_for: Address | None = None
        self._turn: trio.Lock | None = None
        self._waiting: trio.CancelScope | None = None

    def claim(self, reader: Reader) -> None:
        """Make ``reader`` the one that has the receiving side; ``trio.BusyResourceError`` if somebody has it."""
        if self.reader is not None:
            holder = "another task is receiving" if self.reader == "receive" else "event channels take its datagrams"
            raise trio.BusyResourceError(f"this datagram socket is being read: {holder}")
        self.reader = reader

    def release(self) -> None:
        """Let the receiving side go."""
        self.reader = None

    def connected(self, peer: Address) -> None:
        """Keep only what ``peer`` sent: others' datagrams may be queued from before it was the peer."""
        self._peer = self._sifted_for = peer
        read_ahead = list(self.ready)
        self.ready.clear()
        self._sift(read_ahead)

    def disconnected(self) -> None:
        """Take what anybody sends again; an error of the peer's that is still due is nobody's any more."""
        self._peer = self._sifted_for = self.error = None

    def pull(self, limit: int | None = None) -> bool:
        """Read datagrams ahead, about ``limit`` of them, and return whether anything is there to be handed out.

        Without a limit it is a batch, which doubles while the kernel has more and halves where it had less: a socket
        that gets one datagram at a time is not asked for a second one each time, and one that gets bursts need not
        learn so anew each time.
        """
        ready = self.ready
        # Looked at here too, since most sockets have none.
        if self._kernel.tells_errors:
            self.read_errors()
        sifting = self._blocked is not None or self._sifted_for is not None
        fresh: deque[Datagram] | list[Datagram] = [] if sifting else ready
        before = len(fresh)
        drained = False
        try:
            self._kernel.receiver.receive(fresh, limit or self._batch)
        except BlockingIOError:
            drained = True
        except InterruptedError:
            pass
        except OSError as error:
            self.failed(error)
        came = len(fresh) - before
        if limit is None and came:
            batch = self._batch
            self._batch = min(batch * 2, LARGEST_BATCH) if came >= batch else max(came, batch // 2)
        if came >= FLOOD:
            self._kernel.receiver.coalesce()
        if sifting:
            self._sift(fresh)
            # What the kernel queues once it is drained is the peer's.
            self._sifted_for = None if drained and self._kernel.awaited is None else self._sifted_for
        return bool(ready) or self.error is not None

    async def wait(self, wanted: int | None = None) -> None:
        """Wait until there is a datagram; then, with ``wanted``, there are as many of those as could be had.

        A cancelled call has consumed nothing.
        """
        # Whoever was answered may answer back while others run. To ask at once would find nothing, and going to sleep
        # and being woken up costs more than a yield.
        await (self._budget.checkpoint() if self.ready else self._budget.renew())
        while True:
            self._lifetime.check()
            self.raise_error()
            limit = None if wanted is None else wanted - len(self.ready)
            if self.ready and (limit is None or limit <= 0):
                return
            if not self.pull(limit):
                await self.wait_readable()
            elif self.ready:
                return

    def read_everything(self) -> None:
        """Read all that the kernel has, so that nothing is queued there."""
        self.pull(_EVERYTHING)
        if self._waiting is not None:
            # The kernel has nothing to wake it up for any more.
            self._waiting.cancel()

    async def wait_readable(self) -> None:
        """Wait until the kernel has something to be read, or another kind of socket has been."""
        if self._kernel.awaited is not None:
            await self._await_datagram()
        elif self._kernel.family.is_internet:
            await wait_readable(self._kernel)
        else:
            with trio.CancelScope() as self._waiting:
                await wait_readable(self._kernel)
        self._budget.restart()

    async def _await_datagram(self) -> None:
        receiver = self._kernel.receiver
        came: deque[Datagram] = deque()
        before = len(self.ready), self.error
        # Who waits here looks himself whether the socket is closed. One who had the receiving side before may not
        # have come to his end yet, and what he got is for the next one.
        if self._turn is None:
            self._turn = trio.Lock()
        with suppress(trio.ClosedResourceError), self._lifetime.waiting():
            async with self._turn:
                if (len(self.ready), self.error) != before:
                    return
                try:
                    receiver.take(came, *await self._kernel.awaited.recvfrom(receiver.largest))
                except OSError as error:
                    self._lifetime.check()
                    self.failed(error)
        if self._lifetime.closed:
            self.discarded += len(came)
        else:
            self._sift(came)

    def raise_error(self) -> None:
        """Raise the error that is due, the latest there is, once."""
        if self.error is not None:
            self.pull()
            error, self.error = self.error, None
            raise error

    def failed(self, error: OSError) -> None:
        """Count an error of the receiving side and tell it to whom it concerns."""
        if error.errno in NEWS_OF_EARLIER and self.read_errors():
            # The queue has told more about it.
            return
        annotated(error, "receive", self._peer)
        if error.errno in NEWS_OF_EARLIER:
            self._pass_on(error, "receive", self._peer)
        else:
            self.errors += 1
            self.error = error

    def read_errors(self) -> int:
        """Empty the error queue, if there is one, and tell what it says; return how many records there were about
        delivery."""
        if not self._kernel.tells_errors:
            return 0
        count = 0
        for destination, record in self._kernel.read_errors():
            # What this machine itself refused, the call that sent it has raised.
            if record.origin in (ICMP, ICMP6):
                count += 1
                error = PeerUnreachable(
                    record.errno,
                    icmp_type=record.icmp_type,
                    icmp_code=record.icmp_code,
                    reason=record.reason,
                    offender=record.offender,
                    path_mtu=record.path_mtu,
                )
                self._pass_on(annotated(error, "send", destination), "send", destination)
        return count

    @property
    def tells_errors(self) -> bool:
        """Whether there is an error queue."""
        return self._kernel.tells_errors

    def watch_errors(self) -> select.epoll:
        """Return a descriptor that can be read while :meth:`take_errors` has something to take."""
        return self._kernel.watch_errors()

    def take_errors(self) -> None:
        """Empty the error queue, and what the kernel keeps besides where that was full."""
        self.read_errors()
        number = self._kernel.take_error()
        if number:
            self.failed(OSError(number, os.strerror(number)))

    def _pass_on(self, error: OSError, operation: str, address: Address | None) -> None:
        self.errors += 1
        # On an unconnected socket no peer's trouble is the receiver's; on a connected one the peer's own is.
        if not self._report(error, operation, address) and self._peer is not None and address == self._peer:
            self.error = error

    def discard(self) -> None:
        """Throw away what was read ahead, and count it."""
        self.discarded += len(self.ready)
        self.ready.clear()
        self.error = None

    def _sift(self, datagrams: Iterable[Datagram]) -> None:
        blocked, peer = self._blocked, self._sifted_for
        for datagram in datagrams:
            address = datagram.address
            if (peer is None or address == peer) and not (blocked is not None and blocked(address.host)):
                self.ready.append(datagram)
            else:
                self.filtered += 1
