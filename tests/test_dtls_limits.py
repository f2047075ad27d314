"""DTLS listeners bound what peers cost: handshakes, peers, their handlers and queues. The sums of the counts hold."""

from __future__ import annotations

import gc
import logging
import math
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing
from OpenSSL import SSL

import trio_dgram
from trio_dgram import dtls, sim

from .support.certificates import CLIENT, check_sums, client_context, connecting, server_context, serving, shout, talk
from .support.families import Family

# Half-open handshakes


def client_hello(cookie: bytes, sequence: int) -> bytes:
    """Return a ClientHello (RFC 6347, 4.2.1) that a server answers with its certificate."""
    groups = struct.pack("!HHHH", 10, 4, 2, 23)
    formats = struct.pack("!HHBB", 11, 2, 1, 0)
    signatures = struct.pack("!HHHHH", 13, 6, 4, 0x0403, 0x0804)
    extensions = groups + formats + signatures
    suites = struct.pack("!HHHH", 0xC02B, 0xC02F, 0xC023, 0xC009)
    body = b"\xfe\xfd" + b"R" * 32 + b"\0" + bytes([len(cookie)]) + cookie
    body += struct.pack("!H", len(suites)) + suites + b"\1\0" + struct.pack("!H", len(extensions)) + extensions
    length = len(body).to_bytes(3, "big")
    message = b"\1" + length + struct.pack("!H", sequence) + b"\0\0\0" + length + body
    return b"\x16\xfe\xff\0\0" + sequence.to_bytes(6, "big") + struct.pack("!H", len(message)) + message


class HalfOpen:
    """Handshakes that end after the server's first flight."""

    def __init__(self, listener: dtls.DTLSListener, nursery: trio_dgram.DatagramNursery) -> None:
        self._to = listener.address
        self._nursery = nursery

    async def begin(self, host: str | None = None) -> trio_dgram.DatagramSocket:
        """Begin a handshake from ``host``, and return its socket once the server has answered."""
        sock = self._nursery.create_socket("udp6" if ":" in self._to.host else "udp4")
        await sock.bind(0, host)
        await sock.connect(self._to)
        await sock.send(client_hello(b"", 0))
        challenge = (await sock.receive()).data
        await sock.send(client_hello(challenge[28:], 1))
        assert (await sock.receive()).data[0] == 22
        return sock


@asynccontextmanager
async def attacked(listener: dtls.DTLSListener) -> AsyncGenerator[HalfOpen]:
    async with trio_dgram.open_nursery() as nursery:
        yield HalfOpen(listener, nursery)
        nursery.cancel_scope.cancel()


async def test_half_open_handshakes_are_bounded_and_an_honest_client_is_admitted(
    udp: Family, caplog: pytest.LogCaptureFixture
) -> None:
    began = trio.current_time()
    async with serving(host=udp.loopback, max_handshakes=8) as (listener,), attacked(listener) as attack:
        async with connecting(listener) as peer:
            for number in range(50):
                await attack.begin()
                assert check_sums(listener).handshaking <= 8
                if number % 10 == 0:
                    await talk(peer)
            async with connecting(listener) as other:
                await talk(other)
        counts = check_sums(listener)
        assert (counts.handshaking, counts.handshakes_evicted, counts.accepted) == (7, 43, 2)
    lines = [record for record in caplog.records if "max_handshakes (8) others began later" in record.message]
    assert 1 <= len(lines) <= 1 + trio.current_time() - began
    assert check_sums(listener).handshakes_failed == 7


def begin_many(  # pragma: no cover -- only a long test calls it
    count: int, to: trio_dgram.Address, family: socket.AddressFamily
) -> None:
    """Begin handshakes with sockets that cost this process next to nothing."""
    for _ in range(count):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect(to)
            sock.send(client_hello(b"", 0))
            sock.send(client_hello(sock.recv(3000)[28:], 1))
            assert sock.recv(3000)[0] == 22


def resident_kilobytes() -> int:  # pragma: no cover -- only a long test calls it
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="platform: only Linux has /proc/self/statm")
async def test_two_thousand_half_open_handshakes_stay_within_the_memory_of_the_limit(udp: Family) -> None:
    limit = 128
    async with serving(host=udp.loopback, max_handshakes=limit) as (listener,):
        # What the first handshake loads is not what each of them costs.
        async with connecting(listener) as peer:
            await talk(peer)
        before = resident_kilobytes()
        await trio.to_thread.run_sync(begin_many, 2000, listener.address, udp.family)
        assert check_sums(listener).handshaking == limit
        grown = resident_kilobytes() - before
        # A bare SSL.Connection of OpenSSL 4.0 that is half-open costs 79 kB. What the heap has free varies.
        assert grown < limit * 100, grown
        async with connecting(listener) as peer:
            await talk(peer)
        # The kernel may choose a port twice, which replaces the former handshake.
        counts = check_sums(listener)
        assert counts.handshakes_evicted + counts.handshakes_failed == 2000 + 1 - limit


async def test_a_flood_of_client_hellos_without_a_cookie_costs_nothing(udp: Family) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with trio_dgram.open_socket(udp.type, connect=listener.address) as sock, connecting(listener) as peer:
            for _ in range(30):
                for _ in range(10):
                    await sock.send(client_hello(b"", 0))
                    await sock.send(client_hello(b"x" * 16, 0))
                await talk(peer)
            assert check_sums(listener).handshakes == 1


def test_a_handshake_that_takes_too_long_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, delay=0.5)
        with server.active():
            async with serving(handshake_timeout=0.75) as listeners:
                with client.active():
                    for _ in range(3):
                        with pytest.raises(trio.TooSlowError, match="has not finished the handshake within 2 seconds"):
                            async with connecting(listeners[1], server.ipv4, handshake_timeout=2):
                                raise AssertionError
                await trio.sleep(2)
                counts = check_sums(listeners[1])
                assert counts.handshakes_failed == counts.handshakes == 3
                assert counts.handshaking == 0

    with caplog.at_level(logging.WARNING):
        sim.run(scenario)
    lines = [record.getMessage() for record in caplog.records if "handshake of" in record.getMessage()]
    assert len(lines) == 3
    assert "failed: not finished within 0.75 s" in lines[0]


def test_a_client_gives_up_a_silent_server() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, loss=1)
        with client.active(), pytest.raises(trio.TooSlowError):
            async with dtls.open_connection("server", 4433, client_context()):
                raise AssertionError
        assert round(network.time, 4) == 10

    sim.run(scenario)


async def test_a_failing_callback_of_the_context_fails_its_handshake(udp: Family) -> None:
    def fail(*_: object) -> bool:
        raise ValueError("of the callback")

    context = server_context(verify_clients=True)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, fail)
    async with serving(context=context, host=udp.loopback) as (listener,):
        with pytest.raises(trio.TooSlowError):
            async with connecting(listener, ssl_context=client_context(certificate=CLIENT), handshake_timeout=0.2):
                raise AssertionError
        assert check_sums(listener).handshakes_failed == 1


# Peers and handlers


class Handlers:
    """Handlers that receive until their channels end, and then wait to be released."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.peers: list[dtls.DTLSChannel] = []
        self.let_go = trio.Event()

    async def __call__(self, peer: dtls.DTLSChannel) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.peers.append(peer)
        try:
            await shout(peer)
            await self.let_go.wait()
        finally:
            self.running -= 1


async def test_a_new_peer_is_refused_while_the_table_is_full(udp: Family) -> None:
    handlers = Handlers()
    async with serving(handlers, host=udp.loopback, max_peers=2) as (listener,):
        async with connecting(listener) as one, connecting(listener) as other:
            with pytest.raises(trio.TooSlowError):
                async with connecting(listener, handshake_timeout=0.2):
                    raise AssertionError
            counts = check_sums(listener)
            assert (counts.peers, counts.refused, counts.handshakes_failed) == (2, 1, 0)
            await talk(one)
            await talk(other)
    assert handlers.most == 2


async def test_peers_beyond_the_limit_are_refused_when_their_handshakes_end(udp: Family) -> None:
    async def connect(listener: dtls.DTLSListener, talked: list[int]) -> None:
        with trio.move_on_after(1):
            async with connecting(listener) as peer:
                await talk(peer)
                talked.append(1)
                if len(talked) == 2:
                    both.set()
                await trio.sleep_forever()

    handlers = Handlers()
    talked: list[int] = []
    both = trio.Event()
    async with serving(handlers, host=udp.loopback, max_peers=2) as (listener,), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(connect, listener, talked)
        await both.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (check_sums(listener).peers, check_sums(listener).refused) == (2, 3)
        nursery.cancel_scope.cancel()
    assert handlers.most == 2


@pytest.mark.parametrize("idle_timeout", [10, None])
def test_a_channel_ends_after_the_idle_timeout_without_a_datagram(idle_timeout: float | None) -> None:
    async def scenario(network: sim.Network) -> None:
        handlers = Handlers()
        with network.host("server").active():
            async with serving(handlers, idle_timeout=idle_timeout) as listeners:
                listener = listeners[1]
                with network.host("client").active():
                    async with connecting(listener, network.host("server").ipv4) as peer:
                        for _ in range(3):
                            await trio.sleep(8)
                            await talk(peer)
                        await trio.sleep(5)
                        # What the server sends keeps no peer.
                        await handlers.peers[0].send(b"an event")
                        await trio.sleep(5.5)
                        if idle_timeout is None:
                            assert check_sums(listener).peers == 1
                            return
                        assert (check_sums(listener).peers, check_sums(listener).expired) == (0, 1)
                        assert repr(handlers.peers[0]).endswith("ended>")
                        with pytest.raises(trio.EndOfChannel):
                            await handlers.peers[0].receive()
                        with pytest.raises(trio.BrokenResourceError, match="has ended"):
                            await handlers.peers[0].send(b"x")
                        handlers.let_go.set()
                        await trio.sleep(1)
                        assert handlers.running == 0
                        assert check_sums(listener).closed == 0

    sim.run(scenario)


def test_an_expired_channel_returns_what_was_queued_first() -> None:
    async def scenario(network: sim.Network) -> None:
        received: list[bytes] = []

        async def handler(peer: dtls.DTLSChannel) -> None:
            await trio.sleep(100)
            async for data in peer:
                received.append(data)

        with network.host("server").active():
            async with serving(handler) as listeners:
                with network.host("client").active():
                    async with connecting(listeners[1], network.host("server").ipv4) as peer:
                        for number in range(3):
                            await peer.send(b"%d" % number)
                        await trio.sleep(110)
                assert check_sums(listeners[1]).expired == 1
        assert received == [b"0", b"1", b"2"]

    sim.run(scenario)


def test_a_handler_that_runs_on_is_cancelled_when_its_place_is_needed() -> None:
    async def scenario(network: sim.Network) -> None:
        handlers = Handlers()
        server, client = network.host("server"), network.host("client")
        with server.active():
            async with serving(handlers, max_peers=2, idle_timeout=10) as listeners:
                listener = listeners[1]
                with client.active():
                    async with AsyncExitStack() as stack:
                        for _ in range(6):
                            peer = await stack.enter_async_context(connecting(listener, server.ipv4))
                            await talk(peer)
                            await trio.sleep(11)
                counts = check_sums(listener)
                assert (counts.expired, counts.handlers_cancelled, handlers.running) == (6, 4, 2)
                assert handlers.most <= 3
                handlers.let_go.set()

    sim.run(scenario)


def test_a_handler_that_fails_because_its_channel_has_ended_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(peer: dtls.DTLSChannel) -> None:
        await trio.sleep(11)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, b"to no peer")

    async def scenario(network: sim.Network) -> None:
        server = network.host("server")
        with server.active():
            async with serving(handler, idle_timeout=10) as listeners:
                with network.host("client").active():
                    async with connecting(listeners[1], server.ipv4):
                        await trio.sleep(20)
                assert check_sums(listeners[1]).expired == 1

    sim.run(scenario)
    assert not caplog.records


def test_a_channel_that_expires_before_it_is_accepted_is_closed() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        with server.active():
            (listener,) = await dtls.open_listeners(0, server_context(), host=server.ipv4, idle_timeout=10)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.accept)
                with client.active():
                    async with connecting(listener), connecting(listener):
                        await trio.sleep(1)
                        assert check_sums(listener).waiting == 1
                        await trio.sleep(10)
                        counts = check_sums(listener)
                        assert (counts.waiting, counts.expired, counts.closed) == (0, 2, 0)
            await listener.aclose()

    sim.run(scenario)


async def test_a_new_handshake_from_the_same_address_replaces_the_peer(udp: Family) -> None:
    broken: list[Exception] = []

    async def handler(peer: dtls.DTLSChannel) -> None:
        try:
            await shout(peer)
        except trio.BrokenResourceError as error:
            broken.append(error)
            raise

    async with serving(handler, host=udp.loopback, max_peers=1, handler_errors="raise") as (listener,):
        local: tuple[str, int] = (udp.loopback, 0)
        for _ in range(3):
            async with connecting(listener, local=local) as peer:
                await talk(peer)
                local = peer.local_address
        counts = check_sums(listener)
        assert (counts.accepted, counts.peers, counts.evicted, counts.refused) == (3, 1, 2, 0)
    assert len(broken) == 2


async def test_a_new_handshake_replaces_a_handler_that_does_not_receive(udp: Family) -> None:
    started: list[dtls.DTLSChannel] = []

    async def handler(peer: dtls.DTLSChannel) -> None:
        started.append(peer)
        await peer.receive()
        await peer.send(b"started")
        await trio.sleep_forever()

    async with serving(handler, host=udp.loopback, max_peers=1) as (listener,):
        local: tuple[str, int] = (udp.loopback, 0)
        for _ in range(3):
            async with connecting(listener, local=local) as peer:
                await peer.send(b"start")
                assert await peer.receive() == b"started"
                local = peer.local_address
        counts = check_sums(listener)
        assert (counts.accepted, counts.peers, counts.evicted, counts.handlers_cancelled) == (3, 1, 2, 2)
        assert [repr(peer).rpartition(" ")[2] for peer in started] == ["closed>", "closed>", "open>"]


async def test_a_new_handshake_replaces_a_peer_that_trio_serves(udp: Family) -> None:
    async def handler(peer: dtls.DTLSChannel) -> None:
        await peer.receive()
        await trio.sleep_forever()

    (listener,) = await dtls.open_listeners(0, server_context(), host=udp.loopback, max_peers=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        local: tuple[str, int] = (udp.loopback, 0)
        for _ in range(2):
            async with connecting(listener, local=local) as peer:
                await peer.send(b"x")
                await trio.testing.wait_all_tasks_blocked()
                local = peer.local_address
        counts = check_sums(listener)
        assert (counts.accepted, counts.evicted, counts.handlers_cancelled) == (2, 1, 0)
        nursery.cancel_scope.cancel()


async def test_peers_and_handshakes_of_one_network_are_limited(udp: Family) -> None:
    async with serving(host=udp.loopback, max_peers_per_network=(2, 2)) as (listener,), attacked(listener) as attack:
        async with connecting(listener) as peer:
            half_open = await attack.begin()
            with pytest.raises(trio.TooSlowError):
                async with connecting(listener, handshake_timeout=0.2):
                    raise AssertionError
            assert check_sums(listener).refused_by_network == 1
            await talk(peer)
            half_open.close()


async def test_a_network_is_admitted_again_after_its_peers_have_ended(udp: Family) -> None:
    async with serving(host=udp.loopback, max_peers_per_network=(1, 1)) as (listener,):
        for _ in range(3):
            async with connecting(listener) as peer:
                await talk(peer)
                await peer.send(b"fail")
            await trio.testing.wait_all_tasks_blocked()
        assert check_sums(listener).closed == 3


# Queues


@pytest.mark.parametrize(
    "limit", [{"max_buffer_size": 5}, {"max_buffer_bytes": 5 * 1037}, {"max_total_bytes": 5 * 1037}], ids=str
)
async def test_the_queue_of_a_peer_is_bounded_and_drops_are_counted(udp: Family, limit: dict[str, int]) -> None:
    go_on = trio.Event()
    received: list[bytes] = []

    async def handler(peer: dtls.DTLSChannel) -> None:
        await go_on.wait()
        async for data in peer:
            if data == b"last":
                await peer.send(b"done")
            received.append(data)

    options: dict[str, Any] = dict(limit)
    async with serving(handler, host=udp.loopback, **options) as (listener,):
        async with connecting(listener) as peer:
            for number in range(12):
                await peer.send(b"%02d" % number + bytes(998))
            await trio.testing.wait_all_tasks_blocked()
            assert check_sums(listener).dropped == 12 - 5
            go_on.set()
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(b"last")
            assert await peer.receive() == b"done"
    assert [int(data[:2]) for data in received[:-1]] == list(range(5))
    # Trio's receive loop keeps the last one.
    assert listener._peers._sock.queued_bytes <= len(b"last") + 37


async def test_a_single_busy_peer_loses_no_datagram(udp: Family) -> None:
    async with serving(host=udp.loopback, receive_buffer_size=1 << 20) as (listener,):
        async with connecting(listener, receive_buffer_size=1 << 20) as peer, trio.open_nursery() as nursery:

            async def ask() -> None:
                for number in range(500):
                    await peer.send(b"%d" % number)

            nursery.start_soon(ask)
            for number in range(500):
                assert await peer.receive() == b"%d" % number
            assert check_sums(listener).dropped == 0


# Handlers' errors, and options


async def test_a_failing_handler_ends_its_channel_only_and_is_logged_once(
    udp: Family, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(host=udp.loopback) as (listener,):
        async with connecting(listener) as other:
            for _ in range(3):
                async with connecting(listener) as one:
                    await talk(one)
                    await one.send(b"fail")
            await talk(other)
    failures = [record for record in caplog.records if "the handler of" in record.getMessage()]
    assert len(failures) == 1
    assert failures[0].exc_info is not None
    assert "of the handler" in caplog.text


async def test_a_failing_handler_may_end_the_server(udp: Family) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="of the handler"), flatten_subgroups=True):
        async with serving(host=udp.loopback, handler_errors="raise") as (listener,):
            async with connecting(listener) as peer:
                await peer.send(b"fail")
                await trio.sleep_forever()


async def test_handlers_may_run_in_another_nursery(udp: Family) -> None:
    async with trio.open_nursery() as handlers:
        async with serving(host=udp.loopback, handler_nursery=handlers) as (listener,):
            async with connecting(listener) as peer:
                await talk(peer)
                assert len(handlers.child_tasks) == 1
        # The server has ended, and its handler runs on.
        assert not listener._socket.closed
        handlers.cancel_scope.cancel()


WRONG: Final[list[tuple[dict[str, Any], type[Exception], str]]] = [
    ({"max_peers": 0}, ValueError, "max_peers must be from 1"),
    ({"max_handshakes": True}, TypeError, "max_handshakes must be an integer"),
    ({"handshake_timeout": -1}, ValueError, "handshake_timeout must be at least 0"),
    ({"handshake_timeout": None}, TypeError, "handshake_timeout must be a number"),
    ({"idle_timeout": "long"}, TypeError, "idle_timeout must be a number"),
    ({"max_peers_per_network": 3}, TypeError, "max_peers_per_network must be a number for IPv4 and one for IPv6"),
    ({"max_peers_per_network": (1, 0)}, ValueError, "max_peers_per_network must be from 1"),
    ({"max_peer": 3}, TypeError, "unknown DTLS listener option 'max_peer'; the DTLS listener options are broadcast"),
    ({"ttl": 1000}, ValueError, "ttl must be from"),
    ({"handler_errors": "ignore"}, ValueError, 'handler_errors must be "log" or "raise"'),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=lambda value: str(value)[:30])
async def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await dtls.serve(shout, 0, server_context(), **options)


async def test_a_handler_that_cannot_be_called_is_refused() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match="handler must be an async function of one argument, not 3"):
        await dtls.serve(wrong, 0, server_context())


@pytest.mark.parametrize("name", ["handshake_timeout", "initial_retransmit_timeout"])
async def test_wrong_times_of_a_connection_are_refused(name: str) -> None:
    for value, error in ((-1, ValueError), ("long", TypeError), (math.nan, ValueError)):
        wrong: dict[str, Any] = {name: value}
        with pytest.raises(error, match=f"{name} must be "):
            dtls.open_connection("localhost", 9, client_context(), **wrong)


async def test_a_connection_does_not_retransmit_without_end() -> None:
    with pytest.raises(ValueError, match=r"initial_retransmit_timeout must be at least 0\.001 and finite, not 0"):
        dtls.open_connection("localhost", 9, client_context(), initial_retransmit_timeout=0)
