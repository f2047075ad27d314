"""The cause of a failed test: the choices of its run are recorded and shrunk, and the rest is put in a sentence."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from .confirmation import confirm
from .options import Limits
from .reports import TITLE, command, from_start
from .reruns import Copies, failure_of, run_again
from .tapes import file_for, replayed_tape

if TYPE_CHECKING:
    from ..sim._explore.shrink import Choices, Outcome, Shrunk
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
    # Hypothesis shrinks the example that failed, and would run many others again; a debugger should begin at once.
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False) or item.config.getoption(
        "usepdb", default=False
    ):
        return
    if not hasattr(os, "fork"):  # pragma: no cover -- Windows
        report.sections.append(("cause", "Finding the cause needs os.fork, which this system lacks."))
        return
    limits = given or Limits()
    title = "tape" if limits.runs == 0 else "cause"
    report.sections.append((title, _cause(item, failure_of(report), seed, limits, jobs)))


def _cause(item: pytest.Item, failure: str, seed: int, limits: Limits, jobs: int) -> str:
    from ..sim._explore.shrink import Budget, shrink  # noqa: PLC0415 -- loaded where it is used

    copies = Copies(item, 1 if limits.runs == 0 else jobs)
    try:
        tape = replayed_tape(item) or copies.call(_record, seed)
        if tape is None:
            return "The run that records the choices did not end."
        if isinstance(tape, str):
            return tape
        if limits.runs == 0:
            is_same = copies.call(_outcome, (tape, failure)) == "fails"
            return _write_tape(item, tape) if is_same else _NOT_REPRODUCED

        def evaluate(candidates: Iterable[Choices]) -> Generator[Outcome]:
            questions = ((attrs.evolve(tape, choices=choices), failure) for choices in candidates)
            for answer in copies.map(_outcome, questions):  # pragma: no branch -- shrink closes it when it has enough
                outcome: Outcome = "fails otherwise" if answer is None else answer
                yield outcome

        shrunk = shrink(tape.choices, evaluate, Budget(limits.runs, limits.seconds))
        if not shrunk.reproduced:
            return _NOT_REPRODUCED
        confirmation = ""
        if item.config.getoption("--sim-confirm"):  # pragma: no cover -- the session tests_long runs it
            confirmation = confirm(item, tape, shrunk, failure, copies)
        question = tape, shrunk, failure, confirmation
        return str(copies.call(_explain, question) or "The run that explains the failure did not end.")
    finally:
        copies.end()


# Called in copies


def _record(item: pytest.Item, seed: int) -> Tape | str:  # pragma: no cover -- in another process
    from ..sim._values.choices import Recording  # noqa: PLC0415 -- loaded where it is used

    recording = Recording()
    test_run, _ = run_again(item, recording, seed)
    if not test_run.reports:
        return "No network was opened again: what fails is not the test, but a fixture of a wider scope."
    return recording.tape(seed, item.nodeid)


def _outcome(item: pytest.Item, question: tuple[Tape, str]) -> Outcome:  # pragma: no cover -- in another process
    from ..sim._values.choices import Replay  # noqa: PLC0415 -- loaded where it is used

    tape, failure = question
    _, report = run_again(item, Replay(tape), tape.seed)
    if not report.failed:
        return "passes"
    return "fails" if failure_of(report) == failure else "fails otherwise"


def _explain(  # pragma: no cover -- in another process
    item: pytest.Item, question: tuple[Tape, Shrunk, str, str]
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

    tape, shrunk, failure, confirmation = question
    explanation = explain(tape, failure, shrunk, observe, confirmation)
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
