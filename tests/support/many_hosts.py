"""Two hundred hosts that exchange datagrams: ``python many_hosts.py SEED HOSTS SILENT`` prints the digest."""

from __future__ import annotations

import random
import sys

import trio

import trio_dgram
from trio_dgram import sim


async def echo() -> None:
    """Answer every datagram."""
    async with trio_dgram.open_socket("udp4", port=7) as sock:
        async for datagram in sock:
            await sock.send(datagram.data, datagram.address)


async def talk(names: list[str]) -> None:
    """Ask some of the others, and wait a little for their answers."""
    async with trio_dgram.open_socket("udp6" if random.random() < 0.1 else "udp4") as sock:
        for number in range(3):
            await sock.send(random.randbytes(random.randrange(200)), (random.choice(names), 7))
            with trio.move_on_after(random.random() / 10):
                await sock.receive()
            await trio.sleep(number * random.random() / 100)


async def scenario(network: sim.Network, hosts: int, silent: int) -> str:
    """Run ``hosts`` hosts that send, and ``silent`` ones that do not; return the digest."""
    for number in range(silent):
        network.host(f"silent {number}")
    names = [f"host {number}" for number in range(hosts)]
    for number, name in enumerate(names):
        host = network.host(name)
        host.start_soon(echo)
        other = names[(number * 7 + 1) % hosts]
        network.host(other)
        if other != name:
            network.path(name, other, delay=0.02, jitter=0.01, loss=0.1, duplicate=0.05, keep_order=False)
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(network.host(name).run, talk, names)
    return network.digest


if __name__ == "__main__":  # pragma: no cover -- in a process of its own
    seed, hosts, silent = map(int, sys.argv[1:])
    sys.stdout.write(sim.run(scenario, hosts, silent, seed=seed))
