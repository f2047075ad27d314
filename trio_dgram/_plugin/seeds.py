"""Running a test under many seeds, in this process or in several."""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from time import monotonic
from typing import Final, NoReturn

import attrs
import pytest

from .._values.test_runs import TestRun
from .reruns import run_once, separate_output

_SLOT: Final = 8
"""The bytes in which a process reports the seed under which its test failed; 0 for none."""


@attrs.frozen
class Plan:
    """The seeds that a test runs under.

    Attributes:
      count: the number of seeds; None for as many as the time allows.
      seconds: the time within which new runs begin; None for no limit. There is always one run.
      jobs: the number of processes.
    """

    count: int | None
    seconds: float | None = None
    jobs: int = 1

    def seeds(self, first: int = 0) -> Iterator[int]:
        """Yield every seed from ``first`` on that belongs to one of the processes."""
        end = None if self.seconds is None else monotonic() + self.seconds
        for seed in count(first, self.jobs):  # pragma: no branch -- it is endless
            if self.count is not None and seed >= self.count:
                return
            yield seed
            if end is not None and monotonic() >= end:
                return


@attrs.define
class Outcome:
    """The outcome of a test.

    Attributes:
      reports: the reports of its last run.
      runs: the number of seeds that it ran under.
      seed: the last seed.
    """

    reports: list[pytest.TestReport]
    runs: int
    seed: int

    @property
    def failed(self) -> bool:
        """Whether the last run did not pass."""
        return not all(report.passed for report in self.reports)


def run_under_seeds(item: pytest.Item, test_run: TestRun, plan: Plan) -> Outcome:
    """Run a test under many seeds, and return the outcome under the smallest that fails, or under the last."""
    if plan.jobs == 1:
        return _run_until_failure(item, test_run, plan.seeds())
    return _run_in_processes(item, test_run, plan)


def _run_until_failure(
    item: pytest.Item, test_run: TestRun, seeds: Iterable[int], *, may_continue: Callable[[int], bool] = lambda _: True
) -> Outcome:
    """Run a test under each of the seeds until it fails. Fixtures of a wider scope than the test stay set up."""
    outcome = Outcome([], 0, 0)
    for seed in seeds:
        if not may_continue(seed):  # pragma: no cover -- in another process
            break
        outcome.seed = seed
        outcome.reports = run_once(item, test_run, seed)
        outcome.runs += 1
        if outcome.failed:
            break
    return outcome


# Several processes


def _run_in_processes(item: pytest.Item, test_run: TestRun, plan: Plan) -> Outcome:
    """Run a test in copies of this process, each under its share of the seeds.

    A process stops once another one has failed under a smaller seed, so that the smallest one is found.
    """
    jobs = plan.jobs if plan.count is None else min(plan.jobs, plan.count)
    plan = attrs.evolve(plan, jobs=jobs)
    failed = mmap.mmap(-1, plan.jobs * _SLOT)
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = [_start(item, test_run, plan, job, failed) for job in range(plan.jobs)]
    outcomes = [_receive(item, pid, pipe) for pid, pipe in pipes]
    failures = [outcome for outcome in outcomes if outcome.failed]
    chosen = min(failures or outcomes, key=lambda outcome: outcome.seed if failures else -outcome.seed)
    return attrs.evolve(chosen, runs=sum(outcome.runs for outcome in outcomes))


def _start(item: pytest.Item, test_run: TestRun, plan: Plan, job: int, failed: mmap.mmap) -> tuple[int, int]:
    """Start a process; return its process ID, and the pipe for its outcome."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        _run_share(item, test_run, plan, job, failed, writing)  # pragma: no cover -- in another process
    os.close(writing)
    return pid, reading


def _run_share(  # pragma: no cover -- in another process
    item: pytest.Item, test_run: TestRun, plan: Plan, job: int, failed: mmap.mmap, writing: int
) -> NoReturn:
    """Run a test under one share of the seeds, write the outcome to a pipe, and end this process."""

    def may_continue(seed: int) -> bool:
        others = (int.from_bytes(failed[slot * _SLOT : (slot + 1) * _SLOT], "big") for slot in range(plan.jobs))
        return all(not other or seed < other - 1 for other in others)

    try:
        separate_output(item.config)
        outcome = _run_until_failure(item, test_run, plan.seeds(job), may_continue=may_continue)
        if outcome.failed:
            failed[job * _SLOT : (job + 1) * _SLOT] = (outcome.seed + 1).to_bytes(_SLOT, "big")
        serialize = item.config.hook.pytest_report_to_serializable
        reports = [serialize(config=item.config, report=report) for report in outcome.reports]
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            json.dump({"reports": reports, "runs": outcome.runs, "seed": outcome.seed}, pipe)
    finally:
        # Only the first process may run the exit handlers of pytest and the interpreter.
        os._exit(0)


def _receive(item: pytest.Item, pid: int, reading: int) -> Outcome:
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    if not text:
        message = "a process of --sim-jobs ended before the test did: try without --sim-jobs"
        return Outcome([pytest.TestReport(item.nodeid, item.location, {}, "failed", message, "call")], 0, 0)
    found = json.loads(text)
    restore = item.config.hook.pytest_report_from_serializable
    reports = [restore(config=item.config, data=data) for data in found["reports"]]
    return Outcome(reports, found["runs"], found["seed"])
