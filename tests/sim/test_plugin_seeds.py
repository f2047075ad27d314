"""Many seeds: in several processes, and for a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from trio_dgram import sim
from trio_dgram._plugin import seeds
from trio_dgram._plugin.seeds import Plan

from .conftest import Run

pytestmark = pytest.mark.programs

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
TEST = """
    import os

    @pytest.mark.seeds(20)
    async def test_it(sim_network, autojump_clock, tmp_path_factory):
        print("seed", sim_network.seed)
        with open("seeds", "a") as file: print(sim_network.seed, os.getpid(), file=file)
        with sim_network.host("client").active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.send(b"x", (sim_network.host("server").ipv4, 9))
        await trio.sleep(1)
        assert sim_network.seed not in {failing}
"""


def seen(pytester: pytest.Pytester) -> tuple[list[int], int]:
    """Return the seeds that a test ran under, and the number of processes."""
    words = [line.split() for line in pytester.path.joinpath("seeds").read_text().splitlines()]
    return sorted(int(seed) for seed, _ in words), len({pid for _, pid in words} - {str(os.getpid())})


def test_seeds_run_in_processes_of_their_own(run: Run, pytester: pytest.Pytester) -> None:
    run(TEST.replace("{failing}", "{}"), "--sim-jobs=3").assert_outcomes(passed=1)
    assert seen(pytester) == (list(range(20)), 3)


def test_the_smallest_seed_that_fails_in_any_process_is_reported(run: Run, pytester: pytest.Pytester) -> None:
    result = run(TEST.replace("{failing}", "{5, 6, 7, 13}"), "--sim-jobs=3", "--sim-artifacts=shown")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.findall(r"seed (\d+), digest", text) == ["5"]
    assert re.findall(r"^seed (\d+)$", text, re.MULTILINE) == ["5"]
    assert text.rstrip().count("--sim-seed=5") == 1
    assert "--sim-jobs" not in text.partition("Run just this again")[2].partition("\n")[0]
    assert set(range(6)) <= set(seen(pytester)[0])
    assert any(path.name.endswith("-seed-5-0.svg") for path in pytester.path.joinpath("shown").iterdir())


def test_no_more_processes_than_seeds_are_started(run: Run, pytester: pytest.Pytester) -> None:
    run(TEST.replace("{failing}", "{}"), "--sim-jobs=9", "--sim-seeds=2").assert_outcomes(passed=1)
    assert seen(pytester) == ([0, 1], 2)


def test_a_process_that_ends_early_is_reported(run: Run) -> None:
    result = run(
        """
    import os

    @pytest.mark.seeds(4)
    def test_it():
        os._exit(1)
    """,
        "--sim-jobs=2",
    )
    result.assert_outcomes(failed=1)
    assert "a process of --sim-jobs ended before the test did" in result.stdout.str()


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_seeds_as_fit_into_a_time_are_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester, jobs: int
) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 1.0

    ticks = clock()
    monkeypatch.setattr(seeds, "monotonic", lambda: next(ticks))
    result = run(TEST.replace("{failing}", "{}"), "--sim-for=7s", f"--sim-jobs={jobs}")
    result.assert_outcomes(passed=1)
    assert seen(pytester)[0] == list(range(7 * jobs))
    assert f"::test_it: {7 * jobs} seeds" in result.stdout.str()


@pytest.mark.parametrize(
    ("plan", "expected"),
    [(Plan(5), [0, 1, 2, 3, 4]), (Plan(5, jobs=2), [0, 2, 4]), (Plan(None, 0.0), [0]), (Plan(3, 1000.0), [0, 1, 2])],
)
def test_a_plan_names_the_seeds_of_the_first_process(plan: Plan, expected: list[int]) -> None:
    assert list(plan.seeds()) == expected


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--sim-for=long", "must be a time, such as 60s or 5m, not 'long'"),
        ("--sim-jobs=0", "must be a number of processes, or auto, not '0'"),
        ("--sim-jobs=many", "must be a number of processes, or auto, not 'many'"),
    ],
)
def test_wrong_options_are_refused(run: Run, option: str, problem: str) -> None:
    assert problem in run("", option).stderr.str()


def test_one_process_for_each_core(run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4}, raising=False)
    run(TEST.replace("{failing}", "{}"), "--sim-jobs=auto", "--sim-seeds=4").assert_outcomes(passed=1)
    assert seen(pytester)[1] == 2


def test_systems_without_fork_have_one_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delattr(os, "fork", raising=False)
    assert "needs os.fork, which this system lacks" in run("", "--sim-jobs=auto").stderr.str()
