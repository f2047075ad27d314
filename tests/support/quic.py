"""Certificates, configurations, servers and clients of QUIC tests."""

from __future__ import annotations

import atexit
import datetime as dt
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trio_dgram import quic

from .handshakes import check_handshakes

NAMES: Final = ("server.example", "localhost", "127.0.0.1", "127.0.0.2", "::1")


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _issue(
    subject: str,
    key: Ed25519PrivateKey,
    issuer: str,
    issuer_key: Ed25519PrivateKey,
    *,
    ca: bool,
    purpose: x509.ObjectIdentifier | None = None,
) -> bytes:
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(1 + ca)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in NAMES]), critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, None).public_bytes(serialization.Encoding.PEM)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@cache
def files() -> Path:
    """Return a folder with two CAs, and certificates for ``key.pem``: of a server, and good and bad ones of clients.

    The signatures of Ed25519 all have one size, so simulated runs have equal digests.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    authority, other, key = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(3))
    for name, content in {
        "ca.pem": _issue("ca", authority, "ca", authority, ca=True),
        "other-ca.pem": _issue("other", other, "other", other, ca=True),
        "cert.pem": _issue("server", key, "ca", authority, ca=False),
        "client.pem": _issue("client", key, "ca", authority, ca=False, purpose=ExtendedKeyUsageOID.CLIENT_AUTH),
        "other-client.pem": _issue("client", key, "other", other, ca=False),
        "no-client.pem": _issue("server", key, "ca", authority, ca=False, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        "key.pem": _pem(key),
    }.items():
        (folder / name).write_bytes(content)
    return folder


def server_configuration(**settings: Any) -> quic.Configuration:
    given = {"alpn": ["test"], "certificate": files() / "cert.pem", "key": files() / "key.pem", **settings}
    return quic.Configuration(**given)


def client_configuration(**settings: Any) -> quic.Configuration:
    return quic.Configuration(**{"alpn": ["test"], "trust": files() / "ca.pem", **settings})


async def echo(stream: quic.Stream) -> None:
    """Send back what comes; fail on request."""
    async for data in stream:
        if data == b"fail":
            raise ValueError("of the handler")
        await stream.send_all(data)


async def echo_all(connection: quic.Connection) -> None:
    await connection.serve_streams(echo)


@asynccontextmanager
async def serving(
    handler: Callable[[quic.Connection], Awaitable[object]] = echo_all,
    configuration: quic.Configuration | None = None,
    port: int = 0,
    **options: Any,
) -> AsyncGenerator[list[quic.Listener]]:
    given = {"host": "127.0.0.1", "handler_errors": "raise", **options}
    async with trio.open_nursery() as nursery:
        serve = partial(quic.serve, handler, port, configuration or server_configuration(), **given)
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


def connecting(
    listener: quic.Listener, configuration: quic.Configuration | None = None, **options: Any
) -> AbstractAsyncContextManager[quic.Connection, None]:
    host, port = listener.address
    return quic.open_connection(host, port, configuration or client_configuration(), **options)


@attrs.frozen
class Pair:
    """Both ends of a connection."""

    client: quic.Connection
    server: quic.Connection
    listener: quic.Listener

    async def streams(self) -> tuple[quic.Stream, quic.Stream]:
        """Open a two-way stream; return both ends of it."""
        ours = await self.client.open_stream()
        await ours.send_all(b"!")
        theirs = await self.server.accept_streams().receive()
        assert await theirs.receive_some(1) == b"!"
        return ours, theirs


@asynccontextmanager
async def connected(
    server: dict[str, Any] | None = None, client: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[Pair]:
    """Connect a client and a server, with settings for each."""
    send, receive = trio.open_memory_channel[quic.Connection](1)

    async def keep(connection: quic.Connection) -> None:
        await send.send(connection)
        await connection.wait_closed()

    async with serving(keep, server_configuration(**(server or {})), **options) as (listener,):
        async with connecting(listener, client_configuration(**(client or {}))) as connection:
            yield Pair(connection, await receive.receive(), listener)


def check_sums(listener: quic.Listener) -> quic.QuicListenerStatistics:
    """Check that the counts of a listener add up."""
    counts = listener.statistics()
    check_handshakes(counts)
    assert counts.accepted == counts.connections + counts.closed
    return counts
