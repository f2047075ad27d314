"""The public connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from .._services.handlers import is_only_of_ended
from .._services.log import cause_of
from .._socket.interrupts import defer_interrupts, interruptibly_awaited
from .._values.addresses import Address
from .._values.arguments import check_integer, describe_value
from .._values.construction import NoPublicConstructor
from .._values.statistics import QuicConnectionStatistics
from .datagrams import DatagramFrames
from .errors import Closed
from .session import Session
from .streams import ReceiveStream, SendStream, Stream

_HIGHEST_CODE = 2**62 - 1
_LONGEST_REASON = 512

StreamHandler: TypeAlias = Callable[[Stream], Awaitable[object]]
"""An async function that serves one stream."""


@defer_interrupts
class Connection(trio.abc.AsyncResource, metaclass=NoPublicConstructor):
    """A connection to one peer: streams in both directions, and datagrams.

    :func:`open_connection` and :func:`serve` create it.
    """

    _created_by = "quic.open_connection() or quic.serve()"

    def __init__(
        self, session: Session, drain_timeout: float, rebind: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._session = session
        self._drain_timeout = drain_timeout
        self._rebind = rebind
        self._alpn = session.engine.alpn
        self._certificate = session.engine.peer_certificate
        self._local_address = session.paths.current.local_address

    @property
    def address(self) -> Address:
        """The address of the peer, which may change; readable after the end."""
        return self._session.paths.current.latest.address

    @property
    def local_address(self) -> Address:
        """The local address: the one that the peer sends to, if that is known; readable after the end."""
        if self._session.closed is None:
            self._local_address = self._session.paths.current.local_address
        return self._local_address

    @property
    def alpn(self) -> str:
        """The application protocol that was negotiated."""
        return self._alpn

    @property
    def peer_certificate(self) -> Any:
        """The certificate of the peer, a ``cryptography.x509.Certificate``; None if it has presented none."""
        return self._certificate

    def statistics(self) -> QuicConnectionStatistics:
        """Return the connection's counts, also after its end."""
        return self._session.statistics()

    # Streams and datagrams

    async def open_stream(self) -> Stream:
        """Open a two-way stream; wait while the peer allows no more of them.

        The peer learns of the stream by its first byte, or by its end.

        Raises:
          trio.ClosedResourceError: if the program has closed the connection.
          trio.BrokenResourceError: if it has ended; a :class:`QuicError` is the cause.

        Always a checkpoint. A cancelled call has opened nothing.
        """
        return await self._session.streams.open()

    async def open_send_stream(self) -> SendStream:
        """Open a one-way stream, as :meth:`open_stream` does."""
        return await self._session.streams.open_one_way()

    def accept_streams(self) -> trio.abc.ReceiveChannel[Stream]:
        """Return the channel of the two-way streams that the peer opens, the same at each call.

        ``receive`` raises ``trio.EndOfChannel`` when the connection has ended without an error code or by its idle
        timeout, else ``trio.BrokenResourceError`` from a :class:`QuicError`. The peer may open ``max_streams`` streams;
        a further one when one that was accepted is over in both directions and closed here, or its ends were seen.
        """
        return self._session.streams.two_way

    def accept_receive_streams(self) -> trio.abc.ReceiveChannel[ReceiveStream]:
        """Return the channel of the one-way streams that the peer opens, as :meth:`accept_streams` does."""
        return self._session.streams.one_way

    async def serve_streams(self, handler: StreamHandler) -> None:
        """Call ``handler`` with each two-way stream of the peer until the connection ends, each in a task of its own.

        Args:
          handler: an async function whose argument is a :class:`Stream`, which is closed when it returns.

        A handler's ``Exception`` is logged (repeated ones at most once a second) and resets that stream alone, with
        code 1; a ``trio.BrokenResourceError`` is not logged.

        Raises:
          trio.BrokenResourceError: if the connection has ended with an error code; a :class:`QuicError` is the cause.
          trio.ClosedResourceError: if the program has closed it.
        """
        if not callable(handler):
            raise TypeError(f"handler must be an async function that accepts a stream, not {describe_value(handler)}")
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                async for stream in self.accept_streams():
                    nursery.start_soon(self._handle, handler, stream, name=handler)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                failure = error
        if failure is not None:
            raise failure

    async def _handle(self, handler: StreamHandler, stream: Stream) -> None:
        try:
            async with stream:
                await interruptibly_awaited(handler, stream)
        except Exception as error:  # noqa: BLE001 -- it ends this stream alone
            if not is_only_of_ended(error):
                name = self._session.name
                self._session.log.report(cause_of(error), "the stream handler of %s failed", name, exc_info=error)

    @property
    def datagrams(self) -> DatagramFrames:
        """The channel of unreliable datagrams, which needs ``Configuration(datagrams=True)`` to receive.

        Raises:
          ValueError: without that.
        """
        if not self._session.state.configuration.datagrams:
            raise ValueError("datagrams must be enabled in the configuration: Configuration(datagrams=True)")
        return self._session.datagrams

    # The connection

    async def ping(self) -> float:
        """Send a PING frame, and return the seconds until the peer has acknowledged it.

        Raises as :meth:`open_stream` does. Always a checkpoint.
        """
        return await self._session.ping()

    async def rebind(self) -> None:
        """Continue by a new socket, on another port: for a client whose network has changed.

        Raises:
          ValueError: on a server.
          OSError: the kernel's error for the new socket; the connection continues by the old one.
        """
        if self._rebind is None:
            raise ValueError("rebind is for clients: a server stays where it is")
        self._session.state.check_open()
        await self._rebind()

    def update_keys(self) -> None:
        """Encrypt with new keys from now on (RFC 9001, 6)."""
        self._session.state.check_open()
        self._session.engine.request_key_update()
        self._session.state.on_change()

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close the connection at once; undelivered data is lost. Closing twice does nothing.

        Args:
          code: a code of the application's protocol, 0 to 2**62 - 1. Default: 0.
          reason: an explanation for the peer, at most 512 bytes in UTF-8. Default: empty.
        """
        check_integer("code", code, 0, _HIGHEST_CODE)
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a string, not {describe_value(reason)}")
        if len(reason.encode()) > _LONGEST_REASON:
            raise ValueError(f"reason must have at most {_LONGEST_REASON} bytes, not {len(reason.encode())}")
        self._session.close(code, reason)

    async def aclose(self) -> None:
        """Wait until the peer has acknowledged the streams that were ended, at most ``drain_timeout``, and close.

        Streams that are still open are reset. Cancelled, it closes at once.
        """
        try:
            with trio.move_on_after(self._drain_timeout):
                await self._session.drain()
        finally:
            self.close()

    async def wait_closed(self) -> Closed:
        """Wait until the connection has ended, and return the reason."""
        await trio.lowlevel.checkpoint()
        while self._session.closed is None:
            await self._session.changed.park()
        return self._session.closed

    @property
    def _ended(self) -> bool:
        """Whether it has ended without being closed by the program."""
        return self._session.closed is not None and not self._session.state.closed_here

    def _handler_starts(self, scope: trio.CancelScope) -> None:
        """Do nothing: a peer is never replaced by another one."""

    def _handler_ended(self) -> None:
        self._session.on_handler_ended(self._session)

    def __repr__(self) -> str:
        state = "open" if self._session.closed is None else "closed"
        return f"<trio_dgram.quic.Connection to {self._session.name}, {state}>"
