"""The cause of a failed test: the choices of its run are recorded and shrunk, and the rest is put in a sentence."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from .confirmation import confirm
from .examples import is_under_hypothesis, last_example
from .options import Limits
from .reports import TITLE, command, from_start
from .reruns import Copies, failure_of, run_again
from .tapes import file_for, replayed_tape

if TYPE_CHECKING:
    from ..sim._explore.shrink import Budget, Choices, Outcome, Shrunk
    from ..sim._values.choices import Replay
    from ..sim._values.tape import Tape

_NOT_REPRODUCED: Final = "The run did not fail in the same way again: the test depends on more than its seed."


def add_cause(item: pytest.Item, report: pytest.TestReport, seed: int, jobs: int) -> None:
    """Add the cause of a failure to the report of a test that failed on a simulated network."""
    given: Limits | None = item.config.getoption("--sim-shrink")
    # A replay has a tape, which is shrunk on request alone.
    is_replay = replayed_tape(item) is not None
    is_enough = is_replay and (given is None or given.runs == 0) and not item.config.getoption("--sim-confirm")
    if is_enough or not any(title == TITLE for title, _ in report.sections):
        return
    example = last_example(item)
    # Hypothesis would run many examples again; a debugger should begin at once.
    if (is_under_hypothesis(item) and not example) or item.config.getoption("usepdb", default=False):
        return
    if not hasattr(os, "fork"):  # pragma: no cover -- Windows
        report.sections.append(("cause", "Finding the cause needs os.fork, which this system lacks."))
        return
    limits = given or Limits()
    title = "tape" if limits.runs == 0 else "cause"
    report.sections.append((title, _cause(item, failure_of(report), (seed, example), limits, jobs)))


def _cause(item: pytest.Item, failure: str, run: tuple[int, str], limits: Limits, jobs: int) -> str:
    from ..sim._explore.shrink import Budget, shrink  # noqa: PLC0415 -- loaded where it is used
    from ..sim._values.choices import Replay  # noqa: PLC0415

    copies = Copies(item, 1 if limits.runs == 0 else jobs)
    try:
        tape, part = replayed_tape(item), ""
        if tape is None:
            recorded: tuple[Tape, str] | str | None = copies.call(_record, run)
            if recorded is None:
                return "The run that records the choices did not end."
            if isinstance(recorded, str):
                return recorded
            tape, one = recorded
            # Hypothesis reports several failures together.
            is_part = tape.example and one != failure and f", {one}," in f", {failure},"
            failure, part = (one, f"{one}\n") if is_part else (failure, "")
        if limits.runs == 0:
            is_same = copies.call(_outcome, (partial(Replay, tape), failure)) == "fails"
            return _write_tape(item, tape) if is_same else _NOT_REPRODUCED

        def evaluate(candidates: Iterable[Choices]) -> Generator[Outcome]:
            tapes = (attrs.evolve(tape, choices=choices) for choices in candidates)
            return _outcomes(copies, failure, (partial(Replay, each) for each in tapes))

        budget = Budget(limits.runs, limits.seconds)
        shrunk = shrink(tape.choices, evaluate, budget)
        if not shrunk.reproduced:
            return _NOT_REPRODUCED
        moment = _inevitable_from(attrs.evolve(tape, choices=shrunk.choices), failure, budget, copies)
        confirmation = ""
        if item.config.getoption("--sim-confirm"):  # pragma: no cover -- long tests run it
            confirmation = confirm(item, tape, shrunk, failure, copies)
        question = tape, shrunk, failure, moment, confirmation
        return part + (copies.call(_explain, question) or "The run that explains the failure did not end.")
    finally:
        copies.end()


def _inevitable_from(tape: Tape, failure: str, budget: Budget, copies: Copies) -> float | None:
    """Return the moment from which a shrunk failure is inevitable; None if it is not, or needs no choice."""
    from ..sim._explore.inevitable import inevitable_from  # noqa: PLC0415 -- loaded where it is used
    from ..sim._values.choices import Continuation  # noqa: PLC0415

    found: tuple[int, list[float]] | None = copies.call(_moments, tape) if tape.choices else None
    if found is None:
        return None
    run, moments = found

    def evaluate(candidates: Iterable[tuple[float, int]]) -> Generator[Outcome]:
        return _outcomes(copies, failure, (partial(Continuation, tape, run, *candidate) for candidate in candidates))

    return inevitable_from(moments, evaluate, budget)


def _outcomes(copies: Copies, failure: str, replays: Iterable[Callable[[], Replay]]) -> Generator[Outcome]:
    """Yield the outcomes of runs, in order."""
    answers = copies.map(_outcome, ((make_replay, failure) for make_replay in replays))
    for answer in answers:  # pragma: no branch -- it is closed when there are enough
        outcome: Outcome = "fails otherwise" if answer is None else answer
        yield outcome


# Called in copies


def _record(  # pragma: no cover -- in another process
    item: pytest.Item, run: tuple[int, str]
) -> tuple[Tape, str] | str:
    """Return the tape of a run under a seed and with an example of Hypothesis, and its failure; or a problem."""
    from ..sim._values.choices import Recording  # noqa: PLC0415 -- loaded where it is used

    seed, example = run
    recording = Recording(example)
    test_run, report = run_again(item, recording, seed)
    if not test_run.reports:
        return "No network was opened again: what fails is not the test, but a fixture of a wider scope."
    return recording.tape(seed, item.nodeid), failure_of(report)


def _outcome(  # pragma: no cover -- in another process
    item: pytest.Item, question: tuple[Callable[[], Replay], str]
) -> Outcome:
    make_replay, failure = question
    replay = make_replay()
    _, report = run_again(item, replay, replay.tape.seed)
    if not report.failed:
        return "passes"
    return "fails" if failure_of(report) == failure else "fails otherwise"


def _moments(item: pytest.Item, tape: Tape) -> tuple[int, list[float]] | None:  # pragma: no cover -- likewise
    """Return the number of the run that fails, and its moments; None for one with several networks."""
    from ..sim._explore.inevitable import moments_of  # noqa: PLC0415 -- loaded where it is used
    from ..sim._values.choices import Replay  # noqa: PLC0415

    replay = Replay(tape)
    test_run, _ = run_again(item, replay, tape.seed)
    if len(test_run.reports) != 1:
        return None
    network: Any = test_run.reports[0]
    network.end()
    return replay.count, moments_of(network)


def _explain(  # pragma: no cover -- in another process
    item: pytest.Item, question: tuple[Tape, Shrunk, str, float | None, str]
) -> str:
    from ..sim._explore.explanation import Observed, explain  # noqa: PLC0415 -- loaded where it is used
    from ..sim._explore.logs import collecting_log  # noqa: PLC0415
    from ..sim._values.choices import Replay  # noqa: PLC0415

    def observe(tape: Tape) -> Observed:
        replay = Replay(tape)
        with collecting_log() as log:
            test_run, _ = run_again(item, replay, tape.seed)
        network: Any = test_run.reports[-1]
        network.end()
        return Observed(replay, network, log)

    tape, shrunk, failure, moment, confirmation = question
    explanation = explain(tape, failure, shrunk, observe, inevitable_from=moment, confirmation=confirmation)
    replay_line = _write_tape(item, explanation.tape)
    page_file = file_for(item, tape.seed, "html")
    page_file.write_text(explanation.page, encoding="utf-8")
    lines = [explanation.text, replay_line, f"Report: {from_start(item.config, page_file)}", confirmation]
    return "\n".join(filter(None, lines))


def _write_tape(item: pytest.Item, tape: Tape) -> str:
    """Write a tape, and return the line with the command that replays it."""
    file = file_for(item, tape.seed, "tape")
    tape.write(file)
    return f"Replay: {command(item, f'--sim-tape={from_start(item.config, file)}')}"
