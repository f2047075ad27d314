"""The unreliable datagrams of a connection (RFC 9221)."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from .._socket.interrupts import defer_interrupts
from .._values.arguments import describe_value
from .._values.construction import NoPublicConstructor
from .state import ConnectionState

_MOST_QUEUED: Final = 256


@defer_interrupts
class DatagramFrames(trio.abc.Channel[bytes], metaclass=NoPublicConstructor):
    """The datagrams of a connection: encrypted, subject to its congestion control, never retransmitted.

    Up to 256 received ones are queued; later ones are dropped and counted.
    """

    _created_by = "Connection.datagrams"

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._queue: deque[bytes] = deque()
        self._is_closed = False
        self._receivers = trio.lowlevel.ParkingLot()
        self._dropped = 0

    @property
    def max_size(self) -> int:
        """The size of the largest datagram that can be sent, in bytes; 0 if the peer receives none."""
        return self._state.engine.max_datagram

    @property
    def dropped(self) -> int:
        """How many datagrams of the peer were dropped because the queue was full."""
        return self._dropped

    async def send(self, value: bytes | bytearray | memoryview) -> None:
        """Send a datagram, once fewer than 256 are queued.

        Args:
          value: the datagram, at most ``max_size`` bytes.

        Raises:
          TypeError: if ``value`` is not bytes-like.
          ValueError: if it is too large.
          trio.ClosedResourceError: if the channel is closed, or the program has closed the connection.
          trio.BrokenResourceError: if the connection has ended; a :class:`QuicError` is the cause.

        Always a checkpoint. A cancelled call has sent nothing.
        """
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"value must be bytes-like, not {describe_value(value)}")
        data = bytes(value)
        self._check_size(len(data))
        await trio.lowlevel.checkpoint()
        while self._is_full():
            await self._state.progress.park()
        # The path may take less meanwhile.
        self._check_size(len(data))
        self._state.engine.send_datagram_frame(data)
        self._state.on_change()

    def _check_size(self, size: int) -> None:
        if size > self.max_size:
            reason = "" if self.max_size else ": the peer receives no datagrams"
            raise ValueError(f"value must have at most {self.max_size} bytes, not {size}{reason}")

    def _is_full(self) -> bool:
        self._check_open()
        self._state.check_open()
        return self._state.engine.unsent_datagrams >= _MOST_QUEUED

    async def receive(self) -> bytes:
        """Wait for a datagram of the peer and return it.

        Raises:
          trio.EndOfChannel: when the connection has ended without an error code, or by its idle timeout.
          trio.ClosedResourceError: if the channel is closed, or the program has closed the connection.
          trio.BrokenResourceError: if the connection has ended otherwise; a :class:`QuicError` is the cause.

        Always a checkpoint. A cancelled call has consumed nothing.
        """
        await trio.lowlevel.checkpoint()
        while not self._is_readable():
            await self._receivers.park()
        return self._queue.popleft()

    def _is_readable(self) -> bool:
        self._check_open()
        return self._state.is_readable(self._queue)

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this channel of datagrams was closed")

    async def aclose(self) -> None:
        """Discard the queued and all later datagrams; then execute a checkpoint."""
        self._is_closed = True
        self._queue.clear()
        self._wake()
        self._state.progress.unpark_all()
        await trio.lowlevel.checkpoint()

    def _put(self, data: bytes) -> None:
        if self._is_closed:
            return
        if len(self._queue) < _MOST_QUEUED:
            self._queue.append(data)
            self._receivers.unpark()
        else:
            self._dropped += 1

    def _wake(self) -> None:
        self._receivers.unpark_all()
