"""A server under attack from forged addresses: its memory is bounded, and honest peers are served."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import (
    AmplificationLimitError,
    DatagramChannel,
    DatagramListener,
    ListenerStatistics,
    PeerStatistics,
    sim,
)

pytestmark = pytest.mark.long

PORT: Final = 7
HONEST: Final = 20
"""The number of peers that join before the attack, and of those that join during it."""
NETWORKS: Final = 30
FORGED_ADDRESSES: Final = [f"198.18.{network}.{host}" for network in range(NETWORKS) for host in range(1, 101)]
BURST: Final = 50
LARGEST: Final = 65507
"""The largest payload over IPv4 in bytes: more than a peer's buffer limit."""
MAX_TOTAL_BYTES: Final = 100_000
HELLO: Final = b"hello".ljust(400)
COOKIE_SIZE: Final = 1000


@attrs.define
class Guard:
    """A server that answers peers with a validated address, and its counts."""

    ended: list[PeerStatistics] = attrs.field(factory=list)
    refused_sends: int = 0

    async def __call__(self, peer: DatagramChannel) -> None:
        """Send a cookie until the peer returns it, and echo from then on."""
        cookie = hashlib.blake2s(repr(peer.address).encode()).hexdigest().encode().ljust(COOKIE_SIZE)
        try:
            async for data in peer:
                if data == cookie:
                    peer.mark_validated()
                try:
                    await peer.send(data if peer.statistics().validated else cookie)
                except AmplificationLimitError:
                    self.refused_sends += 1
        finally:
            self.ended.append(peer.statistics())


async def ask(peer: DatagramChannel, request: bytes, size: int) -> bytes:
    """Send the request until an answer of that size arrives."""
    answer = b""
    async for attempt in trio_dgram.retry(timeout=0.05, factor=1, attempts=100):
        with attempt:
            await peer.send(request)
            while len(answer) != size:
                answer = await peer.receive()
    return answer


@asynccontextmanager
async def joined() -> AsyncGenerator[DatagramChannel]:
    """Open a connection and validate its address."""
    async with trio_dgram.open_connection("server", PORT) as peer:
        cookie = await ask(peer, HELLO, COOKIE_SIZE)
        await ask(peer, cookie, COOKIE_SIZE)
        yield peer


async def talk(answered: list[bytes], over: trio.Event) -> None:
    """Connect, send requests until ``over`` is set, and one after that."""
    async with joined() as peer:
        while True:
            last = over.is_set()
            request = b"request".ljust(10 + len(answered) % 50)
            answered.append(await ask(peer, request, len(request)))
            if last:
                return
            await trio.sleep(0.01)


def assert_all_is_counted(now: ListenerStatistics) -> None:
    refused = now.refused + now.refused_by_filter + now.refused_by_network
    assert now.received == now.delivered + now.queued + now.discarded + now.dropped + refused
    assert now.accepted == now.peers + now.evicted + now.expired + now.closed


async def attack(listener: DatagramListener, max_peers: int) -> None:
    """Send datagrams of all sizes, each from another forged address, and check the listener's limits."""
    to = await trio_dgram.resolve("server", PORT, "udp4")
    sources = random.sample(FORGED_ADDRESSES, len(FORGED_ADDRESSES))
    async with trio_dgram.open_nursery() as nursery:
        for start in range(0, len(sources), BURST):
            for source in sources[start : start + BURST]:
                sock = nursery.create_socket("udp4")
                await sock.bind(0, source)
                size = random.choice([0, random.randrange(1473), random.randrange(1473), random.randrange(LARGEST + 1)])
                await sock.send(random.randbytes(size), to)
            await trio.sleep(0.005)
            now = listener.statistics()
            assert now.waiting <= now.peers <= max_peers
            assert now.buffered_bytes <= MAX_TOTAL_BYTES
            assert_all_is_counted(now)
        nursery.cancel_scope.cancel()


def under_attack(*, max_peers: int = 64, **options: Any) -> tuple[ListenerStatistics, Guard]:
    """Attack a server while honest peers use and join it; return its statistics and its guard."""

    async def scenario(network: sim.Network) -> tuple[ListenerStatistics, Guard]:
        server, forger = network.host("server"), network.host("forger", addresses=FORGED_ADDRESSES)
        hosts = [network.host(f"honest {number}", addresses=[f"10.0.{number}.1"]) for number in range(2 * HONEST)]
        answered: list[list[bytes]] = [[] for _ in hosts]
        guard, over = Guard(), trio.Event()
        serve = partial(
            trio_dgram.serve, guard, PORT, host="0.0.0.0", max_peers=max_peers, max_total_bytes=MAX_TOTAL_BYTES
        )
        async with trio.open_nursery() as nursery:
            with server.active():
                (listener,) = await nursery.start(partial(serve, **options))
            async with trio.open_nursery() as talking:
                for host, answers in list(zip(hosts, answered, strict=True))[:HONEST]:
                    talking.start_soon(host.run, talk, answers, over)
                await trio.sleep(0.5)
                assert listener.statistics().accepted == HONEST
                for host, answers in list(zip(hosts, answered, strict=True))[HONEST:]:
                    talking.start_soon(host.run, talk, answers, over)
                await forger.run(attack, listener, max_peers)
                # Peers that join during the attack are answered before it ends.
                assert all(answered)
                over.set()
            statistics = listener.statistics()
            nursery.cancel_scope.cancel()
        assert_all_is_counted(statistics)
        return statistics, guard

    return sim.run(scenario)


def test_forged_addresses_evict_each_other_and_no_honest_peer() -> None:
    statistics, _ = under_attack()
    assert statistics.evicted > 1000
    assert statistics.discarded > 0
    assert statistics.dropped_by_kernel
    assert (statistics.refused, statistics.refused_by_filter, statistics.refused_by_network) == (0, 0, 0)


def test_an_accept_filter_refuses_every_forged_address() -> None:
    statistics, _ = under_attack(accept_filter=lambda datagram: datagram.data.startswith(b"hello"))
    assert statistics.refused_by_filter > 1000
    assert (statistics.accepted, statistics.evicted) == (2 * HONEST, 0)


def test_a_limit_per_network_leaves_capacity_for_other_networks() -> None:
    statistics, _ = under_attack(max_peers=512, max_peers_per_network=(4, 4))
    assert statistics.refused_by_network > 1000
    assert (statistics.peers, statistics.evicted) == (2 * HONEST + 4 * NETWORKS, 0)


def test_no_more_is_sent_to_forged_addresses_than_the_amplification_limit_allows() -> None:
    statistics, guard = under_attack(amplification_limit=3)
    assert statistics.amplification_refused == guard.refused_sends > 100
    unproved = [peer for peer in guard.ended if not peer.validated]
    assert all(peer.bytes_sent <= 3 * peer.bytes_received for peer in unproved)
    assert any(peer.bytes_sent for peer in unproved)
