"""Encrypted channels to peers: DTLS (RFC 6347), by ``trio.DTLSEndpoint`` and pyOpenSSL.

It needs the extra ``dtls``: ``pip install trio_dgram[dtls]``. The handlers are those of :func:`trio_dgram.serve`.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, NoReturn, cast

import attrs
import trio
from OpenSSL import SSL
from service_identity import CertificateError as ServiceIdentityError
from service_identity import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns

from ._codecs.families import FAMILIES, UDP6
from ._peers.binding import bind_each_family
from ._peers.connecting import addresses_of, connect_next
from ._values.addresses import Address
from ._values.arguments import check_number, describe_value
from ._values.errors import DatagramError, with_context

__all__ = ["CertificateError", "DTLSChannel", "open_connection", "serve"]

_log = logging.getLogger("trio_dgram")


class CertificateError(DatagramError):
    """The server's certificate is not that of the one that was asked for."""


class DTLSChannel(trio.abc.Channel[bytes]):
    """An encrypted channel to one peer, as :func:`serve` and :func:`open_connection` make it.

    It ends, with ``trio.EndOfChannel``, when the peer says goodbye.
    """

    def __init__(self, channel: trio.DTLSChannel) -> None:
        self._channel = channel

    @property
    def address(self) -> Address:
        """The peer's address."""
        return Address(*self._channel.peer_address[:2])

    @property
    def local_address(self) -> Address:
        """The local address."""
        return Address(*self._channel.endpoint.socket.getsockname()[:2])

    async def send(self, value: bytes) -> None:
        """Encrypt one datagram and send it to the peer.

        Args:
          value: the payload, not empty.

        Raises:
          ValueError: if it is empty, which DTLS has no datagram for.
          trio.ClosedResourceError: if the channel is closed.
          trio.BrokenResourceError: if the peer has begun anew, with another handshake.
          OSError: what the kernel says.

        A cancellation point always. A cancelled call has sent nothing.
        """
        await trio.lowlevel.checkpoint()
        # What was encrypted and not sent would go out with the next datagram.
        with trio.CancelScope(shield=True):
            await self._channel.send(value)

    async def receive(self) -> bytes:
        """Wait for the peer's next datagram and return it decrypted.

        Raises:
          trio.EndOfChannel: when the peer has said goodbye (the alert close_notify, RFC 5246, 7.2.1).
          trio.ClosedResourceError: if the channel is closed.
          trio.BrokenResourceError: if the peer has begun anew, with another handshake, or says that it has failed.

        A cancellation point always. A cancelled call has consumed nothing.
        """
        try:
            return await self._channel.receive()
        except SSL.ZeroReturnError:
            raise trio.EndOfChannel from None
        except SSL.Error as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Close the channel. The peer is told nothing."""
        await self._channel.aclose()


@attrs.frozen
class _Bound:
    """A socket that an endpoint can serve on."""

    sock: trio.socket.SocketType

    @classmethod
    async def bind(cls, type_: str, host: str, port: int) -> _Bound:
        sock = trio.socket.socket(FAMILIES[type_].family, socket.SOCK_DGRAM)
        with ExitStack() as stack:
            stack.callback(sock.close)
            if type_ == UDP6.type:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                await sock.bind((host, port))
            except OSError as error:
                raise with_context(error, "bind", Address(host, port)) from None
            stack.pop_all()
        return cls(sock)

    @property
    def address(self) -> Address:
        return Address(*self.sock.getsockname()[:2])

    def close(self) -> None:
        self.sock.close()


async def serve(
    handler: Callable[[DTLSChannel], Awaitable[object]],
    port: int,
    ssl_context: SSL.Context,
    *,
    host: str | None = None,
    handshake_timeout: float = 60.0,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Call ``handler`` with an encrypted channel for each peer that has shaken hands, for ever.

    Args:
      handler: an async function that takes a ``trio.abc.Channel[bytes]``; the channel is closed when it returns.
      port: the UDP port; 0 for one of the kernel's choice.
      ssl_context: with ``SSL.DTLS_METHOD``, a certificate and its key. Its ``set_verify`` says whether clients need
        certificates, too.
      host: a local address, or a name that resolves to some; all interfaces if there is none.
      handshake_timeout: how long a handshake may take, in seconds.
      task_status: ``nursery.start`` returns the local addresses.

    A peer is let in when it has proved its address (RFC 6347, 4.2.1), so forged ones cost nothing. A handler's
    ``Exception`` is logged, with the peer, and ends that channel alone; so is a handshake that fails or takes too long.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      OSError: what the kernel says, such as EADDRINUSE.
    """
    _check_context(ssl_context)
    check_number("handshake_timeout", handshake_timeout, 0, infinite=True)
    with ExitStack() as stack:
        bound = await bind_each_family(port, host, _Bound.bind)
        endpoints = [stack.enter_context(_endpoint(stack.enter_context(each.sock))) for each in bound]
        async with trio.open_nursery() as nursery:
            for endpoint in endpoints:
                await nursery.start(endpoint.serve, ssl_context, partial(_handle, handler, handshake_timeout))
            task_status.started([each.address for each in bound])
    # An endpoint serves for ever.
    raise AssertionError


async def _handle(
    handler: Callable[[DTLSChannel], Awaitable[object]], handshake_timeout: float, channel: trio.DTLSChannel
) -> None:
    try:
        with trio.fail_after(handshake_timeout):
            await channel.do_handshake()
    except (trio.TooSlowError, trio.BrokenResourceError, OSError, SSL.Error) as error:
        _log.warning("the handshake of %s failed: %r", channel.peer_address, error)
        return
    try:
        await handler(DTLSChannel(channel))
    except Exception:  # noqa: BLE001 -- whatever it is, it is logged
        _log.exception("the handler of %s failed", channel.peer_address)


class _WithoutEmpty:
    """A socket that passes over empty datagrams, which anybody can forge: OpenSSL takes one for a failure."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    async def recvfrom(self, size: int) -> tuple[bytes, Any]:
        while True:
            data, source = await self._sock.recvfrom(size)
            if data:
                return data, source


def _endpoint(sock: trio.socket.SocketType) -> trio.DTLSEndpoint:
    return trio.DTLSEndpoint(cast("trio.socket.SocketType", _WithoutEmpty(sock)))


@asynccontextmanager
async def open_connection(
    host: str,
    port: int,
    ssl_context: SSL.Context,
    *,
    server_hostname: str | None = None,
    initial_retransmit_timeout: float = 1.0,
    handshake_timeout: float = 60.0,
) -> AsyncGenerator[DTLSChannel]:
    """Open an encrypted channel to a server, its handshake done, to be closed when the block ends.

    Args:
      host: the server's name or address. Of the addresses of a name the first is taken to which there is a way.
      port: its UDP port.
      ssl_context: with ``SSL.DTLS_METHOD`` and the authorities that are trusted; the server's certificate is verified
        whatever its ``set_verify`` says. Each connection wants one of its own, since pyOpenSSL lets nobody change one
        that has been used.
      server_hostname: the name or address that the certificate has to be for; ``host`` if there is none.
      initial_retransmit_timeout: after how long a message of the handshake is sent again the first time, in seconds.
      handshake_timeout: how long the handshake may take, in seconds: UDP does not tell that a server is silent.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      socket.gaierror: if the name does not resolve.
      CertificateError: if the server's certificate is for somebody else, or no trusted authority has signed it.
      trio.TooSlowError: if the handshake takes too long.
      OSError: what the kernel says.
    """
    _check_context(ssl_context)
    check_number("initial_retransmit_timeout", initial_retransmit_timeout, 0)
    check_number("handshake_timeout", handshake_timeout, 0, infinite=True)
    family, peer = await connect_next(await addresses_of(host, port), port, _probe)
    scope = trio.CancelScope()
    verifying = _Verifying(server_hostname or host, scope.cancel)
    with (
        trio.socket.socket(family, socket.SOCK_DGRAM) as sock,
        _endpoint(sock) as endpoint,
        _connect(endpoint, peer, ssl_context, verifying) as channel,
    ):
        with trio.move_on_after(handshake_timeout) as limit, scope:
            await channel.do_handshake(initial_retransmit_timeout=initial_retransmit_timeout)
        if limit.cancelled_caught:
            raise trio.TooSlowError(f"{host!r} has not finished the handshake within {handshake_timeout} seconds")
        if verifying.wrong is not None:
            raise verifying.wrong
        yield DTLSChannel(channel)


def _connect(endpoint: trio.DTLSEndpoint, peer: Any, context: SSL.Context, verifying: _Verifying) -> trio.DTLSChannel:
    try:
        # Without a checkpoint between the two, nobody else's check gets in between.
        context.set_verify(SSL.VERIFY_PEER, verifying.is_right)
        return endpoint.connect(peer, context)
    except ValueError as error:
        raise ValueError(f"ssl_context must be a new one for each connection: {error}") from None


async def _probe(type_: str, address: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return an address to which there is a way as the kernel writes it: so the endpoint knows whose answer it is."""
    family = FAMILIES[type_].family
    with trio.socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            await probe.connect((address, port))
        except OSError as error:
            with_context(error, "connect", Address(address, port))
            raise
        return family, probe.getpeername()


class _Verifying:
    """Looks at the certificates of one server; ``refuse`` is called when they will not do.

    To a DTLS endpoint of Trio's a handshake that fails is one that has not succeeded yet.
    """

    def __init__(self, wanted: str, refuse: Callable[[], object]) -> None:
        self.wrong: CertificateError | None = None
        self._wanted = wanted
        self._refuse = refuse

    def is_right(self, _: SSL.Connection, certificate: Any, number: int, depth: int, is_signed: int) -> bool:
        """Whether a certificate is signed as it should be and, the server's own, for the one that is wanted."""
        if not is_signed:
            return self._is_wrong(f"no trusted authority vouches for it (X509_verify_cert_error {number})")
        if depth == 0:
            service = DNS_ID(self._wanted) if _is_name(self._wanted) else IPAddress_ID(self._wanted)
            try:
                verify_service_identity(extract_patterns(certificate), [service], [])
            except (VerificationError, ServiceIdentityError) as error:
                return self._is_wrong(f"it is for somebody else ({error})")
        return True

    def _is_wrong(self, why: str) -> bool:
        self.wrong = CertificateError(f"the certificate will not do for {self._wanted}: {why}")
        self._refuse()
        return False


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _check_context(value: object) -> None:
    if not isinstance(value, SSL.Context):
        raise TypeError(f"ssl_context must be an OpenSSL.SSL.Context, not {describe_value(value)}")
