"""SWIM membership: each member pings another one in turn, at first itself and then by a third, and spreads its opinions
with each message.

Source: A. Das, I. Gupta, A. Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership
Protocol", 2002. A member that hears that it is suspected contradicts with a higher incarnation.
"""

from __future__ import annotations

import json
import random
from itertools import cycle
from typing import Final, Literal, TypeAlias

import attrs
import trio

from trio_dgram import DatagramSocket, open_socket, sim

NAMES: Final = ("m1", "m2", "m3", "m4")
PORT: Final = 4003
PERIOD: Final = 0.3
"""The time between two pings of a member, in seconds."""
TIMEOUT: Final = 0.1
"""The time for the answer to a ping, and then for that by a third member."""
SUSPICION: Final = 1.5
"""The time after which a suspected member is declared dead, unless it contradicts."""

Opinion: TypeAlias = tuple[int, Literal["alive", "suspected", "dead"]]
"""The incarnation of a member, and its state."""
STATES: Final = ("alive", "suspected", "dead")


@attrs.define(eq=False)
class Member:
    """One member; ``incarnation`` survives its restarts."""

    network: sim.Network
    name: str
    incarnation: int = 0
    started_at: float = 0
    opinions: dict[str, Opinion] = attrs.Factory(dict)
    suspected_at: dict[str, float] = attrs.Factory(dict)
    answered: dict[str, trio.Event] = attrs.Factory(dict)
    false_alarms: list[str] = attrs.Factory(list)

    async def run(self, members: dict[str, Member]) -> None:
        """Ping the others and answer them, from a start of the member until it crashes."""
        self.incarnation += 1
        self.started_at = self.network.time
        self.opinions = dict.fromkeys(NAMES, (0, "alive"))
        self.opinions[self.name] = (self.incarnation, "alive")
        self.suspected_at = {}
        async with open_socket("udp4", port=PORT) as sock, trio.open_nursery() as nursery:
            nursery.start_soon(self.answer, sock)
            for name in cycle(random.sample(NAMES, len(NAMES))):
                if name != self.name:
                    nursery.start_soon(self.probe, sock, name)
                    await trio.sleep(PERIOD)
                    self.bury(members)

    async def probe(self, sock: DatagramSocket, name: str) -> None:
        """Suspect a member that answers neither a ping nor that of the others."""
        answered = self.answered[name] = trio.Event()
        await self.send(sock, name, "PING", name)
        with trio.move_on_after(TIMEOUT):
            await answered.wait()
        if answered.is_set():
            return
        for helper in NAMES:
            if helper not in (self.name, name):
                await self.send(sock, helper, "PING-REQUEST", name)
        with trio.move_on_after(TIMEOUT):
            await answered.wait()
        incarnation, state = self.opinions[name]
        if not answered.is_set() and state == "alive":
            self.learn({name: (incarnation, "suspected")})

    async def answer(self, sock: DatagramSocket) -> None:
        """Process messages: answer pings, and ping for others."""
        asking: dict[str, list[str]] = {name: [] for name in NAMES}
        async for datagram in sock:
            kind, sender, name, opinions = json.loads(datagram.data)
            self.learn(opinions)
            if kind == "PING":
                await self.send(sock, sender, "ACK", self.name)
            elif kind == "PING-REQUEST":
                asking[name].append(sender)
                await self.send(sock, name, "PING", name)
            elif kind == "ACK":
                if name in self.answered:
                    self.answered[name].set()
                for member in asking[name]:
                    await self.send(sock, member, "ACK", name)
                asking[name].clear()

    async def send(self, sock: DatagramSocket, to: str, kind: str, name: str) -> None:
        """Send a message with all opinions."""
        await sock.send(json.dumps([kind, self.name, name, self.opinions]), (to, PORT))

    def learn(self, opinions: dict[str, Opinion]) -> None:
        """Adopt newer opinions: of a higher incarnation, or of a worse state; contradict those about this member."""
        for name, (incarnation, state) in opinions.items():
            known, known_state = self.opinions[name]
            if (incarnation, STATES.index(state)) <= (known, STATES.index(known_state)):
                continue
            if name == self.name:
                self.incarnation = incarnation + 1
                self.opinions[name] = (self.incarnation, "alive")
                continue
            if state == "suspected":
                self.suspected_at[name] = self.network.time
            self.opinions[name] = (incarnation, state)

    def bury(self, members: dict[str, Member]) -> None:
        """Declare members dead that have been suspected for too long."""
        for name, (incarnation, state) in self.opinions.items():
            if state == "suspected" and self.network.time > self.suspected_at[name] + SUSPICION:
                self.opinions[name] = (incarnation, "dead")
                self.network.note(f"declares {name} dead")
                if self.network.host(name).is_up and self.network.time > members[name].started_at + SUSPICION:
                    self.false_alarms.append(name)


async def membership(network: sim.Network) -> None:
    """Run four members for some seconds, on paths that lose datagrams, while they crash."""
    network.defaults(delay=0.02, jitter=0.01, loss=0.05)
    members = {name: Member(network, name) for name in NAMES}
    for name, member in members.items():
        network.host(name).start_soon(member.run, members)
    network.always(lambda: not any(member.false_alarms for member in members.values()), "no false alarm")
    network.nemesis(crash=0.5, restart=1.0, duration=4.0, calm=4.0)
    await trio.sleep(8)
    # Losses continue in the calm, so a member may be suspected at the end.
    for member in members.values():
        assert "dead" not in {state for _, state in member.opinions.values()}, f"{member.name}: {member.opinions}"
