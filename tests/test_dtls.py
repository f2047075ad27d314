"""DTLS: channels, certificates, addresses and closing."""

from __future__ import annotations

import datetime as dt
import errno
import importlib
import math
import socket
import ssl
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, NoReturn

import pytest
import trio
import trio.testing
from OpenSSL import SSL

import trio_dgram
from trio_dgram import Address, DatagramSocket, dtls, sim
from trio_dgram._dtls.contexts import Handshake

from .support.certificates import (
    AUTHORITY,
    CLIENT,
    OTHER_AUTHORITY,
    check_sums,
    client_context,
    connecting,
    server_context,
    serving,
    shout,
    talk,
)
from .support.descriptors import same_descriptors
from .support.factories import awaited_sockets
from .support.families import Family
from .support.faults import Faults, faulty_kernel
from .support.marks import needs_packet_info
from .support.namespaces import Machine, add_address, run
from .support.programs import unused_port

# One handler for all kinds of peers


@asynccontextmanager
async def serving_both() -> AsyncGenerator[tuple[int, int]]:
    """Serve one handler to plain and to encrypted peers; return the port of each."""
    async with trio.open_nursery() as nursery:
        plain = await nursery.start(trio_dgram.serve, shout, 0)
        async with serving() as encrypted:
            yield plain[0].address.port, encrypted[0].address.port
        nursery.cancel_scope.cancel()


async def talk_to_both(host: str, plain_port: int, encrypted_port: int) -> None:
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


@pytest.mark.parametrize("run_", [trio.run, sim.run], ids=["real", "simulated"])
def test_one_handler_serves_plain_and_encrypted_peers(udp: Family, run_: Callable[..., None]) -> None:
    async def both(*_: sim.Network) -> None:
        async with serving_both() as ports:
            await talk_to_both(udp.loopback, *ports)

    run_(both)


@pytest.mark.parametrize("seed", range(5))
def test_one_handler_serves_both_on_a_lossy_path(udp: Family, seed: int) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, delay=0.05, jitter=0.04, keep_order=False, loss=0.1, duplicate=0.5)
        with server.active():
            async with serving_both() as ports:
                await client.run(talk_to_both, {"udp4": server.ipv4, "udp6": server.ipv6}[udp.type], *ports)
        assert network.time > 0.2

    sim.run(scenario, seed=seed)


async def test_a_handler_of_plain_peers_may_mark_an_encrypted_one_as_validated(udp: Family) -> None:
    async def handler(peer: trio_dgram.DatagramChannel) -> None:
        peer.mark_validated()
        await shout(peer)

    async with serving(handler, host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)


async def test_every_kind_of_payload_is_sent(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            for value in (b"bytes", bytearray(b"bytes"), "bytes", [b"by", "tes"], memoryview(b"bytes")):
                await peer.send(value)
                assert await peer.receive() == b"BYTES"
            for wrong in (3, None):
                with pytest.raises(TypeError):
                    await peer.send(wrong)
            with pytest.raises(ValueError, match="value must not be empty: DTLS has no empty datagrams"):
                await peer.send(b"")
            with pytest.raises(OSError, match="a DTLS record has at most 16384 bytes") as caught:
                await peer.send(bytes(20000))
            assert caught.value.errno == errno.EMSGSIZE
            await talk(peer)
            counts = peer.statistics()
            assert (counts.sent, counts.received, counts.dropped) == (7, 7, 0)
            assert (counts.bytes_sent, counts.bytes_received) == (35, 35)


async def test_datagrams_of_tasks_that_send_at_once_stay_apart(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(peer.send, b"%d" % number)
            assert sorted([await peer.receive() for _ in range(10)]) == [b"%d" % number for number in range(10)]


async def test_one_context_serves_listeners_and_connections_of_any_number(udp: Family) -> None:
    server, client = server_context(), client_context()
    async with serving(context=server, host=udp.loopback) as (one,):
        async with connecting(one, ssl_context=client) as first:
            await talk(first)
            async with serving(context=server, host=udp.loopback) as (other,):
                async with connecting(other, ssl_context=client) as second:
                    await talk(second)
                    await talk(first)


@pytest.mark.parametrize("end", ["server", "client"])
async def test_a_context_that_was_used_for_something_else_is_refused(end: str) -> None:
    context = server_context()
    SSL.Connection(context)
    with pytest.raises(ValueError, match=f"ssl_context must not have been used for anything but DTLS {end}s"):
        if end == "server":
            await dtls.serve(shout, 0, context)
        else:
            dtls.open_connection("localhost", 9, context)


@pytest.mark.parametrize("call", [dtls.open_connection, dtls.serve, dtls.open_listeners])
async def test_a_context_of_another_library_is_refused(call: Any) -> None:
    context: Any = ssl.create_default_context()
    with pytest.raises(TypeError, match=r"ssl_context must be an OpenSSL\.SSL\.Context"):
        if call is dtls.open_connection:
            call("localhost", 9, context)
        else:
            await call(*[shout] * (call is dtls.serve), 0, context)


async def test_a_context_of_tls_is_refused() -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    message = r"ssl_context must be one of DTLS, SSL\.Context\(SSL\.DTLS_METHOD\), not of TLS"
    with pytest.raises(ValueError, match=message):
        await dtls.open_listeners(0, context)
    with pytest.raises(ValueError, match=message):
        dtls.open_connection("localhost", 9, context)


async def test_a_context_may_be_changed_until_it_is_used() -> None:
    context = server_context()
    with pytest.raises(ValueError, match="port must be"):
        dtls.open_connection("localhost", 0, context)
    context.set_timeout(1)


# Certificates


async def test_the_certificate_must_be_issued_for_the_host(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        for name in (None, "server.example", "127.0.0.1"):
            async with connecting(listener, server_hostname=name) as peer:
                await talk(peer)
        for name in ("other.example", "127.0.0.9", "bücher.example"):
            message = f"certificate verification failed for {name}: issued for server.example, localhost, 127"
            with pytest.raises(dtls.CertificateError, match=message):
                async with connecting(listener, server_hostname=name):
                    raise AssertionError


async def test_a_certificate_of_an_unknown_authority_is_refused(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        message = "certificate verification failed for server.example: not issued by a trusted CA"
        with pytest.raises(dtls.CertificateError, match=message):
            async with connecting(listener, ssl_context=client_context(OTHER_AUTHORITY)):
                raise AssertionError


async def test_an_expired_certificate_is_refused(udp: Family) -> None:
    expired = AUTHORITY.issue_cert("server.example", not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    async with serving(context=server_context(expired), host=udp.loopback) as (listener,):
        with pytest.raises(dtls.CertificateError, match=r"failed for server\.example: expired"):
            async with connecting(listener):
                raise AssertionError


async def test_a_certificate_for_no_name_is_refused(udp: Family) -> None:
    nameless = AUTHORITY.issue_cert("client@example.org")
    async with serving(context=server_context(nameless), host=udp.loopback) as (listener,):
        with pytest.raises(dtls.CertificateError, match=r"failed for server\.example: issued for no name"):
            async with connecting(listener):
                raise AssertionError


async def test_a_server_without_a_certificate_is_refused(udp: Family) -> None:
    def anonymous() -> SSL.Context:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_cipher_list(b"AECDH-AES128-SHA:@SECLEVEL=0")
        return context

    async with serving(context=anonymous(), host=udp.loopback) as (listener,):
        with pytest.raises(dtls.CertificateError, match=r"failed for server\.example: the server has no certificate"):
            async with connecting(listener, ssl_context=anonymous()):
                raise AssertionError


@pytest.mark.parametrize("name", ["", "under score", 3])
async def test_a_host_that_no_certificate_can_be_issued_for_is_refused(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="server_hostname must be "):
        dtls.open_connection("localhost", 9, client_context(), server_hostname=name)
    with pytest.raises((TypeError, ValueError), match=r"^host must be "):
        dtls.open_connection(name, 9, client_context())


async def test_an_ipv4_mapped_address_is_verified_as_ipv4() -> None:
    async with serving(host="127.0.0.1") as (listener,):
        async with connecting(listener, "::ffff:127.0.0.1") as peer:
            assert peer.address == listener.address
            await talk(peer)


@pytest.mark.parametrize("local", [0, "127.0.0.1", ("127.0.0.1",)])
async def test_a_wrong_local_address_is_refused(local: Any) -> None:
    with pytest.raises(TypeError, match=r"local (address )?must be a \(host, port\) tuple"):
        dtls.open_connection("localhost", 9, client_context(), local=local)


async def test_clients_may_be_required_to_have_certificates(udp: Family, caplog: pytest.LogCaptureFixture) -> None:
    untrusted = OTHER_AUTHORITY.issue_cert("client@example.org")
    async with serving(context=server_context(verify_clients=True), host=udp.loopback) as (listener,):
        async with connecting(listener, ssl_context=client_context(certificate=CLIENT)) as peer:
            await talk(peer)
        for certificate, alert in ((None, "handshake_failure"), (untrusted, "unknown_ca")):
            failed = rf"the DTLS handshake with .* failed: the peer ended it with the alert {alert}"
            with pytest.raises(trio.BrokenResourceError, match=failed):
                async with connecting(
                    listener, ssl_context=client_context(certificate=certificate), handshake_timeout=math.inf
                ):
                    raise AssertionError
        # Neither end waits for its timeout.
        counts = check_sums(listener)
        assert (counts.handshakes, counts.handshaking, counts.handshakes_failed) == (3, 0, 2)
    assert "failed: OpenSSL ended it with the alert handshake_failure" in caplog.text


# Addresses


class _Resolver(trio.abc.HostnameResolver):
    """Returns the same addresses for every name."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    async def getaddrinfo(self, host: Any, port: Any, *_: object) -> Any:  # noqa: ARG002 -- Trio's
        await trio.lowlevel.checkpoint()
        families = {host: socket.AF_INET6 if ":" in host else socket.AF_INET for host in self._hosts}
        return [(family, socket.SOCK_DGRAM, 0, "", (host, port)) for host, family in families.items()]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> NoReturn:  # noqa: ARG002 -- Trio's
        raise AssertionError  # pragma: no cover -- not called


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_without_a_route_is_skipped(host: str) -> None:
    async with serving(host=host) as (listener,):
        trio.socket.set_custom_hostname_resolver(_Resolver("255.255.255.255", host))
        async with connecting(listener, "server.example") as peer:
            assert peer.address == listener.address
            await talk(peer)
        trio.socket.set_custom_hostname_resolver(_Resolver("255.255.255.255"))
        with pytest.raises(PermissionError, match=r"connect 255\.255\.255\.255:\d+: Permission denied"):
            async with connecting(listener, "nowhere.example"):
                raise AssertionError


@pytest.mark.parametrize("hosts", [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
async def test_an_address_that_refuses_the_handshake_is_skipped(hosts: tuple[str, str]) -> None:
    trio.socket.set_custom_hostname_resolver(_Resolver(*hosts))
    with same_descriptors():
        async with serving(host=hosts[1]) as (listener,):
            async with connecting(listener, "server.example") as peer:
                assert peer.address == listener.address
                await talk(peer)


async def test_the_last_refusal_is_raised() -> None:
    trio.socket.set_custom_hostname_resolver(_Resolver("::1", "127.0.0.1"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with same_descriptors(), pytest.raises(ConnectionRefusedError, match=r"127\.0\.0\.1"):
        async with dtls.open_connection("server.example", port, client_context()):
            raise AssertionError


async def test_a_connection_has_the_local_address_and_the_options_that_were_asked_for(udp: Family) -> None:
    peers: list[dtls.DTLSChannel] = []

    async def handler(peer: dtls.DTLSChannel) -> None:
        peers.append(peer)
        await shout(peer)

    async with serving(handler, host=udp.loopback, receive_buffer_size=65536, ttl=9) as (listener,):
        port = unused_port(udp)
        async with connecting(listener, local=(udp.loopback, port), ttl=7) as peer:
            await talk(peer)
            assert peer.local_address == peers[0].address == (udp.loopback, port)
            assert peer.address == peers[0].local_address == listener.address
            assert repr(peer) == f"<trio_dgram.dtls.DTLSChannel to {peer.address}, open>"
        assert repr(peer).endswith("closed>")
        with pytest.raises(OSError, match=r"bind|not an address"):
            async with connecting(listener, local=("192.0.2.1", 0)):
                raise AssertionError


@pytest.mark.parametrize("wrong", [{"loccal": 1}, {"max_peers": 1}])
async def test_an_unknown_option_of_a_connection_is_refused_with_those_that_exist(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"unknown socket option .*; the socket options are broadcast"):
        dtls.open_connection("localhost", 9, client_context(), **wrong)


@needs_packet_info
@pytest.mark.parametrize("run_", [trio.run, sim.run], ids=["real", "simulated"])
@pytest.mark.parametrize("host", ["127.0.0.2", "127.0.0.1", "::1"])
@pytest.mark.parametrize("options", [{}, {"ipv6_only": False}], ids=["a socket per family", "dual-stack"])
def test_a_listener_on_all_interfaces_replies_from_the_address_that_was_asked(
    run_: Callable[..., None], host: str, options: dict[str, Any]
) -> None:
    async def ask(*_: sim.Network) -> None:
        peers: list[Address] = []

        async def handler(peer: dtls.DTLSChannel) -> None:
            peers.append(peer.local_address)
            await shout(peer)

        async with serving(handler, **options) as listeners:
            assert len(listeners) == (1 if options else 2)
            async with connecting(listeners[0], host) as peer:
                await talk(peer)
        assert peers[0].host.removeprefix("::ffff:") == host

    run_(ask)


@needs_packet_info
async def test_each_address_of_an_interface_and_a_link_local_one_reply_for_themselves(
    udp: Family, machine: Machine
) -> None:
    link = machine.link()
    second = link.add_second_address(udp.type)
    hosts = [second, link.here[udp.type]]
    if udp.type == "udp6":
        add_address("fe80::1/64", link.name)
        hosts.append(f"fe80::1%{link.peer_name}")
    async with serving() as listeners:
        for host in hosts:
            with machine.active():
                connection = connecting(listeners[0], host, server_hostname="server.example")
                async with connection as peer:
                    await talk(peer)


# Sending


async def test_a_cancelled_send_sends_nothing(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            for _ in range(3):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await peer.send(b"cancelled")
                assert scope.cancelled_caught
            await talk(peer)
            assert peer.statistics().sent == 2


ROOMY: Final = 1 << 20
"""More than the send buffer, in bytes."""


@pytest.fixture
def narrow_loopback(namespace: int) -> Callable[[str], None]:
    """Hold back what leaves by the loopback of a namespace beyond a rate."""
    del namespace

    def hold_back(rate: str) -> None:
        bucket = ["tbf", "rate", rate, "burst", "4k", "limit", "10m"]
        try:
            run("tc", "qdisc", "replace", "dev", "lo", "root", *bucket)
        except AssertionError as error:  # pragma: no cover -- where the kernel is built without sch_tbf
            pytest.skip(f"kernel: no token bucket: {error}")
        # The bucket applies its new rate when a packet arrives.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"", ("127.0.0.1", 9))

    return hold_back


async def fill(peer: Any) -> None:
    """Send until the kernel has no space."""
    while True:
        with trio.move_on_after(0.1) as scope:
            await peer.send(bytes(1200))
        if scope.cancelled_caught:
            return


@pytest.mark.parametrize("waiting", [False, True], ids=["alone", "while another task's send waits"])
async def test_a_cancelled_send_returns_at_once_while_the_kernel_is_full(
    udp: Family, narrow_loopback: Callable[[str], None], *, waiting: bool
) -> None:
    received: list[bytes] = []
    last = trio.Event()

    async def handler(peer: dtls.DTLSChannel) -> None:
        async for data in peer:
            received.append(data)
            if data == b"last":
                last.set()

    async with serving(handler, host=udp.loopback, receive_buffer_size=ROOMY) as (listener,):
        async with connecting(listener) as peer:
            async with trio.open_nursery() as nursery:
                await peer.send(b"first")
                narrow_loopback("1kbit")
                await fill(peer)
                sent = peer.statistics().sent
                if waiting:
                    nursery.start_soon(peer.send, b"waiting")
                    await trio.testing.wait_all_tasks_blocked()
                with trio.CancelScope() as scope:
                    nursery.start_soon(_cancel_when_blocked, scope)
                    await peer.send(b"cancelled")
                assert scope.cancelled_caught
                assert peer.statistics().sent == sent
                narrow_loopback("10gbit")
            await peer.send(b"last")
            with trio.fail_after(10):
                await last.wait()
            assert b"cancelled" not in received
            assert len(received) == sent + 1 + waiting
            assert peer.statistics().sent == sent + 1 + waiting


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@asynccontextmanager
async def serving_with_faults(udp: Family) -> AsyncGenerator[tuple[dtls.DTLSListener, Faults]]:
    """Serve on a socket whose calls fail as planned; return its listener."""
    with faulty_kernel() as faults:
        (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback)
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, shout, [listener])
        yield listener, faults
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["EAGAIN", "ENOBUFS", "EMSGSIZE", "EPERM", "ENETUNREACH"])
async def test_a_handshake_message_that_cannot_be_sent_at_once_is_sent_again(udp: Family, name: str) -> None:
    async with serving_with_faults(udp) as (listener, faults):
        # An error that may be of an earlier datagram is retried.
        faults.set("sendto", *[getattr(errno, name)] * 2)
        async with connecting(listener, initial_retransmit_timeout=0.05) as peer:
            await talk(peer)
        assert not faults.pending


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.05, 1.0])
async def test_a_lost_flight_of_the_server_is_sent_again(udp: Family, seconds: float) -> None:
    async with serving_with_faults(udp) as (listener, faults):
        # After the cookie. OpenSSL's timer expires while Trio's does.
        faults.set("sendto", None, errno.EAGAIN)
        async with connecting(listener, initial_retransmit_timeout=seconds) as peer:
            await talk(peer)
        assert not faults.pending


@pytest.mark.parametrize("left", [None, 0.5, 0])
async def test_retransmissions_of_openssl_are_discarded(left: float | None) -> None:
    output = deque([b"a message", b"another"])
    expired: list[bool] = []

    class Connection:
        def DTLSv1_get_timeout(self) -> float | None:  # noqa: N802 -- pyOpenSSL's name
            return left

        def DTLSv1_handle_timeout(self) -> NoReturn:  # noqa: N802 -- as above
            expired.append(True)
            raise SSL.Error([("SSL routines", "", "read timeout expired")])

        def bio_read(self, _: int) -> bytes:
            if not output:
                raise SSL.WantReadError
            return output.popleft()

    handshake = Handshake()
    connection: Any = Connection()
    handshake.observe(connection, 0, 0)
    handshake.settle_timer()
    assert (expired, len(output)) == (([True], 0) if left == 0 else ([], 2))
    handshake.stop()
    handshake.settle_timer()
    assert len(expired) <= 1


async def test_a_client_sends_smaller_handshake_messages_after_emsgsize(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        with faulty_kernel() as faults:
            # Twice, since the first may be of an earlier datagram.
            faults.set("send", errno.EMSGSIZE, errno.EMSGSIZE, errno.EAGAIN)
            async with connecting(listener, initial_retransmit_timeout=0.05) as peer:
                await talk(peer)
            assert not faults.pending


async def test_a_client_survives_a_report_of_a_smaller_path_mtu(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        with faulty_kernel() as faults:
            faults.set("recvfrom", errno.EMSGSIZE)
            async with connecting(listener) as peer:
                await talk(peer)
            assert not faults.pending


async def test_a_client_on_awaited_sockets_that_may_not_send_gets_the_error(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        with awaited_sockets() as sockets:
            sockets.faults.set("send", errno.EPERM, errno.EPERM)
            with pytest.raises(PermissionError, match="send"):
                async with connecting(listener):
                    raise AssertionError


async def test_a_client_that_may_not_send_gets_the_error(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        with faulty_kernel() as faults, same_descriptors():
            faults.set("send", errno.EPERM, errno.EPERM)
            with pytest.raises(PermissionError, match="send"):
                async with connecting(listener):
                    raise AssertionError


async def test_a_client_whose_openssl_cannot_shake_hands_gets_an_error(udp: Family) -> None:
    context = client_context()
    # DTLS 1.0 and nothing before DTLS 1.2.
    context.set_min_proto_version(0xFEFD)
    context.set_max_proto_version(0xFEFF)
    async with serving(host=udp.loopback) as (listener,):
        with same_descriptors(), pytest.raises(trio.BrokenResourceError, match=r"the DTLS handshake with .* failed"):
            async with connecting(listener, ssl_context=context):
                raise AssertionError


def failing(error: Exception) -> Callable[..., Any]:
    """Return a replacement of a method that raises ``error`` once for each time that it is installed."""

    async def fail(*_: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise error

    return fail


async def test_a_fatal_error_of_receiving_ends_a_listener_and_its_channels(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve_until_fatal, listener)
        async with connecting(listener) as peer:
            await talk(peer)
            await trio.testing.wait_all_tasks_blocked()
            sock = listener._peers._sock
            monkeypatch.setattr(sock, "_receive", failing(OSError(errno.EIO, "of the device")))
            await peer.send(b"the last that is received")
    assert listener._socket.closed
    assert check_sums(listener).closed == 1


async def _serve_until_fatal(listener: dtls.DTLSListener) -> None:
    async with await listener.accept() as peer:
        with suppress(trio.BrokenResourceError):
            await shout(peer)
        with pytest.raises(trio.BrokenResourceError, match="has ended"):
            await peer.send(b"x")
    with pytest.raises(OSError, match="of the device"):
        await listener.accept()


async def test_an_icmp_error_that_a_listener_receives_is_ignored(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            sock = listener._peers._sock
            receive = sock._receive

            async def fail_once(*arguments: Any) -> Any:
                monkeypatch.setattr(sock, "_receive", receive)
                return await failing(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))(*arguments)

            monkeypatch.setattr(sock, "_receive", fail_once)
            await peer.send(b"wake")
            await peer.receive()
            await talk(peer)


async def test_a_fatal_error_of_receiving_ends_a_connection(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(peer._session._sock, "_receive", failing(OSError(errno.EIO, "of the device")))
            await peer.send(b"wake")
            assert await peer.receive() == b"WAKE"
            with pytest.raises(OSError, match="of the device"):
                await peer.receive()
            with pytest.raises(trio.EndOfChannel):
                await peer.receive()


async def test_a_failure_of_trios_endpoint_is_raised_by_accept(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.DTLSEndpoint, "serve", failing(RuntimeError("of the endpoint")))
    with same_descriptors(), pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="of the endpoint")):
        await dtls.serve(shout, 0, server_context(), host=udp.loopback)


def test_an_interrupt_of_trios_endpoint_is_raised_in_the_main_task(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(*_: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise BaseExceptionGroup("", [KeyboardInterrupt()])

    monkeypatch.setattr(trio.DTLSEndpoint, "serve", interrupt)
    with same_descriptors(), pytest.RaisesGroup(KeyboardInterrupt):
        trio.run(partial(dtls.serve, shout, 0, server_context(), host=udp.loopback))


async def test_it_works_on_a_socket_factory_of_awaited_calls(udp: Family) -> None:
    with awaited_sockets():
        async with serving(host=udp.loopback) as (listener,):
            async with connecting(listener) as peer:
                await talk(peer)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await peer.send(b"cancelled")
                await talk(peer)
            with pytest.raises(OSError, match="refused"):
                async with dtls.open_connection(udp.loopback, 9, client_context(), handshake_timeout=5):
                    raise AssertionError


@pytest.mark.parametrize("end", ["close", "end", "close the socket"])
async def test_a_send_during_which_the_channel_closes_or_ends_sends_nothing(udp: Family, end: str) -> None:
    async def send(peer: dtls.DTLSChannel) -> None:
        with pytest.raises(trio.ClosedResourceError if end == "close" else trio.BrokenResourceError):
            await peer.send(b"late")

    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, peer)
                await trio.lowlevel.checkpoint()
                session = peer._session
                {"close": session.close, "end": session.end}.get(end, session._socket.close)()
            assert peer.statistics().sent == 2


async def test_a_send_after_the_peer_has_begun_another_handshake_is_refused(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            peer._session._secured._set_replaced()
            with pytest.raises(trio.BrokenResourceError):
                await peer.send(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await peer.receive()


# Receiving


async def test_only_one_task_receives(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer, trio.open_nursery() as nursery:
            nursery.start_soon(peer.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="another task is receiving from this peer"):
                await peer.receive()
            nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_consumes_nothing(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await peer.send(b"once")
            with trio.CancelScope() as scope:
                scope.cancel()
                await peer.receive()
            assert await peer.receive() == b"ONCE"


async def test_a_forged_empty_datagram_ends_no_channel(udp: Family) -> None:
    served: list[dtls.DTLSChannel] = []

    async def handler(peer: dtls.DTLSChannel) -> None:
        served.append(peer)
        await shout(peer)

    async with serving(handler, host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            # From the very address of the peer.
            await peer._session._socket.send(b"")
            await served[0]._session._socket.send(b"", served[0].address)
            await talk(peer)


async def test_garbage_from_the_peers_address_is_dropped(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            for garbage in (b"x", bytes(100), b"\x16\xfe\xfd" + bytes(40), b"\x17\xfe\xfd\0\1" + bytes(60)):
                await peer._session._socket.send(garbage)
            await talk(peer)


async def test_a_client_gets_the_icmp_error_of_an_earlier_datagram_once(udp: Family) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(dtls.serve, shout, 0, server_context(), host=udp.loopback))
        async with connecting(listener) as peer:
            await talk(peer)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while listener._socket.fileno() != -1:
                    await trio.lowlevel.checkpoint()
                await peer.send(b"to a closed port")
                with pytest.raises(ConnectionRefusedError):
                    await peer.receive()
                with trio.move_on_after(0.01) as nothing:
                    await peer.receive()
                assert nothing.cancelled_caught


async def test_a_failure_of_openssl_breaks_the_channel(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: object) -> bytes:
        await trio.lowlevel.checkpoint()
        raise SSL.Error([])

    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            monkeypatch.setattr(trio.DTLSChannel, "receive", fail)
            with pytest.raises(trio.BrokenResourceError, match="OpenSSL cannot continue with"):
                await peer.receive()


# Closing


async def test_a_closed_channel_raises_from_every_call(udp: Family) -> None:
    async def receive(peer: dtls.DTLSChannel) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await peer.receive()

    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as peer:
            await talk(peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, peer)
                await trio.testing.wait_all_tasks_blocked()
                await peer.aclose()
            await peer.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await peer.send(b"x")
            with pytest.raises(trio.ClosedResourceError):
                _ = peer.local_address
            assert peer.address == listener.address
            assert peer.statistics().received == 2


async def test_a_server_that_is_cancelled_leaves_nothing_open(udp: Family) -> None:
    with same_descriptors():
        async with serving(host=udp.loopback) as (listener,):
            async with connecting(listener) as peer:
                await talk(peer)
        assert listener.socket_statistics().received > 0
        counts = check_sums(listener)
        assert (counts.accepted, counts.closed, counts.peers) == (1, 1, 0)


async def test_a_server_that_is_cancelled_while_it_binds_leaves_nothing_open(udp: Family) -> None:
    with same_descriptors(), awaited_sockets() as sockets:
        held = sockets.hold("bind")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(dtls.serve, shout, 0, server_context(), host=udp.loopback))
            await held.reached.wait()
            nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken_in_one_family_leaves_nothing_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", 0))
        with same_descriptors(), pytest.raises(OSError, match=r"bind 0\.0\.0\.0:\d+: Address already in use"):
            await dtls.serve(shout, holder.getsockname()[1], server_context())


def test_a_program_with_open_channels_ends(udp: Family) -> None:
    async def program() -> None:
        (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            manager = connecting(listener)
            peer = await manager.__aenter__()
            await peer.send(b"never received")
            nursery.cancel_scope.cancel()
            await manager.__aexit__(None, None, None)

    with same_descriptors():
        trio.run(program)


async def test_a_closed_listener_keeps_its_channels_and_closes_with_the_last(udp: Family) -> None:
    with same_descriptors():
        (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept_and_serve, listener)
            async with connecting(listener) as peer:
                await talk(peer)
                await listener.aclose()
                await listener.aclose()
                assert repr(listener) == f"<trio_dgram.dtls.DTLSListener on {listener.address}, closed>"
                with pytest.raises(trio.ClosedResourceError):
                    await listener.accept()
                await talk(peer)
                assert check_sums(listener).peers == 1
                with pytest.raises(trio.TooSlowError):
                    async with connecting(listener, handshake_timeout=0.2):
                        raise AssertionError
                assert check_sums(listener).refused == 1
                await peer.send(b"fail")
        assert check_sums(listener).closed == 1


async def _accept_and_serve(listener: dtls.DTLSListener) -> None:
    channel = await listener.accept()
    async with channel:
        with pytest.raises(ValueError, match="of the handler"):
            await shout(channel)


async def test_closing_a_listener_ends_accept(udp: Family) -> None:
    async def accept(listener: dtls.DTLSListener) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    with same_descriptors():
        (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(accept, listener)
            await trio.testing.wait_all_tasks_blocked()
            listener.close()


async def test_closing_a_listener_closes_the_channels_that_wait_for_accept(udp: Family) -> None:
    (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept)
        async with connecting(listener), connecting(listener):
            await trio.testing.wait_all_tasks_blocked()
            assert (check_sums(listener).peers, check_sums(listener).waiting) == (2, 1)
            listener.close()
            counts = check_sums(listener)
            assert (counts.peers, counts.closed, counts.waiting) == (1, 1, 0)


# Existing sockets


async def test_trio_serves_listeners_on_sockets_that_exist_already(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        async with dtls.DTLSListener(sock, server_context(), max_peers=3) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, shout, [listener])
            async with connecting(listener) as peer:
                await talk(peer)
                assert listener.socket_statistics() == sock.statistics()
            nursery.cancel_scope.cancel()
        assert sock.closed


async def test_a_socket_that_is_closed_ends_the_listener_and_its_channels(udp: Family) -> None:
    ended = trio.Event()

    async def handler(peer: dtls.DTLSChannel) -> None:
        await shout(peer)
        with pytest.raises(trio.BrokenResourceError, match="has ended"):
            await peer.send(b"x")
        ended.set()

    async with trio.open_nursery() as nursery, trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        listener = dtls.DTLSListener(sock, server_context())
        nursery.start_soon(_serve_until_closed, listener, handler)
        async with connecting(listener) as peer:
            await talk(peer)
        sock.close()
        await ended.wait()


async def _serve_until_closed(listener: dtls.DTLSListener, handler: Callable[[Any], Any]) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(trio.ClosedResourceError):
            while True:
                nursery.start_soon(handler, await listener.accept())


async def test_a_socket_that_something_else_reads_fails_accept_and_not_the_program(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.bind(0, udp.loopback)
        events = sock.events(trio_dgram.Datagram)
        listener = dtls.DTLSListener(sock, server_context())
        for _ in range(2):
            with pytest.raises(trio.BusyResourceError, match="event channels take its datagrams"):
                await listener.accept()
        assert sock.closed
        events.close()


async def _unsuitable(kind: str, nursery: trio_dgram.DatagramNursery) -> Any:
    if kind == "unix":
        sock = nursery.create_socket("unix")
        await sock.bind()
        return sock
    sock = nursery.create_socket("udp4")
    if kind == "connected":
        await sock.connect(("127.0.0.1", 9))
    return "no socket" if kind == "no socket" else sock


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("no socket", TypeError),
        ("unix", ValueError),
        ("unbound", trio_dgram.NotBoundError),
        ("connected", trio_dgram.AlreadyConnectedError),
    ],
)
async def test_an_unsuitable_socket_is_refused(kind: str, error: type[Exception]) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = await _unsuitable(kind, nursery)
        with pytest.raises(error):
            dtls.DTLSListener(sock, server_context())
        if isinstance(sock, DatagramSocket):
            assert not sock.closed
        nursery.cancel_scope.cancel()


# Without the extra


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("OpenSSL", r"trio_dgram.dtls needs OpenSSL: pip install trio_dgram\[dtls\]"),
        ("trio_dgram._dtls.channel", "import of trio_dgram._dtls.channel halted"),
    ],
)
def test_an_import_without_a_module_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(("trio_dgram._dtls", "trio_dgram.dtls"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        importlib.import_module("trio_dgram.dtls")


def test_without_the_extra_the_import_names_it() -> None:
    code = (
        "import sys; sys.modules['OpenSSL'] = None\n"
        "import trio_dgram\n"
        "try: import trio_dgram.dtls\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "trio_dgram.dtls needs OpenSSL: pip install trio_dgram[dtls]"
