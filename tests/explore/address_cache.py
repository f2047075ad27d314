"""A cache of addresses: it asks the registry for an address that it does not have, and the registry invalidates those
that have changed.

The planted bug: the answer to a request from before a change may arrive after the invalidation, and the cache stores
the old address for good. The remedy is to discard an answer that is older than the invalidation.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trio_dgram import Address, DatagramSocket, open_socket, sim

PORT: Final = 4002
TIMEOUT: Final = 0.3
"""How long a request waits for its answer, in seconds."""


async def ask(question: str, host: str) -> str:
    """Return the answer to a question, which is asked again if there is none."""
    async with open_socket("udp4") as sock:
        await sock.connect((host, PORT))
        while True:
            await sock.send(question)
            with trio.move_on_after(TIMEOUT):
                return (await sock.receive()).data.decode()


@attrs.define
class Registry:
    """Knows the current address, 192.0.2.N, and counts its changes."""

    current: int = 1
    valid: int = 1
    """The oldest address that the cache may still answer with."""

    async def run(self) -> None:
        """Answer the requests of the cache."""
        async with open_socket("udp4", port=PORT) as sock:
            async for datagram in sock:
                await sock.send(f"ADDRESS 192.0.2.{self.current}", datagram.address)

    async def change(self) -> None:
        """Change the address; return once the cache has confirmed that older ones are invalid."""
        self.current += 1
        await ask(f"INVALID BEFORE 192.0.2.{self.current}", "cache")
        self.valid = self.current


@attrs.define
class Cache:
    """Answers with the address that it has, or asks the registry for it."""

    checks_answers: bool
    address: int | None = None
    valid: int = 1
    clients: set[Address] = attrs.Factory(set)
    """The clients that wait for an answer of the registry."""

    async def run(self) -> None:
        """Answer clients and the registry."""
        async with open_socket("udp4", port=PORT) as sock:
            async for datagram in sock:
                words, _, number = datagram.data.decode().rpartition(".")
                if words.startswith("INVALID"):
                    self.valid = int(number)
                    if self.address is not None and self.address < self.valid:
                        self.address = None
                    await sock.send("CONFIRMED", datagram.address)
                elif words.startswith("ADDRESS"):
                    await self.store(sock, int(number))
                elif self.address is None:
                    self.clients.add(datagram.address)
                    await sock.send("GET", ("registry", PORT))
                else:
                    await sock.send(f"192.0.2.{self.address}", datagram.address)

    async def store(self, sock: DatagramSocket, address: int) -> None:
        """Store the address that the registry has answered with, and answer the clients that wait for it."""
        if self.checks_answers and address < self.valid:
            return
        self.address = address
        for client in sorted(self.clients):
            await sock.send(f"192.0.2.{address}", client)
        self.clients.clear()


async def roaming(network: sim.Network, *, checks_answers: bool) -> None:
    """Change the address while clients ask for it, on paths that reorder datagrams."""
    network.defaults(delay=0.05, jitter=0.04, keep_order=False, loss=0.05)
    registry = Registry()
    network.host("registry").start_soon(registry.run)
    network.host("cache").start_soon(Cache(checks_answers).run)

    async def client() -> None:
        for _ in range(8):
            oldest = registry.valid
            answer = await ask("GET", "cache")
            assert int(answer.rpartition(".")[2]) >= oldest, f"the answer is {answer}, which 192.0.2.{oldest} replaced"
            await trio.sleep(0.1)

    async def changes() -> None:
        for _ in range(3):
            await trio.sleep(0.12)
            await registry.change()

    network.host("registry").start_soon(changes)
    await network.host("client").run(client)
