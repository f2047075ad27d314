"""The order in which ready tasks run."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import trio

from trio_dgram import sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._run.schedules import Schedule
from trio_dgram.sim._values.choices import Recording, Replay

SCHEDULES: tuple[Schedule, ...] = ("random", "fifo", "pct")


async def steps(_: sim.Network) -> str:
    """Three tasks take four steps each; return the order."""
    order = []

    async def take_steps(name: str) -> None:
        for _ in range(4):
            order.append(name)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(take_steps, name, name=name)
    return "".join(order)


def test_fifo_runs_the_oldest_task_first_under_every_seed() -> None:
    assert {sim.run(steps, seed=seed, schedule="fifo") for seed in range(3)} == {"abc" * 4}


def test_random_runs_every_order() -> None:
    orders = Counter(sim.run(steps, seed=seed)[:3] for seed in range(60))
    assert len(orders) == 6


def test_pct_keeps_the_order_of_tasks_between_changes() -> None:
    found = [sim.run(steps, seed=seed, schedule="pct") for seed in range(60)]
    passes = [[order[at : at + 3] for at in range(0, 12, 3)] for order in found]
    # As Trio does it: each ready task runs in each pass.
    assert all(sorted(each) == ["a", "b", "c"] for of_run in passes for each in of_run)
    changes = Counter(sum(one != other for one, other in itertools.pairwise(each)) for each in passes)
    assert changes[0] > 20
    assert set(changes) <= {0, 1, 2, 3}
    assert len({each[0] for each in passes}) == 6
    assert changes[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_is_deterministic_and_replayed(schedule: Schedule) -> None:
    recording = Recording()
    with running_test(TestRun(4, tape=recording)):
        order = sim.run(steps, schedule=schedule)
    assert order == sim.run(steps, schedule=schedule, seed=4)
    tape = recording.tape(4, "test")
    assert any("run of" in choice.place for choice in tape.choices) == (schedule != "fifo")
    with running_test(TestRun(5, tape=Replay(tape))):
        assert order == sim.run(steps, schedule=schedule)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("lifo", ValueError, "schedule must be one of 'random', 'fifo', 'pct', not 'lifo'"),
        (None, TypeError, r"schedule must be one of 'random', 'fifo', 'pct', not None \(NoneType\)"),
    ],
)
def test_an_unknown_schedule_is_refused(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sim.run(steps, schedule=wrong)
