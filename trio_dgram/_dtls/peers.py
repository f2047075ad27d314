"""The peers of one DTLS listener: which handshakes are in progress, which peers are admitted, and when they end.

Rule 1: at most ``max_handshakes`` handshakes are in progress; the oldest is cancelled in favour of a new one.
Rule 2: at most ``max_peers`` sessions have a place. An ended one whose handler still runs loses its place first. The
    handshake proves the address, so no other session is evicted: the new one is refused.
Rule 3: a handshake counts for its network from its beginning, so that one network cannot take all places of Rule 1
    where networks have a limit.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable

import trio

from .._services.log import RateLimitedLog
from .._services.networks import NetworkCounts
from .._socket.interrupts import defer_interrupts
from .._values.statistics import DTLSListenerStatistics
from .endpoint_socket import EndpointSocket
from .limits import DTLSLimits
from .session import Session

_log = logging.getLogger("trio_dgram")


@defer_interrupts
class DTLSPeers:
    """The peers of one listener.

    Args:
      sock: the endpoint's socket.
      limits: the limits.
      on_admitted: called when a peer waits to be accepted.
      on_left: called when a session has lost its place.
    """

    def __init__(
        self, sock: EndpointSocket, limits: DTLSLimits, on_admitted: Callable[[], object], on_left: Callable[[], object]
    ) -> None:
        self.admitting: bool = True
        self.backlog: deque[Session] = deque()
        """The sessions that wait to be accepted."""
        self._sock = sock
        self._limits = limits
        self._on_admitted = on_admitted
        self._on_left = on_left
        self._log = RateLimitedLog(_log)
        self._handshakes: OrderedDict[Session, trio.CancelScope] = OrderedDict()
        self._open: dict[Session, None] = {}
        # The session that ended first is the first.
        self._ended: OrderedDict[Session, None] = OrderedDict()
        self._networks = NetworkCounts(limits.max_peers_per_network)
        self._begun = self._failed = self._cancelled = 0
        self._accepted = self._refused = self._refused_by_network = 0
        self._replaced = self._expired = self._closed = self._handlers_cancelled = self._dropped = 0

    @property
    def places(self) -> int:
        """How many sessions have a place."""
        return len(self._open) + len(self._ended)

    def statistics(self) -> DTLSListenerStatistics:
        """Return the counts."""
        return DTLSListenerStatistics(
            handshakes=self._begun,
            handshaking=len(self._handshakes),
            handshakes_failed=self._failed,
            handshakes_evicted=self._cancelled,
            peers=len(self._open),
            accepted=self._accepted,
            waiting=len(self.backlog),
            refused=self._refused,
            refused_by_network=self._refused_by_network,
            evicted=self._replaced,
            expired=self._expired,
            closed=self._closed,
            handlers_cancelled=self._handlers_cancelled,
            dropped=self._dropped + sum(session.all_dropped for session in (*self._open, *self._ended)),
        )

    async def attend(self, secured: trio.DTLSChannel) -> None:
        """Take part in a handshake that a peer has begun, then keep the session until it has no place any more.

        Trio closes its channel when this returns.
        """
        sockaddr = secured.peer_address
        session = Session(secured, self._sock, self._sock.latest_from(sockaddr), connected=False)
        self._begun += 1
        former = self._sock.peers.get(sockaddr)
        if isinstance(former, Session) and former in self._open:
            self._end(former)
            former.replaced = True
            self._replaced += 1
        if self._is_full:
            self._refused += 1
            return
        network = self._networks.find(session.address.host)
        if network is None:
            self._refused_by_network += 1
            return
        self._networks.add(network)
        self._sock.peers[sockaddr] = session
        try:
            if await self._handshake(session):
                await self._keep(session)
        finally:
            if self._sock.peers.get(sockaddr) is session:
                del self._sock.peers[sockaddr]
            self._networks.remove(network)

    # Handshakes

    @property
    def _is_full(self) -> bool:
        return not self.admitting or (self.places >= self._limits.max_peers and not self._ended)

    async def _handshake(self, session: Session) -> bool:
        """Return whether the handshake succeeds and the peer is admitted."""
        timeout = self._limits.handshake_timeout
        scope = trio.CancelScope(deadline=trio.current_time() + timeout)
        self._handshakes[session] = scope
        if len(self._handshakes) > self._limits.max_handshakes:
            self._cancel_oldest()
        error: Exception | None = None
        is_done = False
        try:
            try:
                await session.shake_hands(scope)
            except Exception as failure:  # noqa: BLE001 -- also what the program's callbacks of the context raise
                error = failure
            is_done = True
        finally:
            # One that was cancelled in favour of another is counted.
            is_current = self._handshakes.pop(session, None) is not None
            self._failed += is_current and not is_done
        if not is_current:
            return False
        if error is None and scope.cancelled_caught:
            error = trio.TooSlowError(f"not finished within {timeout} s")
        if error is None:
            return self._admit(session)
        self._failed += 1
        self._log.report(
            type(error).__name__, "the DTLS handshake of %s failed: %s", session.name, error, level=logging.WARNING
        )
        return False

    def _cancel_oldest(self) -> None:
        session, scope = self._handshakes.popitem(last=False)
        scope.cancel()
        self._cancelled += 1
        self._log.report(
            "evicted",
            "the DTLS handshake of %s was cancelled: max_handshakes (%d) others began later",
            session.name,
            self._limits.max_handshakes,
            level=logging.WARNING,
        )

    # Sessions

    def _admit(self, session: Session) -> bool:
        if self._is_full:
            self._refused += 1
            return False
        if self.places >= self._limits.max_peers:
            self._evict_ended()
        self._accepted += 1
        self._open[session] = None
        session.on_close = self._on_close
        self.backlog.append(session)
        self._on_admitted()
        return True

    async def _keep(self, session: Session) -> None:
        """Wait until the session has no place any more; end it when its peer is silent for too long."""
        while not session.released.is_set():
            is_open = session in self._open
            deadline = session.last_received + self._limits.longest_silence if is_open else math.inf
            with trio.CancelScope(deadline=deadline):
                await session.released.wait()
            if session in self._open and trio.current_time() >= session.last_received + self._limits.longest_silence:
                self._expire(session)

    def _expire(self, session: Session) -> None:
        self._end(session)
        self._expired += 1
        if session in self.backlog:
            session.close()

    def _end(self, session: Session) -> None:
        """End a session; it keeps its place until its channel is closed, or another session needs the place."""
        del self._open[session]
        self._ended[session] = None
        session.end()

    def _evict_ended(self) -> None:
        """Take the place of the session that ended first, and cancel its handler."""
        session, _ = self._ended.popitem(last=False)
        if session.handler is not None:
            session.handler.cancel()
            self._handlers_cancelled += 1
        self._dropped += session.all_dropped
        session.released.set()

    def _on_close(self, session: Session) -> None:
        if session in self._open:
            del self._open[session]
            if session.replaced:
                self._replaced += 1
            else:
                self._closed += 1
            self._dropped += session.all_dropped
        elif session in self._ended:
            del self._ended[session]
            self._dropped += session.all_dropped
        if session in self.backlog:
            self.backlog.remove(session)
        self._on_left()

    def stop(self) -> None:
        """Admit no peer any more: close the sessions that wait to be accepted, and cancel the handshakes."""
        self.admitting = False
        for session in list(self.backlog):
            session.close()
        self._failed += len(self._handshakes)
        for scope in self._handshakes.values():
            scope.cancel()
        self._handshakes.clear()

    # Networks
