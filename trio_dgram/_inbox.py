"""The receiving side of a socket: what has been read ahead, and who may have it.

The kernel is read in batches, and what nobody has asked for yet stays in the inbox, so that a burst costs one
wake-up of the task and not one per datagram.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

import trio

from ._addresses import Address
from ._budget import Budget
from ._datagrams import Datagram
from ._errors import annotated
from ._kernel import Kernel
from ._lifetime import Lifetime

Reader: TypeAlias = Literal["receive", "events"]
"""Who has the receiving side: a task in ``receive``, or the event channels that take datagrams."""

LARGEST_BATCH: Final = 128
"""How many datagrams are read ahead at most."""

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

        Without a limit it is a batch, which grows while the kernel has more and shrinks to what it had: a
        socket that gets one datagram at a time is not asked for a second one each time.
        """
        ready = self.ready
        sifting = self._blocked is not None or self._sifted_for is not None
        fresh: deque[Datagram] | list[Datagram] = [] if sifting else ready
        before = len(fresh)
        drained = False
        try:
            self._kernel.receive(fresh, limit or self._batch)
        except BlockingIOError:
            drained = True
            if limit is None:
                self._batch = max(1, min(len(fresh) - before, LARGEST_BATCH))
        except InterruptedError:
            pass
        except OSError as error:
            self.failed(error)
        else:
            if limit is None:
                self._batch = min(self._batch * 2, LARGEST_BATCH)
        if len(fresh) - before >= FLOOD:
            self._kernel.coalesce()
        if sifting:
            self._sift(fresh)
            if drained:
                # What the kernel queues from now on is the peer's.
                self._sifted_for = None
        return bool(ready) or self.error is not None

    async def wait(self, wanted: int | None = None) -> None:
        """Wait until there is a datagram; then, with ``wanted``, there are as many of those as could be had.

        A cancelled call has consumed nothing.
        """
        await self._budget.checkpoint()
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

    async def wait_readable(self) -> None:
        """Wait until the kernel has something to be read."""
        await trio.lowlevel.wait_readable(self._kernel.fileno())
        self._budget.restart()

    def raise_error(self) -> None:
        """Raise the error that is due, the latest there is, once."""
        if self.error is not None:
            self.pull()
            error, self.error = self.error, None
            raise error

    def failed(self, error: OSError) -> None:
        """Count an error of the receiving side and tell it to whom it concerns."""
        self.errors += 1
        annotated(error, "receive", self._peer)
        if error.errno not in NEWS_OF_EARLIER:
            self.error = error
        elif not self._report(error, "receive", self._peer) and self._peer is not None:
            # On an unconnected socket no peer's trouble is the receiver's; on a connected one it is.
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
