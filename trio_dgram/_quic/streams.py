"""The public streams of a connection."""

from __future__ import annotations

from types import TracebackType

import trio

from .._socket.interrupts import defer_interrupts
from .._values.arguments import check_integer
from .._values.construction import NoPublicConstructor
from .errors import HANDLER_FAILED, NO_ERROR
from .halves import ReceivingHalf, SendingHalf

_HIGHEST_CODE = 2**62 - 1


@defer_interrupts
class _AnyStream(trio.abc.AsyncResource):
    """The common part of streams of all directions."""

    _id: int

    @property
    def id(self) -> int:
        """The number of the stream (RFC 9000, 2.1)."""
        return self._id

    async def aclose(self) -> None:
        """Close the stream, then execute a checkpoint.

        The end is sent if the sending side is open and no ``send_all`` was cancelled half-way, otherwise a reset; the
        peer is asked to stop sending if it has not ended (STOP_SENDING). It never waits for the peer: closing the
        connection does. Cancelled, it resets the stream. Closing twice does nothing.
        """
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            self._abort(NO_ERROR)
            raise
        self._close()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream; reset it, with code 1, if the block has raised an ``Exception``."""
        if exc is not None:
            self._abort(HANDLER_FAILED if isinstance(exc, Exception) else NO_ERROR)
        await self.aclose()

    def _close(self) -> None:
        """Close the directions that the stream has; each class adds its own."""

    def _abort(self, code: int) -> None:
        """Reset the directions that are not closed; each class adds its own."""

    def __repr__(self) -> str:
        return f"<trio_dgram.quic.{type(self).__name__} {self._id}>"


@defer_interrupts
class SendStream(_AnyStream, trio.abc.SendStream, metaclass=NoPublicConstructor):
    """The sending end of a one-way stream: :meth:`Connection.open_send_stream` creates it."""

    _created_by = "Connection.open_send_stream()"
    _sending: SendingHalf

    def __init__(self, stream_id: int, sending: SendingHalf) -> None:
        self._id = stream_id
        self._sending = sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; return when all but ``send_window`` bytes of the stream were sent once.

        Args:
          data: any number of bytes.

        Raises:
          TypeError: if ``data`` is not bytes-like.
          trio.ClosedResourceError: if the stream is closed or its end was sent, or the program has closed the
            connection.
          trio.BrokenResourceError: if the peer has stopped the stream, or the connection has ended; a
            :class:`QuicError` is the cause.
          trio.BusyResourceError: if another task is sending.

        Always a checkpoint. A cancelled call has queued any part of ``data``, after which the stream cannot be
        continued: ``aclose`` resets it.
        """
        await self._sending.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until fewer than ``send_window`` bytes of the stream are queued.

        Raises as :meth:`send_all` does. Always a checkpoint.
        """
        await self._sending.wait_for_room()

    def reset(self, code: int = 0) -> None:
        """Reset the stream (RESET_STREAM): undelivered bytes are lost, and the sending side is closed.

        Args:
          code: a code of the application's protocol, 0 to 2**62 - 1. Default: 0.
        """
        self._sending.reset(check_integer("code", code, 0, _HIGHEST_CODE))

    def _close(self) -> None:
        self._sending.close()
        super()._close()

    def _abort(self, code: int) -> None:
        if self._sending.is_done:
            self._sending.close()
        else:
            self._sending.reset(code)
        super()._abort(code)


@defer_interrupts
class ReceiveStream(_AnyStream, trio.abc.ReceiveStream, metaclass=NoPublicConstructor):
    """The receiving end of a one-way stream: :meth:`Connection.accept_receive_streams` receives it."""

    _created_by = "Connection.accept_receive_streams()"
    _receiving: ReceivingHalf

    def __init__(self, stream_id: int, receiving: ReceivingHalf) -> None:
        self._id = stream_id
        self._receiving = receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them; ``b""`` is the end of the stream.

        Args:
          max_bytes: the largest number of bytes, from 1; None for all that have arrived. Default: None.

        Raises:
          trio.ClosedResourceError: if the stream is closed, or the program has closed the connection.
          trio.BrokenResourceError: if the peer has reset the stream, which discards its queued bytes, or the connection
            has ended; a :class:`QuicError` is the cause.
          trio.BusyResourceError: if another task is receiving.

        The peer may send more as bytes are received: at most ``max_stream_data`` are in flight or queued. A checkpoint
        always. A cancelled call has consumed nothing.
        """
        return await self._receiving.receive_some(max_bytes)

    def stop(self, code: int = 0) -> None:
        """Ask the peer to stop sending (STOP_SENDING), and close the receiving side.

        Args:
          code: a code of the application's protocol, 0 to 2**62 - 1. Default: 0.
        """
        self._receiving.stop(check_integer("code", code, 0, _HIGHEST_CODE))

    def _close(self) -> None:
        self._receiving.stop(NO_ERROR)
        super()._close()

    def _abort(self, code: int) -> None:
        self._receiving.stop(code)
        super()._abort(code)


@defer_interrupts
class Stream(SendStream, ReceiveStream, trio.abc.HalfCloseableStream, metaclass=NoPublicConstructor):
    """A two-way stream: :meth:`Connection.open_stream` creates it, :meth:`Connection.accept_streams` receives it."""

    _created_by = "Connection.open_stream() or Connection.accept_streams()"

    def __init__(self, stream_id: int, sending: SendingHalf, receiving: ReceivingHalf) -> None:
        SendStream.__init__(self, stream_id, sending)
        ReceiveStream.__init__(self, stream_id, receiving)

    async def send_eof(self) -> None:
        """Send the end of the stream; receiving may continue. Sending it twice does nothing.

        Raises as :meth:`send_all` does. Always a checkpoint. A cancelled call has sent nothing.
        """
        await self._sending.send_eof()
