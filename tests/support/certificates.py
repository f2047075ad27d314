"""Certificates for DTLS tests, and OpenSSL contexts with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
import trustme
from OpenSSL import SSL

from trio_dgram import dtls

from .handshakes import check_handshakes

AUTHORITY: Final = trustme.CA()
OTHER_AUTHORITY: Final = trustme.CA()
SERVER: Final = AUTHORITY.issue_cert("server.example", "localhost", "127.0.0.1", "127.0.0.2", "::1")
CLIENT: Final = AUTHORITY.issue_cert("client@example.org")


def server_context(certificate: trustme.LeafCert = SERVER, *, verify_clients: bool = False) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    certificate.configure_cert(context)
    if verify_clients:
        AUTHORITY.configure_trust(context)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *about: bool(about[-1]))
    return context


def client_context(authority: trustme.CA = AUTHORITY, certificate: trustme.LeafCert | None = None) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def write_certificates(folder: Path) -> dict[str, str]:
    """Write the certificates as programs take them; return the names of the files."""
    files = {
        "authority": (AUTHORITY.cert_pem, "authority.pem"),
        "server": (SERVER.private_key_and_cert_chain_pem, "server.pem"),
        "certificate": (SERVER.cert_chain_pems[0], "certificate.pem"),
        "key": (SERVER.private_key_pem, "key.pem"),
    }
    for blob, name in files.values():
        blob.write_to_path(str(folder / name))
    return {kind: str(folder / name) for kind, (_, name) in files.items()}


async def shout(peer: trio.abc.Channel[bytes]) -> None:
    """Echo each datagram in capitals; fail on request."""
    async for data in peer:
        if data == b"fail":
            raise ValueError("of the handler")
        await peer.send(data.upper())


async def talk(peer: trio.abc.Channel[bytes]) -> None:
    for payload in (b"hello", b"again"):
        await peer.send(payload)
        assert await peer.receive() == payload.upper()


@asynccontextmanager
async def serving(
    handler: Callable[[Any], Any] = shout, context: SSL.Context | None = None, **options: Any
) -> AsyncGenerator[list[dtls.DTLSListener]]:
    """Serve ``handler`` for the block; return the listeners."""
    async with trio.open_nursery() as nursery:
        serve = partial(dtls.serve, handler, 0, context or server_context(), **options)
        listeners: list[dtls.DTLSListener] = await nursery.start(serve)
        assert len({listener.address.port for listener in listeners}) == 1
        yield listeners
        nursery.cancel_scope.cancel()


def connecting(listener: dtls.DTLSListener, host: str | None = None, **options: Any) -> Any:
    """Connect to a listener that is bound to one address, or to ``host``."""
    options.setdefault("ssl_context", client_context())
    options.setdefault("server_hostname", "server.example")
    return dtls.open_connection(host or listener.address.host, listener.address.port, **options)


def check_sums(listener: dtls.DTLSListener) -> dtls.DTLSListenerStatistics:
    """Return the counts of a listener, whose sums hold at every moment."""
    counts = listener.statistics()
    check_handshakes(counts)
    assert counts.accepted == counts.peers + counts.evicted + counts.expired + counts.closed
    return counts
