"""Encrypted channels: the same handlers, real OpenSSL at the other end, and certificates that are for somebody else."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
import trustme
from OpenSSL import SSL

import trio_dgram
from trio_dgram import Address, dtls, sim

from .support.descriptors import same_descriptors
from .support.factories import awaited_sockets
from .support.families import Family
from .support.programs import find_program

# Trio closes them so where a peer has not said goodbye.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed DTLS endpoint:ResourceWarning")

AUTHORITY = trustme.CA()
SERVER = AUTHORITY.issue_cert("server.example", "localhost", "127.0.0.1", "::1")
CLIENT = AUTHORITY.issue_cert("client@example.org")
OTHER_AUTHORITY = trustme.CA()


def server_context(*, asks: bool = False) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    SERVER.configure_cert(context)
    if asks:
        AUTHORITY.configure_trust(context)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *about: bool(about[-1]))
    return context


def client_context(authority: trustme.CA = AUTHORITY, certificate: trustme.LeafCert | None = None) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


async def shout(peer: trio.abc.Channel[bytes]) -> None:
    """Send back what comes, in capitals: for any channel of bytes."""
    async for data in peer:
        if data == b"fail":
            raise ValueError("of the handler")
        await peer.send(data.upper())


@asynccontextmanager
async def serving(handler: Callable[[Any], Any], context: SSL.Context, **options: Any) -> AsyncGenerator[int]:
    async with trio.open_nursery() as nursery:
        addresses: list[Address] = await nursery.start(
            lambda task_status: dtls.serve(handler, 0, context, task_status=task_status, **options)
        )
        assert len({address.port for address in addresses}) == 1
        yield addresses[0].port
        nursery.cancel_scope.cancel()


async def talk(peer: trio.abc.Channel[bytes]) -> None:
    for payload in (b"hello", b"again"):
        await peer.send(payload)
        assert await peer.receive() == payload.upper()


@asynccontextmanager
async def serving_both() -> AsyncGenerator[tuple[int, int]]:
    """Serve one handler to plain and to encrypted peers, and give the port of each."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio_dgram.serve, shout, 0)
        async with serving(shout, server_context()) as port:
            yield listeners[0].address.port, port
        nursery.cancel_scope.cancel()


async def talk_to_both(host: str, plain_port: int, encrypted_port: int) -> None:
    """Talk to both at once, patiently."""
    async with (
        trio_dgram.open_connection(host, plain_port) as plain,
        dtls.open_connection(host, encrypted_port, client_context(), server_hostname="server.example") as encrypted,
        trio.open_nursery() as nursery,
    ):
        for peer in (plain, encrypted):
            nursery.start_soon(ask_until_answered, peer)


async def ask_until_answered(peer: trio.abc.Channel[bytes]) -> None:
    for payload in (b"hello", b"again"):
        async for attempt in trio_dgram.retry(attempts=8):
            with attempt:
                await peer.send(payload)
                while await peer.receive() != payload.upper():
                    pass


@pytest.mark.parametrize("run", [trio.run, sim.run], ids=["real", "simulated"])
def test_one_handler_serves_plain_and_encrypted_peers_on_real_and_simulated_networks(
    udp: Family, run: Callable[..., None]
) -> None:
    async def both(*_: sim.Network) -> None:
        async with serving_both() as ports:
            await talk_to_both(udp.loopback, *ports)

    run(both)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_handler_serves_plain_and_encrypted_peers_on_a_bad_network(udp: Family, seed: int) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, delay=0.05, jitter=0.04, keep_order=False, loss=0.1, duplicate=0.5)
        with server.entered():
            async with serving_both() as ports:
                await client.run(talk_to_both, {"udp4": server.ipv4, "udp6": server.ipv6}[udp.type], *ports)
        assert network.time > 0.2

    sim.run(scenario, seed=seed)


async def test_a_name_an_address_or_another_name_is_what_the_certificate_is_for(udp: Family) -> None:
    async with serving(shout, server_context()) as port:
        for name in (None, "server.example"):
            async with dtls.open_connection(udp.loopback, port, client_context(), server_hostname=name) as peer:
                await talk(peer)
        async with dtls.open_connection("localhost", port, client_context()) as peer:
            await talk(peer)
        for name in ("other.example", "127.0.0.9", "bücher.example"):
            with pytest.raises(dtls.CertificateError, match=f"will not do for {name}: it is for somebody else"):
                async with dtls.open_connection(udp.loopback, port, client_context(), server_hostname=name):
                    raise AssertionError


async def test_a_context_that_has_been_used_is_refused(udp: Family) -> None:
    context = client_context()
    async with serving(shout, server_context(), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, context) as peer:
            await talk(peer)
            with pytest.raises(ValueError, match="ssl_context must be a new one for each connection"):
                async with dtls.open_connection(udp.loopback, port, context):
                    raise AssertionError


class _Resolver(trio.abc.HostnameResolver):
    """Says of every name that its first address is one that nobody may send to, and of some that it is the only one."""

    async def getaddrinfo(self, host: Any, port: Any, *_: object) -> Any:
        hosts = ["255.255.255.255"] if host == b"nowhere.example" else ["255.255.255.255", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (host, port)) for host in hosts]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> NoReturn:  # noqa: ARG002 -- Trio's
        raise AssertionError  # pragma: no cover -- nobody asks


async def test_a_port_that_is_taken_in_one_family_leaves_nothing_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", 0))
        with same_descriptors(), pytest.raises(OSError, match=r"bind 0\.0\.0\.0:\d+: Address already in use"):
            await dtls.serve(shout, holder.getsockname()[1], server_context())


async def test_a_server_that_is_cancelled_while_it_binds_leaves_nothing_open(udp: Family) -> None:
    with same_descriptors(), awaited_sockets() as sockets:
        held = sockets.hold("bind")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(dtls.serve, shout, 0, server_context(), host=udp.loopback))
            await held.reached.wait()
            nursery.cancel_scope.cancel()


async def test_the_first_address_of_a_name_to_which_there_is_a_way_is_taken() -> None:
    trio.socket.set_custom_hostname_resolver(_Resolver())
    async with serving(shout, server_context(), host="127.0.0.1") as port:
        async with dtls.open_connection("server.example", port, client_context()) as peer:
            assert peer.address == ("127.0.0.1", port)
            await talk(peer)
        with pytest.raises(PermissionError, match=rf"connect 255\.255\.255\.255:{port}: Permission denied"):
            async with dtls.open_connection("nowhere.example", port, client_context()):
                raise AssertionError


async def test_a_certificate_that_nobody_trusted_has_signed_is_refused(udp: Family) -> None:
    async with serving(shout, server_context(), host=udp.loopback) as port:
        with pytest.raises(dtls.CertificateError, match="no trusted authority vouches for it"):
            async with dtls.open_connection(udp.loopback, port, client_context(OTHER_AUTHORITY)):
                raise AssertionError


async def test_clients_may_have_to_have_certificates(udp: Family) -> None:
    async with serving(shout, server_context(asks=True), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, client_context(certificate=CLIENT)) as peer:
            await talk(peer)
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            async with dtls.open_connection(udp.loopback, port, client_context()):
                raise AssertionError


async def test_a_closed_channel_is_closed(udp: Family) -> None:
    async with serving(shout, server_context(), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, client_context()) as peer:
            await talk(peer)
            await peer.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await peer.receive()


async def test_a_failing_handler_ends_its_channel_alone(udp: Family, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(shout, server_context(), host=udp.loopback) as port:
        async with (
            dtls.open_connection(udp.loopback, port, client_context()) as one,
            dtls.open_connection(udp.loopback, port, client_context()) as other,
        ):
            await talk(one)
            await one.send(b"fail")
            await talk(other)
    assert "of the handler" in caplog.text


def test_a_silent_server_is_given_up_by_a_deadline() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("server")
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(30):
                async with dtls.open_connection("server", 4433, client_context()):
                    raise AssertionError
        assert network.time == 30

    sim.run(scenario)


@pytest.mark.parametrize("call", [dtls.open_connection, dtls.serve])
async def test_a_context_of_another_library_is_refused(call: Any) -> None:
    context: Any = ssl.create_default_context()
    with pytest.raises(TypeError, match=r"ssl_context must be an OpenSSL\.SSL\.Context"):
        if call is dtls.serve:
            await call(shout, 0, context)
        else:
            async with call("localhost", 9, context):
                raise AssertionError


# Real OpenSSL at the other end


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder with the certificates, as OpenSSL's own programs take them."""
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    SERVER.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    return tmp_path


@asynccontextmanager
async def openssl(*arguments: str) -> AsyncGenerator[trio.Process]:
    process = await trio.lowlevel.open_process(
        [find_program("openssl"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()


async def said(process: trio.Process, text: bytes) -> bytes:
    """Return what a program says, up to ``text``."""
    assert process.stdout is not None
    heard = b""
    while text not in heard:
        more = await process.stdout.receive_some()
        assert more, heard
        heard += more
    return heard


async def test_openssls_client_talks_to_us(udp: Family, files: Path) -> None:
    ended = trio.Event()

    async def handler(peer: dtls.DTLSChannel) -> None:
        assert peer.address.host == udp.loopback
        assert peer.local_address.host == udp.loopback
        await shout(peer)
        ended.set()

    async with serving(handler, server_context(), host=udp.loopback) as port:
        host = f"[{udp.loopback}]" if ":" in udp.loopback else udp.loopback
        options = [
            "-CAfile",
            str(files / "authority.pem"),
            "-verify_return_error",
            "-verify_hostname",
            "server.example",
        ]
        async with openssl("s_client", "-dtls1_2", "-connect", f"{host}:{port}", *options) as client:
            await said(client, b"Verify return code: 0 (ok)")
            assert client.stdin is not None
            await client.stdin.send_all(b"hello from openssl\n")
            await said(client, b"HELLO FROM OPENSSL")
            # Closing says goodbye, which ends the channel here.
            await client.stdin.send_all(b"Q\n")
            await ended.wait()


async def test_we_talk_to_openssls_server(udp: Family, files: Path) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as free:
        port = free.address.port
    version = {"udp4": "-4", "udp6": "-6"}[udp.type]
    options = ["-cert", str(files / "server.pem"), "-key", str(files / "server.pem"), "-accept", str(port), version]
    async with openssl("s_server", "-dtls1_2", "-listen", *options) as server:
        await said(server, b"ACCEPT")
        async with dtls.open_connection(udp.loopback, port, client_context(), initial_retransmit_timeout=0.1) as peer:
            await peer.send(b"hello to openssl\n")
            await said(server, b"hello to openssl")
            assert server.stdin is not None
            await server.stdin.send_all(b"hello from openssl\n")
            assert await peer.receive() == b"hello from openssl\n"


async def test_a_forged_empty_datagram_ends_no_channel(udp: Family) -> None:
    served: list[dtls.DTLSChannel] = []

    async def handler(peer: dtls.DTLSChannel) -> None:
        served.append(peer)
        await shout(peer)

    async with serving(handler, server_context(), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, client_context()) as peer:
            await talk(peer)
            for one, other in ((peer, served[0]), (served[0], peer)):
                # From the very address of the peer, as whoever forges it would have it.
                await one._channel.endpoint.socket.sendto(b"", tuple(other.address))
            await talk(peer)


async def test_a_cancelled_send_has_sent_nothing(udp: Family) -> None:
    async with serving(shout, server_context(), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, client_context()) as peer:
            with trio.CancelScope() as scope:
                scope.cancel()
                await peer.send(b"cancelled")
            assert scope.cancelled_caught
            await talk(peer)


async def test_what_dtls_cannot_send_is_refused(udp: Family) -> None:
    async with serving(shout, server_context(), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, client_context()) as peer:
            with pytest.raises(ValueError, match="empty"):
                await peer.send(b"")
            await talk(peer)


async def test_a_failure_in_the_encryption_breaks_the_channel(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(shout, server_context(), host=udp.loopback) as port:
        async with dtls.open_connection(udp.loopback, port, client_context()) as peer:

            async def fail(_: object) -> bytes:
                await trio.lowlevel.checkpoint()
                raise SSL.Error([])

            monkeypatch.setattr(trio.DTLSChannel, "receive", fail)
            with pytest.raises(trio.BrokenResourceError):
                await peer.receive()


@pytest.mark.parametrize("slow", ["server", "client"])
def test_a_handshake_that_takes_too_long_is_given_up(slow: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, delay=0.5)
        patience = {"server": 1e6, "client": 1e6} | {slow: 0.75}
        with server.entered():
            async with serving(shout, server_context(), handshake_timeout=patience["server"]) as port:
                with client.entered(), pytest.raises(trio.TooSlowError, match="has not finished the handshake within"):
                    async with dtls.open_connection(
                        server.addresses[0],
                        port,
                        client_context(),
                        server_hostname="server.example",
                        handshake_timeout=min(patience["client"], 3600),
                    ):
                        raise AssertionError
                assert network.time == pytest.approx(3600 if slow == "server" else 0.75, abs=1)

    with caplog.at_level("WARNING"):
        sim.run(scenario)
    assert bool(re.search("handshake of .* failed: TooSlowError", caplog.text)) == (slow == "server")


@pytest.mark.parametrize("name", ["handshake_timeout", "initial_retransmit_timeout"])
async def test_wrong_times_are_named(name: str) -> None:
    wrong: dict[str, Any] = {name: -1}
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        async with dtls.open_connection("localhost", 9, client_context(), **wrong):
            raise AssertionError
    wrong = {"handshake_timeout": "long"}
    with pytest.raises(TypeError, match="handshake_timeout must be a number"):
        await dtls.serve(shout, 0, server_context(), **wrong)
