"""A pipe: one direction between two hosts. It has no clock: callers pass the time, and it returns the fate of each
packet and the time of that.

Rule 1: a packet passes fragmentation, partition, duplication, the queue, transmission, loss, corruption, delay and
reordering, in this order; a lost packet has used the bandwidth.
Rule 2: each knob has a random source of its own, made on first use. A knob that is off draws nothing.
Rule 3: a knob that is on draws for every packet that passes the partition, also for those that another knob has
dropped, and copies have sources of their own: no knob shifts the draws of another.
Rule 4: a change applies to packets that enter later; packets in flight are unaffected.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from typing import Final, TypeAlias, Unpack

import attrs

from .._values.choices import Choices
from .._values.random import Seed
from .._values.records import Packet
from .conditions import KNOBS, Conditions, Knobs, change
from .delays import jitter_process, varies
from .fragments import MOST_HEADERS, cut_sizes, sent_sizes
from .link import Link
from .losses import Loss, LossProcess, is_random, loss_process

ARRIVES: Final = ""
"""The reason of a packet that arrives."""
PARTITION: Final = "partition"
QUEUE_FULL: Final = "queue full"
LOST: Final = "lost"
FRAGMENT_LOST: Final = "a fragment was lost"
TOO_BIG: Final = "too big for the path"
"""The sender receives an ICMP message with the MTU of the conditions."""
TOO_BIG_SILENT: Final = "too big for the path, without an ICMP message"

Outcome: TypeAlias = tuple[float, Packet, str]
"""The time of the outcome, the packet as it is then, and the reason of its drop, or :data:`ARRIVES`."""
OF_COPIES: Final = " (copy)"
"""What the names of places add to the name of a path for duplicated datagrams."""


class Pipe:
    """One direction between two hosts.

    Args:
      name: its name; with the seed it determines every random decision.
      conditions: its conditions.
      choices: the choices of the run, with the seed of its random sources unless the conditions have a seed.
      on_change: called after ``set`` with the name, and the conditions before and after.
    """

    __slots__ = (
        "_choices",
        "_conditions",
        "_copies",
        "_cuts",
        "_delay",
        "_duplicates",
        "_held",
        "_holds",
        "_is_plain",
        "_keeps_order",
        "_last_arrival",
        "_link",
        "_loss",
        "_mtu",
        "_on_change",
        "_originals",
        "is_named",
        "name",
    )

    def __init__(
        self,
        name: str,
        conditions: Conditions,
        choices: Choices,
        on_change: Callable[[str, Conditions, Conditions], object] | None = None,
    ) -> None:
        self.name: str = name
        self._choices = choices
        self._on_change = on_change
        self._cuts = 0
        self.is_named: bool = False
        """Whether it has conditions of its own, so that the defaults of the network do not apply."""
        self._held: list[Packet] = []
        self._holds = 0
        self._last_arrival = 0.0
        self._link: Link | None = None
        self._apply(conditions, KNOBS)

    @property
    def conditions(self) -> Conditions:
        """Its current conditions."""
        return self._conditions

    def set(self, **knobs: Unpack[Knobs]) -> None:
        """Change some conditions, for packets that enter from now on.

        Setting a loss model restarts it, and setting a seed restarts every knob; everything else continues.

        Args:
          knobs: the conditions to change, as in :class:`Knobs`. Omitted conditions are unchanged.

        Raises:
          TypeError: if there is no such knob, or for a value of the wrong type.
          ValueError: for a value out of its bounds.
        """
        before = self._conditions
        self._apply(change(knobs, before), KNOBS if "seed" in knobs else knobs)
        self.is_named = True
        if self._on_change is not None:
            self._on_change(self.name, before, self._conditions)

    def set_default(self, conditions: Conditions) -> None:
        """Apply ``conditions`` unless the program has set some for this pipe."""
        if not self.is_named:
            self._apply(conditions, KNOBS)

    def cut(self) -> None:
        """Drop packets that enter from now on, until :meth:`mend` has been called as often as this."""
        self._cuts += 1
        self._is_plain = False

    def mend(self) -> None:
        """Undo one :meth:`cut`.

        Raises:
          RuntimeError: if there is none.
        """
        if not self._cuts:
            raise RuntimeError(f"the pipe {self.name} is not cut")
        self._cuts -= 1
        self._is_plain = self._get_is_plain()

    def hold(self) -> None:
        """Hold packets that enter from now on, until :meth:`release` was called as often; a hold precedes everything
        else, also a cut."""
        self._holds += 1
        self._is_plain = False

    def release(self, now: float) -> list[Outcome]:
        """Undo one :meth:`hold`; the last call makes the held packets enter now, in order, and returns their outcomes;
        the network calls it.

        Args:
          now: the virtual time in seconds.

        Raises:
          RuntimeError: if there is none.
        """
        if not self._holds:
            raise RuntimeError(f"the pipe {self.name} is not held")
        self._holds -= 1
        if self._holds:
            return []
        held, self._held = self._held, []
        self._is_plain = self._get_is_plain()
        return [outcome for packet in held for outcome in self.enter(now, packet)]

    def enter(self, now: float, packet: Packet) -> list[Outcome]:
        """Return the outcomes of a packet that enters now: none if it is held, two if it is duplicated.

        Args:
          now: the time in seconds, never less than before.
          packet: the packet as sent; changes on the path are in the outcomes.
        """
        most = len(packet.payload) + MOST_HEADERS
        if self._is_plain and most <= self._mtu and most <= packet.fragment_size:
            # Fast path: nearly every packet of nearly every pipe.
            if self._loss is not None and self._loss(packet):
                return [(now, packet, LOST)]
            at = now + self._delay
            if at >= self._last_arrival:
                self._last_arrival = at
            elif self._keeps_order:
                at = self._last_arrival
            return [(at, packet, ARRIVES)]
        return self._enter_any(now, packet)

    def _enter_any(self, now: float, packet: Packet) -> list[Outcome]:
        if self._holds:
            self._held.append(packet)
            return []
        sizes, reason = self._cut_to_size(packet)
        if not reason and self._cuts:
            reason = PARTITION
        if reason:
            return [(now, packet, reason)]
        outcomes = [self._carry(self._originals, now, packet, sizes)]
        if self._duplicates is not None and self._duplicates(packet):
            outcomes.append(self._carry(self._get_copies(), now, packet, sizes))
        return outcomes

    def _cut_to_size(self, packet: Packet) -> tuple[list[int], str]:
        """Return the sizes of its fragments, and the reason if it cannot pass."""
        sizes = sent_sizes(packet)
        if max(sizes) <= self._mtu:
            return sizes, ""
        too_big = self._conditions.too_big
        if too_big == "blackhole":
            return sizes, TOO_BIG_SILENT
        if too_big == "icmp" and (packet.dont_fragment or packet.is_ipv6):
            return sizes, TOO_BIG
        return cut_sizes(packet, sizes, self._mtu), ""

    def _carry(self, lane: _Lane, now: float, packet: Packet, sizes: list[int]) -> Outcome:
        sent_at = arrival = now
        reason = ""
        overtakes = lane.overtakes is not None and lane.overtakes(packet)
        for size in sizes:
            fragment_sent_at = now if self._link is None else self._link.send(now, size)
            is_lost = lane.loses is not None and lane.loses(packet)
            delay = self._delay if lane.jitter is None else max(0.0, self._delay + lane.jitter(packet))
            if fragment_sent_at is None:
                reason = reason or QUEUE_FULL
                continue
            sent_at = fragment_sent_at
            if is_lost:
                reason = reason or (LOST if len(sizes) == 1 else FRAGMENT_LOST)
            # The datagram is complete when its last fragment arrives, and fragments may overtake each other.
            arrival = max(arrival, sent_at if overtakes else sent_at + delay)
        arriving = lane.spoil(packet)
        if reason:
            return sent_at, packet, reason
        if overtakes:
            return arrival, arriving, ARRIVES
        if arrival >= self._last_arrival:
            self._last_arrival = arrival
        elif self._keeps_order:
            arrival = self._last_arrival
        return arrival, arriving, ARRIVES

    def _apply(self, conditions: Conditions, changed: Container[str]) -> None:
        self._conditions = conditions
        self._delay = conditions.delay
        self._keeps_order = conditions.keep_order
        self._mtu = conditions.mtu
        if "seed" in changed:
            self._originals = _Lane(self._choices, conditions.seed, self.name)
            self._copies: _Lane | None = None
        self._originals.set(conditions, changed)
        self._loss = self._originals.loses
        if self._copies is not None:
            self._copies.set(conditions, changed)
        self._duplicates = self._originals.chance("duplicate", conditions.duplicate)
        self._set_link(conditions)
        self._is_plain = self._get_is_plain()

    def _get_copies(self) -> _Lane:
        if self._copies is None:
            self._copies = self._originals.for_copies()
            self._copies.set(self._conditions, KNOBS)
        return self._copies

    def _set_link(self, conditions: Conditions) -> None:
        if conditions.rate is None:
            self._link = None
        elif self._link is None:
            self._link = Link(conditions.rate, conditions.queue, conditions.queue_delay)
        else:
            self._link.rate = conditions.rate
            self._link.queue = conditions.queue
            self._link.queue_delay = conditions.queue_delay

    def _get_is_plain(self) -> bool:
        """Whether only delay and loss apply."""
        stops = self._cuts or self._holds
        return not stops and self._link is None and self._duplicates is None and self._originals.is_plain


class _Lane:
    """The random decisions about each packet, or each copy; None for a knob that is off."""

    __slots__ = ("_breaks", "_choices", "_flips", "_key", "_name", "_seed", "_sources", "jitter", "loses", "overtakes")

    def __init__(self, choices: Choices, seed: Seed | None, name: str, kind: str = "originals") -> None:
        self._choices = choices
        self._seed = seed
        self._key = (name, kind)
        self._name = name if kind == "originals" else name + OF_COPIES
        self._sources: dict[str, random.Random] = {}
        self.loses: LossProcess | None = None
        self.jitter: Callable[[Packet], float] | None = None
        self.overtakes: Callable[[Packet], bool] | None = None
        self._breaks: Callable[[Packet], bool] | None = None
        self._flips: Callable[[Packet], int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether loss is the only random decision."""
        return self.jitter is self.overtakes is self._breaks is self._flips is None

    def for_copies(self) -> _Lane:
        """Return a lane with the random sources of copies."""
        return _Lane(self._choices, self._seed, self._key[0], "copies")

    def set(self, conditions: Conditions, changed: Container[str]) -> None:
        """Apply ``conditions``; ``changed`` are the knobs that were set."""
        if "loss" in changed:
            self.loses = self._make_loss(conditions.loss)
        if "jitter" in changed or "distribution" in changed:
            self.jitter = self._make_jitter(conditions)
        if "reorder" in changed or "gap" in changed:
            self.overtakes = self._make_overtaking(conditions)
        self._breaks = self.chance("corrupt", conditions.corrupt)
        self._flips = self._make_flips(conditions.corrupt_undetected)

    def chance(self, knob: str, probability: float) -> Callable[[Packet], bool] | None:
        """Return a function that is true with that probability; None if it is 0."""
        if probability == 0:
            return None
        draw = self._source(knob).random
        return self._choices.at(self._place(knob), lambda _packet: draw() < probability, neutral=False)

    def spoil(self, packet: Packet) -> Packet:
        """Return the packet as it arrives."""
        if self._breaks is not None and self._breaks(packet):
            packet = attrs.evolve(packet, broken=True)
        if self._flips is not None and (bit := self._flips(packet)):
            packet = attrs.evolve(packet, payload=_flipped(packet.payload, bit - 1))
        return packet

    def _make_loss(self, loss: Loss) -> LossProcess | None:
        if loss == 0:
            return None
        process = loss_process(loss, self._source("loss"))
        # A list or a function decides by itself; there is nothing to choose.
        return self._choices.at(self._place("loss"), process, neutral=False) if is_random(loss) else process

    def _make_flips(self, probability: float) -> Callable[[Packet], int] | None:
        """Return a function that chooses the bit to flip, counted from 1, or 0 for none; None if it never flips one."""
        if probability == 0:
            return None
        draw = self._source("corrupt_undetected").random
        return self._choices.at(
            self._place("corrupt_undetected"),
            lambda packet: 1 + int(draw() * 8 * len(packet.payload)) if draw() < probability else 0,
            neutral=0,
        )

    def _make_jitter(self, conditions: Conditions) -> Callable[[Packet], float] | None:
        if not varies(conditions.jitter, conditions.distribution):
            return None
        process = jitter_process(conditions.jitter, conditions.distribution, self._source("delay"))
        return self._choices.at(self._place("delay"), process, neutral=0.0)

    def _make_overtaking(self, conditions: Conditions) -> Callable[[Packet], bool] | None:
        happens = self.chance("reorder", conditions.reorder)
        if happens is None:
            return None
        gap = conditions.gap
        delayed = 0

        def overtakes(packet: Packet) -> bool:
            nonlocal delayed
            # As in netem, the count continues while no packet overtakes.
            if delayed < gap - 1 or not happens(packet):
                delayed += 1
                return False
            delayed = 0
            return True

        return overtakes

    def _place(self, knob: str) -> str:
        return f"{self._name}: {knob}"

    def _source(self, knob: str) -> random.Random:
        source = self._sources.get(knob)
        if source is None:
            source = self._sources[knob] = self._choices.stream(*self._key, knob, seed=self._seed)
        return source


def _flipped(payload: bytes, bit: int) -> bytes:
    """Return a payload with one bit flipped."""
    if not payload:
        return payload
    position = bit % (8 * len(payload))
    flipped = bytearray(payload)
    flipped[position // 8] ^= 1 << position % 8
    return bytes(flipped)
