"""The limits of listeners bound what costs: handlers, bytes, answers to unproved addresses, lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from random import Random
from typing import Any, Final, Literal

import attrs
import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import (
    AmplificationLimitError,
    Datagram,
    DatagramChannel,
    DatagramListener,
    DatagramSocket,
    ListenerStatistics,
    sim,
)
from trio_dgram._services.log import RateLimitedLog, cause_of

from .support.families import Family
from .test_listener_sockets import serving

PORT: Final = 7
ADDRESSES: Final = [f"198.18.{network}.{host}" for network in range(40) for host in range(1, 251)]


def assert_sums(now: ListenerStatistics) -> None:
    refused = now.refused + now.refused_by_filter + now.refused_by_network
    assert now.received == now.delivered + now.queued + now.discarded + now.dropped + refused, now
    assert now.accepted == now.peers + now.evicted + now.expired + now.closed, now


async def heard(listener: DatagramListener, count: int) -> None:
    """Wait until the listener has received ``count`` datagrams; a handler or an accepting task reads."""
    while listener.statistics().received < count:
        await trio.testing.wait_all_tasks_blocked(0.001)


# Handlers


@attrs.define
class Handlers:
    """Handlers that take their time, and how many of them run."""

    running: int = 0
    most: int = 0
    started: int = 0
    cancelled: int = 0

    async def __call__(self, _peer: DatagramChannel) -> None:
        self.running += 1
        self.started += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(20)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.long)])
def test_newcomers_never_make_more_handlers_run_than_there_may_be_peers(count: int) -> None:
    addresses = ADDRESSES[:count]

    async def scenario(network: sim.Network) -> None:
        server, forger = network.host("server"), network.host("forger", addresses=addresses)
        handlers = Handlers()
        honest: list[bytes] = []

        async def handler(peer: DatagramChannel) -> None:
            if peer.address.host not in forged:
                peer.mark_validated()
                async for data in peer:
                    honest.append(data)
            else:
                await handlers(peer)

        forged = frozenset(addresses)
        async with trio.open_nursery() as nursery:
            with server.active():
                listeners = await nursery.start(partial(trio_dgram.serve, handler, PORT, max_peers=100))
            to = await trio_dgram.resolve("server", PORT, "udp4")
            listener = next(each for each in listeners if ":" not in each.address.host)
            async with trio_dgram.open_connection("server", PORT) as peer, trio_dgram.open_nursery() as sockets:
                await peer.send(b"first")
                for number, source in enumerate(addresses):
                    with forger.active():
                        sock = sockets.create_socket("udp4")
                        await sock.bind(0, source)
                    await sock.send(b"newcomer", to)
                    sock.close()
                    if number % 20 == 0:
                        await peer.send(str(number).encode())
                        await trio.sleep(0.01)
                        assert handlers.running <= 99
                        assert_sums(listener.statistics())
                await trio.sleep(1)
                now = listener.statistics()
                assert now.accepted == count + 1
                assert now.evicted == count - 99
                assert now.handlers_cancelled == handlers.cancelled
                assert handlers.most <= 100
                assert len(honest) == 1 + count // 20
                sockets.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    sim.run(scenario)


def test_a_handler_that_runs_on_after_its_peer_has_expired_is_cancelled_first(udp: Family) -> None:
    events: list[str] = []

    async def handler(peer: DatagramChannel) -> None:
        name = (await peer.receive()).decode()
        if name != "validated":
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                events.append(f"{name} cancelled")
                raise
        peer.mark_validated()
        with suppress(trio.EndOfChannel):
            await peer.receive()
        events.append("ended")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            events.append("cancelled")
            raise

    async def scenario(_: sim.Network) -> None:
        async with (
            serving(handler, PORT, host=udp.loopback, max_peers=2, idle_timeout=10, unvalidated_timeout=None) as (
                listener,
            ),
            AsyncExitStack() as stack,
        ):
            for number, name in enumerate((b"validated", b"second", b"third", b"fourth")):
                sock = await stack.enter_async_context(trio_dgram.open_socket(udp.type))
                if number == 1:
                    await trio.sleep(9)
                await sock.send(name, listener.address)
                await trio.sleep(2)
            assert events == ["ended", "cancelled", "second cancelled"]
            now = listener.statistics()
            assert (now.peers, now.expired, now.evicted, now.handlers_cancelled) == (2, 1, 1, 2)
            assert_sums(now)

    sim.run(scenario)


@pytest.mark.parametrize("evicted", [True, False])
def test_a_handler_that_starts_after_its_peer_was_evicted_is_cancelled_for_a_new_peer(
    udp: Family, evicted: bool
) -> None:
    async def scenario(_: sim.Network) -> None:
        (listener,) = await trio_dgram.open_listeners(PORT, host=udp.loopback, max_peers=1, idle_timeout=10)
        async with listener, AsyncExitStack() as stack:
            socks = [await stack.enter_async_context(trio_dgram.open_socket(udp.type)) for _ in range(2)]
            await socks[0].send(b"one", listener.address)
            channel = await listener.accept()
            scope = trio.CancelScope()
            if not evicted:
                with trio.move_on_after(11):
                    await listener.accept()
                channel._handler_starts(scope)
                assert not scope.cancel_called
            await socks[1].send(b"two", listener.address)
            newcomer = await listener.accept()
            if evicted:
                channel._handler_starts(scope)
            assert scope.cancel_called
            now = listener.statistics()
            assert (now.handlers_cancelled, now.evicted, now.expired) == (1, evicted, not evicted)
            for each in (channel, newcomer):
                each._handler_ended()
                each.close()

    sim.run(scenario)


async def test_a_cancelled_handler_frees_its_place_at_once_and_cleans_up(udp: Family) -> None:
    cleaned: list[bytes] = []

    async def handler(peer: DatagramChannel) -> None:
        data = await peer.receive()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await go_on.wait()
            cleaned.append(data)

    go_on = trio.Event()
    async with (
        serving(handler, 0, host=udp.loopback, max_peers=1) as (listener,),
        trio_dgram.open_socket(udp.type) as one,
        trio_dgram.open_socket(udp.type) as two,
    ):
        await one.send(b"one", listener.address)
        await heard(listener, 1)
        await two.send(b"two", listener.address)
        await heard(listener, 2)
        now = listener.statistics()
        assert (now.evicted, now.handlers_cancelled, now.peers) == (1, 1, 1)
        assert not cleaned
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert cleaned == [b"one"]


# Counts


async def test_the_sums_of_the_counts_hold_while_the_filter_decides(udp: Family) -> None:
    seen: list[int] = []

    def observe(_: Datagram) -> bool:
        now = listener.statistics()
        assert_sums(now)
        seen.append(now.received)
        return len(seen) % 2 == 0

    (listener,) = await trio_dgram.open_listeners(0, host=udp.loopback, accept_filter=observe)
    async with listener, AsyncExitStack() as stack:
        for _ in range(10):
            sock = await stack.enter_async_context(trio_dgram.open_socket(udp.type))
            await sock.send(b"x", listener.address)
        async with await listener.accept():
            assert seen == list(range(10))
            assert_sums(listener.statistics())


# Bytes


async def test_unvalidated_peers_have_half_of_the_bytes_at_most(udp: Family) -> None:
    (listener,) = await trio_dgram.open_listeners(0, host=udp.loopback, max_total_bytes=2000)
    async with listener, AsyncExitStack() as stack:
        socks = [await stack.enter_async_context(trio_dgram.open_socket(udp.type)) for _ in range(3)]
        channels = []
        for sock in socks:
            await sock.send(bytes(100), listener.address)
            channels.append(await listener.accept())
        await socks[0].send_many([Datagram(bytes(100), listener.address)] * 20)
        await socks[1].send(b"", listener.address)
        # Received last: the task that waits for it has read the others.
        for _ in range(2):
            await channels[1].receive()
        assert listener.statistics().buffered_bytes <= 1000
        assert channels[0].statistics().dropped > 0
        channels[1].mark_validated()
        await socks[1].send_many([Datagram(bytes(100), listener.address)] * 10)
        await socks[2].send(b"", listener.address)
        await channels[2].receive()
        await channels[2].receive()
        assert channels[1].statistics() == attrs.evolve(channels[1].statistics(), queued=10, dropped=0)
        assert_sums(listener.statistics())
        for channel in channels:
            channel.close()
        assert listener.statistics().buffered_bytes == 0


def test_the_bytes_of_ended_channels_count_until_they_are_closed(udp: Family) -> None:
    async def scenario(_: sim.Network) -> None:
        (listener,) = await trio_dgram.open_listeners(PORT, host=udp.loopback, idle_timeout=10, max_total_bytes=1000)
        async with listener, trio_dgram.open_socket(udp.type) as one, trio_dgram.open_socket(udp.type) as two:
            await one.send(bytes(300), listener.address)
            ended = await listener.accept()
            with trio.move_on_after(11):
                await listener.accept()
            assert (listener.statistics().expired, listener.statistics().buffered_bytes) == (1, 300)
            await two.send(bytes(300), listener.address)
            other = await listener.accept()
            assert (other.statistics().queued, other.statistics().dropped) == (0, 1)
            assert len(await ended.receive()) == 300
            ended.close()
            await two.send(bytes(300), listener.address)
            assert len(await other.receive()) == 300
            other.close()

    sim.run(scenario)


@pytest.mark.parametrize("validated", [False, True])
def test_a_peer_may_be_idle_for_ever(udp: Family, validated: bool) -> None:
    async def scenario(_: sim.Network) -> None:
        (listener,) = await trio_dgram.open_listeners(
            PORT,
            host=udp.loopback,
            idle_timeout=None if validated else 5,
            unvalidated_timeout=None if validated else 1e9,
        )
        async with listener, trio_dgram.open_socket(udp.type) as sock:
            await sock.send(b"x", listener.address)
            channel = await listener.accept()
            if validated:
                channel.mark_validated()
            with trio.move_on_after(80_000):
                await listener.accept()
            assert listener.statistics().expired == 0
            channel.close()

    sim.run(scenario)


# Amplification


@pytest.mark.parametrize("cancel", [False, True])
async def test_many_sends_at_once_stay_below_the_amplification_limit(udp: Family, cancel: bool) -> None:
    (listener,) = await trio_dgram.open_listeners(0, host=udp.loopback, amplification_limit=3, send_buffer_size=1)
    refused = 0
    async with listener, trio_dgram.open_socket(udp.type, receive_buffer_size=1 << 20) as client:
        await client.send(bytes(100), listener.address)
        channel = await listener.accept()

        async def answer() -> None:
            nonlocal refused
            try:
                await channel.send(bytes(10))
            except AmplificationLimitError:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(answer)
            if cancel:
                nursery.cancel_scope.cancel()
        sent = channel.statistics().bytes_sent
        assert sent == (0 if cancel else 300)
        assert refused == 470 == listener.statistics().amplification_refused
        # What the cancelled ones had reserved is free again.
        for _ in range((300 - sent) // 10):
            await channel.send(bytes(10))
        with pytest.raises(AmplificationLimitError):
            await channel.send(b"x")
        for _ in range(30):
            await client.receive()
        channel.close()


# Errors of handlers, and the log


async def fail(peer: DatagramChannel) -> None:
    raise ValueError(f"a handler failed on {await peer.receive()!r}")


async def test_errors_of_handlers_are_logged_or_raised_as_chosen(udp: Family, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with trio_dgram.open_socket(udp.type) as client:
        async with serving(fail, 0, host=udp.loopback) as (listener,):
            await client.send(b"one", listener.address)
            await heard(listener, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert "a handler failed on b'one'" in caplog.text
            assert listener.statistics().closed == 1
        caplog.clear()
        with pytest.RaisesGroup(pytest.RaisesGroup(ValueError)):
            async with serving(fail, 0, host=udp.loopback, handler_errors="raise") as (listener,):
                await client.send(b"two", listener.address)
                await trio.sleep_forever()
        assert not caplog.text


@pytest.mark.parametrize("ended", [False, True], ids=["of its own", "of its ended channel"])
async def test_an_error_beside_the_cancellation_of_a_handler_ends_no_server(
    udp: Family, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    async def handler(peer: DatagramChannel) -> None:
        async def clean_up() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    if not ended:
                        raise ValueError("of the clean-up")
                    await peer.send(b"for a peer that was evicted")

        async with trio.open_nursery() as nursery:
            # Its nursery raises one group of this error and of the other tasks' cancellation.
            nursery.start_soon(clean_up)
            await trio.sleep_forever()

    async with (
        serving(handler, 0, host=udp.loopback, max_peers=1) as (listener,),
        trio_dgram.open_socket(udp.type) as one,
        trio_dgram.open_socket(udp.type) as two,
    ):
        for number, sock in enumerate((one, two), start=1):
            await sock.send(b"x", listener.address)
            await heard(listener, number)
            await trio.testing.wait_all_tasks_blocked()
        assert (listener.statistics().peers, listener.statistics().handlers_cancelled) == (1, 1)
        assert bool(caplog.records) != ended
    # The end of the server has cancelled the other handler.
    assert bool(caplog.records) != ended


@pytest.mark.parametrize("handler_errors", ["log", "raise"])
async def test_a_handler_that_receives_from_a_peer_that_has_expired_has_not_failed(
    udp: Family, caplog: pytest.LogCaptureFixture, handler_errors: Literal["log", "raise"]
) -> None:
    async def handler(peer: DatagramChannel) -> None:
        for _ in range(2):  # pragma: no branch -- the second call raises
            await peer.receive()

    async with (
        serving(handler, 0, host=udp.loopback, idle_timeout=0.01, handler_errors=handler_errors) as (listener,),
        trio_dgram.open_socket(udp.type) as client,
    ):
        await client.send(b"x", listener.address)
        while not listener.statistics().expired:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.testing.wait_all_tasks_blocked()
    assert not caplog.text


async def test_the_network_cannot_flood_the_log(
    udp: Family, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.ERROR)
    del autojump_clock

    def refuse(datagram: Datagram) -> bool:
        if datagram.data == b"filter":
            raise RuntimeError("of the filter")
        return True

    async with (
        serving(fail, 0, host=udp.loopback, accept_filter=refuse) as (listener,),
        trio_dgram.open_socket(udp.type) as client,
    ):
        for second in range(3):
            caplog.clear()
            for number in range(100):
                await client.send(b"x", listener.address)
                await heard(listener, 200 * second + number * 2 + 1)
                await trio.testing.wait_all_tasks_blocked()
                async with trio_dgram.open_socket(udp.type) as other:
                    await other.send(b"filter", listener.address)
                await heard(listener, 200 * second + number * 2 + 2)
            assert len(caplog.records) == 2
            if second:
                assert all("and 99 more like it" in record.getMessage() for record in caplog.records)
            await trio.sleep(1)
        assert_sums(listener.statistics())


def test_a_log_distinguishes_errors_by_origin_and_discards_old_causes(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock

    async def main() -> None:
        log = RateLimitedLog(logging.getLogger("trio_dgram"))
        group = ExceptionGroup("of a nursery", [ExceptionGroup("of another", [ValueError("the cause")])])
        for error in (group, ValueError("alike"), KeyError("another")):
            log.report(cause_of(error), "%s failed", "it", level=logging.WARNING)
        assert len(caplog.records) == 2
        for number in range(100):
            log.report(number, "cause %d", number)
        # Its cause was forgotten in favour of later ones, so it is reported again within the second.
        log.report(cause_of(group), "%s failed", "it")
        assert caplog.records[-1].getMessage() == "it failed"

    trio.run(main)


# Random walks


@attrs.define(eq=False)
class Walk:
    """Random steps of clients, a listener with small limits, and the tasks that accept and receive."""

    random: Random
    listener: DatagramListener
    clients: list[DatagramSocket]
    nursery: trio.Nursery
    channels: list[DatagramChannel] = attrs.field(factory=list)

    async def step(self) -> None:
        """Take one step."""
        await self.random.choice(
            [
                *[self.send] * 6,
                *[self.accept] * 3,
                *[self.receive] * 3,
                self.send_many,
                self.answer,
                self.validate,
                self.close_one,
                self.wait,
            ]
        )()

    async def send(self) -> None:
        client = self.random.choice(self.clients)
        await client.send(bytes(self.random.choice([0, 1, 40, 100])), self.listener.address)

    async def send_many(self) -> None:
        client = self.random.choice(self.clients)
        await client.send_many([Datagram(bytes(50), self.listener.address)] * self.random.randrange(8))

    async def _cut_short(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await the call with a deadline, and sometimes from a task that is cancelled already."""
        with (
            trio.move_on_after(self.random.choice([0, 0.1, 1])),
            suppress(trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError, trio.BusyResourceError),
        ):
            return await call()
        return None

    async def accept(self) -> None:
        channel = await self._cut_short(self.listener.accept)
        if channel is not None:
            self.channels.append(channel)

    async def receive(self) -> None:
        if self.channels:
            channel = self.random.choice(self.channels)
            if self.random.random() < 0.5:
                self.nursery.start_soon(self._cut_short, channel.receive)
            else:
                await self._cut_short(channel.receive)

    async def answer(self) -> None:
        if self.channels:
            channel = self.random.choice(self.channels)
            with suppress(AmplificationLimitError):
                await self._cut_short(partial(channel.send, bytes(60)))

    async def validate(self) -> None:
        if self.channels:
            self.random.choice(self.channels).mark_validated()

    async def close_one(self) -> None:
        if self.channels:
            self.channels.pop(self.random.randrange(len(self.channels))).close()

    async def wait(self) -> None:
        await trio.sleep(self.random.choice([0.1, 2, 6]))

    def check(self) -> None:
        """Compare the counts with each other and with those of the channels."""
        now = self.listener.statistics()
        assert_sums(now)
        peers = [channel.statistics() for channel in self.channels]
        waiting = now.queued - sum(peer.queued for peer in peers)
        assert waiting >= 0
        assert now.buffered_bytes >= sum(peer.queued_bytes for peer in peers)
        assert now.buffered_bytes <= 600
        assert sum(peer.queued_bytes for peer in peers if not peer.validated) <= 300
        assert now.peers <= 4
        assert all(peer.validated or peer.bytes_sent <= 3 * peer.bytes_received for peer in peers)


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 300), marks=pytest.mark.long)])
def test_the_sums_of_the_counts_hold_at_every_step_of_random_walks(udp: Family, seeds: range) -> None:
    async def scenario(_network: sim.Network, seed: int) -> None:
        async with trio_dgram.open_nursery() as sockets, trio.open_nursery() as nursery:
            (listener,) = await trio_dgram.open_listeners(
                PORT,
                host=udp.loopback,
                max_peers=4,
                max_buffer_size=5,
                max_buffer_bytes=250,
                max_total_bytes=600,
                idle_timeout=5,
                unvalidated_timeout=3,
                amplification_limit=3,
            )
            clients = [sockets.create_socket(udp.type).unref() for _ in range(8)]
            walk = Walk(Random(seed), listener, clients, nursery)
            for _ in range(60):
                await walk.step()
                walk.check()
            await listener.aclose()
            walk.check()
            for channel in walk.channels:
                channel.close()
                walk.check()
            now = listener.statistics()
            assert (now.peers, now.queued, now.buffered_bytes) == (0, 0, 0)
            nursery.cancel_scope.cancel()
            sockets.cancel_scope.cancel()

    for seed in seeds:
        sim.run(partial(scenario, seed=seed))
