"""The peers of one socket: their queues, their limits, and the task that reads for all of them.

Rule 1: there is no background task. A task that waits for a new peer, or for a datagram of its peer, reads for all
    peers and passes that role on when it is done.
Rule 2: a slow peer never blocks others: its queue overflows, and drops are counted.
Rule 3: a new peer may evict an unvalidated one, never one that is validated.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

from .._codecs.families import FAMILIES, Family
from .._services.log import RateLimitedLog, cause_of
from .._services.networks import NetworkCounts
from .._socket.budget import Budget, current_budget
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, peer_key
from .._values.datagrams import Datagram, PacketInfo
from .._values.statistics import ListenerStatistics
from .limits import PeerLimits

# ruff: noqa: SLF001 -- a peer hides its state from the programs that see it as a channel

_log = logging.getLogger("trio_dgram")

_BATCH: Final = 100
"""How many datagrams are dispatched before the tasks that wait for them run: about as many as a receive buffer holds,
so that a flood is drained early, and so few that one batch of new peers evicts only a part of the peers."""


@defer_interrupts
class Peer:
    """The state of one peer in its table; its channel adds what a program uses."""

    __slots__ = (
        "_bytes_received",
        "_dropped",
        "_ended",
        "_evicted",
        "_handler",
        "_info",
        "_last_received",
        "_network",
        "_queue",
        "_queued_bytes",
        "_validated",
        "address",
    )

    def __init__(self, address: Address, now: float) -> None:
        self.address: Address = address
        self._queue: deque[bytes] | None = None
        """The datagrams that wait to be received; None instead of an empty queue."""
        self._queued_bytes: int = 0
        self._bytes_received: int = 0
        self._dropped: int = 0
        self._validated: bool = False
        self._ended: bool = False
        self._evicted: bool = False
        self._handler: trio.CancelScope | None = None
        """The scope of the handler that runs for it."""
        self._info: PacketInfo | None = None
        """The local address that its last datagram was sent to, where the socket reports that."""
        self._last_received: float = now
        self._network: str = ""
        """The network that it counts for, where networks have a limit."""


PeerT = TypeVar("PeerT", bound=Peer)


@defer_interrupts
class PeerTable(Generic[PeerT]):
    """The peers of one socket."""

    def __init__(
        self, socket: DatagramSocket, limits: PeerLimits, make: Callable[[PeerTable[PeerT], Address, float], PeerT]
    ) -> None:
        self.socket: DatagramSocket = socket
        self.family: Family = FAMILIES[socket.type]
        self.limits: PeerLimits = limits
        self.budget: Budget = current_budget()
        self.accepting: bool = True
        self.draining: bool = False
        """Whether nothing is read any more, so that each channel ends after its queue; it can still send."""
        self.on_error: Callable[[OSError], Awaitable[None]] | None = None
        """Handles or raises an error of receiving; without it, the reading task raises the error."""
        self.backlog: OrderedDict[PeerT, None] = OrderedDict()
        self.amplification_refused: int = 0
        self.dropped: int = 0
        self.reader: trio.lowlevel.Task | None = None
        """The task that reads for all peers, or that has been woken to do so."""
        self.receivers: dict[PeerT, trio.lowlevel.Task] = {}
        """The tasks that wait for a datagram of their peer while another task reads. A task is woken when a datagram is
        queued, or to read."""
        self._make = make
        self._log = RateLimitedLog(_log)
        # By peer_key().
        self._peers: dict[object, PeerT] = {}
        self._is_proxied = bool(socket._config.proxy_protocol)
        # In the order of their last datagram, so that the first has been idle longest.
        self._unvalidated: OrderedDict[PeerT, None] = OrderedDict()
        self._validated: OrderedDict[PeerT, None] = OrderedDict()
        self._networks = NetworkCounts(limits.max_peers_per_network)
        self._reading: trio.CancelScope | None = None
        self._reader_is_ready: Callable[[], bool] = bool
        self._due: float = math.inf
        self._accepters: dict[trio.lowlevel.Task, None] = {}
        self._orders = ((self._unvalidated, False), (self._validated, True))
        # Peers that expired or were closed while their handlers still run, the first to be cancelled first.
        self._lingering: OrderedDict[PeerT, None] = OrderedDict()
        self._total_bytes = self._unvalidated_bytes = 0
        self._closed = self._handlers_cancelled = 0
        self._accepted = self._refused = self._refused_by_filter = self._refused_by_network = 0
        self._evicted = self._expired = 0
        self._kept = self._delivered = self._discarded = 0

    def statistics(self) -> ListenerStatistics:
        """Return the counts."""
        refused = self._refused + self._refused_by_filter + self._refused_by_network
        return ListenerStatistics(
            # A sum, because accept_filter may ask in the middle of a batch.
            received=self._kept + self.dropped + refused,
            delivered=self._delivered,
            queued=self._kept - self._delivered - self._discarded,
            discarded=self._discarded,
            dropped_by_kernel=self.socket.statistics().dropped_by_kernel,
            peers=len(self._peers),
            accepted=self._accepted,
            waiting=len(self.backlog),
            refused=self._refused,
            refused_by_filter=self._refused_by_filter,
            refused_by_network=self._refused_by_network,
            evicted=self._evicted,
            expired=self._expired,
            closed=self._closed,
            handlers_cancelled=self._handlers_cancelled,
            dropped=self.dropped,
            buffered_bytes=self._total_bytes,
            amplification_refused=self.amplification_refused,
        )

    # Waiting

    async def read_until(self, is_ready: Callable[[], bool]) -> None:
        """Read for all peers until ``is_ready()``, then pass that role on."""
        self.reader = trio.lowlevel.current_task()
        try:
            while not is_ready():
                await self._read(is_ready)
        finally:
            self.reader = self._wake_any()

    async def wait_for_peer(self, is_ready: Callable[[], bool]) -> None:
        """Wait until ``is_ready()``: until a peer is in the backlog, or the listener is closed."""
        task = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._accepters[task]
            return trio.lowlevel.Abort.SUCCEEDED

        while not is_ready():
            if self.reader is not None:
                self._accepters[task] = None
                await trio.lowlevel.wait_task_rescheduled(give_up)
            if self.reader is None or self.reader is task:
                await self.read_until(is_ready)

    async def _read(self, is_ready: Callable[[], bool]) -> None:
        """Read for all peers until ``is_ready()``, or until a peer expires."""
        self._reader_is_ready = is_ready
        self._due = self._next_expiry()
        self._reading = trio.CancelScope(deadline=self._due)
        try:
            with self._reading:
                while not is_ready():
                    try:
                        datagrams = await self.socket.receive_many(_BATCH)
                    except OSError as error:
                        if self.on_error is None:
                            raise
                        await self.on_error(error)
                    else:
                        self._dispatch(datagrams)
        finally:
            self._reading = None
        self._expire_overdue(trio.current_time())

    def _wake_any(self) -> trio.lowlevel.Task | None:
        """Wake a waiting task to read for the others, if there is one, and return it.

        A task that waits for a new peer is preferred: new peers are rare, so it keeps the role for long.
        """
        if self._accepters:
            return self._wake_accepter()
        if not self.receivers:
            return None
        _, task = self.receivers.popitem()
        trio.lowlevel.reschedule(task)
        return task

    def _wake_accepter(self) -> trio.lowlevel.Task:
        task, _ = self._accepters.popitem()
        trio.lowlevel.reschedule(task)
        return task

    def _wake_receiver(self, peer: PeerT) -> None:
        task = self.receivers.pop(peer, None)
        if task is not None:
            trio.lowlevel.reschedule(task)

    def recheck(self, peer: PeerT | None) -> None:
        """Wake the task that waits for ``peer``, or those that wait for a new one, to check their condition again."""
        if peer is None:
            while self._accepters:
                self._wake_accepter()
        else:
            self._wake_receiver(peer)
        if self._reading is not None and self._reader_is_ready():
            # A cancelled receive has consumed nothing.
            self._reading.cancel()

    def _expect(self, expiry: float) -> None:
        """Make the reading task check for overdue peers at ``expiry`` at the latest."""
        if self._reading is not None and expiry < self._due:
            self._reading.deadline = self._due = expiry

    def _next_expiry(self) -> float:
        """Return the time at which the next peer expires."""
        limits = self.limits
        times = [
            next(iter(order))._last_received + limits.timeout(validated=validated)
            for order, validated in self._orders
            if order
        ]
        return min(times, default=math.inf)

    def _expire_overdue(self, now: float) -> None:
        for order, validated in self._orders:
            timeout = self.limits.timeout(validated=validated)
            while order:
                oldest = next(iter(order))
                if now < oldest._last_received + timeout:
                    break
                self.expire(oldest)

    # Dispatching

    def _dispatch(self, datagrams: list[Datagram]) -> None:
        # One loop without calls of Python functions, which would add a quarter to its cost per datagram.
        now = trio.current_time()
        known: Callable[[Address], PeerT | None] = self._find_proxied if self._is_proxied else self._peers.get
        waiting, wake = self.receivers.pop, trio.lowlevel.reschedule
        validated, unvalidated = self._validated, self._unvalidated
        limits = self.limits
        for datagram in datagrams:
            data, address, info = datagram
            peer = known(address)
            if peer is None:
                peer = self._admit(datagram, now)
                if peer is None:
                    continue
            peer._last_received = now
            if info is not None:
                peer._info = info
            (validated if peer._validated else unvalidated).move_to_end(peer)
            size = len(data)
            peer._bytes_received += size
            queue = peer._queue
            if (
                (queue is not None and len(queue) >= limits.max_buffer_size)
                or peer._queued_bytes + size > limits.max_buffer_bytes
                or self._total_bytes + size > limits.max_total_bytes
                or (not peer._validated and self._unvalidated_bytes + size > limits.max_total_bytes // 2)
            ):
                peer._dropped += 1
                self.dropped += 1
                continue
            if queue is None:
                peer._queue = deque((data,))
            else:
                queue.append(data)
            peer._queued_bytes += size
            self._total_bytes += size
            if not peer._validated:
                self._unvalidated_bytes += size
            self._kept += 1
            task = waiting(peer, None)
            if task is not None:
                wake(task)

    def _find_proxied(self, address: Address) -> PeerT | None:
        return self._peers.get(peer_key(address))

    def take(self, peer: PeerT) -> bytes | None:
        """Return the next datagram of a peer, if there is one."""
        queue = peer._queue
        if queue is None:
            return None
        data = queue.popleft()
        size = len(data)
        peer._queued_bytes -= size
        self._total_bytes -= size
        if not peer._validated:
            self._unvalidated_bytes -= size
        self._delivered += 1
        if not queue:
            # Most peers are idle most of the time, and an empty deque takes more memory than the rest of a peer.
            peer._queue = None
        return data

    # Admission and eviction

    def _admit(self, datagram: Datagram, now: float) -> PeerT | None:
        if not self.accepting:
            self._refused += 1
            return None
        if not self._passes_filter(datagram):
            self._refused_by_filter += 1
            return None
        network = self._networks.find(datagram.address.host)
        if network is None:
            self._refused_by_network += 1
            return None
        if len(self._peers) + len(self._lingering) >= self.limits.max_peers and not self._free_place():
            self._refused += 1
            return None
        peer = self._make(self, datagram.address, now)
        self._peers[peer_key(datagram.address)] = peer
        self._unvalidated[peer] = None
        peer._network = network
        self._networks.add(network)
        self._expect(now + self.limits.timeout(validated=False))
        self._accepted += 1
        self.backlog[peer] = None
        if self._accepters:
            self._wake_accepter()
        return peer

    def _passes_filter(self, datagram: Datagram) -> bool:
        if self.limits.accept_filter is None:
            return True
        try:
            # The filter may close the listener.
            return self.limits.accept_filter(datagram) and self.accepting
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is logged
            # The task that happens to read must not fail for it.
            self._log.report(
                cause_of(error), "accept_filter failed on a datagram from %s", datagram.address, exc_info=error
            )
            return False

    def _free_place(self) -> bool:
        """Cancel the handler of a peer that has ended, or evict the unvalidated peer that is idle longest."""
        if self._lingering:
            self._cancel_handler(self._lingering.popitem(last=False)[0])
            return True
        oldest = next(iter(self._unvalidated), None)
        if oldest is None:
            return False
        self._evicted += 1
        oldest._evicted = True
        self._cancel_handler(oldest)
        self._end(oldest)
        # Its handler is cancelled, and memory that forged addresses filled must be free at once.
        self.discard(oldest)
        return True

    def _cancel_handler(self, peer: PeerT) -> None:
        if peer._handler is not None:
            self._handlers_cancelled += 1
            peer._handler.cancel()
            peer._handler = None

    def handler_starts(self, peer: PeerT, scope: trio.CancelScope) -> None:
        """Count the handler of ``peer``, which runs in ``scope``, for ``max_peers``; cancel it if it was evicted."""
        peer._handler = scope
        if peer._evicted:
            self._cancel_handler(peer)
        elif peer._ended:
            self._lingering[peer] = None

    def handler_ended(self, peer: PeerT) -> None:
        """Note that the handler of ``peer`` has returned."""
        peer._handler = None
        self._lingering.pop(peer, None)

    def add(self, peer: PeerT) -> None:
        """Add the peer that the program has chosen."""
        self._peers[peer.address] = peer
        self._unvalidated[peer] = None

    def replace_socket(self, socket: DatagramSocket, peer: PeerT) -> None:
        """Close the socket, and continue with one that is connected to another address of ``peer``, the only one."""
        if peer._ended:
            socket.close()
            return
        self.socket.close()
        self.socket = socket
        del self._peers[peer.address]
        peer.address = socket.remote_address
        self._peers[peer.address] = peer

    def validate(self, peer: PeerT) -> None:
        """Note that a peer has proved its address."""
        if peer in self._unvalidated:
            del self._unvalidated[peer]
            peer._validated = True
            self._unvalidated_bytes -= peer._queued_bytes
            # The proof was a datagram, perhaps one that was queued for long.
            peer._last_received = trio.current_time()
            self._validated[peer] = None
            self._expect(peer._last_received + self.limits.timeout(validated=True))

    def expire(self, peer: PeerT) -> None:
        """End a peer that was idle too long; its queued datagrams can still be received."""
        self._expired += 1
        self._end(peer)

    def close(self, peer: PeerT) -> None:
        """End a peer because the program closed its channel, and discard its queued datagrams."""
        self.discard(peer)
        if not peer._ended:
            self._closed += 1
            self._end(peer)

    def _end(self, peer: PeerT) -> None:
        peer._ended = True
        del self._peers[peer_key(peer.address)]
        self._unvalidated.pop(peer, None)
        self._validated.pop(peer, None)
        if peer._handler is not None:
            self._lingering[peer] = None
        self._networks.remove(peer._network)
        if peer in self.backlog:
            # No channel will deliver its datagrams.
            del self.backlog[peer]
            self.discard(peer)
        self.recheck(peer)
        self.close_if_done()

    def discard(self, peer: PeerT) -> None:
        """Discard the queued datagrams of a peer."""
        if peer._queue is not None:
            self._discarded += len(peer._queue)
            self._total_bytes -= peer._queued_bytes
            if not peer._validated:
                self._unvalidated_bytes -= peer._queued_bytes
            peer._queue = None
            peer._queued_bytes = 0

    def stop_accepting(self) -> None:
        """Admit no more peers, and close those in the backlog."""
        self.accepting = False
        self.recheck(None)
        while self.backlog:
            self.close(next(iter(self.backlog)))
        self.close_if_done()

    def drain(self) -> None:
        """Read no more from the kernel, and dispatch what was read ahead."""
        self._dispatch(self.socket._inbox.stop())
        self.draining = True
        self.recheck(None)
        for peer in list(self.receivers):
            self._wake_receiver(peer)

    def close_if_done(self) -> None:
        """Close the socket once the listener is closed and no peer is left."""
        if not self.accepting and not self._peers:
            self.socket.close()
