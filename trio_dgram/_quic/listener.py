"""The connections that one socket of a server accepts.

Rule 1: at most ``max_handshakes`` handshakes are in progress; the oldest is evicted for a new one.
Rule 2: at most ``max_connections`` connections are counted, each until it and its handler have ended. The handshake
proves the address, so none is evicted: the new connection is refused.
Rule 3: a handshake counts for its network from its beginning.
"""

from __future__ import annotations

from collections import Counter

import trio

from .._services.networks import NetworkCounts
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, format_address
from .._values.construction import NoPublicConstructor, create
from .._values.statistics import QuicListenerStatistics, SocketStatistics
from .connection import Connection
from .errors import CONNECTION_REFUSED, INTERNAL_ERROR
from .limits import QuicLimits
from .session import Session


@defer_interrupts
class Listener(trio.abc.Listener[Connection], metaclass=NoPublicConstructor):
    """Accepts the connections of one address family: :func:`serve` creates it."""

    _created_by = "quic.serve()"

    def __init__(self, socket: DatagramSocket, limits: QuicLimits, drain_timeout: float) -> None:
        self._address = socket.address
        self._socket = socket
        self._limits = limits
        self._drain_timeout = drain_timeout
        self._is_open = True
        self._failure: OSError | None = None
        self._accepters = trio.lowlevel.ParkingLot()
        # The oldest is the first.
        self._handshaking: dict[Session, str] = {}
        self._waiting: dict[Session, Connection] = {}
        self._places: dict[Session, str] = {}
        self._networks = NetworkCounts(limits.max_connections_per_network)
        self._counts: Counter[str] = Counter()

    @property
    def address(self) -> Address:
        """The local address, also after the listener was closed."""
        return self._address

    def statistics(self) -> QuicListenerStatistics:
        """Return the listener's counts, also after its end."""
        counts = self._counts
        return QuicListenerStatistics(
            handshakes=counts["handshakes"],
            handshaking=len(self._handshaking),
            handshakes_failed=counts["failed"],
            handshakes_evicted=counts["evicted"],
            connections=len(self._places),
            accepted=counts["accepted"],
            waiting=len(self._waiting),
            closed=counts["closed"],
            refused=counts["refused"],
            refused_by_network=counts["refused_by_network"],
            refused_by_filter=counts["refused_by_filter"],
            retries=counts["retries"],
            negotiations=counts["negotiations"],
            ignored=counts["ignored"],
        )

    def socket_statistics(self) -> SocketStatistics:
        """Return the counts of the listener's socket, also after its end."""
        return self._socket.statistics()

    async def accept(self) -> Connection:
        """Wait for a connection whose handshake is done; :func:`serve` does that.

        Raises:
          trio.ClosedResourceError: if the listener is closed, or is closed meanwhile.
          OSError: the kernel's error if it has ended receiving.

        Always a checkpoint. A cancelled call has accepted no connection.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            if not self._is_open:
                raise trio.ClosedResourceError("this listener was closed")
            if self._waiting:
                return self._waiting.pop(next(iter(self._waiting)))
            await self._accepters.park()

    def close(self) -> None:
        """Refuse new connections, and those that wait for their handlers; open ones continue.

        Closing twice does nothing.
        """
        self._is_open = False
        for session in (*self._handshaking, *self._waiting):
            session.fail(CONNECTION_REFUSED, "")
        self._accepters.unpark_all()

    async def aclose(self) -> None:
        """Close the listener as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        state = "listening" if self._is_open else "closed"
        return f"<trio_dgram.quic.Listener on {format_address(self._address)}, {state}>"

    # The handshakes

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    @property
    def _is_under_load(self) -> bool:
        return 2 * len(self._handshaking) >= self._limits.max_handshakes

    @property
    def _is_full(self) -> bool:
        return not self._is_open or len(self._places) >= self._limits.max_connections

    def _admit(self, address: Address) -> str | None:
        """Return the network of a handshake that may begin; None if it is refused, which is counted."""
        self._count("handshakes")
        if self._is_full:
            self._count("refused")
            return None
        network = self._networks.find(address.host)
        if network is None:
            self._count("refused_by_network")
        return network

    def _add(self, session: Session, network: str) -> None:
        """Count a handshake that has begun."""
        self._networks.add(network)
        self._handshaking[session] = network
        session.handshake_deadline = trio.current_time() + self._limits.handshake_timeout
        session.on_established = self._on_established
        session.on_handler_ended = self._on_handler_ended
        if len(self._handshaking) > self._limits.max_handshakes:
            oldest = next(iter(self._handshaking))
            self._leave(self._handshaking, oldest)
            self._count("evicted")
            oldest.fail(CONNECTION_REFUSED, "")

    def _on_established(self, session: Session) -> None:
        network = self._handshaking.pop(session)
        if self._is_full:
            self._count("refused")
            self._networks.remove(network)
            session.refuse()
            return
        self._count("accepted")
        self._places[session] = network
        self._waiting[session] = create(Connection, session, self._drain_timeout)
        self._accepters.unpark()

    # Their end

    def _on_end(self, session: Session) -> bool:
        """Process the end of a connection; return whether its handshake has failed."""
        if session in self._handshaking:
            self._leave(self._handshaking, session)
            self._count("failed")
            return True
        if self._waiting.pop(session, None) is not None:
            self._on_handler_ended(session)
        return False

    def _on_handler_ended(self, session: Session) -> None:
        self._leave(self._places, session)
        self._count("closed")

    def _leave(self, sessions: dict[Session, str], session: Session) -> None:
        self._networks.remove(sessions.pop(session))

    def _fail(self, error: OSError) -> None:
        """Raise ``error`` in ``accept`` from now on: no task reads the socket any more."""
        self._failure = error
        for session in (*self._handshaking, *self._places):
            session.fail(INTERNAL_ERROR, "")
        self._accepters.unpark_all()
