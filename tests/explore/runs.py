"""Runs that are recorded and replayed, for tests of their explanation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable

import attrs

from trio_dgram import sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._explore.explanation import Observed
from trio_dgram.sim._explore.inevitable import inevitable_from, moments_of
from trio_dgram.sim._explore.logs import collecting_log
from trio_dgram.sim._explore.shrink import Budget, Choices, Outcome, Shrunk, one_by_one, shrink
from trio_dgram.sim._trace.report import FailureReport
from trio_dgram.sim._values.choices import Continuation, Recording, Replay
from trio_dgram.sim._values.tape import Tape

Scenario = Callable[[sim.Network], Awaitable[None]]


def record(scenario: Scenario, seed: int) -> Tape:
    """Return the choices of a run that fails."""
    recording = Recording()
    with running_test(TestRun(seed, recording)):
        assert _fails(scenario)
    return recording.tape(seed, "test_it.py::test_it")


def observe(scenario: Scenario, tape: Tape) -> Observed:
    """Return a run that follows a tape."""
    replay = Replay(tape)
    test_run = TestRun(int(tape.seed), replay)
    with running_test(test_run), collecting_log() as log:
        _fails(scenario)
    (network,) = test_run.reports
    assert isinstance(network, FailureReport)
    network.end()
    return Observed(replay, network, log)


def shrink_run(scenario: Scenario, tape: Tape) -> Shrunk:
    """Shrink the choices of a run."""

    def run(choices: Choices) -> Outcome:
        return _outcome(scenario, Replay(attrs.evolve(tape, choices=choices)))

    return shrink(tape.choices, one_by_one(run))


def moment_of(scenario: Scenario, tape: Tape) -> float | None:
    """Return the moment from which a failure is inevitable."""

    def evaluate(candidates: Iterable[tuple[float, int]]) -> Generator[Outcome]:
        yield from (_outcome(scenario, Continuation(tape, 1, *candidate)) for candidate in candidates)

    return inevitable_from(moments_of(observe(scenario, tape).network), evaluate, Budget())


def _outcome(scenario: Scenario, replay: Replay) -> Outcome:
    with running_test(TestRun(int(replay.tape.seed), replay)):
        return "fails" if _fails(scenario) else "passes"


def _fails(scenario: Scenario) -> bool:
    try:
        sim.run(scenario)
    except AssertionError:
        return True
    return False
