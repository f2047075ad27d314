"""The two directions of a stream. Their state is kept here, so that no call reaches the engine that it would refuse.

sending:    open -> ended        the end (FIN) is queued
            open -> broken       the peer has stopped it
            any of these -> closed

receiving:  open -> ended        the end has arrived; queued bytes are still returned
            open -> broken       the peer has reset it; queued bytes are discarded
            any of these -> closed

The program has left a direction when it has closed it, or has seen its end: the sending one as its own or as an error,
the receiving one as ``b""`` or as an error.
"""

from __future__ import annotations

import sys

import trio

from .._socket.interrupts import defer_interrupts
from .._values.arguments import check_integer, describe_value
from .errors import NO_ERROR, QuicError, stream_error
from .state import ConnectionState, Exclusive


@defer_interrupts
class SendingHalf:
    """The sending direction of a stream."""

    def __init__(self, state: ConnectionState, stream_id: int) -> None:
        self._state = state
        self._id = stream_id
        self._has_ended = False
        self._is_closed = False
        self._is_truncated = False
        self._error: QuicError | None = None
        self._error_was_seen = False
        self._exclusive = Exclusive("another task is sending on this stream")

    @property
    def is_done(self) -> bool:
        """Whether no more bytes will be queued."""
        return self._has_ended or self._is_closed or self._error is not None

    @property
    def is_left(self) -> bool:
        """Whether the program has left it."""
        return self._has_ended or self._is_closed or self._error_was_seen

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue all bytes, within the peer's window and ours."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes-like, not {describe_value(data)}")
        with self._exclusive:
            await trio.lowlevel.checkpoint()
            self._check()
            rest = memoryview(data).cast("B")
            was_truncated = self._is_truncated
            while rest:
                queued = await self._wait_for_room()
                self._queue(bytes(rest[:queued]))
                rest = rest[queued:]
                self._is_truncated = was_truncated or bool(rest)

    async def wait_for_room(self) -> None:
        """Wait until bytes can be queued."""
        with self._exclusive:
            await trio.lowlevel.checkpoint()
            await self._wait_for_room()

    async def send_eof(self) -> None:
        """Queue the end."""
        with self._exclusive:
            await trio.lowlevel.checkpoint()
            if not self._has_ended or self._is_closed:
                self._check()
                self._end()

    async def _wait_for_room(self) -> int:
        window, unsent = self._state.configuration.send_window, self._state.engine.unsent
        while True:
            self._check()
            room = window - unsent(self._id)
            if room > 0:
                return room
            await self._state.progress.park()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._has_ended:
            raise trio.ClosedResourceError("the end of this stream was sent")
        self._state.check_open()
        if self._error is not None:
            self._error_was_seen = True
            self._state.on_change()
            raise trio.BrokenResourceError(str(self._error)) from self._error

    def _queue(self, data: bytes) -> None:
        self._state.engine.send_stream_data(self._id, data)
        self._state.on_change()

    def _end(self) -> None:
        self._has_ended = True
        self._state.engine.send_stream_data(self._id, b"", end_stream=True)
        self._state.finishing.add(self._id)
        self._on_ending()

    def _on_ending(self) -> None:
        self._state.ending.add(self._id)
        self._state.on_change()
        self._state.progress.unpark_all()

    def on_stop(self, code: int) -> None:
        """Mark the stream as stopped by the peer; the engine has reset it."""
        if not self._has_ended and self._error is None:
            self._error = stream_error("stopped", code)
        self._state.finishing.discard(self._id)
        self._on_ending()

    def close(self) -> None:
        """Queue the end if all bytes before it were queued, else a reset."""
        if self.is_done or self._state.closed is not None:
            self._is_closed = True
            self._state.on_change()
        elif self._is_truncated:
            self.reset(NO_ERROR)
        else:
            self._end()
            self._is_closed = True

    def reset(self, code: int) -> None:
        """Reset the stream; undelivered bytes are lost."""
        self._is_closed = True
        if self._state.closed is None:
            self._state.engine.reset_stream(self._id, code)
            self._state.finishing.discard(self._id)
            self._on_ending()


@defer_interrupts
class ReceivingHalf:
    """The receiving direction of a stream."""

    def __init__(self, state: ConnectionState, stream_id: int) -> None:
        self._state = state
        self._id = stream_id
        self._queue = bytearray()
        self._has_ended = False
        self._is_closed = False
        self._error: QuicError | None = None
        self._end_was_seen = False
        self._readers = trio.lowlevel.ParkingLot()
        self._exclusive = Exclusive("another task is receiving from this stream")

    @property
    def is_left(self) -> bool:
        """Whether the program has left it."""
        return self._is_closed or self._end_was_seen

    async def receive_some(self, max_bytes: int | None) -> bytes:
        """Wait for bytes, and remove and return them."""
        limit = sys.maxsize if max_bytes is None else check_integer("max_bytes", max_bytes, 1, sys.maxsize)
        with self._exclusive:
            await trio.lowlevel.checkpoint()
            while not self._is_readable():
                await self._readers.park()
            return self._pop(limit)

    def _is_readable(self) -> bool:
        """Return whether bytes or the end can be read; raise the error that prevents it."""
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._state.closed_here:
            self._state.check_open()
        if self._queue or self._has_ended:
            return True
        if self._error is not None:
            self._see_end()
            raise trio.BrokenResourceError(str(self._error)) from self._error
        self._state.check_open()
        return False

    def _pop(self, limit: int) -> bytes:
        data = bytes(self._queue[:limit])
        del self._queue[:limit]
        if not data:
            self._see_end()
        elif self._state.engine.consume(self._id, len(data)):
            self._state.on_change()
        return data

    def _see_end(self) -> None:
        self._end_was_seen = True
        self._state.on_change()

    def on_data(self, data: bytes, *, end: bool) -> None:
        """Queue bytes that have arrived."""
        if not self._is_closed:
            self._queue += data
            self._has_ended = end
            self.wake()

    def on_reset(self, code: int) -> None:
        """Mark the stream as reset by the peer."""
        self._error = stream_error("reset", code)
        self._abandon()

    def stop(self, code: int) -> None:
        """Stop reading; ask the peer to stop sending, if it has not ended."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._state.closed is None:
            if not self._has_ended and self._error is None:
                self._state.engine.stop_stream(self._id, code)
            self._abandon()
            self._state.on_change()
        self.wake()

    def _abandon(self) -> None:
        self._state.engine.abandon(self._id, len(self._queue))
        self._queue.clear()
        self.wake()

    def wake(self) -> None:
        """Wake the task that waits."""
        self._readers.unpark_all()
