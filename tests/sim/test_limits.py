"""Runs that would never end are ended, even if their tasks are shielded or swallow cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from trio_dgram import sim
from trio_dgram.sim._run import watch


async def wait_behind_a_shield() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def swallow_cancelled() -> None:
    while True:
        with suppress(trio.Cancelled):
            await trio.sleep(1)


async def swallow_everything() -> None:
    while True:
        with suppress(BaseException):
            await trio.sleep(1)


async def beat() -> None:
    while True:  # noqa: ASYNC110 -- a heartbeat
        await trio.sleep(1)


def test_a_shielded_wait_for_ever_is_stuck() -> None:
    async def scenario(_: sim.Network) -> None:
        await wait_behind_a_shield()

    with pytest.raises(sim.StuckError, match="every task waits") as caught:
        sim.run(scenario)
    assert any("wait_behind_a_shield" in note and "had to be ended" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("task", [wait_behind_a_shield, swallow_cancelled, beat])
def test_a_deadlock_beside_a_running_task_is_stuck(task: Callable[[], Awaitable[None]]) -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a").start_soon(beat)
        network.host("b").start_soon(task)
        await trio.sleep_forever()

    with pytest.raises(sim.StuckError, match=r"for 100 s without a deadline of its own.*raise quiet_limit") as caught:
        sim.run(scenario, quiet_limit=100)
    assert "b: tests.sim.test_limits." in str(caught.value)


def test_a_deadline_of_its_own_is_no_deadlock() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a").start_soon(beat)
        with trio.move_on_after(500):
            await trio.sleep_forever()

    sim.run(scenario, quiet_limit=100)


def test_a_host_that_never_ends_is_stuck_when_the_network_closes() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a").start_soon(wait_behind_a_shield)
        await trio.testing.wait_all_tasks_blocked()

    with pytest.raises(sim.StuckError, match="every task waits"):
        sim.run(scenario)


def test_a_task_that_swallows_every_exception_is_abandoned() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a").start_soon(swallow_everything)
        await trio.sleep_forever()

    with pytest.raises(sim.StuckError, match="without a deadline"):
        sim.run(scenario, quiet_limit=10)
    assert any("swallow_everything" in task.name for task in watch.abandoned)


def test_abandoned_tasks_do_not_affect_the_next_run() -> None:
    async def scenario(_: sim.Network) -> float:
        await trio.sleep(1)
        return trio.current_time()

    assert sim.run(scenario) == 1.000001
