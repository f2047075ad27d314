"""DTLS with the programs of other libraries at the other end: OpenSSL, GnuTLS and libcoap."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from trio_dgram import dtls

from .support.certificates import client_context, serving, shout, write_certificates
from .support.families import Family
from .support.programs import coap_answer, printed, started, type_in, unused_port, url_host

pytestmark = pytest.mark.programs


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The certificates as programs take them."""
    return write_certificates(tmp_path)


# OpenSSL


async def test_openssl_s_client_talks_to_a_listener_and_ends_its_channel(udp: Family, files: dict[str, str]) -> None:
    ended = trio.Event()

    async def handler(peer: dtls.DTLSChannel) -> None:
        await shout(peer)
        # Once ended, always ended.
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
        with pytest.raises(trio.BrokenResourceError):
            await peer.send(b"x")
        ended.set()

    verification = ["-CAfile", files["authority"], "-verify_return_error", "-verify_hostname", "server.example"]
    async with serving(handler, host=udp.loopback) as (listener,):
        to = f"{url_host(udp.loopback)}:{listener.address.port}"
        async with started("openssl", "s_client", "-dtls1_2", "-connect", to, *verification) as client:
            await printed(client, b"Verify return code: 0 (ok)")
            await type_in(client, b"hello from openssl\n")
            await printed(client, b"HELLO FROM OPENSSL")
            # It sends close_notify.
            await type_in(client, b"Q\n")
            await ended.wait()


async def test_a_connection_talks_to_openssl_s_server(udp: Family, files: dict[str, str]) -> None:
    port = unused_port(udp)
    version = {"udp4": "-4", "udp6": "-6"}[udp.type]
    options = ["-cert", files["server"], "-key", files["server"], "-accept", str(port), version]
    async with started("openssl", "s_server", "-dtls1_2", "-listen", *options) as server:
        await printed(server, b"ACCEPT")
        connect = partial(dtls.open_connection, udp.loopback, port, client_context(), initial_retransmit_timeout=0.1)
        async with connect() as peer:
            await peer.send(b"hello to openssl\n")
            await printed(server, b"hello to openssl")
            await type_in(server, b"hello from openssl\n")
            assert await peer.receive() == b"hello from openssl\n"


# GnuTLS


async def test_gnutls_cli_talks_to_a_listener(udp: Family, files: dict[str, str]) -> None:
    async with serving(host=udp.loopback) as (listener,):
        options = ["--udp", "--x509cafile", files["authority"], "--verify-hostname", "server.example"]
        to = ["-p", str(listener.address.port), udp.loopback]
        async with started("gnutls-cli", *options, *to) as client:
            await printed(client, b"Handshake was completed")
            await type_in(client, b"hello from gnutls\n")
            await printed(client, b"HELLO FROM GNUTLS")


async def test_a_connection_talks_to_gnutls_serv(udp: Family, files: dict[str, str]) -> None:
    port = unused_port(udp)
    options = [
        "--udp",
        "--echo",
        "-p",
        str(port),
        "--x509certfile",
        files["certificate"],
        "--x509keyfile",
        files["key"],
    ]
    async with started("gnutls-serv", *options) as server:
        # Bound in each family.
        await printed(server, b"done", times=2)
        connect = partial(dtls.open_connection, udp.loopback, port, client_context(), initial_retransmit_timeout=0.1)
        async with connect() as peer:
            await peer.send(b"hello to gnutls\n")
            assert await peer.receive() == b"hello to gnutls\n"


# libcoap


async def answer_coap(peer: dtls.DTLSChannel) -> None:
    async for request in peer:
        await peer.send(coap_answer(request))


@pytest.mark.parametrize("name", ["coap-client-openssl", "coap-client-gnutls"])
async def test_coap_client_gets_a_resource_by_coaps(udp: Family, files: dict[str, str], name: str) -> None:
    async with serving(answer_coap, host=udp.loopback) as (listener,):
        url = f"coaps://{url_host(udp.loopback)}:{listener.address.port}/resource"
        # -B ends it after so many seconds.
        async with started(name, "-B", "10", "-m", "get", "-C", files["authority"], url) as client:
            await printed(client, b"hello from trio")
