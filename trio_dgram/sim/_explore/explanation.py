"""The explanation of a failure: the sentence and the story for the terminal, the report, and the shrunk tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from ..._values.words import plural
from .._trace.report import FailureReport
from .._values.choices import Replay
from .._values.records import Packet
from .._values.tape import Tape
from .inevitable import CONTINUATIONS
from .logs import LogLine
from .page import Run, page
from .sentence import datagrams_of, difference, sentence
from .shrink import Shrunk

_LINES: Final = 20
"""The length of the story of a shrunk run, in lines."""
_CLEARLY_BEFORE: Final = 0.9
"""The latest moment from which a failure is inevitable that the text names, as a share of the time until it shows."""


@attrs.frozen
class Observed:
    """A run that followed a tape.

    Attributes:
      replay: the replay, with the choices that were followed.
      network: the report of its network.
      log: the lines that the program logged.
    """

    replay: Replay
    network: FailureReport
    log: Sequence[LogLine]


@attrs.frozen
class Explanation:
    """The explanation of a failure.

    Attributes:
      text: the sentence and the story of the shrunk run.
      page: the report, as HTML.
      tape: the shrunk tape.
    """

    text: str
    page: str
    tape: Tape


def explain(
    tape: Tape,
    failure: str,
    shrunk: Shrunk,
    observe: Callable[[Tape], Observed],
    *,
    inevitable_from: float | None = None,
    confirmation: str = "",
) -> Explanation:
    """Explain a failure.

    Args:
      tape: the choices of the run that failed.
      failure: the failure in words.
      shrunk: the result of shrinking them.
      observe: runs the test with a tape.
      inevitable_from: the moment of the shrunk run from which all continuations fail; None if none is known.
      confirmation: the result of runs on the kernel, for the page; empty if there were none.
    """
    seen = observe(attrs.evolve(tape, choices=shrunk.choices))
    shrunk = shrunk.in_order(seen.replay.followed)
    trace = seen.network.trace
    datagrams = datagrams_of(seen.replay, trace)
    cause = sentence(shrunk, datagrams)
    shown_at = seen.network.ended_at
    inevitable = "" if inevitable_from is None else _inevitable(inevitable_from, shown_at)
    runs = [_run("The shrunk run: fails", failure, seen, inevitable_from)]
    if shrunk.neighbour is not None:
        other = observe(attrs.evolve(tape, choices=shrunk.neighbour))
        runs.append(_run("The neighbour: passes", difference(shrunk, datagrams), other))
    total = trace.total + len(trace.in_flight)
    counts = f"from {_counted(len(tape.choices), 'choice')} to {len(shrunk.choices)}"
    lines = [
        f"seed {tape.seed}, shrunk {counts} in {_counted(shrunk.runs, 'run')}:",
        *(f"  {line}" for line in cause.splitlines()),
    ]
    if inevitable_from is not None and inevitable_from <= shown_at * _CLEARLY_BEFORE:
        lines.append(f"  {inevitable}")
    if total:
        lines.append(f"{trace.excerpt(_LINES).datagrams} of {_counted(total, 'datagram')} of the shrunk run:")
        lines.append(trace.to_text(_LINES))
    else:
        lines.append("The shrunk run sends nothing.")
    summary = "\n".join(filter(None, [cause, inevitable, confirmation]))
    return Explanation("\n".join(lines), page(tape.test, summary, runs), attrs.evolve(tape, choices=shrunk.choices))


def _inevitable(moment: float, shown_at: float) -> str:
    # The digits are those of the story.
    since = f"inevitable from {round(moment, 6):.10g} s, {shown_at - moment:.3g} s before it shows"
    return f"{since}: {CONTINUATIONS} of {CONTINUATIONS} continuations fail"


def _run(title: str, subtitle: str, seen: Observed, inevitable_from: float | None = None) -> Run:
    chosen = {about.number for about in seen.replay.followed.values() if isinstance(about, Packet)}
    return Run(title, subtitle, seen.network.trace, seen.network.sockets, seen.log, chosen, inevitable_from)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {plural(number, noun)}"
