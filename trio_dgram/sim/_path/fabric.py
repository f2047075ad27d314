"""The fabric: every host, the pipes between them, and packets in flight. It has no clock: callers pass the time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterable
from functools import partial
from itertools import count
from typing import Final, Protocol, TypeAlias

import attrs

from ..._values.addresses import Address
from .._kernel.machine import Machine, Wire
from .._values.choices import Choices, any_order, in_order
from .._values.places import ROUTER4, ROUTER6, Kind, assigned, is_ipv6
from .._values.random import Seed
from .._values.records import NoteKind, Packet, Record, Report
from .conditions import Conditions, differences
from .nat import Nat
from .pipe import PARTITION, TOO_BIG, Outcome, Pipe

NO_SUCH_HOST: Final = "no host has that address"
BEHIND_A_NAT: Final = "behind a NAT"
HOP_LIMIT: Final = "hop limit exceeded"
_HOP_LIMIT_REPORT: Final = (11, 0)
_HOST_UNREACHABLE: Final = {False: (3, 1), True: (1, 3)}
_TOO_BIG_REPORT: Final = {False: (3, 4), True: (2, 0)}
"""ICMP's type and code, by whether it is IPv6."""
_SLACK: Final = 1e-9
"""How far a clock that has slept until a time may be behind it, in seconds."""


def _port_of(packet: Packet) -> int:
    """Return the outside port that a packet for a translator concerns."""
    return packet.destination.port if packet.report is None else packet.report.about.source.port


_Event: TypeAlias = tuple[float, bool, int, Callable[..., object], Packet | None, Pipe | None, str]
"""An event: its time; whether it is an arrival, which other events of the instant precede; its number; its action; and
for an arrival the packet, which the action gets, the pipe, and the name of its receiver."""

MakeMachine: TypeAlias = Callable[[Wire, str, tuple[str, ...], frozenset[str]], Machine]
"""Makes a host, from what ``Machine`` is made of."""


class Recorder(Protocol):
    """What records the packets on the network."""

    def sent(self, packet: Packet, receiver: str) -> None:
        """Record that a packet leaves its sender for a host."""

    def add(self, record: Record) -> None:
        """Record the fate of a packet."""

    def note(self, at: float, host: str, text: str, kind: NoteKind) -> None:
        """Record another event, at a host or, if that is empty, on the network."""


class Fabric:
    """The network without a clock."""

    def __init__(
        self,
        choices: Choices,
        clock: Callable[[], float],
        epoch: float,
        trace: Recorder,
        sooner: Callable[[], None],
        make_machine: MakeMachine = Machine,
    ) -> None:
        self.choices: Choices = choices
        self.seed: Seed = choices.seed
        self.next_number: Callable[[], int] = count(1).__next__
        """Returns the number of the next datagram."""
        self.default: Conditions = Conditions()
        self.machines: dict[str, Machine] = {}
        """By name."""
        self.owners: dict[str, Machine] = {}
        """By address."""
        self.nats: dict[str, Nat] = {}
        """The translators by the name of the host behind them."""
        self.outside: dict[str, Nat] = {}
        """The translators by their outside address."""
        self.pipes: dict[tuple[str, str], Pipe] = {}
        """By the names of the hosts at its two ends."""
        self._clock = clock
        self._epoch = epoch
        self._instant: float | None = None
        self._add = trace.add
        self._sent = trace.sent
        self._trace = trace
        self._sooner = sooner
        self._make_machine = make_machine
        self._seen: Callable[[object], object] | None = None
        self.steps_are_checked: bool = False
        """Whether something is checked after each step of a task."""
        self.together_within: float = 0.0
        """How far apart arrivals are due at most that count as those of one instant, in seconds; more than 0 only with
        a real clock. They are processed that much later."""
        self._due: list[_Event] = []
        """The pending events, as a heap by time."""
        self._event_numbers = count(1)
        self._overtaken = choices.among(_place_of_tie, any_order(choices.stream("ties").random))

    def add(self, name: str, addresses: tuple[str, ...], broadcasts: Iterable[str] = ()) -> Machine:
        """Make a host; a family without an address is assigned one."""
        ipv4, ipv6 = assigned(name, self._is_taken)
        own = tuple(addresses)
        if not any(not is_ipv6(address) for address in own):
            own += (ipv4,)
        if not any(map(is_ipv6, own)):
            own += (ipv6,)
        machine = self.machines[name] = self._make_machine(self, name, own, frozenset(broadcasts))
        self.owners |= dict.fromkeys(own, machine)
        return machine

    def add_nat(self, nat: Nat, inside: Iterable[str]) -> None:
        """Put a translator between the hosts ``inside`` and all others."""
        self.outside[nat.address] = nat
        self.nats |= dict.fromkeys(inside, nat)

    @property
    def nat_names(self) -> set[str]:
        """The names of the translators."""
        return {nat.name for nat in self.outside.values()}

    def rebind(self, nat: Nat, address: str) -> None:
        """Change the outside address of a translator."""
        del self.outside[nat.address]
        nat.rebind(address)
        self.outside[address] = nat

    def free_address(self, name: str) -> str:
        """Return the IPv4 address that ``name`` is assigned."""
        return assigned(name, self._is_taken)[0]

    def holder(self, address: str) -> str:
        """Return the name of the host or translator with an address, an empty one without such a host."""
        holder = self.owners.get(address) or self.outside.get(address)
        return holder.name if holder is not None else ""

    def netstat(self) -> str:
        """Return every host's table of sockets."""
        return "\n\n".join(f"{name}\n{machine.sockets()}" for name, machine in self.machines.items())

    def _is_taken(self, address: str) -> bool:
        return bool(self.holder(address))

    def pipe(self, sender: str, receiver: str) -> Pipe:
        """Return the pipe from one host to another."""
        pipe = self.pipes.get((sender, receiver))
        if pipe is None:
            name = f"{sender} -> {receiver}"
            pipe = self.pipes[sender, receiver] = Pipe(name, self.default, self.choices, self._note_change)
        return pipe

    def set_default(self, conditions: Conditions) -> None:
        """Set the conditions of pipes that have none of their own."""
        before, self.default = self.default, conditions
        for pipe in self.pipes.values():
            pipe.set_default(conditions)
        self._note_change("by default", before, conditions)

    def _note_change(self, path: str, before: Conditions, after: Conditions) -> None:
        # Conditions that are set before the first event are no change to be noted.
        if self.now() > 0 and (changes := differences(before, after)):
            self.note("", f"path {path}: {changes}", "fault")

    def watch(self, seen: Callable[[object], object] | None) -> None:
        """Call ``seen`` with the size of each packet that is sent, and with the text of each note of a program.

        Args:
          seen: the function; ``None`` to call it no longer.
        """
        self._seen = seen
        self._sent = self._trace.sent if seen is None else self._sent_and_seen

    def _sent_and_seen(self, packet: Packet, receiver: str) -> None:
        self._trace.sent(packet, receiver)
        if self._seen is not None:  # pragma: no branch -- set together
            self._seen(len(packet.payload))

    # The interface for machines

    def note(self, host: str, text: str, kind: NoteKind) -> None:
        """Record something that happens now, at a host or, if that is empty, on the network."""
        self._trace.note(self.now(), host, text, kind)
        if self._seen is not None and kind == "note":
            self._seen(text)

    def now(self) -> float:
        """Return the time, in seconds since the network was opened."""
        # An event happens exactly at its time, even if the clock is slightly late.
        return self._clock() if self._instant is None else self._instant

    def nanoseconds(self, time: float) -> int:
        """Return the time of day at a time of the network's, as a Unix time in nanoseconds."""
        # Convert both numbers separately: a float cannot hold nanoseconds since 1970.
        return int(self._epoch) * 1_000_000_000 + round((self._epoch % 1 + time) * 1_000_000_000)

    def record(self, packet: Packet, reason: str, receiver: str) -> None:
        """Record the fate of a packet; ``reason`` is empty if it was delivered."""
        self._add(Record(packet, self.now(), "dropped" if reason else "delivered", reason, receiver))

    def transmit(self, machine: Machine, packet: Packet) -> None:
        """Route a packet that leaves a host."""
        host = packet.destination.host
        receiver = self.owners.get(host)
        if receiver is not None and not self.nats:
            self._enter(machine, receiver.name, packet, receiver.receive)
        elif (kind := machine.kind_of(host)) in ("group", "broadcast"):
            # Skip hosts without a matching socket, so that their existence has no effect.
            for other in self.machines.values():
                if other is not machine and self._is_addressed(machine, other, host, kind) and other.wants(packet):
                    self._enter(machine, other.name, packet, other.receive)
        elif receiver is not None and self._is_reached(machine, receiver, packet):
            self._enter(machine, receiver.name, packet, self._arrive)
        elif host in self.outside:
            nat = self.outside[host]
            inside = nat.find(_port_of(packet), self.now())
            self._enter(machine, nat.name if inside is None else self.owners[inside.host].name, packet, self._arrive)
        else:
            self.record(packet, NO_SUCH_HOST if receiver is None else BEHIND_A_NAT, "")
            if packet.report is None:
                self._complain(machine, packet, _HOST_UNREACHABLE[packet.is_ipv6], 0, self.pipe("", machine.name))

    def _is_addressed(self, sender: Machine, other: Machine, host: str, kind: Kind) -> bool:
        """Whether a multicast or broadcast packet of ``sender`` reaches another machine's interface."""
        return self._are_beside(sender, other) and (kind == "group" or other.kind_of(host) == "broadcast")

    def _are_beside(self, one: Machine, other: Machine) -> bool:
        """Whether no translator is between two hosts."""
        return self.nats.get(one.name) is self.nats.get(other.name)

    def _is_reached(self, sender: Machine, receiver: Machine, packet: Packet) -> bool:
        """Whether a host is reachable at its own address; IPv6 is not translated."""
        return packet.is_ipv6 or receiver.name not in self.nats or self._are_beside(sender, receiver)

    def _enter(self, sender: Machine, receiver: str, packet: Packet, deliver: Callable[[Packet], None]) -> None:
        self._sent(packet, receiver)
        pipe = self.pipe(sender.name, receiver)
        self._bring(pipe, pipe.enter(packet.sent_at, packet), sender, receiver, deliver)

    def _arrive(self, packet: Packet) -> None:
        """Deliver a unicast packet, through the translators at the end of its path."""
        leaving, entering = self._translators(packet)
        # A packet that hairpins leaves and enters by one translator, which counts once.
        hops = len({nat for nat in (leaving, entering) if nat is not None})
        if hops and packet.hop_limit <= hops:
            # The ICMP error arises so close to the sender that its own hop limit does not matter.
            self.record(packet, HOP_LIMIT, "")
            sender = self.machines[packet.sender]
            self._complain(sender, packet, _HOP_LIMIT_REPORT, 0, self.pipe("", sender.name))
            return
        passing = attrs.evolve(packet, hop_limit=packet.hop_limit - hops) if hops else packet
        for nat, pass_by in ((leaving, Nat.leave), (entering, Nat.enter)):
            if nat is None:
                continue
            passed = pass_by(nat, passing, self.now())
            if isinstance(passed, str):
                self.record(passing, passed, nat.name)
                return
            passing = passed
        receiver = self.owners.get(passing.destination.host)
        if receiver is None:
            # The translator's outside address has changed since the packet was sent.
            self.record(passing, NO_SUCH_HOST, "")
        else:
            receiver.receive(passing)

    def _translators(self, packet: Packet) -> tuple[Nat | None, Nat | None]:
        """Return the translators by which a unicast packet leaves and enters."""
        # An ICMP message of a router has no sending host.
        source = self.owners.get(packet.source.host)
        receiver = self.owners.get(packet.destination.host)
        if packet.is_ipv6 or source is None or (receiver is not None and self._are_beside(source, receiver)):
            return None, self.outside.get(packet.destination.host)
        return self.nats.get(source.name), self.outside.get(packet.destination.host)

    def _bring(
        self, pipe: Pipe, outcomes: list[Outcome], sender: Machine, receiver: str, deliver: Callable[[Packet], None]
    ) -> None:
        """Schedule the outcomes of a pipe."""
        for at, packet, reason in outcomes:
            if not reason:
                self._push((at, True, next(self._event_numbers), deliver, packet, pipe, receiver))
                continue
            self._add(Record(packet, at, "dropped", reason, receiver))
            if reason == TOO_BIG and packet.report is None:
                back = self.pipe(receiver, sender.name)
                self._complain(sender, packet, _TOO_BIG_REPORT[packet.is_ipv6], pipe.conditions.mtu, back)

    def release(self, sender: str, receiver: str) -> None:
        """Release the packets held in the pipe between two hosts."""
        pipe = self.pipe(sender, receiver)
        held_for = partial(self._arrive_held, self.machines[receiver])
        self._bring(pipe, pipe.release(self.now()), self.machines[sender], receiver, held_for)

    def _arrive_held(self, receiver: Machine, packet: Packet) -> None:
        (self._arrive if receiver.kind_of(packet.destination.host) == "unicast" else receiver.receive)(packet)

    def _complain(self, sender: Machine, packet: Packet, kind: tuple[int, int], mtu: int, back: Pipe) -> None:
        """Send ``sender`` the router's ICMP message about its packet."""
        source = ROUTER6 if packet.is_ipv6 else ROUTER4
        message = Packet(
            self.next_number(),
            Address(source, 0),
            Address(packet.source.host, 0),
            b"",
            "",
            self.now(),
            report=Report(*kind, mtu, packet),
        )
        # The sender of this message is no host, so its loss is reported to no host.
        self._sent(message, sender.name)
        self._bring(back, back.enter(self.now(), message), sender, sender.name, sender.receive)

    # Events

    def schedule(self, at: float, action: Callable[[], object]) -> None:
        """Schedule ``action`` at a time, in seconds since the network was opened, before the arrivals of that
        instant."""
        self._push((at, False, next(self._event_numbers), action, None, None, ""))

    def _push(self, event: _Event) -> None:
        heapq.heappush(self._due, event)
        if self._due[0] is event:
            self._sooner()

    def drop_in_flight(self, pipes: Container[Pipe]) -> None:
        """Drop the packets in flight in ``pipes``."""
        kept: list[_Event] = []
        for event in sorted(self._due):
            _, _, _, _, packet, pipe, receiver = event
            if packet is not None and pipe is not None and pipe in pipes:
                self.record(packet, PARTITION, receiver)
            else:
                kept.append(event)
        self._due = kept

    @property
    def next_time(self) -> float | None:
        """The time of the next event, in seconds since the network was opened; ``None`` without one."""
        if not self._due:
            return None
        at, is_arrival, *_ = self._due[0]
        return at + self.together_within if is_arrival else at

    @property
    def needs_steps(self) -> bool:
        """Whether every event must be processed in a step of a task: something is checked after it, or may follow at
        the same instant."""
        return self.steps_are_checked or self._seen is not None

    def advance(self, now: float) -> None:
        """Process the events that are due at ``now``."""
        self.arrive(now)
        while self._due and not self._due[0][1] and self._due[0][0] <= now + _SLACK:
            self._instant, _, _, act, *_ = heapq.heappop(self._due)
            try:
                act()
            finally:
                self._instant = None
            self.arrive(now)

    def arrive(self, now: float) -> None:
        """Process the arrivals that are due at ``now``, up to the first other event."""
        limit = now + _SLACK - self.together_within
        try:
            while self._due and self._due[0][1] and self._due[0][0] <= limit:
                event = heapq.heappop(self._due)
                self._instant = event[0]
                last = event[0] + self.together_within
                if self._due and self._due[0][0] <= last:
                    self._arrive_together(event, last)
                else:
                    event[3](event[4])
        finally:
            self._instant = None

    def _arrive_together(self, first: _Event, last: float) -> None:
        """Process arrivals of one instant, which ends at ``last`` or before another event: those of a pipe in order,
        and the pipes in an order that is chosen."""
        together = [first]
        while self._due and self._due[0][1] and self._due[0][0] <= last:
            together.append(heapq.heappop(self._due))
        arrivals: dict[Pipe | None, list[_Event]] = {}
        for event in together:
            arrivals.setdefault(event[5], []).append(event)
        for pipe in in_order(arrivals, self._overtaken):
            for _, _, _, deliver, packet, _, _ in arrivals[pipe]:
                deliver(packet)


def _place_of_tie(pipe: Pipe | None) -> str:
    return f"{pipe.name if pipe else ''}: tie"
