"""The peers of one socket: which datagram is whose, who is let in, and who reads for all.

Rule 1: whichever task waits, for a new peer or for a datagram of one, reads for all of them, and hands that on when it
    has what it waited for. Nothing runs in the background.
Rule 2: nobody is read for so that others must wait: what a peer has no room for is dropped, and counted.
Rule 3: a peer that has not been validated makes room for a newcomer; one that has does not.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio

from .._socket.budget import Budget, current_budget
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address
from .._values.datagrams import Datagram
from .._values.statistics import ListenerStatistics
from .limits import PeerLimits, network_of

_log = logging.getLogger("trio_dgram")

_BATCH: Final = 100
"""How many datagrams are sorted before those they are for have their turn: about what a receive buffer holds, so that a
flood leaves room for others' as soon as it can, and so few that most of the peers there may be outlive it."""


@defer_interrupts
class Peer:
    """What the table knows of one peer; its channel adds what a program does with it."""

    __slots__ = (
        "address",
        "bytes_received",
        "dropped",
        "ended",
        "last_heard",
        "network",
        "queue",
        "queued_bytes",
        "validated",
    )

    def __init__(self, address: Address, now: float) -> None:
        self.address: Address = address
        self.queue: deque[bytes] | None = None
        """What waits to be received; never empty."""
        self.queued_bytes: int = 0
        self.bytes_received: int = 0
        self.dropped: int = 0
        self.validated: bool = False
        self.ended: bool = False
        self.last_heard: float = now
        self.network: str = ""
        """What it counts for, where networks have a limit."""


PeerT = TypeVar("PeerT", bound=Peer)


@defer_interrupts
class PeerTable(Generic[PeerT]):
    """The peers of one socket."""

    def __init__(
        self, socket: DatagramSocket, limits: PeerLimits, make: Callable[[PeerTable[PeerT], Address, float], PeerT]
    ) -> None:
        self.socket: DatagramSocket = socket
        self.limits: PeerLimits = limits
        self.budget: Budget = current_budget()
        self.accepting: bool = True
        self.backlog: OrderedDict[PeerT, None] = OrderedDict()
        self.amplification_refused: int = 0
        self.dropped: int = 0
        self.reader: trio.lowlevel.Task | None = None
        """Who reads for all, or has been woken to do so."""
        self.receivers: dict[PeerT, trio.lowlevel.Task] = {}
        """Who waits for a peer's datagram while another reads: woken when something has come, or to read."""
        self._make = make
        self._peers: dict[Address, PeerT] = {}
        # In the order of their last activity, so that the one idle longest is found at once.
        self._unvalidated: OrderedDict[PeerT, None] = OrderedDict()
        self._validated: OrderedDict[PeerT, None] = OrderedDict()
        self._networks: dict[str, int] = {}
        self._reading: trio.CancelScope | None = None
        self._reader_has_come: Callable[[], bool] = bool
        self._due: float = math.inf
        self._accepters: dict[trio.lowlevel.Task, None] = {}
        self._orders = ((self._unvalidated, False), (self._validated, True))
        self._total_bytes = 0
        self._accepted = self._refused = self._refused_by_filter = self._refused_by_network = 0
        self._evicted = self._expired = 0
        self._received = self._kept = self._delivered = self._discarded = 0

    def statistics(self) -> ListenerStatistics:
        """Return the counts."""
        return ListenerStatistics(
            received=self._received,
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
            dropped=self.dropped,
            buffered_bytes=self._total_bytes,
            amplification_refused=self.amplification_refused,
        )

    # Waiting

    async def read_until(self, has_come: Callable[[], bool]) -> None:
        """Read for all until ``has_come()``, then let another go on."""
        self.reader = trio.lowlevel.current_task()
        try:
            while not has_come():
                await self._read(has_come)
        finally:
            self.reader = self._wake_any()

    async def wait_for_peer(self, has_come: Callable[[], bool]) -> None:
        """Wait until ``has_come()``: a peer that nobody has accepted."""
        task = trio.lowlevel.current_task()

        def give_up(_: object) -> trio.lowlevel.Abort:
            del self._accepters[task]
            return trio.lowlevel.Abort.SUCCEEDED

        while not has_come():
            if self.reader is not None:
                self._accepters[task] = None
                await trio.lowlevel.wait_task_rescheduled(give_up)
            if self.reader is None or self.reader is task:
                await self.read_until(has_come)

    async def _read(self, has_come: Callable[[], bool]) -> None:
        """Read for all until ``has_come()``, or until a peer is to be given up."""
        self._reader_has_come = has_come
        self._due = self._next_expiry()
        self._reading = trio.CancelScope(deadline=self._due)
        try:
            with self._reading:
                while not has_come():
                    self._sort(await self.socket.receive_many(_BATCH))
        finally:
            self._reading = None
        self._expire_overdue(trio.current_time())

    def _wake_any(self) -> trio.lowlevel.Task | None:
        """Wake somebody to read for the others, if anybody waits: one who waits for a new peer, which is rare, can go
        on for long."""
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

    def look_again(self, peer: PeerT | None) -> None:
        """Let who waits for ``peer``, or for a new one, ask again whether it has come."""
        if peer is None:
            while self._accepters:
                self._wake_accepter()
        else:
            self._wake_receiver(peer)
        if self._reading is not None and self._reader_has_come():
            # It has consumed nothing then.
            self._reading.cancel()

    def _expect(self, expiry: float) -> None:
        """See to it that whoever reads looks then whether a peer is overdue, if he would not have before."""
        if self._reading is not None and expiry < self._due:
            self._reading.deadline = self._due = expiry

    def _next_expiry(self) -> float:
        """Return when the peer is to be given up that is idle longest."""
        limits = self.limits
        times = [
            next(iter(order)).last_heard + limits.patience(validated=validated)
            for order, validated in self._orders
            if order
        ]
        return min(times, default=math.inf)

    def _expire_overdue(self, now: float) -> None:
        for order, validated in self._orders:
            patience = self.limits.patience(validated=validated)
            while order:
                oldest = next(iter(order))
                if now < oldest.last_heard + patience:
                    break
                self.expire(oldest)

    # Sorting

    def _sort(self, datagrams: list[Datagram]) -> None:
        # In one loop without calls of our own: they would cost a quarter of what sorting a datagram does.
        now = trio.current_time()
        self._received += len(datagrams)
        known, waiting, wake = self._peers.get, self.receivers.pop, trio.lowlevel.reschedule
        validated, unvalidated = self._validated, self._unvalidated
        limits = self.limits
        for datagram in datagrams:
            data, address, _ = datagram
            peer = known(address)
            if peer is None:
                peer = self._admit(datagram, now)
                if peer is None:
                    continue
            peer.last_heard = now
            (validated if peer.validated else unvalidated).move_to_end(peer)
            size = len(data)
            peer.bytes_received += size
            queue = peer.queue
            if (
                (queue is not None and len(queue) >= limits.max_buffer_size)
                or peer.queued_bytes + size > limits.max_buffer_bytes
                or self._total_bytes + size > limits.max_total_bytes
            ):
                peer.dropped += 1
                self.dropped += 1
                continue
            if queue is None:
                peer.queue = deque((data,))
            else:
                queue.append(data)
            peer.queued_bytes += size
            self._total_bytes += size
            self._kept += 1
            task = waiting(peer, None)
            if task is not None:
                wake(task)

    def take(self, peer: PeerT) -> bytes | None:
        """Return the next datagram of a peer, if there is one."""
        queue = peer.queue
        if queue is None:
            return None
        data = queue.popleft()
        size = len(data)
        peer.queued_bytes -= size
        self._total_bytes -= size
        self._delivered += 1
        if not queue:
            # Most peers are idle most of the time, and an empty queue is larger than all else of them.
            peer.queue = None
        return data

    def heard(self, peer: PeerT, now: float) -> None:
        """Note that something came from or went to a peer."""
        peer.last_heard = now
        (self._validated if peer.validated else self._unvalidated).move_to_end(peer)

    # Coming and going

    def _admit(self, datagram: Datagram, now: float) -> PeerT | None:
        network = ""
        if not self.accepting:
            self._refused += 1
            return None
        if not self._passes_filter(datagram):
            self._refused_by_filter += 1
            return None
        if self.limits.max_peers_per_network is not None:
            network, which = network_of(datagram.address.host)
            if self._networks.get(network, 0) >= self.limits.max_peers_per_network[which]:
                self._refused_by_network += 1
                return None
        if len(self._peers) >= self.limits.max_peers and not self._make_room():
            self._refused += 1
            return None
        peer = self._make(self, datagram.address, now)
        self._peers[datagram.address] = peer
        self._unvalidated[peer] = None
        if network:
            peer.network = network
            self._networks[network] = self._networks.get(network, 0) + 1
        self._expect(now + self.limits.patience(validated=False))
        self._accepted += 1
        self.backlog[peer] = None
        if self._accepters:
            self._wake_accepter()
        return peer

    def _passes_filter(self, datagram: Datagram) -> bool:
        if self.limits.accept_filter is None:
            return True
        try:
            return self.limits.accept_filter(datagram)
        except Exception:  # noqa: BLE001 -- whatever it is, it is logged
            # It is no fault of the task that happens to read.
            _log.exception("accept_filter failed on a datagram from %s", datagram.address)
            return False

    def _make_room(self) -> bool:
        """Let the unvalidated peer go that is idle longest, if there is one."""
        oldest = next(iter(self._unvalidated), None)
        if oldest is None:
            return False
        self._evicted += 1
        self.end(oldest)
        return True

    def add(self, peer: PeerT) -> None:
        """Take in the peer that the program has chosen."""
        self._peers[peer.address] = peer
        self._unvalidated[peer] = None

    def validate(self, peer: PeerT) -> None:
        """Note that a peer has the address that it says."""
        if peer in self._unvalidated:
            del self._unvalidated[peer]
            self._validated[peer] = None
            peer.validated = True
            self.heard(peer, trio.current_time())
            self._expect(peer.last_heard + self.limits.idle_timeout)

    def expire(self, peer: PeerT) -> None:
        """Give up a peer that is idle too long."""
        self._expired += 1
        self.end(peer)

    def end(self, peer: PeerT) -> None:
        """Let a peer go; what it has sent can still be received."""
        if peer.ended:
            return
        peer.ended = True
        del self._peers[peer.address]
        self._unvalidated.pop(peer, None)
        self._validated.pop(peer, None)
        if peer.network:
            self._networks[peer.network] -= 1
            if not self._networks[peer.network]:
                del self._networks[peer.network]
        if peer in self.backlog:
            # Nobody will have what it has sent: else what is kept would grow with every newcomer.
            del self.backlog[peer]
            self.discard(peer)
        self.look_again(peer)
        self.close_if_done()

    def discard(self, peer: PeerT) -> None:
        """Throw away what a peer has sent."""
        if peer.queue is not None:
            self._discarded += len(peer.queue)
            self._total_bytes -= peer.queued_bytes
            peer.queue = None
            peer.queued_bytes = 0

    def stop_accepting(self) -> None:
        """Let nobody else in; those that nobody has accepted go."""
        self.accepting = False
        self.look_again(None)
        while self.backlog:
            self.end(next(iter(self.backlog)))
        self.close_if_done()

    def close_if_done(self) -> None:
        """Close the socket once nobody accepts and no peer is left."""
        if not self.accepting and not self._peers:
            self.socket.close()
