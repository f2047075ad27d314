"""trio_dgram on its simulated network: how fast real time passes there, and what it takes to remember."""

from __future__ import annotations

import sys
from time import perf_counter

import psutil
import trio

import trio_dgram
from trio_dgram import sim

PORT = 9
BURST = 64
REMEMBERED = 1000


async def receive(counts: list[int], number: int) -> None:
    async with trio_dgram.open_socket("udp4", port=PORT) as server:
        async for _ in server:
            counts[number] += 1


async def send(name: str, limit: float, counts: list[int], started: float, seconds: float) -> None:
    async with trio_dgram.open_socket("udp4") as client:
        address = await trio_dgram.resolve(name, PORT, "udp4")
        payload = bytes(64)
        while True:
            for _ in range(BURST):
                await client.send(payload, address)
            await trio.sleep(0.001)
            if perf_counter() - started >= seconds or sum(counts) >= limit:
                break
        # Datagrams in flight count as well.
        await trio.sleep(0.01)


async def ring(network: sim.Network, hosts: int, seconds: float, limit: float = float("inf")) -> tuple[int, float]:
    """Have each host send to the next one; return the number of received datagrams, and the seconds that it took."""
    counts = [0] * hosts
    names = [f"host {number}" for number in range(hosts)]
    for number, name in enumerate(names):
        network.host(name).start_soon(receive, counts, number)
    await trio.sleep(1)
    started = perf_counter()
    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names):
            following = names[(number + 1) % hosts]
            nursery.start_soon(network.host(name).run, send, following, limit, counts, started, seconds)
    elapsed = perf_counter() - started
    for name in names:
        network.host(name).kill()
    return sum(counts), elapsed


async def growth(network: sim.Network, count: int) -> int:
    """Return the growth of the process, in bytes, between a tenth of ``count`` datagrams and all of them."""
    process = psutil.Process()
    await ring(network, 2, float("inf"), count / 10)
    before = process.memory_info().rss
    await ring(network, 2, float("inf"), count)
    return process.memory_info().rss - before


match sys.argv[1:]:
    case ["hosts", hosts, seconds]:
        received, elapsed = sim.run(ring, int(hosts), float(seconds), trace_limit=REMEMBERED)
        print(received / elapsed, flush=True)
    case ["cost", hosts, seconds]:
        received, elapsed = sim.run(ring, int(hosts), float(seconds), trace_limit=REMEMBERED)
        print(1e6 * elapsed / received, flush=True)
    case ["growth", seconds]:
        # A million in a measurement of a second.
        print(max(0, sim.run(growth, round(1_000_000 * float(seconds)), trace_limit=REMEMBERED)), flush=True)
    case _:
        sys.exit("which case?")
