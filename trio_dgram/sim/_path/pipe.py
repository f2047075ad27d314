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

from .._values.random import stream
from .._values.records import Packet
from .conditions import KNOBS, Conditions, Knobs, change
from .delays import delay_process, varies
from .fragments import MOST_HEADERS, cut_sizes, sent_sizes
from .link import Link
from .losses import LossProcess, loss_process

ARRIVES: Final = ""
"""The reason of a packet that arrives."""
PARTITION: Final = "partition"
QUEUE_FULL: Final = "queue full"
LOST: Final = "lost"
FRAGMENT_LOST: Final = "a fragment was lost"
TOO_BIG: Final = "too big for the path"
"""The sender receives an ICMP message with the MTU of the conditions."""
TOO_BIG_SILENT: Final = "too big for the path, without an ICMP message"

_ORDER_MASK: Final = 2**64 - 1
_MIXER: Final = 0x9E3779B97F4A7C15

Outcome: TypeAlias = tuple[float, Packet, str]
"""The time of the outcome, the packet as it is then, and the reason of its drop, or :data:`ARRIVES`."""


class Pipe:
    """One direction between two hosts.

    Args:
      name: its name; with the seed it determines every random decision.
      conditions: its conditions.
      seed: the seed of its random sources, unless the conditions have a seed.
      rank: a random number that determines the order of pipes at one instant.
      on_change: called after ``set`` with the name, and the conditions before and after.
    """

    __slots__ = (
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
        "_seed",
        "is_named",
        "name",
        "rank",
    )

    def __init__(
        self,
        name: str,
        conditions: Conditions,
        seed: object,
        rank: int = 0,
        on_change: Callable[[str, Conditions, Conditions], object] | None = None,
    ) -> None:
        self.name: str = name
        self._seed = seed
        self._on_change = on_change
        self._cuts = 0
        self.is_named: bool = False
        """Whether it has conditions of its own, so that the defaults of the network do not apply."""
        self.rank: int = rank
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

    def order_at(self, time: float) -> int:
        """Return the order of this pipe's arrivals at ``time`` among those of other pipes: random, but the same for all
        of them."""
        # Multiplying by an odd constant mixes the lower bits into the upper ones (Knuth's multiplicative hash).
        return ((round(time * 1e9) ^ self.rank) * _MIXER) & _ORDER_MASK

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
        if self._duplicates is not None and self._duplicates():
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
        overtakes = lane.overtakes is not None and lane.overtakes()
        for size in sizes:
            fragment_sent_at = now if self._link is None else self._link.send(now, size)
            is_lost = lane.loses is not None and lane.loses(packet)
            delay = self._delay if lane.delay is None else lane.delay()
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
            seed = self._seed if conditions.seed is None else conditions.seed
            self._originals = _Lane(seed, self.name, "originals")
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
            self._copies = self._originals.make_other("copies")
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

    __slots__ = ("_breaks", "_flips", "_key", "_sources", "delay", "loses", "overtakes")

    def __init__(self, *key: object) -> None:
        self._key = key
        self._sources: dict[str, random.Random] = {}
        self.loses: LossProcess | None = None
        self.delay: Callable[[], float] | None = None
        self.overtakes: Callable[[], bool] | None = None
        self._breaks: Callable[[], bool] | None = None
        self._flips: Callable[[], bool] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether loss is the only random decision."""
        return self.delay is self.overtakes is self._breaks is self._flips is None

    def make_other(self, name: str) -> _Lane:
        """Return a copy with other random sources."""
        return _Lane(*self._key[:-1], name)

    def set(self, conditions: Conditions, changed: Container[str]) -> None:
        """Apply ``conditions``; ``changed`` are the knobs that were set."""
        if "loss" in changed:
            loss = conditions.loss
            self.loses = None if loss == 0 else loss_process(loss, self._source("loss"))
        if "delay" in changed or "jitter" in changed or "distribution" in changed:
            self.delay = self._make_delay(conditions)
        if "reorder" in changed or "gap" in changed:
            self.overtakes = self._make_overtaking(conditions)
        self._breaks = self.chance("corrupt", conditions.corrupt)
        self._flips = self.chance("corrupt_undetected", conditions.corrupt_undetected)

    def chance(self, knob: str, probability: float) -> Callable[[], bool] | None:
        """Return a function that is true with that probability; None if it is 0."""
        if probability == 0:
            return None
        draw = self._source(knob).random
        return lambda: draw() < probability

    def spoil(self, packet: Packet) -> Packet:
        """Return the packet as it arrives."""
        if self._breaks is not None and self._breaks():
            packet = attrs.evolve(packet, broken=True)
        if self._flips is not None and self._flips():
            packet = attrs.evolve(packet, payload=self._flip_bit(packet.payload))
        return packet

    def _flip_bit(self, payload: bytes) -> bytes:
        draw = self._source("corrupt_undetected").random()
        if not payload:
            return payload
        position = int(draw * 8 * len(payload))
        flipped = bytearray(payload)
        flipped[position // 8] ^= 1 << position % 8
        return bytes(flipped)

    def _make_delay(self, conditions: Conditions) -> Callable[[], float] | None:
        delay, jitter, distribution = conditions.delay, conditions.jitter, conditions.distribution
        if not varies(jitter, distribution):
            return None
        return delay_process(delay, jitter, distribution, self._source("delay"))

    def _make_overtaking(self, conditions: Conditions) -> Callable[[], bool] | None:
        happens = self.chance("reorder", conditions.reorder)
        if happens is None:
            return None
        gap = conditions.gap
        delayed = 0

        def overtakes() -> bool:
            nonlocal delayed
            # As in netem, the count continues while no packet overtakes.
            if delayed < gap - 1 or not happens():
                delayed += 1
                return False
            delayed = 0
            return True

        return overtakes

    def _source(self, knob: str) -> random.Random:
        source = self._sources.get(knob)
        if source is None:
            source = self._sources[knob] = stream(*self._key, knob)
        return source
