"""Requests in flight over one channel, matched with their replies by a key."""

from __future__ import annotations

import errno
import gc
import math
import os
import signal
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from OpenSSL import SSL

import trio_dgram
from trio_dgram import Exchange, ExchangeStatistics, PeerUnreachable, dtls, sim
from trio_dgram._peers import exchange as _exchange
from trio_dgram.sim import cancel_everywhere

from .support.families import Family

Run = Callable[..., Any]


def number_of(data: bytes) -> int:
    """Return the number at the start of a message, up to a space."""
    return int(data.partition(b" ")[0])


class Wire(trio.abc.Channel[bytes]):
    """A channel whose other end is the test, which sees what is sent and decides what receiving returns or raises.

    Nothing may close it.
    """

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.refusals: deque[Exception | None] = deque()
        """What the next sends raise."""
        self._arriving, self._receiving = trio.open_memory_channel[bytes | Exception](math.inf)

    def arrive(self, *items: bytes | Exception) -> None:
        for item in items:
            self._arriving.send_nowait(item)

    async def send(self, value: bytes) -> None:
        await trio.lowlevel.checkpoint()
        refusal = self.refusals.popleft() if self.refusals else None
        if refusal is not None:
            raise refusal
        self.sent.append(value)

    async def receive(self) -> bytes:
        item = await self._receiving.receive()
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        raise AssertionError


@pytest.fixture
def wire() -> Wire:
    return Wire()


class Results(dict[Any, Any]):
    """What requests in tasks of their own have returned or raised, by message."""

    def __init__(self) -> None:
        super().__init__()
        self.any_ended = trio.Event()
        """Set when a request has ended."""

    async def request(self, exchange: Exchange, message: bytes, **options: Any) -> None:
        try:
            self[message] = await exchange.request(message, **options)
        except Exception as error:  # noqa: BLE001 -- it is what the test compares
            self[message] = error
        self.any_ended.set()


@asynccontextmanager
async def opened(wire: Wire, **options: Any) -> AsyncGenerator[tuple[Exchange, trio.Nursery, Results]]:
    """Open an exchange over ``wire``, with a nursery for requests that is cancelled at the end."""
    async with trio.open_nursery() as nursery:
        async with trio_dgram.open_exchange(wire, **{"key": number_of, **options}) as exchange:
            yield exchange, nursery, Results()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def counts(**named: int) -> ExchangeStatistics:
    """Return the statistics whose other counts are 0."""
    zeros = dict.fromkeys(("sent", "replies", "duplicates", "strays", "timeouts", "in_flight"), 0)
    return ExchangeStatistics(**{**zeros, **named})


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


def refused() -> OSError:
    return OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def icmp_error() -> PeerUnreachable:
    return PeerUnreachable(
        errno.EACCES, icmp_type=1, icmp_code=1, reason="prohibited", offender="2001:db8::1", path_mtu=None
    )


# Matching


async def test_replies_go_to_their_requests_in_any_order(wire: Wire) -> None:
    async with opened(wire) as (exchange, nursery, results):
        for number in range(5):
            nursery.start_soon(results.request, exchange, b"%d ask" % number)
        await blocked()
        assert sorted(wire.sent) == [b"%d ask" % number for number in range(5)]
        assert exchange.statistics() == counts(sent=5, in_flight=5)
        assert repr(exchange) == "<trio_dgram.Exchange with 5 requests in flight>"
        wire.arrive(*(b"%d answer" % number for number in (3, 1, 4, 0, 2)))
        await blocked()
        assert results == {b"%d ask" % number: b"%d answer" % number for number in range(5)}
        assert exchange.statistics() == counts(sent=5, replies=5)


async def test_a_second_reply_is_a_duplicate_and_anything_else_a_stray(wire: Wire) -> None:
    def key(data: bytes) -> Any:
        return [] if data == b"unhashable" else number_of(data)

    async with opened(wire, key=key) as (exchange, nursery, results):
        nursery.start_soon(results.request, exchange, b"1 ask")
        await blocked()
        wire.arrive(b"1 answer", b"1 answer", b"2 unasked", b"not a number", b"unhashable", b"1 other")
        await blocked()
        assert results == {b"1 ask": b"1 answer"}
        assert exchange.statistics() == counts(sent=1, replies=1, duplicates=2, strays=3)


async def test_a_key_is_free_again_when_its_request_has_ended(wire: Wire) -> None:
    async with opened(wire) as (exchange, nursery, results):
        for text in (b"1 one", b"1 two"):
            nursery.start_soon(results.request, exchange, text)
            await blocked()
            wire.arrive(text.upper())
            await blocked()
        nursery.start_soon(results.request, exchange, b"1 three")
        await blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await blocked()
            wire.arrive(b"1 LATE")
            await blocked()
        assert results == {b"1 one": b"1 ONE", b"1 two": b"1 TWO"}
        assert exchange.statistics() == counts(sent=3, replies=2, strays=1)


async def test_the_memory_of_answered_keys_is_bounded(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exchange, "_REMEMBERED", 2)
    async with opened(wire) as (exchange, nursery, results):
        for number in range(3):
            nursery.start_soon(results.request, exchange, b"%d" % number)
            await blocked()
            wire.arrive(b"%d" % number)
            await blocked()
        wire.arrive(b"0", b"1", b"2")
        await blocked()
        assert exchange.statistics() == counts(sent=3, replies=3, duplicates=2, strays=1)


async def test_a_key_that_is_in_flight_is_refused_before_anything_is_sent(wire: Wire) -> None:
    async with opened(wire) as (exchange, nursery, results):
        nursery.start_soon(results.request, exchange, b"7 first")
        await blocked()
        with pytest.raises(ValueError, match="key 7 is in flight"):
            await exchange.request(b"7 second")
        assert wire.sent == [b"7 first"]
        wire.arrive(b"7 answer")
        await blocked()
        assert results == {b"7 first": b"7 answer"}


async def test_a_key_that_is_taken_while_two_requests_wait_is_refused(wire: Wire) -> None:
    async with opened(wire, max_in_flight=2) as (exchange, nursery, results):
        for text in (b"1", b"2"):
            nursery.start_soon(results.request, exchange, text)
        await blocked()
        for text in (b"3 first", b"3 second"):
            nursery.start_soon(results.request, exchange, text)
            await blocked()
        wire.arrive(b"1", b"2")
        await blocked()
        assert isinstance(results[b"3 second"], ValueError)
        assert set(wire.sent) == {b"1", b"2", b"3 first"}


@pytest.mark.parametrize("message", [b"1 ask", bytearray(b"1 ask"), memoryview(b"1 ask")])
async def test_a_request_may_be_anything_like_bytes(wire: Wire, message: bytes | bytearray | memoryview) -> None:
    async with opened(wire) as (exchange, _, _):
        wire.refusals.append(None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.request, message)
            await blocked()
            wire.arrive(b"1 answer")
        assert wire.sent == [b"1 ask"]
        assert type(wire.sent[0]) is bytes


# Attempts


async def test_each_attempt_sends_again_and_the_timeouts_grow(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(wire) as (exchange, nursery, results):
        options = {"timeout": 1, "factor": 3, "attempts": 3, "jitter": 0}
        nursery.start_soon(partial(results.request, exchange, b"1 ask", **options))
        for time, sent in [(0.5, 1), (3.5, 2), (12.5, 3)]:
            await trio.sleep_until(time)
            assert len(wire.sent) == sent
        await trio.sleep_until(13.5)
        assert isinstance(results[b"1 ask"], trio.TooSlowError)
        assert str(results[b"1 ask"]) == "no reply to a request in 3 attempts"
        assert results[b"1 ask"].__cause__ is None
        wire.arrive(b"1 late")
        await trio.sleep(1)
        assert exchange.statistics() == counts(sent=3, timeouts=1, strays=1)
    assert autojump_clock.autojump_threshold == 0


async def test_the_reply_to_an_earlier_attempt_counts(wire: Wire, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(wire) as (exchange, nursery, results):
        nursery.start_soon(partial(results.request, exchange, b"1 ask", jitter=0))
        await trio.sleep(1.5)
        wire.arrive(b"1 to the first", b"1 to the second")
        await trio.sleep(0.1)
        assert results == {b"1 ask": b"1 to the first"}
        assert exchange.statistics() == counts(sent=2, replies=1, duplicates=1)
    assert autojump_clock.autojump_threshold == 0


async def test_a_refusal_while_receiving_or_sending_is_the_cause_of_the_timeout_only(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(wire) as (exchange, nursery, results):
        ask = partial(results.request, exchange, timeout=1, attempts=2, jitter=0)
        for text in (b"1 refused", b"2 answered"):
            nursery.start_soon(ask, text)
        await trio.sleep(0.5)
        first, last = refused(), icmp_error()
        wire.arrive(first, last, b"2 answer")
        await trio.sleep(0.1)
        assert results == {b"2 answered": b"2 answer"}
        await trio.sleep(5)
        assert isinstance(results[b"1 refused"], trio.TooSlowError)
        assert results[b"1 refused"].__cause__ is last
        nursery.start_soon(ask, b"3 silent")
        await trio.sleep(5)
        assert results[b"3 silent"].__cause__ is None
        sending = OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        wire.refusals.append(sending)
        nursery.start_soon(ask, b"4 unreachable")
        await trio.sleep(5)
        assert results[b"4 unreachable"].__cause__ is sending
        wire.refusals.append(sending)
        nursery.start_soon(ask, b"5 reachable later")
        await trio.sleep(1.5)
        wire.arrive(b"5 answer")
        await trio.sleep(0.1)
        assert results[b"5 reachable later"] == b"5 answer"
        assert exchange.statistics() == counts(sent=2 + 1 + 2 + 1 + 1, replies=2, timeouts=3)
    assert autojump_clock.autojump_threshold == 0


async def test_other_errors_of_sending_are_raised_by_the_request(wire: Wire) -> None:
    async with opened(wire) as (exchange, _, _):
        too_long = OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        for refusal in (too_long, trio.BrokenResourceError("evicted")):
            wire.refusals.append(refusal)
            with pytest.raises(type(refusal)) as caught:
                await exchange.request(b"1 ask")
            assert caught.value is refusal
        assert exchange.statistics() == counts()


async def test_a_reply_during_a_send_that_blocks_ends_the_request(
    wire: Wire, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def block(_: bytes) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(wire, "send", block)
    async with opened(wire) as (exchange, nursery, results):
        for number, attempts in [(1, 1), (2, 2)]:
            ask = partial(results.request, exchange, b"%d ask" % number, timeout=1, attempts=attempts, jitter=0)
            nursery.start_soon(ask)
        await trio.sleep(0.5)
        wire.arrive(b"1 answer", b"2 answer")
        await trio.sleep(0.6)
        assert results == {b"1 ask": b"1 answer", b"2 ask": b"2 answer"}
        assert exchange.statistics() == counts(replies=2)
    assert autojump_clock.autojump_threshold == 0


# How many


async def test_more_requests_than_max_in_flight_wait_in_order(
    wire: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(wire, max_in_flight=2) as (exchange, nursery, results):
        for number in range(5):
            nursery.start_soon(partial(results.request, exchange, b"%d" % number, timeout=9))
            await blocked()
        assert wire.sent == [b"0", b"1"]
        assert exchange.statistics() == counts(sent=2, in_flight=2)
        # Waiting counts for no attempt.
        await trio.sleep(8)
        wire.arrive(b"1")
        await trio.sleep(0.5)
        assert wire.sent == [b"0", b"1", b"2"]
        wire.arrive(b"0", b"2")
        await trio.sleep(0.1)
        wire.arrive(b"3", b"4")
        await trio.sleep(0.1)
        assert results == {b"%d" % number: b"%d" % number for number in range(5)}
        assert exchange.statistics() == counts(sent=5, replies=5)
    assert autojump_clock.autojump_threshold == 0


# The end


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (trio.EndOfChannel(), trio.BrokenResourceError, "the channel of this exchange has ended"),
        (trio.ClosedResourceError(), trio.ClosedResourceError, "the channel of this exchange was closed"),
        (trio.BusyResourceError("another task"), trio.BrokenResourceError, "another task"),
        (OSError(errno.EBADF, "bad"), trio.BrokenResourceError, "cannot receive any more"),
    ],
    ids=repr,
)
async def test_the_end_of_the_channel_ends_every_request(
    wire: Wire, raised: Exception, kind: type[Exception], message: str
) -> None:
    async with opened(wire, max_in_flight=2) as (exchange, nursery, results):
        for number in range(4):
            nursery.start_soon(results.request, exchange, b"%d" % number)
        await blocked()
        wire.arrive(raised)
        await blocked()
        assert len(results) == 4
        assert len({id(error) for error in results.values()}) == 4
        for error in results.values():
            assert isinstance(error, kind)
            assert message in str(error)
            assert error.__cause__ is raised
        with pytest.raises(kind, match=message):
            await exchange.request(b"5")
        assert len(wire.sent) == 2
        assert exchange.statistics().in_flight == 0


async def test_the_end_of_the_block_ends_the_requests_of_other_tasks(wire: Wire) -> None:
    async with opened(wire) as (exchange, nursery, results):
        nursery.start_soon(results.request, exchange, b"1")
        await blocked()
    assert isinstance(results[b"1"], trio.ClosedResourceError)
    with pytest.raises(trio.ClosedResourceError, match="its block has ended"):
        await exchange.request(b"2")
    assert wire.sent == [b"1"]
    async with opened(wire) as (other, nursery, results):
        nursery.start_soon(results.request, other, b"3")
        await blocked()
        wire.arrive(b"3 answer")
        await blocked()
        assert results == {b"3": b"3 answer"}


async def test_an_exception_leaves_the_block_as_it_is(wire: Wire) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with trio_dgram.open_exchange(wire, key=number_of):
            raise ValueError("mine")
    with trio.CancelScope() as scope, pytest.raises(ValueError, match="mine"):
        async with trio_dgram.open_exchange(wire, key=number_of):
            await blocked()
            scope.cancel()
            raise ValueError("mine")


async def test_replies_arrive_while_the_block_cleans_up(wire: Wire) -> None:
    with trio.CancelScope() as scope:
        async with opened(wire) as (exchange, _, results):
            await blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as asking:
                    asking.start_soon(results.request, exchange, b"1 bye")
                    await blocked()
                    wire.arrive(b"1 bye")
    assert results == {b"1 bye": b"1 bye"}


# Cancellation


class Key:
    """A key that can be observed to be freed, and equals no other."""


async def test_cancelled_requests_leave_nothing(wire: Wire) -> None:
    keys: list[weakref.ref[Key]] = []

    def key(_: bytes) -> Key:
        made = Key()
        keys.append(weakref.ref(made))
        return made

    async with opened(wire, key=key) as (exchange, _, _):
        wire.refusals.extend([refused(), None, None])
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(exchange.request, b"%d" % number)
            await blocked()
            assert exchange.statistics() == counts(sent=2, in_flight=3)
            nursery.cancel_scope.cancel()
        assert exchange.statistics() == counts(sent=2)
        gc.collect()
        assert [each() for each in keys] == [None] * 3
        wire.arrive(b"0", b"1")
        await blocked()
        assert exchange.statistics() == counts(sent=2, strays=2)


async def test_every_request_is_a_checkpoint(wire: Wire) -> None:
    async with opened(wire) as (exchange, _, _):
        wire.arrive(b"1")
        with trio.move_on_after(0), trio.testing.assert_checkpoints():
            await exchange.request(b"1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await exchange.request(b"2")
        assert scope.cancelled_caught
        assert b"2" not in wire.sent
    with trio.testing.assert_checkpoints():
        manager = trio_dgram.open_exchange(wire, key=number_of)
        await manager.__aenter__()
    with trio.testing.assert_checkpoints():
        await manager.__aexit__(None, None, None)


def test_everything_can_be_cancelled_at_every_point() -> None:
    async def scenario(network: sim.Network) -> int:
        server, client = network.host("server"), network.host("client")
        server.start_soon(echo_twice)
        await blocked()
        seen: list[Exchange] = []

        async def exchange_requests() -> list[bytes]:
            async with (
                trio_dgram.open_connection("server", 7) as channel,
                trio_dgram.open_exchange(channel, key=number_of, max_in_flight=2) as exchange,
            ):
                seen[:] = [exchange]
                results = Results()
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(results.request, exchange, b"%d" % number)
                return list(results)

        async def check(results: list[bytes] | None) -> None:
            assert results is None or sorted(results) == [b"0", b"1", b"2"]
            assert not seen or seen[0].statistics().in_flight == 0

        with client.active():
            return await cancel_everywhere(exchange_requests, check)

    assert sim.run(scenario) > 20


# Interrupts


class Interrupting:
    """A key that an interrupt ends when it is called for a message."""

    def __init__(self, message: bytes) -> None:
        self._message = message

    def __call__(self, data: bytes) -> int:
        if data == self._message:
            signal.raise_signal(signal.SIGINT)
        return number_of(data)


@pytest.mark.parametrize("interrupted", [b"1 ask", b"1 answer"])
def test_an_interrupt_of_the_key_ends_the_block(interrupted: bytes) -> None:
    results = Results()

    async def main() -> None:
        wire = Wire()
        async with trio_dgram.open_exchange(wire, key=Interrupting(interrupted)) as exchange:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(results.request, exchange, b"1 ask")
                await blocked()
                wire.arrive(b"1 answer")
            raise AssertionError

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert isinstance(caught.value, KeyboardInterrupt) or caught.group_contains(KeyboardInterrupt)
    assert not results


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel": 1}, "channel must be a trio.abc.Channel of bytes, not 1"),
        ({"key": 1}, "key must be a function of bytes, not 1"),
        ({"key": trio.sleep}, "key must be a synchronous function of bytes, not an async one"),
        ({"max_in_flight": 0}, "max_in_flight must be from 1"),
    ],
)
async def test_a_wrong_argument_raises_at_once(wire: Wire, arguments: dict[str, Any], message: str) -> None:
    given = {"channel": wire, "key": number_of, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        trio_dgram.open_exchange(given.pop("channel"), **given)


@pytest.mark.parametrize(
    ("message", "arguments", "text"),
    [
        ("text", {}, "message must be bytes-like"),
        (b"1", {"timeout": -1}, "timeout must be at least 0"),
        (b"1", {"factor": 0}, "factor must be at least 1"),
        (b"1", {"attempts": 0}, "attempts must be from 1"),
        (b"1", {"jitter": -1}, "jitter must be at least 0"),
        (b"no number", {}, "invalid literal"),
    ],
)
async def test_a_wrong_request_raises_and_sends_nothing(
    wire: Wire, message: Any, arguments: dict[str, Any], text: str
) -> None:
    async with opened(wire) as (exchange, _, _):
        with pytest.raises((TypeError, ValueError), match=text):
            await exchange.request(message, **arguments)
        assert not wire.sent


async def test_a_socket_must_be_connected(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        with pytest.raises(trio_dgram.NotConnectedError, match="must be connected first"):
            trio_dgram.open_exchange(sock, key=number_of)


# With sockets


async def echo_twice() -> None:
    """Answer every datagram in capitals, twice."""
    async with trio_dgram.open_socket("udp4", port=7) as sock:
        async for data, address, _ in sock:
            for _ in range(2):
                await sock.send(data.upper(), address)


async def shout(peer: trio.abc.Channel[bytes]) -> None:
    async for data in peer:
        await peer.send(data.upper())


@asynccontextmanager
async def serving(udp: Family) -> AsyncGenerator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio_dgram.serve, shout, 0, host=udp.loopback, max_buffer_size=1024))
        yield listeners[0].address.port
        nursery.cancel_scope.cancel()


async def ask_many(exchange: Exchange, count: int) -> None:
    results = Results()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(results.request, exchange, b"%d ask" % number)
    assert results == {b"%d ask" % number: b"%d ASK" % number for number in range(count)}
    assert exchange.statistics().replies == count


async def test_an_exchange_runs_over_a_channel_to_a_peer(udp: Family) -> None:
    async with (
        serving(udp) as port,
        trio_dgram.open_connection(udp.loopback, port) as channel,
        trio_dgram.open_exchange(channel, key=number_of) as exchange,
    ):
        await ask_many(exchange, 100)


async def test_an_exchange_runs_over_a_connected_socket(udp: Family) -> None:
    async with (
        serving(udp) as port,
        trio_dgram.open_socket(udp.type, connect=(udp.loopback, port)) as sock,
        trio_dgram.open_exchange(sock, key=number_of) as exchange,
    ):
        await ask_many(exchange, 100)


async def test_a_datagram_of_another_peer_is_a_stray_after_the_socket_was_disconnected(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as silent,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other,
        trio_dgram.open_socket(udp.type, connect=silent.address) as sock,
        trio_dgram.open_exchange(sock, key=number_of) as exchange,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(exchange.request, b"1 ask")
        await blocked()
        sock.disconnect()
        await other.send(b"1 FORGED", sock.address)
        await blocked()
        assert exchange.statistics() == counts(sent=1, strays=1, in_flight=1)
        with pytest.raises(trio_dgram.NotConnectedError):
            await exchange.request(b"2 ask")
        nursery.cancel_scope.cancel()


async def test_an_exchange_runs_over_a_unix_socket(tmp_path: Path) -> None:
    async def serve(server: trio_dgram.DatagramSocket) -> None:
        async for data, address, _ in server:
            await server.send(data.upper(), address)

    path = str(tmp_path / "server")
    async with (
        trio.open_nursery() as nursery,
        trio_dgram.open_socket("unix", path=path) as server,
        trio_dgram.open_socket("unix", connect=path) as sock,
        trio_dgram.open_exchange(sock, key=number_of) as exchange,
    ):
        nursery.start_soon(serve, server)
        await ask_many(exchange, 10)
        nursery.cancel_scope.cancel()


@pytest.mark.filterwarnings("ignore:unclosed DTLS endpoint:ResourceWarning")
async def test_an_exchange_runs_over_an_encrypted_channel(udp: Family) -> None:
    authority = trustme.CA()
    server, client = SSL.Context(SSL.DTLS_METHOD), SSL.Context(SSL.DTLS_METHOD)
    authority.issue_cert("127.0.0.1", "::1").configure_cert(server)
    authority.configure_trust(client)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(dtls.serve, shout, 0, server, host=udp.loopback))
        port = getattr(listeners[0], "address", listeners[0]).port
        async with (
            dtls.open_connection(udp.loopback, port, client) as channel,
            trio_dgram.open_exchange(channel, key=number_of) as exchange,
        ):
            await ask_many(exchange, 10)
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_being_restarted_answers_later(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        port = sock.address.port
    async with (
        trio_dgram.open_connection(udp.loopback, port) as channel,
        trio_dgram.open_exchange(channel, key=number_of) as exchange,
    ):
        with pytest.raises(trio.TooSlowError) as caught:
            await exchange.request(b"1 ask", timeout=0.01, attempts=2)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        async with trio.open_nursery() as nursery:
            results = Results()
            nursery.start_soon(partial(results.request, exchange, b"2 ask", timeout=0.05, factor=1, attempts=100))
            await blocked()
            await nursery.start(partial(trio_dgram.serve, shout, port, host=udp.loopback))
            await results.any_ended.wait()
            nursery.cancel_scope.cancel()
        assert results == {b"2 ask": b"2 ASK"}


# On a bad network


async def squares() -> None:
    """Answer a number with its square."""
    async with trio_dgram.open_socket("udp4", port=7) as sock:
        async for data, address, _ in sock:
            await sock.send(b"%s %d" % (data, int(data) ** 2), address)


async def ask_for_squares(count: int) -> tuple[Results, ExchangeStatistics, int]:
    results = Results()
    async with trio_dgram.open_connection("server", 7) as channel:
        async with trio_dgram.open_exchange(channel, key=number_of) as exchange, trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(results.request, exchange, b"%d" % number)
        return results, exchange.statistics(), channel.statistics().received


def answer_on_a_bad_network(seed: int, count: int) -> ExchangeStatistics:
    """Check that each request has timed out or has its own answer; return the counts."""

    async def scenario(network: sim.Network) -> tuple[Results, ExchangeStatistics, int]:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, delay=0.05, jitter=0.04, keep_order=False, loss=0.2, duplicate=0.1)
        server.start_soon(squares)
        await blocked()
        return await client.run(partial(ask_for_squares, count))

    results, statistics, received = sim.run(scenario, seed=seed)
    timeouts = [error for error in results.values() if isinstance(error, trio.TooSlowError)]
    answered = {message: data for message, data in results.items() if isinstance(data, bytes)}
    assert len(timeouts) + len(answered) == count
    assert all(data == b"%s %d" % (message, int(message) ** 2) for message, data in answered.items())
    assert statistics.replies == len(answered)
    assert statistics.timeouts == len(timeouts)
    assert statistics.in_flight == 0
    assert statistics.replies + statistics.duplicates + statistics.strays == received
    return statistics


@pytest.mark.parametrize("seed", range(2))
def test_each_of_many_requests_gets_its_own_answer_on_a_bad_network(seed: int) -> None:
    statistics = answer_on_a_bad_network(seed, count=250)
    assert statistics.timeouts < 20
    assert statistics.duplicates > 10


@pytest.mark.long
@pytest.mark.parametrize(("first", "last", "count"), [(0, 4, 1000), (4, 200, 50)])
def test_each_of_a_thousand_requests_gets_its_own_answer_on_many_bad_networks(
    first: int, last: int, count: int
) -> None:
    # A thousand requests take more than a second of CPU time, so that most networks have fewer.
    timeouts = [answer_on_a_bad_network(seed, count=count).timeouts for seed in range(first, last)]
    # An attempt fails with a probability of about 0.33, and four of them with 0.011.
    assert 0.008 < sum(timeouts) / (last - first) / count < 0.015
