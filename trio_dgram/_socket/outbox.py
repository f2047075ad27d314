"""The sending side of a socket: handing datagrams to the kernel, and waiting where it has no room.

There is no queue of datagrams here. What the kernel cannot take yet stays with the task that sends it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Final

import trio

from .._codecs.families import Destination
from .._kernel.descriptor import Kernel
from .._kernel.segmentation import LARGEST_PAYLOAD, Segmentation
from .._kernel.unix_paths import why_not_reached
from .._values.addresses import Address, ReceivedAddress, UnixAddress
from .._values.errors import AddressBlockedError, SendManyError, annotated, with_reason
from .association import Association
from .budget import Budget
from .inbox import NEWS_OF_EARLIER, Inbox
from .lifetime import Lifetime
from .waiting import wait_writable

_PATIENCE: Final = 0.050
"""How long a send is tried again while the kernel says ENOBUFS, in seconds."""
_FIRST_DELAY: Final = 0.001
_LONGEST_DELAY: Final = 0.050

_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

_CAUSED_BY_DESTINATION: Final = frozenset(
    {
        errno.EINVAL,
        errno.EACCES,
        errno.EPERM,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.EAFNOSUPPORT,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ECONNREFUSED,
        errno.ENOBUFS,
        # Of a path (unix(7)).
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EPROTOTYPE,
    }
)
"""Errors that a destination can cause by being what it is: not the program's doing where the network chose it."""


class Outbox:
    """The way of a datagram into the kernel."""

    __slots__ = (
        "_association",
        "_blocked",
        "_budget",
        "_inbox",
        "_kernel",
        "_lifetime",
        "_news",
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
        association: Association,
        blocked: Callable[[str], bool] | None,
        inbox: Inbox,
        report: Callable[[OSError, str, Address | None], bool],
    ) -> None:
        self.sent = 0
        self.errors = 0
        self.segmented_sends = 0
        self.segmented_datagrams = 0
        self._kernel = kernel
        self._lifetime = lifetime
        self._budget = budget
        self._association = association
        self._blocked = blocked
        self._inbox = inbox
        self._report = report
        self._turn: trio.Lock | None = None
        # Nothing is between "unix" sockets, so what speaks against a datagram is said at once. But a peer that lets go
        # of this socket while something is queued for it leaves an error (unix(7)).
        self._news = NEWS_OF_EARLIER if kernel.family.is_internet else frozenset({errno.ECONNRESET})
        self._segmentation = Segmentation(off=not kernel.can_segment)

    @property
    def goes_straight(self) -> bool:
        """Whether a datagram may be handed to the kernel without a look at anything else."""
        return self._blocked is None and not self._kernel.tells_errors and self._kernel.awaited is None

    def check_allowed(self, address: Address) -> None:
        """Raise :class:`AddressBlockedError` if nothing is to be sent to ``address``."""
        if self._blocked is not None and self._blocked(address.host):
            raise AddressBlockedError(errno.EPERM, "the address is on the send block list")

    async def send(self, payload: bytes, destination: Destination, refusal: OSError | None = None) -> None:
        """Send one datagram, waiting until the kernel has room. A cancelled call has sent nothing.

        ``refusal`` is what the kernel has answered already, if it was asked straight away.
        """
        try:
            self.check_allowed(destination[0])
            await self._hand_over_when_possible(payload, destination, refusal=refusal)
        except OSError as error:
            self._refused(error, payload, destination)

    def send_nowait(self, payload: bytes, destination: Destination) -> None:
        """Send one datagram as :meth:`send` does, or raise ``trio.WouldBlock``."""
        try:
            self.check_allowed(destination[0])
            self._hand_over(payload, destination)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            self._refused(error, payload, destination)

    async def send_many(self, payloads: list[bytes], runs: list[tuple[int, Destination]]) -> None:
        """Send ``payloads`` in order, each of ``runs`` saying from which of them on they go to its destination.

        Raises:
          SendManyError: when one is refused; those before it were sent.

        A cancelled call has sent a prefix.
        """
        sent_before = self.sent
        budget, sendto, send_segments = self._budget, self._kernel.sendto, self._kernel.send_segments
        total, sizes = len(payloads), list(map(len, payloads))
        ends = [start for start, _ in runs[1:]]
        ends.append(total)
        goes_straight = self.goes_straight
        for (start, destination), end in zip(runs, ends, strict=True):
            address, sockaddr, ancillary = destination
            straight = goes_straight and not ancillary
            position = start
            while position < end:
                count = self._segmentation.count(sizes, position, end, address[0]) if position + 1 < end else 1
                try:
                    if straight and sockaddr is not None:
                        # As it is done in the end otherwise, without the way there.
                        try:
                            if count == 1:
                                sendto(payloads[position], sockaddr)
                                self.sent += 1
                            else:
                                segments = b"".join(payloads[position : position + count])
                                send_segments(segments, sizes[position], (), sockaddr)
                                self._took(count)
                        except OSError as error:
                            refusal: OSError | None = error
                            if count > 1 and self._segmentation.refused(address[0], sizes[position], error):
                                count, refusal = 1, None
                            count = await self._send_run(payloads[position : position + count], destination, refusal)
                    else:
                        count = await self._send_run(payloads[position : position + count], destination)
                except OSError as error:
                    raise SendManyError(error, position, self.sent - sent_before) from error
                position += count
                budget.left = left = budget.left - 1
                # After the last one there is nothing to be cancelled.
                if (left <= 0 or perf_counter() >= budget.deadline) and position < total:
                    await budget.renew()
                    self._check_still(destination)

    async def _send_run(self, payloads: list[bytes], destination: Destination, refusal: OSError | None = None) -> int:
        """Send these in one system call or, if that is refused, the first alone; return how many were sent."""
        if len(payloads) > 1:
            try:
                self.check_allowed(destination[0])
                segments, size = b"".join(payloads), len(payloads[0])
                await self._hand_over_when_possible(segments, destination, size, refusal=refusal)
            except OSError as error:
                # Who is to blame is found out by sending them one by one.
                self._segmentation.refused(destination[0].host, len(payloads[0]), error)
                refusal = None
            else:
                return len(payloads)
        await self.send(payloads[0], destination, refusal)
        return 1

    def _hand_over(
        self, payload: bytes, destination: Destination, segment: int = 0, refusal: OSError | None = None
    ) -> None:
        """Hand one datagram to the kernel, or one of every ``segment`` bytes of ``payload``.

        Raises:
          BlockingIOError: if the kernel has no room now.
          OSError: what the kernel says against it.
        """
        _, sockaddr, ancillary = destination
        earlier = None if refusal is None else self._told_of_earlier(refusal, None)
        while True:
            try:
                if segment:
                    self._kernel.send_segments(payload, segment, ancillary or (), sockaddr)
                elif ancillary:
                    self._kernel.send_message(payload, ancillary, sockaddr)
                elif sockaddr is None:
                    self._kernel.send(payload)
                else:
                    self._kernel.sendto(payload, sockaddr)
            except OSError as error:
                earlier = self._told_of_earlier(error, earlier)
            else:
                break
        self._took(-(-len(payload) // segment) if segment else 1)
        if earlier is not None:
            self._inbox.failed(earlier)

    async def _hand_over_awaited(self, payload: bytes, destination: Destination) -> None:
        """Do as :meth:`_hand_over` does, with a socket that waits itself until there is room."""
        awaited, sockaddr = self._kernel.awaited, destination[1]
        earlier: OSError | None = None
        while True:
            try:
                await (awaited.send(payload) if sockaddr is None else awaited.sendto(payload, sockaddr))
            except OSError as error:
                earlier = self._told_of_earlier(error, earlier)
            except trio.Cancelled:
                if earlier is not None:
                    self._inbox.failed(earlier)
                raise
            else:
                break
        self.sent += 1
        if earlier is not None:
            self._inbox.failed(earlier)

    def _told_of_earlier(self, error: OSError, earlier: OSError | None) -> OSError | None:
        """Return what may be about an earlier datagram, if anything is, and raise what is about this one."""
        if isinstance(error, InterruptedError):
            return earlier
        # The kernel may answer with what ICMP said about an earlier datagram, and has not sent this one then. It says
        # so only once, so what it says the second time is about this one.
        if earlier is None and error.errno in self._news:
            return error
        if earlier is not None and earlier.errno != error.errno:
            self._inbox.failed(earlier)
        raise error

    def _took(self, count: int) -> None:
        self.sent += count
        if count > 1:
            self.segmented_sends += 1
            self.segmented_datagrams += count

    async def _hand_over_when_possible(
        self, payload: bytes, destination: Destination, segment: int = 0, *, refusal: OSError | None = None
    ) -> None:
        """Hand it over as :meth:`_hand_over` does, waiting until the kernel has room.

        Tasks that wait do so in turn, since Trio lets only one of them wait for the descriptor.
        """
        try:
            self._hand_over(payload, destination, segment, refusal)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        else:
            return
        with self._lifetime.waiting():
            if self._is_for_the_receiver(destination):
                # Others have room while this one has none.
                await self._persist(payload, destination, segment)
                return
            if self._turn is None:
                self._turn = trio.Lock()
            async with self._turn:
                await self._persist(payload, destination, segment)

    def _is_for_the_receiver(self, destination: Destination) -> bool:
        """Whether it is the receiver that has no room for what is to go to ``destination``, not this socket."""
        return not self._kernel.family.is_internet and destination[1] is not None

    async def _persist(self, payload: bytes, destination: Destination, segment: int) -> None:
        give_up: float | None = None
        delay = _FIRST_DELAY
        while True:
            self._check_still(destination)
            try:
                if self._kernel.awaited is None:
                    self._hand_over(payload, destination, segment)
                else:
                    await self._hand_over_awaited(payload, destination)
            except BlockingIOError:
                if self._is_for_the_receiver(destination):
                    # No descriptor of ours tells when it has room again.
                    await trio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY)
                else:
                    # Where nobody receives, what is in the error queue would wake it up again and again.
                    self._inbox.read_errors()
                    await wait_writable(self._kernel)
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

    def _check_still(self, destination: Destination) -> None:
        """Raise what has happened while others ran: the socket was closed, or let go the peer that this is for."""
        self._lifetime.check()
        if destination[1] is None:
            self._association.check_peer(destination[0])

    def _refused(self, error: OSError, payload: bytes, destination: Destination) -> None:
        """Count what speaks against one datagram and raise it, or report it where the network chose its address."""
        self.errors += 1
        address = destination[0]
        if error.errno == errno.EMSGSIZE:
            self._explain_size(error, len(payload), destination)
        annotated(explained(error, address), "send", address)
        if not (isinstance(address, ReceivedAddress) and error.errno in _CAUSED_BY_DESTINATION):
            raise error
        self._report(error, "send", address)

    def _explain_size(self, error: OSError, size: int, destination: Destination) -> None:
        mtu = None
        with suppress(OSError):
            mtu = self._kernel.path_mtu(destination[1])
        vars(error).update(path_mtu=mtu)
        if mtu is not None and size <= LARGEST_PAYLOAD:
            with_reason(error, f"the path takes packets of {mtu} bytes")


def explained(error: OSError, address: Address) -> OSError:
    """Make ``error`` say in words what the kernel has against sending to ``address``."""
    return with_reason(error, why_not_reached(error.errno, address.host) if isinstance(address, UnixAddress) else None)
