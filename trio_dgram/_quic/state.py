"""What the streams and the datagrams of a connection share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio

from .configuration import Configuration
from .engine import Engine
from .errors import Closed, connection_error


class ConnectionState:
    """The engine of a connection, its end, and the tasks that wait for its progress."""

    def __init__(self, engine: Engine, configuration: Configuration) -> None:
        self.engine = engine
        self.configuration = configuration
        self.closed: Closed | None = None
        """How the connection has ended."""
        self.closed_here = False
        """Whether the program has closed it."""
        self.progress = trio.lowlevel.ParkingLot()
        """Where tasks wait for the peer: all are woken whenever something has happened."""
        self.ending: set[int] = set()
        """The streams of which one direction has ended, and that are not over."""
        self.finishing: set[int] = set()
        """The streams of which our end is queued and not acknowledged."""
        self.on_change: Callable[[], object] = bool
        """Called when the engine has something to send."""

    def check_open(self) -> None:
        """Raise how the connection has ended, if it has."""
        if self.closed is not None:
            self.raise_closed(self.closed)

    def raise_closed(self, closed: Closed) -> NoReturn:
        """Raise the error of a connection that has ended."""
        if self.closed_here:
            raise trio.ClosedResourceError("this connection was closed")
        raise trio.BrokenResourceError("the connection has ended") from connection_error(closed)


class Exclusive:
    """A block that one task at a time may be in."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._is_taken = False

    def __enter__(self) -> None:
        if self._is_taken:
            raise trio.BusyResourceError(self._message)
        self._is_taken = True

    def __exit__(self, *_: object) -> None:
        self._is_taken = False
