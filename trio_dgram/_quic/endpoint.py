"""The endpoint of connections: the sockets, a task that reads each of them, and one task for sending and timers.

Rule 1: only :meth:`Endpoint._drive` waits until a socket accepts a flight. Tasks of the program change the state of an
engine and mark its connection as changed, so cancelling them interrupts no flight.
Rule 2: a flight is one ``send_many``, of all connections that have changed since the last one.
Rule 3: connections answer only after all datagrams of a batch were fed to them.
Rule 4: a connection that has closed sends its last flight at once, without waiting, also while all tasks end.
"""

from __future__ import annotations

import errno
import heapq
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import count, groupby
from math import inf
from types import TracebackType
from typing import Any, Final, Self

import trio

from .._services.log import RateLimitedLog
from .._services.sockets import is_reported_by_network
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.datagrams import Datagram
from .._values.errors import SendManyError
from .packets import SMALLEST_DATAGRAM
from .paths import Path
from .session import Flight, Session

_SHORTEST_WAIT: Final = 2e-5
"""Seconds. aioquic's pacing rounds slightly early, so that a timer would fire endlessly at one instant."""
_READ_AT_ONCE: Final = 64
"""The batch size of receiving. Decrypting a datagram costs about 0.1 ms, so this bounds the time without other
tasks."""
_SENT_AT_ONCE: Final = 64
"""The number of datagrams from which a flight includes no further connection."""


@defer_interrupts
class Endpoint:
    """The tasks of connections, as an asynchronous context manager.

    Args:
      receive: feeds a datagram to its connection, if there is one.
      on_error: called with an error that the network has reported, or that ends receiving.
    """

    def __init__(self, receive: Callable[[Path], object], on_error: Callable[[OSError], object]) -> None:
        self.log = RateLimitedLog(logging.getLogger("trio_dgram"))
        self._receive = receive
        self._on_error = on_error
        self._fed: dict[Session, None] = {}
        self._changed: dict[Session, None] = {}
        # The times of the connections' timers; the number makes entries of one time comparable.
        self._timers: list[tuple[float, int, Session]] = []
        self._numbers = count()
        self._driver = trio.lowlevel.ParkingLot()
        self._sockets: list[DatagramSocket] = []
        self._manager: Any = None
        self._nursery: trio.Nursery

    async def __aenter__(self) -> Self:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._drive)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The tasks raise nothing, and the nursery does not see the block's exception, so that it propagates unchanged.
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        try:
            await self._manager.__aexit__(None, None, None)
        finally:
            for sock in self._sockets:
                sock.close()

    def add_socket(self, sock: DatagramSocket) -> None:
        """Read a socket from now on, and close it at the end."""
        self._sockets.append(sock)
        self._nursery.start_soon(self._read, sock)

    def remove_socket(self, sock: DatagramSocket) -> None:
        """Close a socket."""
        self._sockets.remove(sock)
        sock.close()

    def add(self, session: Session) -> None:
        """Drive a connection from now on."""
        session.on_received = self._on_received
        session.state.on_change = lambda: self._on_change(session)
        session.send_now = self._send_flight_now

    def _on_received(self, session: Session) -> None:
        self._fed[session] = None

    def _on_change(self, session: Session) -> None:
        self._changed[session] = None
        self._driver.unpark_all()

    # Receiving

    async def _read(self, sock: DatagramSocket) -> None:
        while True:
            try:
                datagrams = await sock.receive_many(_READ_AT_ONCE)
            except trio.ClosedResourceError:
                return
            except OSError as error:
                self._on_error(error)
                if not is_reported_by_network(error):
                    return
            else:
                for datagram in datagrams:
                    self._receive(Path(sock, datagram))
                fed, self._fed = self._fed, {}
                for session in fed:
                    session.settle()

    # Time and sending

    async def _drive(self) -> None:
        while True:
            self._fire(trio.current_time())
            flight = self._collect()
            if flight:
                await self._send(flight)
            else:
                with trio.move_on_at(self._next_timer()):
                    await self._driver.park()

    def _fire(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, session = heapq.heappop(self._timers)
            session.armed.pop()
            if session.closed is None and session.next_timer <= now:
                # The timer of a changed connection is set after its flight.
                session.handle_timer(now)
            else:
                self._arm(session)

    def _next_timer(self) -> float:
        return max(self._timers[0][0], trio.current_time() + _SHORTEST_WAIT) if self._timers else inf

    def _arm(self, session: Session) -> None:
        """Have the timer fire in time; an earlier time stays armed, and finds nothing due."""
        at = session.next_timer
        if session.closed is None and at < session.armed[-1]:
            session.armed.append(at)
            heapq.heappush(self._timers, (at, next(self._numbers), session))

    def _collect(self) -> Flight:
        flight: Flight = []
        now = trio.current_time()
        while self._changed and len(flight) < _SENT_AT_ONCE:
            session = next(iter(self._changed))
            del self._changed[session]
            if session.closed is None:
                flight += session.flight(now)
                self._arm(session)
        return flight

    async def _send(self, flight: Flight) -> None:
        for sock, part in groupby(flight, lambda each: each[1].socket):
            await self._send_by(sock, list(part))

    async def _send_by(self, sock: DatagramSocket, flight: Flight) -> None:
        while flight:
            try:
                await sock.send_many([datagram for _, _, datagram in flight])
            except SendManyError as error:
                self._on_send_error(flight[error.index][0], error)
                flight = flight[error.index + 1 :]
            except trio.ClosedResourceError:
                return
            else:
                return

    def _on_send_error(self, session: Session, error: SendManyError) -> None:
        """Drop the datagram: the engine detects that from the missing acknowledgement."""
        if error.errno == errno.EMSGSIZE:
            session.engine.shrink(SMALLEST_DATAGRAM)
        elif is_reported_by_network(error):
            self._on_error(error)

    def _send_flight_now(self, flight: Flight) -> None:
        for _, path, datagram in flight:
            self.send_now(path.socket, datagram)

    def send_now(self, sock: DatagramSocket, datagram: Datagram) -> None:
        """Send a datagram unless that would block."""
        with suppress(OSError, trio.WouldBlock, trio.ClosedResourceError):
            sock.send_nowait(datagram)
