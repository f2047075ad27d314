"""The streams of a connection that are not over, and the peer's allowance of further ones.

Rule 1: the peer gets a place back when a stream is over in both directions, and the program has left it: it has closed
    each direction, or has seen its end. So the peer cannot open streams faster than handlers end, by aborting them.
Rule 2: a stream that the peer resets before a task accepts it leaves the queue. Its place is returned as well, but if
    more than ``max_streams`` a second are, the connection ends.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from .._socket.interrupts import defer_interrupts
from .._values.construction import create
from .halves import ReceivingHalf, SendingHalf
from .incoming import IncomingStreams
from .state import ConnectionState
from .streams import ReceiveStream, SendStream, Stream

# ruff: noqa: SLF001 -- members for the table are private, so that programs do not see them

_ONE_WAY: Final = 2
"""The bit of the numbers of one-way streams (RFC 9000, 2.1)."""


@attrs.define
class _Halves:
    """A stream that is not over; of a one-way stream one half is not used."""

    sending: SendingHalf
    receiving: ReceivingHalf
    returns_place: bool
    """Whether the peer has opened it, and may open another one in its place."""

    def are_left(self, stream_id: int) -> bool:
        """Return whether the program has left a stream of the peer."""
        return self.receiving.is_left and (bool(stream_id & _ONE_WAY) or self.sending.is_left)


@defer_interrupts
class StreamTable:
    """The streams of one connection."""

    def __init__(self, state: ConnectionState) -> None:
        self.two_way: IncomingStreams[Stream] = create(IncomingStreams, state)
        self.one_way: IncomingStreams[ReceiveStream] = create(IncomingStreams, state)
        self._state = state
        self._engine = state.engine
        self._streams: dict[int, _Halves] = {}
        self._second = 0.0
        self._aborted = 0

    @property
    def count(self) -> int:
        """The number of streams that are not over."""
        return len(self._streams)

    async def open(self) -> Stream:
        """Open a two-way stream, once the peer allows it."""
        stream_id = await self._open(one_way=False)
        halves = self._add(stream_id, returns_place=False)
        return create(Stream, stream_id, halves.sending, halves.receiving)

    async def open_one_way(self) -> SendStream:
        """Open a one-way stream, once the peer allows it."""
        stream_id = await self._open(one_way=True)
        return create(SendStream, stream_id, self._add(stream_id, returns_place=False).sending)

    async def _open(self, *, one_way: bool) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            self._state.check_open()
            stream_id = self._engine.open_stream(one_way=one_way)
            if stream_id is not None:
                return stream_id
            await self._state.progress.park()

    def _add(self, stream_id: int, *, returns_place: bool) -> _Halves:
        self._streams[stream_id] = halves = _Halves(
            SendingHalf(self._state, stream_id), ReceivingHalf(self._state, stream_id), returns_place
        )
        return halves

    def _find(self, stream_id: int) -> _Halves:
        """Return a stream; queue a new one of the peer for acceptance."""
        halves = self._streams.get(stream_id)
        if halves is not None:
            return halves
        halves = self._add(stream_id, returns_place=True)
        if stream_id & _ONE_WAY:
            self.one_way._put(create(ReceiveStream, stream_id, halves.receiving))
        else:
            self.two_way._put(create(Stream, stream_id, halves.sending, halves.receiving))
        return halves

    # What the peer does

    def receive(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Pass on bytes of a stream."""
        self._find(stream_id).receiving.on_data(data, end=end)
        if end:
            self._state.ending.add(stream_id)

    def stop(self, stream_id: int, code: int) -> None:
        """Pass on that the peer has stopped a stream."""
        self._find(stream_id).sending.on_stop(code)

    def reset(self, stream_id: int, code: int) -> bool:
        """Pass on the reset of a stream; return whether the peer keeps to Rule 2."""
        self._find(stream_id).receiving.on_reset(code)
        self._state.ending.add(stream_id)
        is_one_way = bool(stream_id & _ONE_WAY)
        if not (self.one_way if is_one_way else self.two_way)._discard(stream_id):
            return True
        return self._count_aborted() <= self._state.configuration.max_streams[is_one_way]

    def _count_aborted(self) -> int:
        now = trio.current_time()
        if now >= self._second + 1:
            self._second, self._aborted = now, 0
        self._aborted += 1
        return self._aborted

    # Their end

    def collect(self) -> None:
        """Forget the streams that are over."""
        for stream_id in filter(self._engine.is_over, list(self._state.ending)):
            self._state.finishing.discard(stream_id)
            halves = self._streams.get(stream_id)
            # The program may close or reset a stream that was forgotten before.
            if halves is None:
                self._state.ending.discard(stream_id)
            elif not halves.returns_place or halves.are_left(stream_id):
                self._state.ending.discard(stream_id)
                self._forget(stream_id, halves)

    def _forget(self, stream_id: int, halves: _Halves) -> None:
        del self._streams[stream_id]
        self._engine.forget(stream_id)
        if halves.returns_place:
            self._engine.return_place(one_way=bool(stream_id & _ONE_WAY))
            self._state.on_change()

    def wake(self) -> None:
        """Wake the tasks that wait: the connection has ended."""
        for each in self._streams.values():
            each.receiving.wake()
        self.two_way._wake()
        self.one_way._wake()
