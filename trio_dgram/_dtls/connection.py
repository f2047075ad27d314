"""The client's end of DTLS: an encrypted channel to one server."""

from __future__ import annotations

import errno
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Unpack

import trio
from OpenSSL import SSL

from .._codecs.families import UDP6
from .._services.connecting import addresses_of, check_local, connect_next
from .._services.sockets import is_reported_by_network, make_socket
from .._socket.config import SocketOptions, check_options
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import check_host, check_port
from .._values.arguments import check_number
from .._values.construction import create
from .._values.datagrams import Datagram
from .channel import DTLSChannel
from .contexts import Verification, check_context, client_view, current_verification, service_id
from .endpoint_socket import EndpointSocket
from .limits import DTLSLimits
from .session import Session

_SHORTEST_RETRANSMIT_TIMEOUT: Final = 0.001
"""In seconds; the timeout doubles each time, and 0 would retransmit without end."""


@defer_interrupts
class _ConnectionManager(AbstractAsyncContextManager[DTLSChannel, None]):
    """The block of :func:`open_connection`."""

    def __init__(
        self,
        host: str,
        port: int,
        context: SSL.Context,
        verification: Verification,
        local: tuple[str | None, int] | None,
        timeouts: tuple[float, float],
        options: SocketOptions,
    ) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._verification = verification
        self._local = local
        self._retransmit_timeout, self._handshake_timeout = timeouts
        self._options = options
        self._deadline: float
        self._connection: _Connection

    async def __aenter__(self) -> DTLSChannel:
        lookup = self._options.get("lookup")
        addresses = await addresses_of(self._host, self._port, lookup)
        self._deadline = trio.current_time() + self._handshake_timeout
        self._connection = await connect_next(addresses, self._port, self._connect)
        return create(DTLSChannel, self._connection.session)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    async def _connect(self, type_: str, address: str, port: int) -> _Connection:
        sock = make_socket(type_, self._options)
        try:
            if self._local is not None:
                await sock.bind(self._local)
            await sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        connection = _Connection(sock, self._context, self._verification)
        await self._shake_hands(connection)
        return connection

    async def _shake_hands(self, connection: _Connection) -> None:
        try:
            with trio.CancelScope(deadline=self._deadline) as limit:
                await connection.shake_hands(self._retransmit_timeout)
        except BaseException:
            connection.close()
            raise
        if limit.cancelled_caught:
            connection.close()
            raise trio.TooSlowError(
                f"{self._host!r} has not finished the handshake within {self._handshake_timeout} seconds"
            )


@defer_interrupts
class _Connection:
    """One endpoint with one session: a client's."""

    def __init__(self, sock: DatagramSocket, context: SSL.Context, verification: Verification) -> None:
        self._verification = verification
        self._error: OSError | None = None
        endpoint_socket = EndpointSocket(sock, DTLSLimits(), self._on_error)
        peer = endpoint_socket.getpeername()
        self._endpoint = trio.DTLSEndpoint(endpoint_socket, incoming_packets_buffer=DTLSLimits().max_buffer_size)
        secured = self._endpoint.connect(peer, context)
        self._handshake = trio.CancelScope()
        self.session = Session(secured, endpoint_socket, Datagram(b"", sock.remote_address), connected=True)
        endpoint_socket.peers[peer] = self.session

    async def shake_hands(self, retransmit_timeout: float) -> None:
        """Perform the handshake, or raise why it has failed."""
        verification = self._verification
        verification.begin()
        token = current_verification.set(verification)
        try:
            await self.session.shake_hands(self._handshake, initial_retransmit_timeout=retransmit_timeout)
        except (SSL.Error, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if not verification.has_failed:
                reason = str(error) or "its socket was closed"
                raise trio.BrokenResourceError(
                    f"the DTLS handshake with {self.session.name} failed: {reason}"
                ) from error
        finally:
            current_verification.reset(token)
        if self._error is not None:
            raise self._error
        verification.check()

    def close(self) -> None:
        """Close the session and the socket."""
        self._endpoint.close()
        self.session.close()

    def _on_error(self, error: Exception) -> None:
        session = self.session
        if not isinstance(error, OSError):
            session.end()
        elif session.handshaking:
            # After EMSGSIZE Trio sends smaller messages.
            if error.errno != errno.EMSGSIZE:
                self._error = error
                self._handshake.cancel()
        else:
            session.report(error)
            if not is_reported_by_network(error):
                session.end()


def open_connection(
    host: str,
    port: int,
    ssl_context: SSL.Context,
    *,
    local: tuple[str | None, int] | None = None,
    server_hostname: str | None = None,
    initial_retransmit_timeout: float = 1.0,
    handshake_timeout: float = 10.0,
    **options: Unpack[SocketOptions],
) -> AbstractAsyncContextManager[DTLSChannel, None]:
    """Open an encrypted channel to a server, its handshake done; it is closed when the block ends.

    Args:
      host: the name or address of the server. The addresses of a name are tried in order: one without a route, or that
        refuses the handshake (ICMP port unreachable), is skipped. UDP cannot detect one that does not answer.
      port: its UDP port.
      ssl_context: an OpenSSL context with ``SSL.DTLS_METHOD`` and the trusted CAs. The server's certificate is verified
        regardless of its ``set_verify``: its verify callback and its info callback are replaced. Several connections
        may share it.
      local: the local ``(host, port)`` to send from. Default: chosen by the kernel.
      server_hostname: the name or address that the certificate must be issued for. Default: ``host``.
      initial_retransmit_timeout: after how many seconds a handshake message is sent again for the first time,
        from 0.001. Default: 1.0.
      handshake_timeout: how long the handshake may take, with all addresses, in seconds. Default: 10.0.
      options: options of the socket, as documented in :class:`SocketOptions`.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      socket.gaierror: if the name does not resolve.
      CertificateError: if the server's certificate is not issued for that host, or not by a trusted CA.
      trio.TooSlowError: if the handshake takes too long.
      trio.BrokenResourceError: if OpenSSL cannot perform it, or the server refuses it, for instance for want of a
        certificate of the client.
      OSError: the kernel's error for the last address, such as ENETUNREACH or ECONNREFUSED.

    Entering the block is a checkpoint; leaving it is not. A cancelled handshake leaves no socket open.
    """
    check_context(ssl_context)
    name = check_host("host", host)
    check_port("port", port, lowest=1)
    check_number("initial_retransmit_timeout", initial_retransmit_timeout, _SHORTEST_RETRANSMIT_TIMEOUT)
    check_number("handshake_timeout", handshake_timeout, 0, infinite=True)
    check_options(UDP6.type, options)
    check_local(local)
    wanted = name if server_hostname is None else server_hostname
    verification = Verification(wanted, service_id("host" if server_hostname is None else "server_hostname", wanted))
    timeouts = initial_retransmit_timeout, handshake_timeout
    return _ConnectionManager(name, port, client_view(ssl_context), verification, local, timeouts, options)
