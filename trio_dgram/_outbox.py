"""The sending side of a socket: handing datagrams to the kernel, and waiting where it has no room.

There is no queue of datagrams here. What the kernel cannot take yet stays with the task that sends it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from time import perf_counter
from typing import Final

import trio

from ._addresses import Address, ReceivedAddress
from ._budget import Budget
from ._errors import AddressBlockedError, SendManyError, annotated
from ._families import Destination, SocketAddress
from ._inbox import NEWS_OF_EARLIER
from ._kernel import Kernel
from ._lifetime import Lifetime
from ._segmentation import Segmentation

_PATIENCE: Final = 0.050
"""How long a send is tried again while the kernel says ENOBUFS, in seconds."""
_FIRST_DELAY: Final = 0.001

_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

_CAUSED_BY_DESTINATION: Final = frozenset(
    {
        errno.EINVAL,
        errno.EACCES,
        errno.EPERM,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ECONNREFUSED,
        errno.ENOBUFS,
    }
)
"""Errors that a destination can cause by being what it is: not the program's doing where the network chose it."""


class Outbox:
    """The way of a datagram into the kernel."""

    __slots__ = (
        "_blocked",
        "_budget",
        "_earlier",
        "_kernel",
        "_lifetime",
        "_report",
        "_segmentation",
        "_turn",
        "errors",
        "segmented_datagrams",
        "segmented_sends",
        "sent",
    )

    def __init__(
        self,
        kernel: Kernel,
        lifetime: Lifetime,
        budget: Budget,
        blocked: Callable[[str], bool] | None,
        earlier: Callable[[OSError], None],
        report: Callable[[OSError, str, Address | None], bool],
    ) -> None:
        self.sent = 0
        self.errors = 0
        self.segmented_sends = 0
        self.segmented_datagrams = 0
        self._kernel = kernel
        self._lifetime = lifetime
        self._budget = budget
        self._blocked = blocked
        self._earlier = earlier
        self._report = report
        self._turn: trio.Lock | None = None
        self._segmentation = Segmentation(off=not kernel.can_segment)

    @property
    def blocks(self) -> bool:
        """Whether there are destinations that nothing is sent to."""
        return self._blocked is not None

    def check_allowed(self, address: Address) -> None:
        """Raise :class:`AddressBlockedError` if nothing is to be sent to ``address``."""
        if self._blocked is not None and self._blocked(address.host):
            raise AddressBlockedError(errno.EPERM, "the address is on the send block list")

    async def send(self, payload: bytes, destination: Destination) -> None:
        """Send one datagram, waiting until the kernel has room. A cancelled call has sent nothing."""
        address, sockaddr = destination
        try:
            self.check_allowed(address)
            await self._hand_over_when_possible(payload, sockaddr)
        except OSError as error:
            self._refused(error, address)

    def send_nowait(self, payload: bytes, destination: Destination) -> None:
        """Send one datagram as :meth:`send` does, or raise ``trio.WouldBlock``."""
        address, sockaddr = destination
        try:
            self.check_allowed(address)
            self._hand_over(payload, sockaddr)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            self._refused(error, address)

    async def send_many(self, payloads: list[bytes], runs: list[tuple[int, Destination]]) -> None:
        """Send ``payloads`` in order, each of ``runs`` saying from which of them on they go to its destination.

        Raises:
          SendManyError: when one is refused; those before it were sent.

        A cancelled call has sent a prefix.
        """
        sent_before = self.sent
        budget, sendto = self._budget, self._kernel.sendto
        total = len(payloads)
        ends = [start for start, _ in runs[1:]]
        ends.append(total)
        looked_at = self._blocked is not None
        for (start, destination), end in zip(runs, ends, strict=True):
            address, sockaddr = destination
            position = start
            while position < end:
                payload = payloads[position]
                count = self._segmentation.count(payloads, position, end, address[0]) if position + 1 < end else 1
                try:
                    if count > 1:
                        if not await self._send_run(payloads[position : position + count], destination):
                            count = 1
                            await self.send(payload, destination)
                    elif sockaddr is not None and not looked_at:
                        # As send does it in the end, without the way there.
                        try:
                            sendto(payload, sockaddr)
                        except OSError:
                            await self.send(payload, destination)
                        else:
                            self.sent += 1
                    else:
                        await self.send(payload, destination)
                except OSError as error:
                    raise SendManyError(error, position, self.sent - sent_before) from error
                position += count
                budget.left = left = budget.left - 1
                # After the last one there is nothing to be cancelled.
                if (left <= 0 or perf_counter() >= budget.deadline) and position < total:
                    await budget.renew()
                    self._lifetime.check()

    async def _send_run(self, payloads: list[bytes], destination: Destination) -> bool:
        """Send these in one system call; return False if they were refused, and who is to blame is to be found out
        by sending them one by one."""
        address, sockaddr = destination
        size = len(payloads[0])
        try:
            self.check_allowed(address)
            await self._hand_over_when_possible(b"".join(payloads), sockaddr, size)
        except OSError as error:
            self._segmentation.refused(address.host, size, error)
            return False
        return True

    def _hand_over(self, payload: bytes, sockaddr: SocketAddress | None, segment: int = 0) -> None:
        """Hand one datagram to the kernel, or one of every ``segment`` bytes of ``payload``.

        Raises:
          BlockingIOError: if the kernel has no room now.
          OSError: what the kernel says against it.
        """
        earlier: OSError | None = None
        while True:
            try:
                if segment:
                    self._kernel.send_segments(payload, segment, sockaddr)
                elif sockaddr is None:
                    self._kernel.send(payload)
                else:
                    self._kernel.sendto(payload, sockaddr)
            except InterruptedError:
                continue
            except OSError as error:
                # The kernel may answer with what ICMP said about an earlier datagram, and has not sent this one
                # then. It says so only once, so what it says the second time is about this one.
                if earlier is None and error.errno in NEWS_OF_EARLIER:
                    earlier = error
                    continue
                if earlier is not None and earlier.errno != error.errno:
                    self._earlier(earlier)
                raise
            self._took(payload, segment)
            if earlier is not None:
                self._earlier(earlier)
            return

    def _took(self, payload: bytes, segment: int) -> None:
        if not segment:
            self.sent += 1
            return
        segments = -(-len(payload) // segment)
        self.sent += segments
        self.segmented_sends += 1
        self.segmented_datagrams += segments

    async def _hand_over_when_possible(self, payload: bytes, sockaddr: SocketAddress | None, segment: int = 0) -> None:
        """Hand it over as :meth:`_hand_over` does, waiting until the kernel has room.

        Tasks that wait do so in turn, since Trio lets only one of them wait for the descriptor.
        """
        try:
            self._hand_over(payload, sockaddr, segment)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        else:
            return
        if self._turn is None:
            self._turn = trio.Lock()
        with self._lifetime.waiting():
            async with self._turn:
                await self._persist(payload, sockaddr, segment)

    async def _persist(self, payload: bytes, sockaddr: SocketAddress | None, segment: int) -> None:
        give_up: float | None = None
        delay = _FIRST_DELAY
        while True:
            # Closed while it waited, or just after the wait was over.
            self._lifetime.check()
            try:
                self._hand_over(payload, sockaddr, segment)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._kernel.fileno())
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # A full queue of a device is no state of the descriptor: waiting until it is writable would spin.
                now = trio.current_time()
                give_up = now + _PATIENCE if give_up is None else give_up
                if now >= give_up:
                    raise
                await trio.sleep(min(delay, give_up - now))
                delay *= 2
            else:
                return

    def _refused(self, error: OSError, address: Address) -> None:
        """Count what speaks against one datagram and raise it, or report it where the network chose ``address``."""
        self.errors += 1
        annotated(error, "send", address)
        if not (isinstance(address, ReceivedAddress) and error.errno in _CAUSED_BY_DESTINATION):
            raise error
        self._report(error, "send", address)
