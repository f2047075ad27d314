"""QUIC's engine, without a socket and without a clock: credit, streams, connection IDs, and guards."""

from __future__ import annotations

from typing import Any, Final

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from trio_dgram._quic import engine as engine_module
from trio_dgram._quic.configuration import client_configuration as engine_of_client
from trio_dgram._quic.configuration import server_configuration as engine_of_server
from trio_dgram._quic.engine import Engine, check_aioquic
from trio_dgram._quic.errors import Closed

from .support.quic import client_configuration, server_configuration

CLIENT: Final = ("192.0.2.1", 1111)
SERVER: Final = ("192.0.2.2", 4433)


class Side:
    """One end: an engine, and the events that it has reported."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.log: list[tuple[object, ...]] = []
        self.data: dict[int, bytearray] = {}

    def handshake_completed(self) -> None:
        self.log.append(("handshake",))

    def stream_received(self, stream_id: int, data: bytes, *, end: bool) -> None:
        self.data.setdefault(stream_id, bytearray()).extend(data)
        if end:
            self.log.append(("end", stream_id))

    def stream_reset(self, stream_id: int, code: int) -> None:
        self.log.append(("reset", stream_id, code))

    def stream_stopped(self, stream_id: int, code: int) -> None:
        self.log.append(("stopped", stream_id, code))

    def datagram_received(self, data: bytes) -> None:
        self.log.append(("datagram", data))

    def ping_acknowledged(self, uid: int) -> None:
        self.log.append(("pong", uid))

    def id_issued(self, connection_id: bytes) -> None:
        self.log.append(("issued", connection_id))

    def id_retired(self, connection_id: bytes) -> None:
        self.log.append(("retired", connection_id))


class Pair:
    """A client and a server on a path without delay."""

    def __init__(self, prefix: bytes = b"", client: Any = None, server: Any = None) -> None:
        of_client = client_configuration(**(client or {}))
        of_server = server_configuration(**(server or {}))
        self.now = 0.0
        self.client = Side(Engine(engine_of_client(of_client, "server.example"), max_streams=of_client.max_streams))
        self.client.engine.connect(SERVER, self.now)
        self.server = Side(
            Engine(
                engine_of_server(of_server),
                max_streams=of_server.max_streams,
                id_prefix=prefix,
                original_id=self.client.engine.original_destination_connection_id,
            )
        )
        self.run()

    def run(self) -> None:
        """Pass datagrams on, and advance the time, until no datagram is left to send."""
        for _ in range(2000):
            moved = self._pass(self.client, self.server, CLIENT) + self._pass(self.server, self.client, SERVER)
            if not moved:
                due = [at for side in (self.client, self.server) if (at := side.engine.get_timer()) is not None]
                if not due or min(due) > self.now + 1:
                    return
                self.now = max(self.now + 0.001, min(due))
                for side in (self.client, self.server):
                    at = side.engine.get_timer()
                    if at is not None and at <= self.now:
                        side.engine.handle_timer(self.now)
        raise AssertionError

    def _pass(self, source: Side, target: Side, address: tuple[str, int]) -> int:
        datagrams = source.engine.datagrams_to_send(self.now)
        for data, _ in datagrams:
            target.engine.receive_datagram(data, address, self.now)
        for side in (source, target):
            side.engine.drain(side)
        return len(datagrams)


def opened(pair: Pair, *, one_way: bool = False) -> int:
    stream_id = pair.client.engine.open_stream(one_way=one_way)
    assert stream_id is not None
    return stream_id


def test_a_server_has_nothing_to_send_before_its_first_packet() -> None:
    server = Engine(engine_of_server(server_configuration()), max_streams=(1, 0), original_id=bytes(8))
    assert server.datagrams_to_send(0) == []
    assert not server.has_begun


def test_a_handshake_ends_with_the_negotiated_protocol_and_the_certificate() -> None:
    pair = Pair()
    for side in (pair.client, pair.server):
        assert ("handshake",) in side.log
        assert side.engine.has_begun
        assert side.engine.alpn == "test"
        assert side.engine.rtt >= 0
        assert side.engine.congestion_window > 0
    assert "CN=server" in pair.client.engine.peer_certificate.subject.rfc4514_string()
    assert pair.server.engine.peer_certificate is None


def test_no_more_than_the_windows_arrives_while_nothing_is_consumed() -> None:
    pair = Pair(server={"max_data": 65536, "max_stream_data": 65536})
    stream_id = opened(pair)
    pair.client.engine.send_stream_data(stream_id, bytes(1_000_000))
    pair.run()
    assert len(pair.server.data[stream_id]) == 65536
    assert pair.client.engine.unsent(stream_id) == 1_000_000 - 65536
    assert pair.server.engine.violation() is None


def test_all_data_arrives_while_it_is_consumed() -> None:
    pair = Pair(server={"max_data": 65536, "max_stream_data": 32768})
    stream_id = opened(pair)
    pair.client.engine.send_stream_data(stream_id, bytes(500_000), end_stream=True)
    received = 0
    while received < 500_000:
        pair.run()
        data = pair.server.data.pop(stream_id)
        received += len(data)
        pair.server.engine.consume(stream_id, len(data))
        assert pair.server.engine.violation() is None
    assert ("end", stream_id) in pair.server.log
    assert pair.client.engine.is_delivered(stream_id)
    assert pair.client.engine.unsent(stream_id) == 0
    pair.server.engine.send_stream_data(stream_id, b"", end_stream=True)
    pair.run()
    # aioquic discards it with the next packet.
    for side in (pair.client, pair.server):
        side.engine.send_ping(1)
    pair.run()
    for side in (pair.client, pair.server):
        assert side.engine.is_over(stream_id)
        side.engine.forget(stream_id)
        side.engine.stop_stream(stream_id, 0)
        side.engine.reset_stream(stream_id, 0)
        side.engine.consume(stream_id, 0)
        side.engine.abandon(stream_id, 0)


def test_streams_that_are_reset_unread_return_their_credit() -> None:
    pair = Pair(server={"max_data": 131072, "max_stream_data": 32768})
    for _ in range(20):
        stream_id = opened(pair)
        pair.client.engine.send_stream_data(stream_id, bytes(32768))
        pair.run()
        assert len(pair.server.data[stream_id]) == 32768
        pair.client.engine.reset_stream(stream_id, 7)
        pair.run()
        assert ("reset", stream_id, 7) in pair.server.log
        pair.server.engine.abandon(stream_id, 32768)
        assert pair.server.engine.violation() is None


def test_streams_that_are_stopped_unread_return_their_credit() -> None:
    pair = Pair(server={"max_data": 131072, "max_stream_data": 32768})
    for _ in range(20):
        stream_id = opened(pair)
        pair.client.engine.send_stream_data(stream_id, bytes(20000))
        pair.run()
        pair.server.engine.consume(stream_id, 10000)
        pair.client.engine.send_stream_data(stream_id, bytes(20000))
        pair.server.engine.abandon(stream_id, 10000)
        pair.server.engine.stop_stream(stream_id, 9)
        pair.run()
        assert ("stopped", stream_id, 9) in pair.client.log
        assert pair.server.engine.violation() is None


def test_the_peer_may_open_streams_up_to_its_limit() -> None:
    pair = Pair(server={"max_streams": (2, 1)})
    one, two = opened(pair), opened(pair)
    assert (one, two) == (0, 4)
    assert pair.client.engine.open_stream(one_way=False) is None
    assert opened(pair, one_way=True) == 2
    assert pair.client.engine.open_stream(one_way=True) is None
    pair.client.engine.send_stream_data(one, b"", end_stream=True)
    pair.client.engine.send_stream_data(two, b"open")
    pair.run()
    pair.server.engine.send_stream_data(one, b"", end_stream=True)
    pair.run()
    pair.server.engine.send_ping(1)
    pair.run()
    assert pair.server.engine.is_over(one)
    # aioquic returns the place by itself.
    assert pair.client.engine.open_stream(one_way=False) is None
    pair.server.engine.return_place(one_way=False)
    pair.server.engine.send_ping(2)
    pair.run()
    assert opened(pair) == 8


def test_a_place_is_returned_while_the_peer_has_others_left() -> None:
    pair = Pair(server={"max_streams": (8, 0)})
    first = opened(pair)
    for side in (pair.client, pair.server):
        side.engine.send_stream_data(first, b"", end_stream=True)
        pair.run()
    pair.server.engine.return_place(one_way=False)
    pair.server.engine.send_ping(1)
    pair.run()
    for _ in range(8):
        opened(pair)
    assert pair.client.engine.open_stream(one_way=False) is None


def test_connection_ids_begin_with_the_prefix() -> None:
    pair = Pair(prefix=b"\x07")
    ids = pair.server.engine.ids
    assert len(ids) == 8
    assert all(each[:1] == b"\x07" and len(each) == 8 for each in ids)
    assert len({("issued", each) for each in ids} & set(pair.server.log)) == 7
    pair.client.engine.change_connection_id()
    pair.run()
    assert any(each[0] == "retired" for each in pair.server.log)
    assert all(each[:1] == b"\x07" for each in pair.server.engine.ids)


def test_datagrams_have_a_size_that_fits() -> None:
    pair = Pair(server={"datagrams": True}, client={"datagrams": True, "max_datagram_frame_size": 103})
    assert (pair.client.engine.max_datagram, pair.server.engine.max_datagram) == (1158, 100)
    pair.client.engine.send_datagram_frame(bytes(1158))
    assert pair.client.engine.unsent_datagrams == 1
    pair.run()
    assert ("datagram", bytes(1158)) in pair.server.log
    pair.server.engine.send_datagram_frame(bytes(100))
    pair.run()
    assert ("datagram", bytes(100)) in pair.client.log
    assert Pair().client.engine.max_datagram == 0


def test_datagrams_shrink_to_the_path_mtu() -> None:
    pair = Pair(client={"max_datagram_size": 1400})
    stream_id = opened(pair)
    pair.client.engine.send_stream_data(stream_id, bytes(5000))
    assert max(len(data) for data, _ in pair.client.engine.datagrams_to_send(pair.now)) == 1400
    pair.run()
    pair.client.engine.shrink(1200)
    pair.client.engine.send_stream_data(stream_id, bytes(5000))
    assert max(len(data) for data, _ in pair.client.engine.datagrams_to_send(pair.now)) == 1200


def test_lost_packets_are_counted() -> None:
    pair = Pair()
    stream_id = opened(pair)
    pair.client.engine.send_stream_data(stream_id, bytes(3000))
    lost = pair.client.engine.datagrams_to_send(pair.now)
    pair.client.engine.send_stream_data(stream_id, bytes(10000))
    pair.run()
    assert pair.client.engine.lost >= len(lost)
    assert len(pair.server.data[stream_id]) == 13000


@pytest.mark.parametrize("application", [False, True])
def test_both_ends_know_how_a_connection_was_closed(application: bool) -> None:
    pair = Pair()
    pair.client.engine.end(5, "bye", application=application)
    pair.run()
    assert pair.client.engine.closed == Closed(code=5, reason="bye", remote=False, application=application)
    assert pair.server.engine.closed == Closed(code=5, reason="bye", remote=True, application=application)


def test_a_connection_without_packets_is_idle() -> None:
    pair = Pair(client={"idle_timeout": 2})
    at = pair.client.engine.get_timer()
    assert at is not None
    pair.client.engine.handle_timer(at)
    assert pair.client.engine.closed == Closed(code=0, reason="idle timeout", remote=False, application=False)


def transfer(pair: Pair) -> set[str | None]:
    """Move more than a window, all of it consumed; return the violations that the guards report."""
    violations: set[str | None] = set()
    stream_id = opened(pair)
    pair.client.engine.send_stream_data(stream_id, bytes(300_000))
    for _ in range(40):
        pair.run()
        data = pair.server.data.pop(stream_id, b"")
        violations.add(pair.server.engine.violation())
        pair.server.engine.consume(stream_id, len(data))
        pair.server.engine.send_ping(0)
        violations.add(pair.server.engine.violation())
    return violations


def test_guards_report_nothing_while_aioquic_keeps_to_the_rules() -> None:
    assert transfer(Pair(prefix=b"\x01", server={"max_data": 65536, "max_stream_data": 65536})) == {None}


@pytest.mark.parametrize(
    ("method", "violation"),
    [
        ("_write_connection_limits", "the window of the connection grows as data arrives"),
        ("_write_stream_limits", "the window of a stream grows as data arrives"),
        ("_replenish_connection_ids", "connection IDs are not the chosen ones"),
    ],
)
def test_a_guard_reports_an_override_that_aioquic_does_not_call(
    method: str, violation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Engine, method)
    assert violation in transfer(Pair(prefix=b"\x01", server={"max_data": 65536, "max_stream_data": 65536}))


def test_a_guard_reports_a_window_that_does_not_grow() -> None:
    pair = Pair(server={"max_data": 65536, "max_stream_data": 65536})
    pair.server.engine._released += 65536
    assert pair.server.engine.violation() == "the window of the connection does not grow as data is consumed"


def test_a_release_of_aioquic_without_a_private_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_aioquic.cache_clear()
    monkeypatch.delattr(QuicConnection, "_write_stream_limits")
    monkeypatch.setattr(engine_module, "_OF_PARTS", {"_loss": ("nonexistent",)})
    with pytest.raises(ImportError, match=r"aioquic 1\.\S+ has no _write_stream_limits, _loss.nonexistent, which"):
        Engine(QuicConfiguration(), max_streams=(0, 0))
    monkeypatch.undo()
    check_aioquic()
