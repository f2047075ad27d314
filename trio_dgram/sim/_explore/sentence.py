"""The cause of a failure in words: each choice that it needs, and the changes with which the run passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from ..._values.words import plural
from .._trace.text import in_words, shortened, shown
from .._trace.trace import Trace
from .._values.choices import Replay
from .._values.records import Packet
from .._values.tape import Choice
from .places import Place, parse_place
from .shrink import Interval, Shrunk, is_negative, shorter_numbers

Datagrams: TypeAlias = Mapping[tuple[str, int], str]
"""For each choice about a datagram, by place and number, that datagram in words: ``"#17 (n1 -> n2, VOTE term 3)"``."""
Bounds: TypeAlias = tuple[float | None, float | None]
"""The bounds of a number; None for no bound."""

_EVENTS: Final[Mapping[tuple[str, str], str]] = {
    ("crash", ""): "{target} crashes",
    ("crash", "end"): "{target} restarts",
    ("partition", ""): "the partition {target} begins",
    ("partition", "end"): "the partition {target} ends",
    ("hold", ""): "the hold of {target} begins",
    ("hold", "end"): "the hold of {target} ends",
    ("pause", ""): "{target} pauses",
    ("pause", "end"): "{target} resumes",
    ("freeze", ""): "{target} freezes",
    ("freeze", "end"): "{target} resumes",
    ("clock", ""): "the clock of {target} changes",
    ("clock", "end"): "the clock of {target} is corrected",
    ("path", ""): "the path {target} deteriorates",
    ("path", "end"): "the path {target} recovers",
}
"""For each time of a fault, by kind and part, the event at that time."""
_AMOUNTS: Final[Mapping[str, tuple[str, str]]] = {
    "offset": ("the clock of {target} is wrong by", " s"),
    "loss": ("the path {target} loses a share of", ""),
    "delay": ("the path {target} has an additional delay of", " s"),
}
"""For each other part of a fault the words before its number, and the unit."""
_FATES: Final[Mapping[str, str]] = {
    "loss": "is lost",
    "duplicate": "is duplicated",
    "reorder": "overtakes earlier ones",
    "corrupt": "is corrupted",
    "corrupt_undetected": "is corrupted undetected",
}
_NUMERALS: Final = ("", "it", "either", "any of the three", "any of the four", "any of the five")


def sentence(shrunk: Shrunk, datagrams: Datagrams) -> str:
    """Return the cause in words, in several lines.

    Args:
      shrunk: the result of shrinking.
      datagrams: the datagrams that the choices are about.
    """
    causes = shrunk.causes
    if not causes:
        return "fails also without loss, delay, faults and reordering of tasks"
    begin = "fails only if" if all(cause.without is not None for cause in causes) else "fails if"
    conditions = [_clause(cause.choice, _edges(cause.interval), datagrams) for cause in causes]
    return "\n".join(
        [
            *(f"{begin if not index else 'and':>{len(begin)}}  {text}" for index, text in enumerate(conditions)),
            *_ways_to_pass(shrunk, conditions, datagrams),
        ]
    )


def difference(shrunk: Shrunk, datagrams: Datagrams) -> str:
    """Return the difference of the neighbour in words.

    Args:
      shrunk: the result of shrinking, with a neighbour.
      datagrams: the datagrams that the choices are about.
    """
    left = {(choice.place, choice.number) for choice in shrunk.neighbour or ()}
    missing = (cause for cause in shrunk.causes if (cause.choice.place, cause.choice.number) not in left)
    removed = (f"not: {_clause(cause.choice, _edges(cause.interval), datagrams)}" for cause in missing)
    return ", ".join([*_changes(shrunk, datagrams), *removed])


def datagrams_of(replay: Replay, trace: Trace) -> dict[tuple[str, int], str]:
    """Return the datagrams that the choices of a replay are about, in words.

    Args:
      replay: the replay.
      trace: the trace of its run.
    """
    receivers = {record.packet.number: record.receiver for record in (*trace.records, *trace.in_flight)}
    return {
        (choice.place, choice.number): _in_words(about, receivers.get(about.number, ""), trace)
        for choice, about in replay.followed.items()
        if isinstance(about, Packet)
    }


def _in_words(packet: Packet, receiver: str, trace: Trace) -> str:
    payload = in_words(packet.report) if packet.report is not None else trace.describe(packet).strip('"')
    ends = f"{shown(packet.sender)} -> {shown(receiver)}"
    return f"#{packet.number} ({', '.join(filter(None, [ends, shortened(payload)]))})"


def _ways_to_pass(shrunk: Shrunk, conditions: Sequence[str], datagrams: Datagrams) -> Iterator[str]:
    """Yield what is known of runs with one change."""
    causes = list(zip(shrunk.causes, conditions, strict=True))
    passing = [condition for cause, condition in causes if cause.without == "passes"]
    if len(passing) < len(causes):
        ways = [f"not: {condition}" for condition in passing]
    elif len(causes) < len(_NUMERALS):
        ways = [f"{_NUMERALS[len(causes)]} is taken away"]
    else:
        ways = [f"any of the {len(causes)} is taken away"]
    ways += _changes(shrunk, datagrams)
    if ways:
        yield f"passes if {', or if '.join(ways)}"
    yield from (f"fails in another way if not: {text}" for cause, text in causes if cause.without == "fails otherwise")
    if not shrunk.is_complete:
        yield "the limits ended shrinking before every choice was examined"


def _changes(shrunk: Shrunk, datagrams: Datagrams) -> Iterator[str]:
    """Yield the number that is different in the neighbour, with the bound that it crosses there."""
    values = {(choice.place, choice.number): choice.value for choice in shrunk.neighbour or ()}
    for choice, _, interval in shrunk.causes:
        value = values.get((choice.place, choice.number), choice.value)
        if interval is not None and value != choice.value:
            low, high = _edges(interval)
            is_above = isinstance(value, float) and abs(value) > interval.high
            yield _clause(choice, (high, None) if is_above else (None, low), datagrams)


def _edges(interval: Interval | None) -> Bounds:
    """Return the bounds of an interval, each the shortest number between a value that fails and one that does not."""
    if interval is None:
        return None, None
    below, above = interval.passes_below, interval.passes_above
    return (
        None if below is None else next(shorter_numbers(below, interval.low)),
        None if above is None else next(shorter_numbers(interval.high, above)),
    )


# Single choices


def _clause(choice: Choice, bounds: Bounds, datagrams: Datagrams) -> str:
    """Return a choice in words, with the bounds of its number."""
    place = parse_place(choice.place)
    prefix = "" if place.run == 1 else f"in run {place.run} "
    return prefix + _clause_of(place, choice, bounds, datagrams)


def _clause_of(place: Place, choice: Choice, bounds: Bounds, datagrams: Datagrams) -> str:
    if place.is_fault:
        return _fault(place, bounds)
    if place.is_path:
        original = datagrams.get((choice.place, choice.number), f"datagram {choice.number} of {place.target}")
        datagram = f"the duplicate of {original}" if place.is_copy else original
        return f"{datagram} {_fate(place, choice, bounds)}"
    if place.kind == "run":
        where = f" on {place.target}" if place.target else ""
        overtaken = f"{choice.value} {plural(choice.value, 'earlier task')}"
        return f"the task {place.part}{where} runs before {overtaken} in its step {choice.number}"
    if place.kind == "port":
        return f"the ephemeral port {choice.number} of {place.target} is {choice.value}"
    if place.kind == "random":
        return f"the program's randomness has the seed {choice.value}"
    return f"{choice.place} {choice.number} is {choice.value}"


def _fault(place: Place, bounds: Bounds) -> str:
    target = place.target
    if place.part in _AMOUNTS:
        words, unit = _AMOUNTS[place.part]
        return f"{words.format(target=target)} {_amount(bounds, unit)}"
    return f"{_EVENTS[place.kind, place.part].format(target=target)} {_time(bounds)}"


def _fate(place: Place, choice: Choice, bounds: Bounds) -> str:
    if place.kind == "delay":
        change = "a delay shorter by" if is_negative(choice) else "an additional delay of"
        return f"has {change} {_amount(bounds, ' s')}"
    if place.kind == "tie":
        return f"arrives before {choice.value} {plural(choice.value, 'datagram')} due at the same instant"
    return _FATES[place.kind]


def _time(bounds: Bounds) -> str:
    low, high = bounds
    if low is None:
        return "at any time" if high is None else f"before {high:.10g} s"
    return f"after {low:.10g} s" if high is None else f"between {low:.10g} s and {high:.10g} s"


def _amount(bounds: Bounds, unit: str) -> str:
    low, high = bounds
    if low is None:
        return "any size" if high is None else f"less than {high:.10g}{unit}"
    more = f"{low:.10g}{unit}"
    return f"more than {more}" if high is None else f"between {more} and {high:.10g}{unit}"
