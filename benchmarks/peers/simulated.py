"""trio_dgram on its simulated network: the CPU time that its datagrams and hosts take, and its memory."""

from __future__ import annotations

import sys
from time import process_time

import psutil
import trio
import trio.testing

import trio_dgram
from trio_dgram import sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._values.choices import Recording

PORT = 9
BURST = 64
REMEMBERED = 1000
PAIRS = 10


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
            if process_time() - started >= seconds or sum(counts) >= limit:
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
    started = process_time()
    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names):
            following = names[(number + 1) % hosts]
            nursery.start_soon(network.host(name).run, send, following, limit, counts, started, seconds)
    elapsed = process_time() - started
    for name in names:
        network.host(name).kill()
    return sum(counts), elapsed


async def answer() -> None:
    async with trio_dgram.open_socket("udp4", port=PORT) as server:
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


async def ask(name: str, seconds: float) -> float:
    """Return the round trips in a second of CPU time."""
    async with trio_dgram.open_socket("udp4") as client:
        address, payload = await trio_dgram.resolve(name, PORT, "udp4"), bytes(64)
        count, started = 0, process_time()
        while (elapsed := process_time() - started) < seconds:
            await client.send(payload, address)
            await client.receive()
            count += 1
    return count / elapsed


async def ping_pong(network: sim.Network, seconds: float) -> float:
    network.host("server").start_soon(answer)
    return await network.host("client").run(ask, "server", seconds)


async def all_to_all(network: sim.Network, hosts: int) -> None:
    """Make hosts with a path from each to each, and a bound socket on each."""
    counts = [0] * hosts
    network.defaults(delay=0.02, jitter=0.005, loss=0.01)
    for number in range(hosts):
        network.host(f"host {number}").start_soon(receive, counts, number)
    await trio.testing.wait_all_tasks_blocked()
    network.defaults(delay=0.03, jitter=0.005, loss=0.01)


async def with_choices(network: sim.Network) -> None:
    """Run a scenario in which most datagrams are subject to several choices."""
    network.defaults(delay=0.01, jitter=0.005, loss=0.1)
    await ring(network, 4, float("inf"), 1000)


def cost_of_recording(seconds: float) -> float:
    """Return the CPU time of a run with a tape divided by that of one without: the least of several runs of each, in
    turns, since other programs only add to it."""
    recorded: list[float] = []
    plain: list[float] = []
    end = process_time() + seconds
    while len(plain) < PAIRS or process_time() < end:
        recorded.append(cpu_time(Recording()))
        plain.append(cpu_time(None))
    return min(recorded) / min(plain)


def cpu_time(tape: Recording | None) -> float:
    """Return the CPU time of a run with this tape."""
    started = process_time()
    with running_test(TestRun(tape=tape)):
        sim.run(with_choices, trace_limit=REMEMBERED)
    return process_time() - started


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
    case ["ping-pong", seconds]:
        print(sim.run(ping_pong, float(seconds), trace_limit=REMEMBERED), flush=True)
    case ["set up", hosts]:
        started = process_time()
        sim.run(all_to_all, int(hosts))
        print(process_time() - started, flush=True)
    case ["recording", seconds]:
        print(cost_of_recording(float(seconds)), flush=True)
    case ["growth", seconds]:
        # A million in a measurement of a second.
        print(max(0, sim.run(growth, round(1_000_000 * float(seconds)), trace_limit=REMEMBERED)), flush=True)
    case _:
        sys.exit("which case?")
