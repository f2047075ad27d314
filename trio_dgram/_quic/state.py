"""The state that the streams and the datagrams of a connection share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NoReturn

import trio

from .configuration import Configuration
from .engine import Engine
from .errors import NO_ERROR, Closed, connection_error


class ConnectionState:
    """The engine of a connection, its end, and the tasks that wait for its progress."""

    def __init__(self, engine: Engine, configuration: Configuration) -> None:
        self.engine = engine
        self.configuration = configuration
        self.closed: Closed | None = None
        """The end of the connection, None before."""
        self.closed_here = False
        """Whether the program has closed it."""
        self.progress: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        """The tasks that wait for the peer: all are woken by every event."""
        self.ending: set[int] = set()
        """The streams of which exactly one direction has ended."""
        self.finishing: set[int] = set()
        """The streams of which our end is queued and not acknowledged."""
        self.on_change: Callable[[], object] = bool
        """Called when the engine has data to send."""

    def check_open(self) -> None:
        """Raise the error of the connection's end, if it has ended."""
        if self.closed is not None:
            self.raise_closed(self.closed)

    def is_readable(self, queue: Collection[object]) -> bool:
        """Return whether a queue has an item; raise what prevents receiving one, now or later.

        Raises:
          trio.EndOfChannel: if the connection has ended without an error code.
        """
        if self.closed_here:
            self.check_open()
        if queue:
            return True
        if self.closed is not None and self.closed.code == NO_ERROR:
            raise trio.EndOfChannel
        self.check_open()
        return False

    def raise_closed(self, closed: Closed) -> NoReturn:
        """Raise the error of a connection that has ended."""
        if self.closed_here:
            raise trio.ClosedResourceError("this connection was closed")
        raise trio.BrokenResourceError("the connection has ended") from connection_error(closed)


class Exclusive:
    """A block that one task at a time may enter."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._is_taken = False

    def __enter__(self) -> None:
        if self._is_taken:
            raise trio.BusyResourceError(self._message)
        self._is_taken = True

    def __exit__(self, *_: object) -> None:
        self._is_taken = False
