"""One connection: between its engine, which never waits, and the tasks that use its streams.

Input of the peer reaches the engine first (:meth:`Session.receive`) and then the streams, as the events that the engine
reports. Operations of tasks reach the engine first and then, by ``on_change``, the task that sends the flights.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TypeAlias

import trio

from .._services.log import RateLimitedLog, cause_of
from .._socket.interrupts import defer_interrupts
from .._values.addresses import format_address
from .._values.construction import create
from .._values.datagrams import Datagram
from .._values.statistics import QuicConnectionStatistics
from .configuration import Configuration
from .datagrams import DatagramFrames
from .engine import Engine, version
from .errors import APPLICATION_ERROR, CONNECTION_REFUSED, INTERNAL_ERROR, Closed
from .paths import Path, Paths
from .state import ConnectionState
from .stream_table import StreamTable

# ruff: noqa: SLF001 -- members for the session are private, so that programs do not see them


def _ignore(*_: object) -> None:
    """Do nothing: a client has no table of connection IDs."""


@defer_interrupts
class Session:
    """A connection.

    Args:
      engine: its engine.
      configuration: its settings.
      path: the path to its peer.
      log: the log of failures.
    """

    def __init__(self, engine: Engine, configuration: Configuration, path: Path, log: RateLimitedLog) -> None:
        self.engine: Engine = engine
        self.state: ConnectionState = ConnectionState(engine, configuration)
        self.log: RateLimitedLog = log
        self.paths: Paths = Paths(path)
        self.handshake_deadline: float = inf
        self.armed: list[float] = [inf]
        """The times at which the timer of the endpoint fires for this connection, the next one last."""
        self.changed: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        """The tasks that wait for the end of the handshake, and of the connection."""
        self.is_established: bool = False
        self.on_received: Callable[[Session], object] = bool
        self.on_established: Callable[[Session], object] = bool
        self.on_id_issued: Callable[[Session, bytes], object] = _ignore
        self.on_id_retired: Callable[[Session, bytes], object] = _ignore
        self.on_end: Callable[[Session], object] = bool
        self.on_handler_ended: Callable[[Session], object] = bool
        self.send_now: Callable[[Flight], object] = bool
        """Sends a flight without waiting."""
        self.farewell: bytes = b""
        """The datagram that has closed the connection, if this end has closed it."""
        self.datagrams: DatagramFrames = create(DatagramFrames, self.state)
        self.streams: StreamTable = StreamTable(self.state)
        self._pings: dict[int, float | None] = {}
        self._ping_count = 0
        self._keep_alive_at = inf
        self._received = self._bytes_received = self._sent = self._bytes_sent = self._migrations = 0

    # Input

    def receive(self, path: Path) -> None:
        """Feed a datagram of the peer to the engine; :meth:`settle` follows the last one of a batch."""
        data, address, _ = path.latest
        self._received += 1
        self._bytes_received += len(data)
        try:
            self.engine.receive_datagram(data, address, trio.current_time())
        except Exception as error:  # noqa: BLE001 -- a mistake of the engine ends this connection alone
            self._on_mistake(error)
        # A datagram that is not authentic has any source, and must not evict the path that the peer may return to.
        if self.engine.has_path(address):
            self.paths.note(path)
        self.engine.drain(self)
        self.on_received(self)

    def handle_timer(self, now: float) -> None:
        """Execute the timers that are due."""
        if now >= self.handshake_deadline:
            self.fail(INTERNAL_ERROR, "the handshake takes too long")
            return
        if now >= self._keep_alive_at:
            self._ping(None)
        at = self.engine.get_timer()
        if at is not None and at <= now:
            try:
                self.engine.handle_timer(now)
            except Exception as error:  # noqa: BLE001 -- as in receive
                self._on_mistake(error)
        self.engine.drain(self)
        self.settle()

    @property
    def next_timer(self) -> float:
        """The time at which :meth:`handle_timer` is due."""
        at = self.engine.get_timer()
        return min(inf if at is None else at, self.handshake_deadline, self._keep_alive_at)

    def _on_mistake(self, error: Exception) -> None:
        self.log.report(cause_of(error), "the QUIC engine failed on %s", self.name, exc_info=error)
        self.engine.end(INTERNAL_ERROR, application=False)

    def settle(self) -> None:
        """Process the consequences of the peer's input: a new path, the end, progress, the next flight."""
        address = self.engine.get_peer_address()
        if address is not None and self.paths.use(address):
            self._migrations += 1
        self._check_engine()
        if self.engine.closed is not None:
            self._end()
        else:
            self.state.on_change()
            self.state.progress.unpark_all()

    def _check_engine(self) -> None:
        violation = self.engine.violation()
        if violation is not None and self.engine.closed is None:
            self.log.report("violation", "aioquic %s does not keep to our credit: %s", version(), violation)
            self.engine.end(INTERNAL_ERROR, application=False)

    # Output

    def flight(self, now: float) -> Flight:
        """Return the datagrams to send now."""
        try:
            datagrams = self.engine.datagrams_to_send(now)
        except Exception as error:  # noqa: BLE001 -- as in receive
            datagrams = []
            if self.state.closed is None:
                self._on_mistake(error)
                self._end()
        self.engine.drain(self)
        if datagrams:
            self._sent += len(datagrams)
            self._bytes_sent += sum(len(data) for data, _ in datagrams)
            self.state.progress.unpark_all()
        self.streams.collect()
        flight: Flight = []
        for data, address in datagrams:
            path = self.paths.to(address)
            flight.append((self, path, path.latest.reply(data)))
        return flight

    # Its end

    def close(self, code: int, reason: str) -> None:
        """Close the connection for the program: the peer is informed at once."""
        if self.state.closed is None:
            self.state.closed_here = True
            self.engine.end(code, reason, application=True)
            self._end()

    def fail(self, code: int, reason: str) -> None:
        """End the connection with an error of QUIC."""
        self.engine.end(code, reason, application=False)
        self._end()

    def refuse(self) -> None:
        """Refuse the connection with the next flight: the listener is at its limit."""
        self.engine.end(CONNECTION_REFUSED, application=False)

    def _end(self) -> None:
        if self.state.closed is not None:
            return
        self.state.closed = self.engine.closed
        flight = self.flight(trio.current_time())
        if flight:
            self.farewell = flight[0][2].data
            self.send_now(flight)
        self._finish_log()
        self.on_end(self)
        self.changed.unpark_all()
        self.state.progress.unpark_all()
        self.streams.wake()
        self.datagrams._wake()

    def _finish_log(self) -> None:
        try:
            self.engine.finish()
        except OSError as error:
            self.log.report(cause_of(error), "the qlog of %s was not written: %s", self.name, error)

    @property
    def closed(self) -> Closed | None:
        """The end of the connection, None before."""
        return self.state.closed

    async def drain(self) -> None:
        """Wait until the peer has acknowledged the streams that were ended, or the connection ends."""
        await trio.lowlevel.checkpoint()
        while self.state.closed is None and not self._is_drained():
            await self.state.progress.park()

    def _is_drained(self) -> bool:
        engine = self.engine
        return not engine.unsent_datagrams and all(map(engine.is_delivered, self.state.finishing))

    # Events of the engine

    def handshake_completed(self) -> None:
        """Record the end of the handshake."""
        self.is_established = True
        self.handshake_deadline = inf
        self._restart_keep_alive()
        self.on_established(self)
        self.changed.unpark_all()

    def stream_received(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Pass on bytes of a stream."""
        self.streams.receive(stream_id, data, end=end)

    def stream_reset(self, stream_id: int, code: int) -> None:
        """Pass on the reset of a stream."""
        if not self.streams.reset(stream_id, code):
            self.engine.end(APPLICATION_ERROR, "rapid reset", application=False)

    def stream_stopped(self, stream_id: int, code: int) -> None:
        """Pass on that the peer has stopped a stream."""
        self.streams.stop(stream_id, code)

    def datagram_received(self, data: bytes) -> None:
        """Pass on a datagram."""
        self.datagrams._put(data)

    def ping_acknowledged(self, uid: int) -> None:
        """Record the answer to a ping."""
        if uid in self._pings:
            self._pings[uid] = trio.current_time()

    def id_issued(self, connection_id: bytes) -> None:
        """Pass on a connection ID."""
        self.on_id_issued(self, connection_id)

    def id_retired(self, connection_id: bytes) -> None:
        """Pass on the end of a connection ID."""
        self.on_id_retired(self, connection_id)

    # The connection

    async def ping(self) -> float:
        """Send a PING frame and return the seconds until it was acknowledged."""
        await trio.lowlevel.checkpoint()
        self.state.check_open()
        begin = trio.current_time()
        uid = self._ping_count = self._ping_count + 1
        self._pings[uid] = None
        try:
            self._ping(uid)
            while (end := self._pings[uid]) is None:
                await self.state.progress.park()
                self.state.check_open()
        finally:
            del self._pings[uid]
        return end - begin

    def _ping(self, uid: int | None) -> None:
        self.engine.send_ping(0 if uid is None else uid)
        self._restart_keep_alive()
        self.state.on_change()

    def _restart_keep_alive(self) -> None:
        interval = self.state.configuration.keep_alive
        if interval is not None:
            self._keep_alive_at = trio.current_time() + interval

    def replace_socket(self, path: Path) -> None:
        """Continue by another socket, and with another connection ID (RFC 9000, 9.5)."""
        self.paths.replace_socket(path)
        self._migrations += 1
        self.engine.change_connection_id()
        self._ping(None)

    def statistics(self) -> QuicConnectionStatistics:
        """Return the counts."""
        return QuicConnectionStatistics(
            received=self._received,
            bytes_received=self._bytes_received,
            sent=self._sent,
            bytes_sent=self._bytes_sent,
            lost=self.engine.lost,
            rtt=self.engine.rtt,
            congestion_window=self.engine.congestion_window,
            migrations=self._migrations,
            streams=self.streams.count,
            datagrams_dropped=self.datagrams.dropped,
        )

    @property
    def name(self) -> str:
        """The address of the peer, for messages."""
        return format_address(self.paths.current.latest.address)


Flight: TypeAlias = list[tuple[Session, Path, Datagram]]
"""Datagrams to send, with their connection and their path."""
