"""QUIC connections: serving, opening, certificates, closing, datagrams, and changes of address."""

from __future__ import annotations

import errno
import importlib
import logging
import pickle
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import quic
from trio_dgram._quic import certificates
from trio_dgram._quic.engine import Engine
from trio_dgram._quic.session import Session
from trio_dgram.sim._explore.descriptors import open_descriptors

from .support.certificates import connecting as connecting_dtls
from .support.certificates import serving as serving_dtls
from .support.certificates import shout
from .support.descriptors import same_descriptors
from .support.families import Family
from .support.marks import needs_packet_info
from .support.quic import (
    check_sums,
    client_configuration,
    connected,
    connecting,
    echo,
    echo_all,
    files,
    server_configuration,
    serving,
)


async def talk(connection: quic.Connection) -> None:
    async with await connection.open_stream() as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert [data async for data in stream] == [b"hello"]


async def test_a_server_echoes_over_both_families(udp: Family) -> None:
    async with serving(host=None) as listeners:
        assert len({listener.address.port for listener in listeners}) == 1
        listener = next(each for each in listeners if (":" in each.address.host) == (udp.type == "udp6"))
        with same_descriptors():
            async with quic.open_connection(udp.loopback, listener.address.port, client_configuration()) as connection:
                await talk(connection)
                assert connection.alpn == "test"
                assert connection.address == (udp.loopback, listener.address.port)
                assert connection.local_address.host == udp.loopback
                assert "CN=server" in connection.peer_certificate.subject.rfc4514_string()
                assert repr(connection).endswith(", open>")
            assert connection.local_address.host == udp.loopback
            assert repr(connection).endswith(", closed>")
        await trio.testing.wait_all_tasks_blocked()
        counts = check_sums(listener)
        assert (counts.accepted, counts.closed, counts.handshakes) == (1, 1, 1)
        assert listener.socket_statistics().received > 0
        assert "listening" in repr(listener)
    assert "closed" in repr(listener)


@needs_packet_info
async def test_answers_leave_from_the_address_that_was_asked() -> None:
    async with serving(host=None) as listeners:
        async with quic.open_connection("127.0.0.2", listeners[0].address.port, client_configuration()) as connection:
            await talk(connection)


async def test_both_ends_report_their_addresses_and_counts() -> None:
    async with connected() as pair:
        assert pair.client.local_address == pair.server.address
        assert pair.server.local_address == pair.client.address
        assert pair.server.peer_certificate is None
        ours, theirs = await pair.streams()
        assert await pair.client.ping() > 0
        counts = pair.client.statistics()
        assert (counts.streams, counts.migrations, counts.datagrams_dropped) == (1, 0, 0)
        assert counts.bytes_sent > counts.sent > 0
        assert counts.bytes_received > counts.received > 0
        assert counts.rtt > 0
        assert counts.congestion_window > 0
        for stream in (ours, theirs):
            await stream.aclose()


async def test_data_before_a_clean_end_arrives_from_the_client() -> None:
    received = bytearray()

    async def handler(connection: quic.Connection) -> None:
        async with await connection.accept_streams().receive() as stream:
            async for data in stream:
                received.extend(data)

    async with serving(handler) as (listener,):
        async with connecting(listener) as connection, await connection.open_stream() as stream:
            await stream.send_all(bytes(200_000))
        assert connection.statistics().bytes_sent > 200_000
    assert len(received) == 200_000


async def test_data_before_a_clean_end_arrives_from_the_server() -> None:
    async def handler(connection: quic.Connection) -> None:
        async with await connection.open_stream() as stream:
            await stream.send_all(bytes(200_000))

    async with serving(handler) as (listener,):
        async with connecting(listener) as connection:
            stream = await connection.accept_streams().receive()
            assert sum([len(data) async for data in stream]) == 200_000
            assert await connection.wait_closed() == quic.Closed(code=0, reason="", remote=True, application=True)
            with pytest.raises(trio.EndOfChannel):
                await connection.accept_streams().receive()


async def test_draining_ends_after_its_timeout() -> None:
    async with connected(client={"send_window": 1}, server={"max_stream_data": 1024}) as pair:
        stream, _ = await pair.streams()
        with trio.move_on_after(0.2):
            await stream.send_all(bytes(5000))
        async with await pair.client.open_stream() as ended:
            await ended.send_all(bytes(500))
        pair.client._drain_timeout = 0.1
        await pair.client.aclose()
        assert (await pair.server.wait_closed()).remote


# Closing


async def test_closing_carries_code_and_reason_to_the_peer() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        async with trio.open_nursery() as nursery:
            for method in (
                theirs.receive_some,
                pair.server.accept_streams().receive,
                pair.server.accept_receive_streams().receive,
                partial(theirs.send_all, bytes(2_000_000)),
                pair.server.open_send_stream,
            ):
                nursery.start_soon(expect_broken, method, 7)
            await trio.testing.wait_all_tasks_blocked()
            pair.client.close(7, "enough")
        closed = await pair.server.wait_closed()
        assert closed == quic.Closed(code=7, reason="enough", remote=True, application=True)
        assert await pair.client.wait_closed() == quic.Closed(code=7, reason="enough", remote=False, application=True)
        pair.client.close()
        pair.client._session.fail(1, "")
        methods: list[Callable[[], Awaitable[object]]] = [
            ours.receive_some,
            partial(ours.send_all, b""),
            pair.client.open_stream,
            pair.client.ping,
            pair.client.accept_streams().receive,
        ]
        for closed_method in methods:
            await expect_closed(closed_method)
        with pytest.raises(trio.ClosedResourceError):
            pair.client.update_keys()
        for stream in (ours, theirs):
            await stream.aclose()
            stream.reset()


async def expect_broken(async_fn: Any, code: int) -> None:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await async_fn()
    error = caught.value.__cause__
    assert isinstance(error, quic.QuicError)
    assert (error.code, error.remote) == (code, True)


async def expect_closed(async_fn: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await async_fn()


async def test_an_exception_propagates_unchanged_and_closes_at_once() -> None:
    async with serving() as (listener,):
        failure = ValueError("of the block")
        with pytest.raises(ValueError, match="of the block") as caught:
            async with connecting(listener) as connection:
                raise failure
        assert caught.value is failure
        assert (await connection.wait_closed()).code == 0


async def test_cancelling_closes_at_once() -> None:
    async with connected() as pair:
        stream, _ = await pair.streams()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.client.aclose()
        assert (await pair.server.wait_closed()).code == 0
        await stream.aclose()


async def test_a_connection_arms_few_timers() -> None:
    async with connected() as pair:
        for _ in range(30):
            await pair.client.ping()
        endpoint = pair.server._session.send_now.__self__  # type: ignore[attr-defined]
        assert len(endpoint._timers) < 5


async def test_a_batch_of_datagrams_is_fed_before_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: Counter[Session] = Counter()
    settle = Session.settle

    def count(session: Session) -> None:
        settled[session] += 1
        settle(session)

    monkeypatch.setattr(Session, "settle", count)
    async with connected() as pair, trio.open_nursery() as nursery:
        ours, theirs = await pair.streams()
        nursery.start_soon(ours.send_all, bytes(300_000))
        received = 0
        while received < 300_000:
            received += len(await theirs.receive_some())
        assert settled[pair.server._session] < pair.server.statistics().received / 2


async def test_an_idle_connection_ends_cleanly(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(client={"idle_timeout": 0.3}) as pair:
        ours, theirs = await pair.streams()
        closed = quic.Closed(code=0, reason="idle timeout", remote=False, application=False)
        with pytest.raises(trio.EndOfChannel):
            await pair.server.accept_streams().receive()
        assert await pair.client.wait_closed() == closed
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"hello")


async def test_keep_alive_keeps_a_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(client={"idle_timeout": 0.5, "keep_alive": 0.1}) as pair:
        with trio.move_on_after(1):
            await pair.server.wait_closed()
        await pair.client.ping()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((-1,), ValueError), (("1",), TypeError), ((1, 5), TypeError), ((1, "é" * 257), ValueError)],
)
async def test_arguments_of_close_are_checked(arguments: Any, error: type[Exception]) -> None:
    async with connected() as pair:
        with pytest.raises(error, match=r"(code|reason) must "):
            pair.client.close(*arguments)
        await pair.client.ping()


# Opening


async def test_a_refused_connection_fails_at_once(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        port = sock.address.port
    with same_descriptors(), pytest.raises(ConnectionRefusedError):
        async with quic.open_connection(udp.loopback, port, client_configuration()):
            raise AssertionError


async def test_the_next_address_of_a_name_is_tried() -> None:
    async with serving() as (listener,):
        async with quic.open_connection("localhost", listener.address.port, client_configuration()) as connection:
            await talk(connection)


async def test_a_silent_server_is_too_slow() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        with same_descriptors(), pytest.raises(trio.TooSlowError, match=r"'127.0.0.1' has not finished the handshake"):
            async with quic.open_connection(
                "127.0.0.1", sock.address.port, client_configuration(), handshake_timeout=0.1
            ):
                raise AssertionError
        with trio.move_on_after(0.1) as scope:
            async with quic.open_connection("127.0.0.1", sock.address.port, client_configuration()):
                raise AssertionError
        assert scope.cancelled_caught


async def test_certificates_are_verified() -> None:
    async with serving() as (listener,):
        wrong = client_configuration(trust=files() / "other-ca.pem")
        with pytest.raises(quic.CertificateError, match=r"certificate verification failed for 127.0.0.1: "):
            async with connecting(listener, wrong):
                raise AssertionError
        with pytest.raises(quic.CertificateError, match=r"other\.example"):
            async with connecting(listener, client_configuration(server_name="other.example")):
                raise AssertionError
        async with connecting(listener, client_configuration(server_name="server.example")) as connection:
            await talk(connection)
        async with connecting(listener, quic.Configuration(alpn=["test"], verify=False)) as connection:
            await talk(connection)


@pytest.mark.parametrize("name", ["client.pem", "cert.pem"])
async def test_a_server_verifies_the_certificates_of_clients(name: str) -> None:
    of_server = {"trust": files() / "ca.pem", "verify_clients": True}
    async with connected(of_server, {"certificate": files() / name, "key": files() / "key.pem"}) as pair:
        ours, theirs = await pair.streams()
        assert (
            pair.server.peer_certificate.subject.rfc4514_string() == f"CN={'client' if 'client' in name else 'server'}"
        )
        await theirs.send_all(b"hello")
        assert await ours.receive_some() == b"hello"


async def ask(connection: quic.Connection) -> bytes | bytearray:
    """Send on a new stream and return what is answered; either may be refused first."""
    stream = await connection.open_stream()
    await stream.send_all(b"hello")
    return await stream.receive_some()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (None, 0x174, "the client has no certificate"),
        ("other-client.pem", 0x12A, "unable to get local issuer certificate"),
        ("no-client.pem", 0x12A, "the certificate is not for clients (extended key usage)"),
    ],
)
async def test_a_client_without_a_trusted_certificate_is_refused(
    name: str | None, code: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = server_configuration(trust=files() / "ca.pem", verify_clients=True)
    of_client = {} if name is None else {"certificate": files() / name, "key": files() / "key.pem"}
    async with serving(configuration=configuration) as (listener,):
        # The client's end of the handshake precedes the verification.
        async with connecting(listener, client_configuration(**of_client)) as connection:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await ask(connection)
        assert isinstance(caught.value.__cause__, quic.QuicError)
        assert (caught.value.__cause__.code, caught.value.__cause__.remote) == (code, True)
        counts = check_sums(listener)
        assert (counts.accepted, counts.handshakes_failed) == (0, 1)
    assert message in caplog.text


async def test_a_client_certificate_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("malformed")

    monkeypatch.setattr(certificates, "verify_certificate", fail)
    configuration = server_configuration(trust=files() / "ca.pem", verify_clients=True)
    of_client = client_configuration(certificate=files() / "client.pem", key=files() / "key.pem")
    async with serving(configuration=configuration) as (listener,), connecting(listener, of_client) as connection:
        assert (await connection.wait_closed()).code == 0x12A


async def test_a_handshake_without_a_common_protocol_fails(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (listener,):
        with pytest.raises(quic.HandshakeError, match="the peer closed the connection") as caught:
            async with connecting(listener, client_configuration(alpn=["other"])):
                raise AssertionError
        assert (caught.value.code, caught.value.remote) == (0x178, True)
        assert check_sums(listener).handshakes_failed == 1
    # aioquic would log a line for each of such clients.
    assert {record.name for record in caplog.records if record.levelno > logging.DEBUG} == {"trio_dgram"}
    assert "the QUIC handshake of 127.0.0.1:" in caplog.text


async def test_a_version_is_negotiated() -> None:
    async with serving(configuration=server_configuration(versions=(2,))) as (listener,):
        async with connecting(listener, client_configuration(versions=(1, 2))) as connection:
            await talk(connection)
        assert listener.statistics().negotiations == 1
        with pytest.raises(quic.HandshakeError, match="Could not find a common protocol version"):
            async with connecting(listener, client_configuration(versions=(1,))):
                raise AssertionError


async def test_a_local_address_can_be_chosen() -> None:
    async with serving() as (listener,):
        async with connecting(listener, local=("127.0.0.3", 0)) as connection:
            assert connection.local_address.host == "127.0.0.3"
            await talk(connection)


async def test_a_failed_bind_leaves_nothing_open() -> None:
    with same_descriptors(), pytest.raises(OSError, match="Cannot assign requested address"):
        async with quic.open_connection("127.0.0.1", 9, client_configuration(), local=("192.0.2.1", 0)):
            raise AssertionError


async def test_an_engine_that_cannot_begin_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise ImportError("another aioquic")

    monkeypatch.setattr(Engine, "connect", connect)
    with same_descriptors(), pytest.raises(ImportError, match="another aioquic"):
        async with quic.open_connection("127.0.0.1", 9, client_configuration()):
            raise AssertionError


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"host": 5}, TypeError, "host must"),
        ({"port": 0}, ValueError, "port must"),
        ({"configuration": "x"}, TypeError, "configuration must be a quic.Configuration, not 'x' (str)"),
        ({"handshake_timeout": -1}, ValueError, "handshake_timeout must"),
        ({"drain_timeout": "1"}, TypeError, "drain_timeout must"),
        ({"local": "127.0.0.1"}, TypeError, ""),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
async def test_arguments_of_open_connection_are_checked(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"host": "127.0.0.1", "port": 1, "configuration": client_configuration(), **arguments}
    with pytest.raises(error) as caught:
        quic.open_connection(**given)
    assert message in str(caught.value)


# Serving


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"handler": 5}, TypeError, "handler must be an async function"),
        ({"configuration": "x"}, TypeError, "configuration must be a quic.Configuration"),
        ({"configuration": client_configuration()}, ValueError, "configuration must have a certificate"),
        ({"drain_timeout": -1}, ValueError, "drain_timeout must"),
        ({"handler_errors": "no"}, ValueError, "handler_errors must"),
        ({"retry": "sometimes"}, ValueError, "retry must be one of"),
        ({"max_connections": 0}, ValueError, "max_connections must"),
        ({"max_handshakes": 0}, ValueError, "max_handshakes must"),
        ({"accept_filter": 5}, TypeError, "accept_filter must"),
        ({"nonsense": 1}, TypeError, "unknown QUIC listener option 'nonsense'"),
    ],
)
async def test_arguments_of_serve_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"handler": echo_all, "port": 0, "configuration": server_configuration(), **arguments}
    with same_descriptors(), pytest.raises(error) as caught:
        await quic.serve(**given)
    assert message in str(caught.value)


async def test_a_busy_port_is_refused() -> None:
    async with serving() as (listener,):
        with same_descriptors(), pytest.raises(OSError, match="Address already in use") as caught:
            await quic.serve(echo_all, listener.address.port, server_configuration(), host="127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_failed_handler_ends_its_connection_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(connection: quic.Connection) -> None:
        await connection.accept_streams().receive()
        raise ValueError("secret")

    async with serving(handler, handler_errors="log") as (listener,):
        async with connecting(listener) as other, connecting(listener) as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"!")
            closed = await connection.wait_closed()
            assert closed == quic.Closed(code=1, reason="", remote=True, application=True)
            await other.ping()
    assert "the handler of 127.0.0.1:" in caplog.text
    assert "ValueError: secret" in caplog.text


async def test_a_failed_handler_can_end_the_server() -> None:
    async def handler(_: quic.Connection) -> None:
        raise ValueError("of the handler")

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with serving(handler) as (listener,), connecting(listener) as connection:
            await connection.wait_closed()
            await trio.sleep_forever()


async def test_a_broken_connection_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(handler_errors="log") as (listener,):
        async with connecting(listener) as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"hello")
            await stream.receive_some()
            connection.close(5)
        while listener.statistics().connections:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert caplog.records == []


async def test_an_error_of_another_resource_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_: quic.Connection) -> None:
        raise trio.BrokenResourceError("of another resource")

    async with serving(handler, handler_errors="log") as (listener,), connecting(listener) as connection:
        assert (await connection.wait_closed()).code == 1
    assert "BrokenResourceError: of another resource" in caplog.text


async def test_a_failed_stream_handler_resets_its_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (listener,), connecting(listener) as connection:
        stream = await connection.open_stream()
        await stream.send_all(b"fail")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, quic.QuicError)
        assert caught.value.__cause__.code == 1
        another = await connection.open_stream()
        await another.send_all(b"hello")
        another.reset()
        await talk(connection)
    (record,) = caplog.records
    assert "the stream handler of 127.0.0.1:" in record.getMessage()


async def test_serving_streams_ends_with_the_connection() -> None:
    async with connected() as pair:
        with pytest.raises(TypeError, match="handler must be an async function that accepts a stream"):
            await pair.client.serve_streams(5)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.client.serve_streams, talk_back)
            nursery.start_soon(expect_closed, partial(pair.server.serve_streams, talk_back))
            await trio.testing.wait_all_tasks_blocked()
            pair.server.close()


async def talk_back(_: quic.Stream) -> None:
    raise AssertionError


async def test_closing_a_listener_ends_its_server() -> None:
    with pytest.RaisesGroup(trio.ClosedResourceError, flatten_subgroups=True):
        async with connected() as pair:
            await pair.listener.aclose()
            pair.listener.close()
            await trio.sleep_forever()


async def test_a_hundred_streams_at_once() -> None:
    async with serving() as (listener,), connecting(listener) as connection, trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(talk, connection)


# Datagrams


async def test_one_handler_serves_plain_encrypted_and_quic_peers() -> None:
    async def handler(connection: quic.Connection) -> None:
        await shout(connection.datagrams)

    async def ask(peer: trio.abc.Channel[bytes]) -> None:
        async for attempt in trio_dgram.retry(attempts=8):
            with attempt:
                await peer.send(b"hello")
                assert await peer.receive() == b"HELLO"

    with_datagrams = server_configuration(datagrams=True), client_configuration(datagrams=True)
    async with trio.open_nursery() as nursery:
        plain = await nursery.start(partial(trio_dgram.serve, shout, 0, host="127.0.0.1"))
        async with (
            serving_dtls(host="127.0.0.1") as (encrypted,),
            serving(handler, with_datagrams[0]) as (listener,),
            trio_dgram.open_connection(*plain[0].address) as one,
            connecting_dtls(encrypted) as two,
            connecting(listener, with_datagrams[1]) as three,
        ):
            for peer in (one, two, three.datagrams):
                await ask(peer)
        nursery.cancel_scope.cancel()


async def test_datagrams_have_a_size_and_a_queue() -> None:
    both = {"datagrams": True}
    async with connected(both, both) as pair:
        ours, theirs = pair.client.datagrams, pair.server.datagrams
        assert ours is pair.client.datagrams
        await ours.send(bytes(ours.max_size))
        assert len(await theirs.receive()) == ours.max_size
        with pytest.raises(ValueError, match=r"value must have at most 1158 bytes, not 1159$"):
            await ours.send(bytes(1159))
        with pytest.raises(TypeError, match="value must be bytes-like"):
            await ours.send("text")  # type: ignore[arg-type]
        for number in range(300):
            await ours.send(b"%d" % number)
        await pair.client.ping()
        assert theirs.dropped == pair.server.statistics().datagrams_dropped == 44
        assert await theirs.receive() == b"0"
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(expect_closed, ours.receive)
            await trio.testing.wait_all_tasks_blocked()
            await ours.aclose()
        await theirs.send(b"not received")
        await expect_closed(partial(ours.send, b""))
        await pair.server.ping()
        pair.client.close()
        for _ in range(255):
            await theirs.receive()
        with pytest.raises(trio.EndOfChannel):
            await theirs.receive()
        with pytest.raises(trio.BrokenResourceError):
            await theirs.send(b"late")


async def test_datagrams_are_sent_as_congestion_control_allows() -> None:
    both = {"datagrams": True}
    async with connected(both, both) as pair:
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(pair.client.datagrams.send, bytes(1000))
            await pair.server.datagrams.receive()
        pair.server.close(3)
        await pair.client.wait_closed()
        for method in (pair.client.datagrams.receive, partial(pair.client.datagrams.send, b"")):
            with pytest.raises(trio.BrokenResourceError):
                await method()
        with pytest.raises(trio.ClosedResourceError):
            await pair.server.datagrams.receive()


async def test_datagrams_that_a_smaller_path_cannot_carry_are_dropped() -> None:
    settings = {"datagrams": True, "max_datagram_size": 1400}
    async with connected(settings, settings) as pair:
        await pair.client.datagrams.send(bytes(1300))
        pair.client._session.engine.shrink(1200)
        await pair.client.datagrams.send(b"small")
        assert await pair.server.datagrams.receive() == b"small"


async def test_a_waiting_datagram_that_a_smaller_path_cannot_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"datagrams": True, "max_datagram_size": 1400}
    async with connected(settings, settings) as pair:

        def wait(_: quic.DatagramFrames) -> bool:
            pair.client._session.engine.shrink(1200)
            return False

        monkeypatch.setattr(quic.DatagramFrames, "_is_full", wait)
        with pytest.raises(ValueError, match="value must have at most 1158 bytes, not 1300"):
            await pair.client.datagrams.send(bytes(1300))


async def test_datagrams_must_be_enabled() -> None:
    async with connected(client={"datagrams": True}) as pair:
        with pytest.raises(ValueError, match="datagrams must be enabled in the configuration"):
            pair.server.datagrams  # noqa: B018 -- reading it raises
        with pytest.raises(ValueError, match="at most 0 bytes, not 1: the peer receives no datagrams"):
            await pair.client.datagrams.send(b"x")


# Changes


async def expect(stream: quic.ReceiveStream, data: bytes) -> None:
    """Receive ``data``, which may arrive in several packets."""
    received = b""
    while len(received) < len(data):
        received += await stream.receive_some()
    assert received == data


async def test_a_client_continues_by_another_socket() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        before = pair.client.local_address
        await pair.client.rebind()
        await ours.send_all(b"still here")
        await expect(theirs, b"still here")
        await theirs.send_all(b"so am I")
        await expect(ours, b"so am I")
        assert pair.server.address == pair.client.local_address != before
        assert pair.server.statistics().migrations == pair.client.statistics().migrations == 1
        with pytest.raises(ValueError, match="rebind is for clients"):
            await pair.server.rebind()


async def test_a_client_may_move_to_the_other_family() -> None:
    addresses: list[str] = []

    async def answer(connection: quic.Connection) -> None:
        async for stream in connection.accept_streams():
            async with stream:
                await echo(stream)
            addresses.append(connection.address.host)

    async with serving(answer, host=None) as listeners:
        port = listeners[0].address.port
        async with quic.open_connection("127.0.0.1", port, client_configuration()) as connection:
            await talk(connection)
            # A client has one address of its server, so it believes that the answers come from the other one.
            connection._session.engine._network_paths[0].addr = ("::1", port)
            attempt = connection._rebind.__self__  # type: ignore[union-attr]
            attempt._type, attempt._address = "udp6", "::1"
            await connection.rebind()
            await talk(connection)
    assert addresses == ["127.0.0.1", "::1"]


async def test_a_client_changes_its_socket_twice_at_once() -> None:
    async with connected() as pair:
        before = len(open_descriptors())
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(pair.client.rebind)
        assert len(open_descriptors()) == before
        await pair.client.ping()
        assert pair.server.address == pair.client.local_address


async def test_a_connection_that_closes_meanwhile_gets_no_other_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    original = trio_dgram.DatagramSocket.connect

    async def connect(sock: trio_dgram.DatagramSocket, address: tuple[str, int]) -> None:
        await original(sock, address)
        pair.client.close()

    async with connected() as pair:
        monkeypatch.setattr(trio_dgram.DatagramSocket, "connect", connect)
        with same_descriptors():
            await expect_closed(pair.client.rebind)


async def test_keys_change() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        for connection in (pair.client, pair.server):
            connection.update_keys()
            await ours.send_all(b"hello")
            assert await theirs.receive_some() == b"hello"


async def test_a_failing_engine_ends_its_connection_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("of the engine")

    async with serving() as (listener,), connecting(listener) as other:
        for method in ("receive_datagram", "handle_timer", "datagrams_to_send"):
            async with connecting(listener) as connection:
                monkeypatch.setattr(connection._session.engine, method, fail)
                connection._session.state.on_change()
                if method == "handle_timer":
                    monkeypatch.setattr(connection._session.engine, "get_timer", lambda: 0.0)
                    connection._session.state.on_change()
                with trio.fail_after(5):
                    if method == "receive_datagram":
                        connection._session.engine.send_ping(1)
                        connection._session.state.on_change()
                    await connection.wait_closed()
        await talk(other)
    assert "the QUIC engine failed on 127.0.0.1:" in caplog.text


async def test_a_violation_of_credit_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected() as pair:
        monkeypatch.setattr(pair.server._session.engine, "violation", lambda: "the window grows")
        pair.client._session.engine.send_ping(1)
        pair.client._session.state.on_change()
        closed = await pair.client.wait_closed()
        assert closed == quic.Closed(code=1, reason="", remote=True, application=False)
    assert "does not keep to our credit: the window grows" in caplog.text


# The module


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("aioquic", r"trio_dgram.quic needs aioquic: pip install trio_dgram\[quic\]"),
        ("trio_dgram._quic.client", "import of trio_dgram._quic.client halted"),
    ],
)
def test_without_the_extra_the_import_names_it(missing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = [name for name in sys.modules if name.startswith(("trio_dgram.quic", "trio_dgram._quic"))]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        importlib.import_module("trio_dgram.quic")


def test_errors_can_be_pickled() -> None:
    error = quic.QuicError("message", 5, "reason", remote=True)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
    assert (str(again), again.code, again.reason, again.remote) == ("message", 5, "reason", True)
    assert isinstance(quic.HandshakeError("", 0, "", remote=False), quic.QuicError)
