"""The limits of QUIC servers: handshakes, connections, networks, answers to unknown peers; and hostile datagrams."""

from __future__ import annotations

import errno
import gc
import os
import socket
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_dgram import Address, Datagram, DatagramSocket, SendManyError, open_socket, quic
from trio_dgram._quic.closing import ClosingIds
from trio_dgram._quic.configuration import client_configuration as engine_of_client
from trio_dgram._quic.engine import Engine
from trio_dgram._quic.packets import destination_of_untrusted, parse_long_header_untrusted
from trio_dgram._quic.paths import Path, Paths
from trio_dgram._quic.tokens import RetryTokens
from trio_dgram._services.worker_process import process

from .support.quic import check_sums, client_configuration, connected, connecting, serving

SERVER: Final = ("127.0.0.1", 4433)


def initial_flight(address: tuple[str, int] = SERVER, **settings: Any) -> list[bytes]:
    """Return the first flight of a client."""
    configuration = client_configuration(**settings)
    engine = Engine(engine_of_client(configuration, "127.0.0.1"), max_streams=(0, 0))
    engine.connect(address, 0.0)
    return [data for data, _ in engine.datagrams_to_send(0.0)]


def fail_receiving(monkeypatch: pytest.MonkeyPatch, sock: DatagramSocket) -> None:
    """Make a socket raise an ICMP error, then one that is not the network's."""
    original = DatagramSocket.receive_many
    errors = [OSError(errno.ECONNREFUSED, "Connection refused"), OSError(errno.EIO, "Input/output error")]

    async def receive_many(self: DatagramSocket, max_count: int) -> list[Datagram]:
        if self is sock:
            await trio.lowlevel.checkpoint()
            raise errors.pop(0)
        return await original(self, max_count)

    monkeypatch.setattr(DatagramSocket, "receive_many", receive_many)


@asynccontextmanager
async def raw_socket(listener: quic.Listener) -> AsyncGenerator[DatagramSocket]:
    """Open a socket for datagrams that no client would send."""
    async with open_socket("udp4", port=0, host="127.0.0.1") as sock:
        await sock.connect(listener.address)
        yield sock


async def answer_to(sock: DatagramSocket, *datagrams: bytes) -> bytes | None:
    """Send datagrams; return the answer, None without one."""
    for data in datagrams:
        await sock.send(data)
    with trio.move_on_after(0.1):
        return (await sock.receive()).data
    return None


# Proving an address


async def test_a_retry_packet_proves_the_address_of_a_client() -> None:
    async with serving(retry="always") as (listener,):
        async with connecting(listener) as connection:
            await connection.ping()
        counts = check_sums(listener)
        assert (counts.retries, counts.handshakes, counts.accepted) == (1, 1, 1)


async def test_clients_must_prove_their_addresses_under_load() -> None:
    async with serving(max_handshakes=2) as (listener,), raw_socket(listener) as sock:
        await sock.send(initial_flight()[0])
        async with connecting(listener) as connection:
            await connection.ping()
        assert listener.statistics().retries == 1
        assert listener.statistics().handshaking == 1


async def test_a_wrong_token_is_refused() -> None:
    async with serving(retry="always") as (listener,), raw_socket(listener) as sock:
        (initial,) = initial_flight()
        retry = await answer_to(sock, initial)
        assert retry is not None
        assert len(retry) <= len(initial)
        header = parse_long_header_untrusted(initial)
        assert header is not None
        # The token length follows the two connection IDs.
        position = 7 + len(header.destination) + len(header.source)
        forged = initial[:position] + b"\x10" + bytes(16) + initial[position + 1 :]
        refusal = await answer_to(sock, forged)
        assert refusal is not None
        assert 0 < len(refusal) < 100
        assert listener.statistics().handshakes == 0


def test_tokens_are_bound_to_address_id_secret_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, address = RetryTokens(None), Address("127.0.0.1", 5)
    token = tokens.create(address, b"original", b"own")
    assert tokens.original_id_untrusted(token, address, b"own") == b"original"
    assert tokens.original_id_untrusted(token, Address("127.0.0.1", 6), b"own") is None
    assert tokens.original_id_untrusted(token, address, b"other") is None
    assert tokens.original_id_untrusted(token[:12], address, b"own") is None
    assert RetryTokens(None).original_id_untrusted(token, address, b"own") is None
    one, other = RetryTokens(b"shared"), RetryTokens(b"shared")
    assert other.original_id_untrusted(one.create(address, b"1", b"2"), address, b"2") == b"1"
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert tokens.original_id_untrusted(token, address, b"own") is None


# Limits


async def test_clients_that_end_their_handshakes_with_codes_of_their_choice_are_one_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (listener,):
        for code in (100, 200):
            async with raw_socket(listener) as sock:
                engine = Engine(engine_of_client(client_configuration(), "127.0.0.1"), max_streams=(0, 0))
                engine.connect(SERVER, 0.0)
                await sock.send(engine.datagrams_to_send(0.0)[0][0])
                engine.receive_datagram((await sock.receive()).data, SERVER, 0.0)
                engine.end(code, application=False)
                await sock.send(engine.datagrams_to_send(0.0)[0][0])
        while check_sums(listener).handshakes_failed < 2:  # pragma: no cover -- they may have failed already
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert caplog.text.count("the QUIC handshake of") == 1


async def test_the_oldest_handshake_makes_room() -> None:
    async with serving(max_handshakes=2, retry="never") as (listener,), raw_socket(listener) as sock:
        for _ in range(5):
            await sock.send(initial_flight()[0])
        async with connecting(listener) as connection:
            await connection.ping()
        counts = check_sums(listener)
        assert (counts.handshakes, counts.handshakes_evicted, counts.accepted) == (6, 4, 1)


async def test_a_handshake_ends_after_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(handshake_timeout=0.05) as (listener,), raw_socket(listener) as sock:
        await sock.send(initial_flight()[0])
        while not check_sums(listener).handshakes_failed:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert "failed: the handshake takes too long" in caplog.text


async def test_connections_beyond_the_limit_are_refused() -> None:
    async with connected(max_connections=1) as pair:
        with pytest.raises(quic.HandshakeError) as caught:
            async with connecting(pair.listener):
                raise AssertionError
        assert (caught.value.code, caught.value.remote) == (2, True)
        counts = check_sums(pair.listener)
        assert (counts.refused, counts.connections) == (1, 1)


async def test_a_finished_handshake_is_refused_if_the_limit_was_reached_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quic.Listener, "_admit", lambda self, _: self._count("handshakes") or "")
    async with connected(max_connections=1) as pair:
        async with connecting(pair.listener) as connection:
            assert (await connection.wait_closed()).code == 2
        assert check_sums(pair.listener).refused == 1


async def test_connections_of_a_network_beyond_its_limit_are_refused() -> None:
    async with connected(max_connections_per_network=(1, 1)) as pair:
        with pytest.raises(quic.HandshakeError):
            async with connecting(pair.listener):
                raise AssertionError
        assert check_sums(pair.listener).refused_by_network == 1
        pair.client.close()
        await pair.server.wait_closed()
        while pair.listener.statistics().connections:
            await trio.testing.wait_all_tasks_blocked(0.01)
        async with connecting(pair.listener) as connection:
            await connection.ping()


async def test_a_filter_admits_clients_by_their_first_datagram(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Datagram] = []

    def accept(datagram: Datagram) -> bool:
        seen.append(datagram)
        if len(seen) == 1:
            raise ValueError("of the filter")
        return len(seen) > 2

    async with serving(accept_filter=accept) as (listener,), raw_socket(listener) as sock:
        for _ in range(2):
            assert await answer_to(sock, initial_flight()[0]) is None
        async with connecting(listener) as connection:
            await connection.ping()
        assert listener.statistics().refused_by_filter == 2
    assert "accept_filter failed" in caplog.text
    assert len(seen[0].data) == 1200


async def test_closing_a_listener_refuses_waiting_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: quic.Listener) -> quic.Connection:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(quic.Listener, "accept", never)
    async with serving() as (listener,), raw_socket(listener) as sock:
        await sock.send(initial_flight()[0])
        async with connecting(listener) as connection:
            while not listener.statistics().waiting:
                await trio.testing.wait_all_tasks_blocked(0.01)
            listener.close()
            assert (await connection.wait_closed()).code == 2
            counts = check_sums(listener)
            assert (counts.waiting, counts.connections, counts.closed, counts.handshakes_failed) == (0, 0, 1, 1)
        with pytest.raises(quic.HandshakeError):
            async with connecting(listener):
                raise AssertionError
        monkeypatch.undo()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_an_error_of_the_socket_ends_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with connected() as pair:
            await pair.client.ping()
            fail_receiving(monkeypatch, pair.listener._socket)
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await pair.client.ping()
            await trio.sleep_forever()
    assert "the QUIC server cannot receive: [Errno 5] Input/output error" in caplog.text


@pytest.mark.long
async def test_the_memory_of_idle_connections_is_bounded() -> None:
    count = 100
    async with serving(quic.Connection.wait_closed) as (listener,), AsyncExitStack() as stack:
        configuration = client_configuration()
        await stack.enter_async_context(connecting(listener, configuration))
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(count):
            await stack.enter_async_context(connecting(listener, configuration))
        gc.collect()
        # Both ends, of 120 KiB each.
        assert tracemalloc.get_traced_memory()[0] < count * 2 * 120 * 1024


@pytest.mark.long
async def test_the_memory_of_forged_clients_is_bounded() -> None:
    # Each datagram begins a handshake from another address; one in four is not authentic.
    authentic = [initial_flight()[0] for _ in range(300)]
    gc.collect()
    async with serving(handshake_timeout=600) as (listener,), AsyncExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(200)]
        for number, sock in enumerate(sockets):
            sock.bind((f"127.1.0.{1 + number}", 0))
            sock.connect(listener.address)

        async def forge(count: int) -> int:
            """Send forged datagrams, as fast as the server reads them, and return the size of the heap."""
            for number in range(count):
                data = authentic[number % len(authentic)]
                if number % 4 == 0:
                    data = data[:6] + os.urandom(8) + data[14:]
                sockets[number % len(sockets)].send(data)
                if number % 32 == 0:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            return tracemalloc.get_traced_memory()[0]

        async def join() -> None:
            async with connecting(listener) as connection:
                await connection.ping()

        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        half = await forge(2500)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join)
            whole = await forge(2500)
        assert whole < half + 1024**2
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024**2
        counts = check_sums(listener)
        assert (counts.accepted, counts.handshaking, counts.ignored) == (1, 64, 0)
        # The others repeat an ID of one of the handshakes in progress.
        assert counts.retries > 3000


# Answers to unknown addresses


async def test_version_negotiation_answers_no_negotiation_and_nothing_small() -> None:
    async with serving() as (listener,), raw_socket(listener) as sock:
        unknown = b"\xc0\x1a\x2a\x3a\x4a\x08" + bytes(8) + b"\x08" + bytes(8)
        answer = await answer_to(sock, unknown + bytes(1200))
        assert answer is not None
        assert answer[1:5] == bytes(4)
        assert answer.endswith(b"\x00\x00\x00\x01\x6b\x33\x43\xcf")
        for ignored in (unknown, answer + bytes(1200), b"\xc0\x00\x00\x00\x01", b"\x40" + bytes(1300), b""):
            assert await answer_to(sock, ignored) is None
        counts = listener.statistics()
        assert (counts.negotiations, counts.ignored) == (1, 5)


async def test_a_short_connection_id_of_a_client_is_ignored() -> None:
    async with serving() as (listener,), raw_socket(listener) as sock:
        assert await answer_to(sock, b"\xc0\x00\x00\x00\x01\x04" + bytes(4) + b"\x00\x00\x44\x00" + bytes(1300)) is None
        assert listener.statistics().ignored == 1


async def test_a_forged_initial_leaves_nothing_behind() -> None:
    async with serving() as (listener,), raw_socket(listener) as sock:
        forged = b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x08" + bytes(8) + b"\x00\x44\x96" + bytes(1174)
        assert await answer_to(sock, forged) is None
        counts = check_sums(listener)
        assert (counts.handshakes, counts.handshakes_failed, counts.handshaking) == (1, 1, 0)


async def test_late_packets_of_a_closed_connection_are_answered_ever_less() -> None:
    async with connected() as pair:
        pair.server.close(9)
        late = b"\x40" + pair.client._session.engine._peer_cid.cid + bytes(1000)
        async with raw_socket(pair.listener) as sock:
            await pair.client.wait_closed()
            answers = [await answer_to(sock, late) for _ in range(8)]
            assert 0 < sum(answer is not None for answer in answers) < 8
            assert await answer_to(sock, late[:20]) is None


def test_ids_of_closed_connections_are_bounded_and_expire() -> None:
    closing = ClosingIds()
    for number in range(2000):
        closing.add([b"%d" % number], b"bye", 10.0)
    assert closing.answer(b"975", 100, 5.0) is None
    assert closing.answer(b"976", 100, 5.0) == b"bye"
    assert closing.answer(b"1999", 2, 5.0) == b""
    assert closing.answer(b"1999", 100, 11.0) is None
    assert closing.answer(b"1999", 100, 5.0) is None


async def test_paths_are_bounded_and_keep_the_one_in_use() -> None:
    async with open_socket("udp4", port=0, host="127.0.0.1") as sock:
        paths = Paths(Path(sock, Datagram(b"", Address("127.0.0.1", 1))))
        for port in range(2, 100):
            paths.note(Path(sock, Datagram(b"", Address("127.0.0.1", port))))
        assert paths.to(("127.0.0.1", 1)) is paths.current
        assert paths.to(("127.0.0.1", 99)).latest.address.port == 99
        assert paths.use(("127.0.0.1", 99))
        assert not paths.use(("127.0.0.1", 99))
        assert not paths.use(("127.0.0.1", 1))


async def test_datagrams_that_are_not_authentic_leave_no_path() -> None:
    async with connected() as pair:
        forged = b"\x40" + pair.client._session.engine._peer_cid.cid + bytes(100)
        for _ in range(3):
            async with raw_socket(pair.listener) as sock:
                assert await answer_to(sock, forged) is None
        assert list(pair.server._session.paths._paths) == [pair.client.local_address]
        await pair.client.ping()


# Workers


async def test_connection_ids_begin_with_the_index_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_index", 3)
    async with connected(retry="always") as pair:
        assert all(each[:1] == b"\x03" for each in pair.server._session.engine.ids)
        assert pair.client._session.engine._peer_cid.cid[:1] == b"\x03"


async def test_an_id_may_be_retired_before_it_is_issued() -> None:
    async with connected() as pair:
        # The server holds IDs number 0 to 7. Retiring number 1 creates number 8, which the same packet retires.
        await pair.client.ping()
        engine = pair.client._session.engine
        engine._retire_peer_cid(engine._peer_cid_available.pop(0))
        engine._retire_connection_ids.append(8)
        for _ in range(2):
            await pair.client.ping()
        assert len(pair.server._session.engine.ids) == 8


# Sends that fail


async def test_a_path_with_a_small_mtu_gets_small_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(client={"max_datagram_size": 1400}) as pair:
        ours, theirs = await pair.streams()
        limit_sends(monkeypatch, pair.client._session.paths.current.socket, 1300)
        await ours.send_all(bytes(20000))
        await ours.aclose()
        assert sum([len(data) async for data in theirs]) == 20000


def limit_sends(monkeypatch: pytest.MonkeyPatch, sock: DatagramSocket, size: int) -> None:
    """Make a socket refuse datagrams of more than ``size`` bytes."""
    original = type(sock).send_many

    async def send_many(self: DatagramSocket, datagrams: list[Datagram]) -> None:
        for index, datagram in enumerate(datagrams):
            if self is sock and len(datagram.data) > size:
                await original(self, datagrams[:index])
                raise SendManyError(OSError(errno.EMSGSIZE, "Message too long"), index, index)
        await original(self, datagrams)

    monkeypatch.setattr(type(sock), "send_many", send_many)


async def test_a_refused_send_ends_only_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        errors = fail_sends(monkeypatch, pair.client._session.paths.current.socket)
        errors.extend(
            [SendManyError(OSError(errno.ECONNREFUSED, "refused"), 0, 0), trio.ClosedResourceError("rebound")]
        )
        errors.append(SendManyError(OSError(errno.ENOBUFS, "full"), 0, 0))
        for _ in range(3):
            await pair.client.ping()
        assert errors == []


async def test_a_handshake_that_cannot_be_sent_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = OSError(errno.ECONNREFUSED, "refused")

    async def send_many(*_: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise SendManyError(refused, 0, 0) from refused

    async with open_socket("udp4", port=0, host="127.0.0.1") as sock:
        monkeypatch.setattr(DatagramSocket, "send_many", send_many)
        with pytest.raises(ConnectionRefusedError) as caught:
            async with quic.open_connection(*sock.address, client_configuration()):
                raise AssertionError
        assert caught.value is refused


async def test_a_client_whose_socket_fails_has_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as pair:
        fail_receiving(monkeypatch, pair.client._session.paths.current.socket)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await pair.client.ping()
        assert (await pair.client.wait_closed()).reason == "[Errno 5] Input/output error"


def fail_sends(monkeypatch: pytest.MonkeyPatch, sock: DatagramSocket) -> list[Exception]:
    """Return a list of errors that the next flights of a socket raise."""
    errors: list[Exception] = []
    original = DatagramSocket.send_many

    async def send_many(self: DatagramSocket, datagrams: list[Datagram]) -> None:
        if self is sock and errors:
            raise errors.pop(0)
        await original(self, datagrams)

    monkeypatch.setattr(DatagramSocket, "send_many", send_many)
    return errors


# Hostile datagrams


async def attack(datagrams: list[bytes]) -> None:
    """Send datagrams to a server that has a client; the client is not affected."""
    async with serving(handler_errors="log", retry="never", max_handshakes=4) as (listener,):
        async with connecting(listener) as connection:
            async with raw_socket(listener) as sock:
                for data in datagrams:
                    await sock.send(data)
            await connection.ping()
        check_sums(listener)


def mutations() -> st.SearchStrategy[list[bytes]]:
    flight = initial_flight()[0]

    def flip(bits: list[int]) -> bytes:
        data = bytearray(flight)
        for bit in bits:
            data[bit // 8] ^= 1 << bit % 8
        return bytes(data)

    flipped = st.lists(st.integers(0, 8 * 60), max_size=5).map(flip)
    truncated = st.integers(0, len(flight)).map(lambda size: flight[:size])
    extended = st.binary(max_size=1500).map(lambda data: flight + data)
    return st.lists(st.one_of(st.binary(max_size=1500), flipped, truncated, extended), max_size=8)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_no_datagram_harms_a_server(datagrams: list[bytes]) -> None:
    trio.run(attack, datagrams)


@given(st.binary(max_size=60))
def test_no_header_raises(data: bytes) -> None:
    destination_of_untrusted(data)
    parse_long_header_untrusted(data)


def test_a_token_that_is_longer_than_its_datagram_is_malformed() -> None:
    assert parse_long_header_untrusted(b"\xc0\x00\x00\x00\x01\x00\x00\x20") is None
