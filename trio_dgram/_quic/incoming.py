"""The streams that the peer has opened and no task has accepted."""

from __future__ import annotations

from typing import TypeVar

import trio

from .._socket.interrupts import defer_interrupts
from .._values.construction import NoPublicConstructor
from .errors import NO_ERROR
from .state import ConnectionState
from .streams import ReceiveStream

StreamT = TypeVar("StreamT", bound=ReceiveStream)


@defer_interrupts
class IncomingStreams(trio.abc.ReceiveChannel[StreamT], metaclass=NoPublicConstructor):
    """Receives the streams that the peer opens.

    ``receive`` raises ``trio.EndOfChannel`` when the connection has ended without an error code or by its idle timeout,
    else ``trio.BrokenResourceError`` from a :class:`QuicError`, and ``trio.ClosedResourceError`` if the program has
    closed the connection or this channel. A cancelled ``receive`` has accepted no stream.
    """

    _created_by = "Connection.accept_streams()"

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._queue: dict[int, StreamT] = {}
        self._is_closed = False
        self._accepters = trio.lowlevel.ParkingLot()

    async def receive(self) -> StreamT:
        """Wait for the next stream of the peer, of which at least a byte or the end has arrived."""
        await trio.lowlevel.checkpoint()
        while not self._has_stream():
            await self._accepters.park()
        return self._queue.pop(next(iter(self._queue)))

    def _has_stream(self) -> bool:
        if self._is_closed:
            raise trio.ClosedResourceError("this channel of streams was closed")
        return self._state.is_readable(self._queue)

    async def aclose(self) -> None:
        """Refuse the streams that were not accepted, and all later ones; then execute a checkpoint."""
        self._is_closed = True
        for stream_id in list(self._queue):
            self._discard(stream_id)
        self._wake()
        await trio.lowlevel.checkpoint()

    def _put(self, stream: StreamT) -> None:
        self._queue[stream.id] = stream
        if self._is_closed:
            self._discard(stream.id)
        self._accepters.unpark()

    def _discard(self, stream_id: int) -> bool:
        """Abort a stream that no task has accepted; return whether there was one."""
        stream = self._queue.pop(stream_id, None)
        if stream is None:
            return False
        stream._abort(NO_ERROR)  # noqa: SLF001 -- one concept
        return True

    def _wake(self) -> None:
        self._accepters.unpark_all()
