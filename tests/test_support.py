"""What the tests lean on holds itself."""

from __future__ import annotations

import os
import sys

import pytest
import trio

from trio_dgram.sim import cancel_everywhere

from .conftest import refuse_skip
from .support.descriptors import same_descriptors
from .support.programs import find_program


def report(outcome: str, text: object) -> pytest.TestReport:
    location = ("tests/test_it.py", 1, "test_it")
    return pytest.TestReport("test_it", location, {}, outcome, text, "call")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # any outcome


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("program: socat is not installed", "failed"), ("kernel: it has no IPv6", "skipped")],
)
def test_a_missing_program_fails_and_a_missing_kernel_feature_skips(reason: str, outcome: str) -> None:
    skipped = report("skipped", ("tests/test_it.py", 1, f"Skipped: {reason}"))
    refuse_skip(skipped, ("kernel:",))
    assert skipped.outcome == outcome
    assert reason in str(skipped.longrepr)


def test_elsewhere_anything_may_be_missing() -> None:
    skipped = report("skipped", ("tests/test_it.py", 1, "Skipped: program: socat is not installed"))
    refuse_skip(skipped, ("",))
    assert skipped.outcome == "skipped"


@pytest.mark.parametrize("outcome", ["passed", "failed", "skipped"])
def test_other_outcomes_stay(outcome: str) -> None:
    other = report(outcome, "not a skip's place and reason")
    refuse_skip(other, ("kernel:",))
    assert other.outcome == outcome


def test_a_program_is_found() -> None:
    assert os.access(find_program("sh"), os.X_OK)


def test_a_missing_program_is_a_skip_that_names_it() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"program: no-such-program"):
        find_program("no-such-program")


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: no /proc")
def test_a_descriptor_left_open_is_noticed() -> None:
    left_open: list[int] = []
    with pytest.raises(AssertionError), same_descriptors():
        left_open.extend(os.pipe())
    with same_descriptors():
        left_open.append(os.dup(left_open[0]))
        os.close(left_open.pop())
    for descriptor in left_open:
        os.close(descriptor)


async def test_a_scenario_that_does_not_end_is_reported() -> None:
    async def scenario() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="in 2 schedule points"):
        await cancel_everywhere(scenario, limit=2)


async def test_the_error_of_a_scenario_names_the_schedule_point() -> None:
    async def scenario() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own") as caught:
        await cancel_everywhere(scenario)
    assert "schedule point" in caught.value.__notes__[0]


async def test_a_task_that_a_scenario_leaves_is_found() -> None:
    async with trio.open_nursery() as outside:

        async def scenario() -> None:
            outside.start_soon(trio.sleep_forever)

        with pytest.raises(AssertionError, match="tasks were left"):
            await cancel_everywhere(scenario)
        outside.cancel_scope.cancel()
