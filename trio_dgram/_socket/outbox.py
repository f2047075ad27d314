"""The sending side of a socket: handing datagrams to the kernel, and waiting while its buffer is full.

There is no queue of datagrams here: what the kernel cannot accept yet stays with the task that sends it. Every send
tries first without waiting (:meth:`Outbox.try_send`) and waits only if it must (:meth:`Outbox.recover`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Final

import trio

from .._codecs.families import Destination
from .._kernel.segmentation import LARGEST_UDP_PAYLOAD, Segmentation
from .._kernel.unix_paths import why_not_reached
from .._values.addresses import Address, ReceivedAddress, UnixAddress, transport_address
from .._values.errors import AddressBlockedError, SendManyError, with_context, with_reason
from .association import Association
from .budget import Budget
from .interrupts import defer_interrupts
from .lifetime import Lifetime
from .pending_errors import PendingErrors
from .transport import Transport

_ENOBUFS_LIMIT: Final = 0.050
"""How long a send is retried while the kernel reports ENOBUFS, in seconds."""
_FIRST_DELAY: Final = 0.001
_LONGEST_DELAY: Final = 0.050

_FULL: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

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
"""The errnos that an address can cause: they are not the program's mistake if the network chose it."""

NO_ROUTE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EAFNOSUPPORT}
)
"""The errnos after which another address of the same name may be reachable."""


@defer_interrupts
class Outbox:
    """The sending side of one socket."""

    __slots__ = (
        "_association",
        "_blocked",
        "_budget",
        "_calls",
        "_lifetime",
        "_pending",
        "_segmentation",
        "_sendto",
        "_transport",
        "_turn",
        "errors",
        "segmented_datagrams",
        "segmented_sends",
        "sent",
    )

    def __init__(
        self,
        transport: Transport,
        lifetime: Lifetime,
        budget: Budget,
        association: Association,
        blocked: Callable[[str], bool] | None,
        pending: PendingErrors,
    ) -> None:
        self.sent = 0
        self.errors = 0
        self.segmented_sends = 0
        self.segmented_datagrams = 0
        self._transport = transport
        self._calls = transport.calls
        self._sendto = transport.calls.sendto
        self._lifetime = lifetime
        self._budget = budget
        self._association = association
        self._blocked = blocked
        self._pending = pending
        self._turn: trio.Lock | None = None
        self._segmentation = Segmentation(enabled=transport.descriptor.can_segment)

    def check_allowed(self, address: Address) -> None:
        """Raise :class:`AddressBlockedError` if ``address`` is on the send block list."""
        blocked = self._blocked
        if blocked is not None and (blocked(address.host) or blocked(transport_address(address).host)):
            raise AddressBlockedError(errno.EPERM, "the address is on the send block list")

    def try_send(self, payload: bytes, destination: Destination) -> OSError | None:
        """Send one datagram without waiting; return the error if it is refused. The caller counts it."""
        address, sockaddr, ancillary = destination
        try:
            if self._blocked is not None:
                self.check_allowed(address)
            if ancillary is None and sockaddr is not None:
                self._sendto(payload, sockaddr)
            elif ancillary:
                self._calls.sendmsg((payload,), ancillary, 0, sockaddr)
            elif sockaddr is None:
                self._calls.send(payload)
            else:
                self._sendto(payload, sockaddr)
        except OSError as error:
            return error
        return None

    async def recover(self, error: OSError, payload: bytes, destination: Destination) -> bool:
        """Continue a send that was refused with ``error``: retry it, wait, or raise or report the final error.

        Returns:
          Whether it was sent. A cancelled call has sent nothing.
        """
        attempt = partial(self.try_send, payload, destination)
        final = await self._retry(error, attempt, payload, destination)
        if final is None:
            self.sent += 1
            return True
        self._fail(final, payload, destination)
        return False

    def recover_now(self, error: OSError, payload: bytes, destination: Destination) -> None:
        """Do as :meth:`recover` does, but raise ``trio.WouldBlock`` instead of waiting."""
        final = self._retry_pending(error, partial(self.try_send, payload, destination))
        if isinstance(final, BlockingIOError):
            raise trio.WouldBlock from None
        if final is None:
            self.sent += 1
        else:
            self._fail(final, payload, destination)

    async def send_many(self, payloads: list[bytes], runs: list[tuple[int, Destination]], first: int, sent: int) -> int:
        """Send ``payloads`` in order; each of ``runs`` is a destination and the position from which on it is used.

        Args:
          payloads: a part of the datagrams of one call.
          runs: the destinations.
          first: the position of the part in the call.
          sent: how many datagrams the call has sent before.

        Returns:
          How many datagrams the call has sent with these.

        Raises:
          SendManyError: if one is refused; those before it were sent.

        A cancelled call has sent a prefix.
        """
        budget, segmentation = self._budget, self._segmentation
        may_batch = self._blocked is None
        total, sizes = len(payloads), list(map(len, payloads))
        ends = [start for start, _ in runs[1:]]
        ends.append(total)
        # The destinations of the datagrams just before ``position``, which one call is to send.
        batch: list[Destination] = []
        for (start, destination), end in zip(runs, ends, strict=True):
            position = start
            while position < end:
                may_segment = segmentation.enabled and position + 1 < end
                count = segmentation.count(sizes, position, end, destination[0][0]) if may_segment else 1
                batched = count == 1 and may_batch and destination[2] is None
                if batched:
                    added = 1 if may_segment else max(1, min(end - position, budget.left - len(batch)))
                    batch += [destination] * added
                    position += added
                    if position < total and len(batch) < budget.left:
                        continue
                if batch:
                    begin = position - len(batch)
                    sent = await self._send_batch(payloads[begin:position], batch, first + begin, sent)
                    budget.left -= len(batch)
                    batch = []
                if not batched:
                    try:
                        done, accepted = await self._send_segments(payloads[position : position + count], destination)
                    except OSError as error:
                        raise SendManyError(error, first + position, sent) from error
                    position += done
                    sent += accepted
                    budget.left -= 1
                # After the last datagram a cancellation would have nothing to end.
                if (budget.left <= 0 or perf_counter() >= budget.deadline) and position < total:
                    await budget.renew()
                    self._check_unchanged(destination)
        return sent

    async def _send_batch(self, payloads: list[bytes], destinations: list[Destination], first: int, sent: int) -> int:
        """Send one datagram to each of ``destinations``; for the rest see :meth:`send_many`."""
        sockaddrs = [destination[1] for destination in destinations]
        done = 0
        while done < len(payloads):
            accepted, refusal = self._calls.send_batch(payloads[done:], sockaddrs[done:])
            self.sent += accepted
            done, sent = done + accepted, sent + accepted
            if refusal is not None:
                try:
                    sent += await self.recover(refusal, payloads[done], destinations[done])
                except OSError as error:
                    raise SendManyError(error, first + done, sent) from error
                done += 1
        return sent

    async def _send_one(self, payload: bytes, destination: Destination) -> bool:
        """Send one datagram; return whether it was sent, or else its error was reported."""
        error = self.try_send(payload, destination)
        if error is not None:
            return await self.recover(error, payload, destination)
        self.sent += 1
        return True

    async def _send_segments(self, payloads: list[bytes], destination: Destination) -> tuple[int, int]:
        """Send ``payloads`` as segments, or the only one; return how many are done with and how many were sent."""
        if len(payloads) == 1:
            return 1, await self._send_one(payloads[0], destination)
        error = self._try_segments(payloads, destination)
        if error is not None:
            return await self._recover_segments(error, payloads, destination)
        return len(payloads), len(payloads)

    async def _recover_segments(
        self, error: OSError, payloads: list[bytes], destination: Destination
    ) -> tuple[int, int]:
        """Continue to send ``payloads``, which were refused with ``error`` as segments, as segments or, if that stays
        so, the first alone; return how many are done with and how many were sent."""
        attempt = partial(self._try_segments, payloads, destination)
        final = await self._retry(error, attempt, b"".join(payloads), destination)
        if final is None:
            return len(payloads), len(payloads)
        # Sent one by one, each datagram gets its own error.
        self._segmentation.learn(destination[0][0], len(payloads[0]), final)
        return 1, await self._send_one(payloads[0], destination)

    def _try_segments(self, payloads: list[bytes], destination: Destination) -> OSError | None:
        """Send ``payloads`` as segments without waiting, and count them; return the error if they are refused."""
        address, sockaddr, ancillary = destination
        try:
            if self._blocked is not None:
                self.check_allowed(address)
            self._calls.send_segments(b"".join(payloads), len(payloads[0]), ancillary or (), sockaddr)
        except OSError as error:
            return error
        count = len(payloads)
        self.sent += count
        self.segmented_sends += 1
        self.segmented_datagrams += count
        return None

    def _retry_pending(self, error: OSError, attempt: Callable[[], OSError | None]) -> OSError | None:
        """Retry a send whose ``error`` may concern an earlier datagram; return the error of this one.

        sendto() may report the pending ICMP error of an earlier datagram instead of sending this one. Reading clears
        it, so a second error belongs to this datagram.
        """
        if isinstance(error, InterruptedError):
            retried = _uninterrupted(attempt)
            if retried is None:
                return None
            error = retried
        if not self._pending.may_hold(error):
            return error
        second = _uninterrupted(attempt)
        if second is None or second.errno != error.errno:
            self._pending.take(error)
        return second

    async def _retry(
        self, error: OSError, attempt: Callable[[], OSError | None], payload: bytes, destination: Destination
    ) -> OSError | None:
        """Retry a send until the kernel accepts it or refuses it for good; return the final error.

        Tasks wait in turn, since Trio lets only one of them wait for a descriptor.
        """
        final = self._retry_pending(error, attempt)
        if final is None or final.errno not in _FULL:
            return final
        with self._lifetime.waiting():
            if self._is_receiver_full(destination):
                # One receiver's full buffer must not delay datagrams to others.
                return await self._send_waiting(final, attempt, payload, destination)
            if self._turn is None:
                self._turn = trio.Lock()
            async with self._turn:
                return await self._send_waiting(final, attempt, payload, destination)

    def _is_receiver_full(self, destination: Destination) -> bool:
        """Whether EAGAIN means a full buffer of the receiver, as on an unconnected ``"unix"`` socket."""
        return not self._transport.descriptor.family.is_internet and destination[1] is not None

    async def _send_waiting(
        self, error: OSError, attempt: Callable[[], OSError | None], payload: bytes, destination: Destination
    ) -> OSError | None:
        def attempt_unchanged() -> OSError | None:
            self._check_unchanged(destination)
            return attempt()

        backoff = _Backoff(receiver_full=self._is_receiver_full(destination))
        pending: OSError | None = None
        final: OSError | None = None
        try:
            while True:
                # An undrained error would end the wait for writability again and again.
                self._pending.drain()
                if not await backoff.wait(error):
                    final = error
                    return final
                self._check_unchanged(destination)
                result = await self._transport.wait_and_send(attempt_unchanged, payload, destination[1])
                if result is None:
                    return None
                if pending is None and self._pending.may_hold(result):
                    pending = result
                elif result.errno in _FULL:
                    # It was not about this datagram, and the next error may be pending again.
                    if pending is not None:
                        self._pending.take(pending)
                        pending = None
                elif not isinstance(result, InterruptedError):
                    final = result
                    return final
                error = result
        finally:
            if pending is not None and (final is None or final.errno != pending.errno):
                self._pending.take(pending)

    def _check_unchanged(self, destination: Destination) -> None:
        """Raise if the socket was closed, or disconnected from the destination, while other tasks ran."""
        self._lifetime.check("send")
        if destination[1] is None:
            self._association.check_peer(destination[0])

    def _fail(self, error: OSError, payload: bytes, destination: Destination) -> None:
        """Count the error of one datagram and raise it, or report it if the network chose the address."""
        self.errors += 1
        address = destination[0]
        self._explain(error, payload, destination)
        with_context(error, "send", address)
        if not (isinstance(address, ReceivedAddress) and error.errno in _CAUSED_BY_DESTINATION):
            raise error
        self._pending.report(error, "send", address)

    def _explain(self, error: OSError, payload: bytes, destination: Destination) -> None:
        address = destination[0]
        descriptor = self._transport.descriptor
        if error.errno == errno.EMSGSIZE:
            mtu = None
            with suppress(OSError):
                mtu = descriptor.path_mtu(destination[1])
            vars(error).update(path_mtu=mtu)
            if mtu is not None and len(payload) <= LARGEST_UDP_PAYLOAD:
                with_reason(error, f"the path accepts packets of {mtu} bytes")
        self.explain_refusal(error, address)

    def explain_refusal(self, error: OSError, address: Address) -> None:
        """Add to ``error`` why the kernel refuses ``address``, and what to do about it."""
        if isinstance(address, UnixAddress):
            with_reason(error, why_not_reached(error.errno, address.host))
        elif error.errno == errno.EACCES and self._transport.descriptor.lacks_broadcast:
            with_reason(error, "set broadcast=True to send to a broadcast address")


class _Backoff:
    """The delays of one send for which a full buffer does not make the descriptor unwritable.

    Args:
      receiver_full: whether EAGAIN means a full buffer of the receiver: no descriptor of this process becomes writable
        when that has space again.
    """

    def __init__(self, *, receiver_full: bool) -> None:
        self._receiver_full = receiver_full
        self._delay = _FIRST_DELAY
        self._give_up_at: float | None = None

    async def wait(self, error: OSError) -> bool:
        """Sleep if ``error`` requires it; return False if the send must not be retried any more."""
        if error.errno == errno.ENOBUFS:
            # ENOBUFS (a full qdisc) leaves the descriptor writable: waiting for that would busy-loop.
            now = trio.current_time()
            self._give_up_at = now + _ENOBUFS_LIMIT if self._give_up_at is None else self._give_up_at
            if now >= self._give_up_at:
                return False
            await trio.sleep(min(self._delay, self._give_up_at - now))
            self._delay *= 2
        elif self._receiver_full and error.errno in _FULL:
            await trio.sleep(self._delay)
            self._delay = min(self._delay * 2, _LONGEST_DELAY)
        return True


def _uninterrupted(attempt: Callable[[], OSError | None]) -> OSError | None:
    # Python itself retries a call after EINTR; a custom socket factory need not.
    while isinstance(error := attempt(), InterruptedError):
        pass
    return error
