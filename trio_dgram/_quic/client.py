"""The client's end: a connection to one server."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Unpack

import attrs
import trio

from .._codecs.families import UDP6
from .._services.connecting import addresses_of, check_local, connect_next
from .._services.sockets import is_reported_by_network, make_socket
from .._socket.config import SocketOptions, check_options
from .._socket.interrupts import defer_interrupts
from .._values.addresses import check_host, check_port
from .._values.arguments import check_number, describe_value
from .._values.construction import create
from .._values.datagrams import Datagram
from .._values.errors import CertificateError, SendManyError
from .configuration import Configuration, client_configuration
from .connection import Connection
from .endpoint import Endpoint
from .engine import Engine
from .errors import INTERNAL_ERROR, Closed, HandshakeError, connection_error, is_about_certificate
from .paths import Path
from .session import Session


@attrs.frozen
class _Server:
    """The arguments of :func:`open_connection`, checked."""

    host: str
    port: int
    configuration: Configuration
    local: tuple[str | None, int] | None
    handshake_timeout: float
    drain_timeout: float
    options: SocketOptions


@defer_interrupts
class _Attempt:
    """A connection to one address of the server."""

    def __init__(self, server: _Server, type_: str, address: str) -> None:
        self._server = server
        self._type = type_
        self._address = address
        self._error: OSError | None = None
        self._endpoint = Endpoint(self._receive, self._on_error)
        self.session: Session

    async def begin(self) -> None:
        """Open the socket, and send the first flight."""
        path = await self._open_path(self._server.local)
        configuration = self._server.configuration
        try:
            engine = Engine(
                client_configuration(configuration, self._server.host), max_streams=configuration.max_streams
            )
            engine.connect(path.latest.address, trio.current_time())
        except BaseException:
            path.socket.close()
            raise
        self.session = Session(engine, configuration, path, self._endpoint.log)
        await self._endpoint.__aenter__()
        self._endpoint.add(self.session)
        self._endpoint.add_socket(path.socket)
        self.session.state.on_change()

    async def end(self) -> None:
        """Close the connection, if it is open, and the socket."""
        self.session.close(0, "")
        await self._endpoint.__aexit__(None, None, None)

    async def _open_path(self, local: tuple[str | None, int] | None) -> Path:
        sock = make_socket(self._type, self._server.options)
        try:
            if local is not None:
                await sock.bind(local)
            await sock.connect((self._address, self._server.port))
        except BaseException:
            sock.close()
            raise
        return Path(sock, Datagram(b"", sock.remote_address))

    async def shake_hands(self) -> None:
        """Wait for the end of the handshake, or raise the error with which it has failed."""
        session = self.session
        while not session.is_established:
            if self._error is not None:
                raise self._error
            if session.closed is not None:
                raise self._failure(session.closed)
            await session.changed.park()

    def _failure(self, closed: Closed) -> Exception:
        if is_about_certificate(closed):
            return CertificateError(f"certificate verification failed for {self._server.host}: {closed.reason}")
        return connection_error(closed, HandshakeError)

    async def rebind(self) -> None:
        """Continue by another socket."""
        path = await self._open_path(None)
        # Meanwhile the connection may have been closed, or moved by another task.
        try:
            self.session.state.check_open()
        except BaseException:
            path.socket.close()
            raise
        former = self.session.paths.current.socket
        self._endpoint.add_socket(path.socket)
        self.session.replace_socket(path)
        self._endpoint.remove_socket(former)

    def _receive(self, path: Path) -> None:
        if self.session.closed is None:
            self.session.receive(path)

    def _on_error(self, error: OSError) -> None:
        if not self.session.is_established:
            cause = error.__cause__ if isinstance(error, SendManyError) else error
            self._error = cause if isinstance(cause, OSError) else error
            self.session.changed.unpark_all()
        elif not is_reported_by_network(error):
            self.session.fail(INTERNAL_ERROR, str(error))


@defer_interrupts
class _ConnectionManager(AbstractAsyncContextManager[Connection, None]):
    """The block of :func:`open_connection`."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._deadline: float
        self._attempt: _Attempt
        self._connection: Connection

    async def __aenter__(self) -> Connection:
        server = self._server
        addresses = await addresses_of(server.host, server.port, server.options.get("lookup"))
        self._deadline = trio.current_time() + server.handshake_timeout
        self._attempt = await self._connect(addresses)
        self._connection = create(Connection, self._attempt.session, server.drain_timeout, self._attempt.rebind)
        return self._connection

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc is None:
                await self._connection.aclose()
        finally:
            await self._attempt.end()

    async def _connect(self, addresses: deque[tuple[str, str]]) -> _Attempt:
        return await connect_next(addresses, self._server.port, self._try)

    async def _try(self, type_: str, address: str, _port: int) -> _Attempt:
        attempt = _Attempt(self._server, type_, address)
        await attempt.begin()
        try:
            with trio.CancelScope(deadline=self._deadline) as limit:
                await attempt.shake_hands()
        except BaseException:
            await attempt.end()
            raise
        if limit.cancelled_caught:
            await attempt.end()
            raise trio.TooSlowError(
                f"{self._server.host!r} has not finished the handshake within {self._server.handshake_timeout} seconds"
            )
        return attempt


def open_connection(
    host: str,
    port: int,
    configuration: Configuration,
    *,
    local: tuple[str | None, int] | None = None,
    handshake_timeout: float = 10.0,
    drain_timeout: float = 5.0,
    **options: Unpack[SocketOptions],
) -> AbstractAsyncContextManager[Connection, None]:
    """Open a connection to a server, its handshake done; it is closed when the block ends.

    Args:
      host: the name or address of the server. The addresses of a name are tried in order until a handshake is not
        refused (no route, ICMP port unreachable). UDP cannot detect a silent address.
      port: its UDP port.
      configuration: the settings.
      local: the local ``(host, port)`` to send from. Default: chosen by the kernel.
      handshake_timeout: the time limit for the handshake, with all addresses, in seconds. Default: 10.0.
      drain_timeout: how long the end of the block waits until the server has acknowledged the streams that were ended,
        in seconds. Default: 5.0.
      options: options of the socket, as documented in :class:`SocketOptions`.

    Raises:
      TypeError, ValueError: if an argument is invalid.
      socket.gaierror: if the name does not resolve.
      CertificateError: if the server's certificate is not issued for that host, or not by a trusted CA.
      HandshakeError: if the handshake fails otherwise, such as without a common ALPN protocol.
      trio.TooSlowError: if the handshake exceeds its time limit.
      OSError: the kernel's error for the last address, such as ENETUNREACH or ECONNREFUSED.

    The connection is closed with code 0: after the block, once all sent data is acknowledged; after an exception, or if
    cancelled, at once. Exceptions of the block propagate unchanged, in no exception group.
    """
    name = check_host("host", host)
    check_port("port", port, lowest=1)
    if not isinstance(configuration, Configuration):
        raise TypeError(f"configuration must be a quic.Configuration, not {describe_value(configuration)}")
    check_number("handshake_timeout", handshake_timeout, 0, infinite=True)
    check_number("drain_timeout", drain_timeout, 0, infinite=True)
    check_options(UDP6.type, options)
    check_local(local)
    return _ConnectionManager(_Server(name, port, configuration, local, handshake_timeout, drain_timeout, options))
