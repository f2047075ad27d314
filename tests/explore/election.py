"""Leader election among three nodes, as in Raft: a node votes once in a term, and two votes of three elect a leader.

The planted bug: a node forgets its vote when it restarts, so it may vote twice in one term.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trio_dgram import Datagram, DatagramSocket, open_socket, sim

NAMES: Final = ("n1", "n2", "n3")
PORT: Final = 4000
REPEAT: Final = 0.1
"""How often a leader confirms that it leads, and a candidate asks again for votes that are missing, in seconds."""


@attrs.define
class State:
    """What a node must not forget."""

    term: int = 0
    vote: str = ""


@attrs.define(eq=False)
class Node:
    """One node; ``leads`` are the terms that it has won."""

    network: sim.Network
    name: str
    forgetful: bool
    disk: State = attrs.Factory(State)
    leads: set[int] = attrs.Factory(set)

    async def run(self) -> None:
        """Take part in elections, from a start of the node until it crashes."""
        if self.forgetful:
            self.disk.vote = ""
        async with open_socket("udp4", port=PORT) as sock:
            while True:
                await self.follow(sock)
                await self.stand(sock)

    async def follow(self, sock: DatagramSocket) -> None:
        """Vote for others until no leader has been heard of for too long."""
        timeout = 0.15 + 0.02 * NAMES.index(self.name)
        with trio.move_on_after(timeout) as waiting:
            async for datagram in sock:
                if await self.accepts(sock, datagram):
                    waiting.deadline = trio.current_time() + timeout

    async def stand(self, sock: DatagramSocket) -> None:
        """Ask the others for their votes in a new term; lead once one of them votes for this node."""
        self.disk.term, self.disk.vote = self.disk.term + 1, self.name
        elected = False
        give_up = trio.current_time() + 0.4 + 0.1 * NAMES.index(self.name)
        while elected or trio.current_time() < give_up:
            for name in NAMES:
                if name != self.name:
                    await sock.send(f"{'LEAD' if elected else 'VOTE'} {self.disk.term} from {self.name}", (name, PORT))
            with trio.move_on_after(REPEAT):
                async for datagram in sock:
                    kind, term, _ = parse(datagram.data)
                    if kind == "YES" and term == self.disk.term and not elected:
                        elected = True
                        self.leads.add(term)
                        self.network.note(f"leads in term {term}")
                        break
                    if await self.accepts(sock, datagram):
                        return

    async def accepts(self, sock: DatagramSocket, datagram: Datagram) -> bool:
        """Process a message of another node; return whether it leads or gets the vote."""
        kind, term, name = parse(datagram.data)
        if term > self.disk.term:
            self.disk.term, self.disk.vote = term, ""
        if term < self.disk.term or kind == "YES":
            return False
        if kind == "VOTE":
            if self.disk.vote not in ("", name):
                return False
            self.disk.vote = name
            await sock.send(f"YES {term} from {self.name}", datagram.address)
        return True


def parse(message: bytes) -> tuple[str, int, str]:
    """Return the kind of a message, its term and its sender."""
    kind, term, _, name = message.decode().split()
    return kind, int(term), name


async def election(network: sim.Network, *, forgetful: bool) -> None:
    """Run three nodes for some seconds, on paths that lose datagrams, while they crash."""
    nodes = [Node(network, name, forgetful) for name in NAMES]
    network.defaults(delay=0.02, jitter=0.005, loss=0.3)
    for node in nodes:
        network.host(node.name).start_soon(node.run)

    def one_leader_in_each_term() -> None:
        terms = [term for node in nodes for term in node.leads]
        twice = {term for term in terms if terms.count(term) > 1}
        assert not twice, f"two leaders in term {min(twice)}"

    network.nemesis(crash=4.0, restart=0.05)
    network.always(one_leader_in_each_term, "one leader in each term")
    await trio.sleep(0.6)
