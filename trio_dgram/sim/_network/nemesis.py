"""A nemesis: faults at random times, and a calm after them.

Rule 1: each fault begins by one choice, its time, at a place that names its kind and its target. Its end and size are
choices at places of their own with the same number: without them it ends with the calm, and has no size.
Rule 2: a fault that is not allowed when it is due does not happen, neither when faults are drawn nor in a replay.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Final

import attrs

from .._path.fabric import Fabric
from .._values.tape import Choice
from .faults import Faults, cut_paths
from .host import Host

KINDS: Final = ("crash", "partition", "hold", "pause", "freeze", "clock", "path")
"""The kinds of faults."""
SEPARATORS: Final = "', ', ' | ', ' -> ' and ': '"
"""What separates the names of hosts in the name of a place."""

_PREFIX: Final = "nemesis: "
PLACE: Final = re.compile(
    rf"{_PREFIX}(?P<kind>{'|'.join(KINDS)}) (?P<target>.+?)(?:: (?P<part>end|offset|loss|delay))?", re.DOTALL
)
"""The name of the place of a fault."""
_SEPARATOR: Final = re.compile(r", | \| | -> ")
_STOPS: Final = ("crash", "pause", "freeze")
"""The kinds that stop a host."""
_SHORTEST, _LONGEST = 0.02, 5.0
"""The range of the durations of faults, in seconds; their logarithms are equally probable."""
_SMALLEST_SKEW, _LARGEST_SKEW = 0.01, 60.0
"""The range of wrong clocks, in seconds, likewise."""
_SHORTEST_DELAY, _LONGEST_DELAY = 0.01, 1.0
"""The range of delays that are added to a path, in seconds, likewise."""
_BURST: Final = 0.3
"""The share of faults that follow another one closely."""
_BURST_GAP: Final = 0.05
"""The mean gap before these, as a part of that of all."""
_AIMED: Final = 0.5
"""The share of faults that wait for a datagram of a new size, or a note."""
_AIM: Final = 0.005
"""How long after that they begin, at most, in seconds."""


@attrs.frozen
class Settings:
    """The settings of a nemesis, documented at :meth:`Network.nemesis`."""

    rates: dict[str, float]
    restart: float | None
    hosts: tuple[Host, ...] | None
    duration: float | None
    calm: float
    minority: bool


def can_be_named(host: Host) -> bool:
    """Whether the name of a host can be part of the name of a place."""
    return _SEPARATOR.search(host.name) is None and ": " not in host.name


@attrs.define(eq=False)
class _Fault:
    """One fault."""

    kind: str
    target: str
    """The hosts or the path, as in the name of its place."""
    number: int = 0
    begin: float = 0.0
    parts: dict[str, float] = attrs.field(factory=dict)
    """Its end and its size."""

    @property
    def names(self) -> list[str]:
        """The hosts that it concerns."""
        return _SEPARATOR.split(self.target)

    @property
    def sides(self) -> list[list[str]]:
        """The two sides of a partition, or the two ends of a path."""
        return [side.split(", ") for side in re.split(r" \| | -> ", self.target)]


class Nemesis:
    """The faults of a network from its begin to its calm.

    Args:
      network: the network.
      fabric: its fabric.
      settings: the settings.
      numbers: how many faults each place has had.
      on_calm: called when the calm begins.
    """

    def __init__(
        self,
        network: Faults,
        fabric: Fabric,
        settings: Settings,
        numbers: Counter[str],
        on_calm: Callable[[], object],
    ) -> None:
        self._network = network
        self._fabric = fabric
        self._settings = settings
        self._numbers = numbers
        self._on_calm = on_calm
        self._choices = fabric.choices
        began_at = network.time
        self._draw = self._choices.stream("nemesis", began_at).random
        self._ends_at = math.inf if settings.duration is None else began_at + settings.duration
        self._active: dict[_Fault, Callable[[], object]] = {}
        """The faults that have begun, each with the function that heals it."""
        self._aimed: list[tuple[float, str]] = []
        """The faults that wait for an event: from when on, and their kinds."""
        self._known: set[object] = set()
        self.is_over: bool = False
        self.calm_until: float = math.inf
        """When the calm ends, in seconds since the network was opened."""

    def begin(self) -> None:
        """Begin to draw faults, or to follow those of a tape."""
        planned = self._choices.planned(_PREFIX)
        if planned is None:
            self._begin_to_draw()
        else:
            followed_until = min(self._ends_at, self._choices.tape_ends_at)
            for fault in _faults_of(planned):
                if self._settings.rates.get(fault.kind) and self._network.time <= fault.begin < followed_until:
                    self._network.at(fault.begin, self._begin, fault)
            self._choices.at_end_of_tape(self._begin_to_draw)
        if self._ends_at < math.inf:
            self._network.at(self._ends_at, self.end)

    def end(self) -> None:
        """End it: heal everything, and begin the calm."""
        if self.is_over:
            return
        self.is_over = True
        self.calm_until = self._network.time + self._settings.calm
        self._fabric.watch(None)
        for fault in tuple(self._active):
            self._heal(fault)
        self._fabric.note("", "the nemesis ends", "fault")
        self._on_calm()

    # Drawing

    def _begin_to_draw(self) -> None:
        if self.is_over:
            return
        self._fabric.watch(self._see)
        now = self._network.time
        for fault in tuple(self._active):
            # The tape decided when it ends, which is drawn now.
            parts = {part: value for part, value in fault.parts.items() if part != "end"}
            drawn = attrs.evolve(fault, parts=parts | self._draw_end(fault.kind, now))
            self._activate(drawn, self._active.pop(fault))
        for kind, rate in self._settings.rates.items():
            if rate:
                self._plan(kind, now)

    def _plan(self, kind: str, after: float) -> None:
        """Draw the time of the next fault of a kind.

        There are no other events than faults, so that a replay wakes up at the same times.
        """
        mean = 1 / self._settings.rates[kind]
        is_burst = self._draw() < _BURST
        share = _BURST_GAP if is_burst else (1 - _BURST * _BURST_GAP) / (1 - _BURST)
        at = after + self._exponential(mean * share)
        if self._draw() < _AIMED:
            self._aimed.append((at, kind))
        else:
            self._strike_at(at, kind, at)

    def _strike_at(self, time: float, kind: str, planned: float) -> None:
        self._network.at(_rounded_up(max(time, self._network.time)), self._strike, kind, planned)

    def _see(self, event: object) -> None:
        """Begin the faults that wait for a datagram of a new size, or a note; after long, for any of them."""
        is_new = event not in self._known
        self._known.add(event)
        now = self._network.time
        for waiting in tuple(self._aimed):
            since, kind = waiting
            if now >= since + (0 if is_new else 1 / self._settings.rates[kind]):
                self._aimed.remove(waiting)
                self._strike_at(now + self._draw() * _AIM, kind, since)

    def _strike(self, kind: str, planned: float) -> None:
        if self.is_over:
            return
        self._plan(kind, planned)
        target = self._choose_target(kind)
        if target is not None:
            now = self._network.time
            self._begin(_Fault(kind, target, begin=now, parts=self._draw_parts(kind, now)))

    def _draw_parts(self, kind: str, now: float) -> dict[str, float]:
        parts = self._draw_end(kind, now)
        if kind == "clock":
            offset = self._between(_SMALLEST_SKEW, _LARGEST_SKEW)
            parts["offset"] = -offset if self._draw() < 1 / 2 else offset
        elif kind == "path" and self._draw() < 1 / 2:
            parts["loss"] = self._between(0.1, 1.0)
        elif kind == "path":
            parts["delay"] = self._between(_SHORTEST_DELAY, _LONGEST_DELAY)
        return parts

    def _draw_end(self, kind: str, now: float) -> dict[str, float]:
        """Draw the time at which a fault ends; none if that is with the calm."""
        if kind != "crash":
            duration = self._between(_SHORTEST, _LONGEST)
        else:
            duration = math.inf if self._settings.restart is None else self._exponential(self._settings.restart)
        return {"end": _rounded_up(now + duration)} if now + duration < self._ends_at else {}

    def _choose_target(self, kind: str) -> str | None:
        names = [host.name for host in self._hosts()]
        if kind in (*_STOPS, "clock"):
            return self._pick([name for name in names if self._is_possible(_Fault(kind, name))])
        if len(names) < 2:
            return None
        if kind == "partition":
            first = [name for name in names if self._draw() < 1 / 2] or [names[0]]
            second = [name for name in names if name not in first] or [first.pop()]
            return f"{', '.join(first)} | {', '.join(second)}"
        paths = [f"{one} -> {other}" for one in names for other in names if one != other]
        return self._pick([path for path in paths if self._is_possible(_Fault(kind, path))])

    def _pick(self, targets: list[str]) -> str | None:
        return targets[int(self._draw() * len(targets))] if targets else None

    def _exponential(self, mean: float) -> float:
        return -math.log(1 - self._draw()) * mean

    def _between(self, least: float, most: float) -> float:
        """Return a number whose logarithm is uniform."""
        return float(f"{least * (most / least) ** self._draw():.6f}")

    # Faults

    def _begin(self, fault: _Fault) -> None:
        if self.is_over or not self._is_possible(fault):
            return
        place = f"{_PREFIX}{fault.kind} {fault.target}"
        if not fault.number:
            self._numbers[place] += 1
            fault.number = self._numbers[place]
        self._choices.add(place, fault.number, fault.begin)
        for part, value in fault.parts.items():
            self._choices.add(f"{place}: {part}", fault.number, value)
        self._activate(fault, self._inject(fault))

    def _activate(self, fault: _Fault, heal: Callable[[], object]) -> None:
        self._active[fault] = heal
        if "end" in fault.parts:
            self._network.at(max(fault.parts["end"], self._network.time), self._heal, fault)

    def _heal(self, fault: _Fault) -> None:
        heal = self._active.pop(fault, None)
        if heal is not None:
            heal()

    def _inject(self, fault: _Fault) -> Callable[[], object]:
        """Begin a fault, and return the function that heals it."""
        network, names = self._network, fault.names
        if fault.kind == "partition":
            # No context manager: a run that fails would leave it to the garbage collector.
            pairs = [(one, other) for one in fault.sides[0] for other in fault.sides[1]]
            pipes = (network.pipe(*ends) for pair in pairs for ends in (pair, pair[::-1]))
            return cut_paths(self._fabric, pipes, fault.target)
        if fault.kind == "hold":
            network.hold(*names)
            return lambda: network.release(*names)
        if fault.kind == "path":
            return self._worsen(names[0], names[1], fault.parts)
        host = network.host(names[0])
        if fault.kind == "crash":
            host.crash()
            return lambda: None if self._settings.restart is None or host.is_up else host.reboot()
        if fault.kind == "clock":
            host.clock_skew(fault.parts.get("offset", 0.0))
            return host.clock_skew
        (host.pause if fault.kind == "pause" else host.freeze)()
        return host.resume

    def _worsen(self, sender: str, receiver: str, parts: dict[str, float]) -> Callable[[], object]:
        pipe = self._network.pipe(sender, receiver)
        before, was_named = pipe.conditions, pipe.is_named
        if "loss" in parts:
            pipe.set(loss=min(max(parts["loss"], 0.0), 1.0))
        if "delay" in parts:
            pipe.set(delay=max(0.0, before.delay + parts["delay"]))

        def restore() -> None:
            if "loss" in parts:
                pipe.set(loss=before.loss)
            if "delay" in parts:
                pipe.set(delay=before.delay)
            pipe.is_named = was_named

        return restore

    # What is allowed

    def _hosts(self) -> tuple[Host, ...]:
        hosts = self._settings.hosts
        return tuple(filter(can_be_named, self._network.hosts)) if hosts is None else hosts

    def _is_possible(self, fault: _Fault) -> bool:
        """Whether a fault may begin now: its hosts exist, none like it is active, and a majority remains."""
        hosts = {host.name: host for host in self._hosts()}
        names = fault.names
        if len(set(names)) < len(names) or not hosts.keys() >= set(names):
            return False
        if any(one.kind == fault.kind and one.target == fault.target for one in self._active):
            return False
        if fault.kind in _STOPS and any(one.kind in _STOPS and one.target == fault.target for one in self._active):
            return False
        if fault.kind == "crash" and not hosts[fault.target].is_rebootable:
            return False
        return not self._settings.minority or self._has_majority([*self._active, fault], hosts)

    def _has_majority(self, faults: list[_Fault], hosts: dict[str, Host]) -> bool:
        """Whether more than half of the hosts would be up and connected with each other."""
        down = {fault.target for fault in faults if fault.kind in _STOPS}
        up = [name for name, host in hosts.items() if host.is_up and name not in down]
        cut = {
            frozenset((one, other))
            for fault in faults
            if fault.kind in ("partition", "hold")
            for one in fault.sides[0]
            for other in fault.sides[1]
        }
        reached = {name: {name} for name in up}
        for one, other in combinations(up, 2):
            if frozenset((one, other)) not in cut and reached[one] is not reached[other]:
                reached[one] |= reached[other]
                for name in reached[other]:
                    reached[name] = reached[one]
        return max(map(len, reached.values()), default=0) * 2 > len(hosts)


def _faults_of(choices: list[Choice]) -> list[_Fault]:
    """Return the faults that choices describe; parts of no fault, and places of none, are left out."""
    faults: dict[tuple[str, str, int], _Fault] = {}
    for choice in choices:
        found = PLACE.fullmatch(choice.place)
        if found is None or isinstance(choice.value, str):
            continue
        kind, target, part = found.groups()
        fault = faults.setdefault((kind, target, choice.number), _Fault(kind, target, choice.number))
        if part is None:
            fault.begin = choice.value
        else:
            fault.parts[part] = choice.value
    return [fault for fault in faults.values() if fault.begin]


def _rounded_up(time: float) -> float:
    """Return a time in whole microseconds, which is not 0: that is neutral."""
    return max(1, math.ceil(time * 1e6)) / 1e6
