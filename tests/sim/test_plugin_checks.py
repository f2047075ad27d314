"""The errors of the plugin, in one line at the test, for requirements that a test does not meet."""

from __future__ import annotations

import attrs
import pytest

from trio_dgram import sim
from trio_dgram._plugin.checks import LIMITS
from trio_dgram.sim._run.running import Settings

from .conftest import LOAD, Run

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
ASYNC = "async def test_it(sim_network): pass"


def problem(result: pytest.RunResult) -> str:
    """Return the one line of the report of the one test."""
    result.assert_outcomes(errors=1)
    lines = result.stdout.str().splitlines()
    (start,) = [number for number, line in enumerate(lines) if "ERROR at setup of test_it" in line]
    assert lines[start + 2].startswith("====")
    return lines[start + 1]


@pytest.mark.parametrize("given", ["", "0", "'many'", "1, 2", "count=3", "True, 1"])
def test_seeds_needs_a_number(run: Run, given: str) -> None:
    result = run(f"""
    @pytest.mark.seeds({given})
    def test_it(): pass
    """)
    assert problem(result).startswith("seeds must have a number of seeds, such as @pytest.mark.seeds(50), not (")


def test_cancel_everywhere_needs_an_async_test(run: Run) -> None:
    result = run("""
    @pytest.mark.cancel_everywhere
    def test_it(): pass
    """)
    assert problem(result) == (
        "cancel_everywhere must mark an async test: make the test async, or call sim.cancel_everywhere"
    )


@pytest.mark.parametrize("fixture", ["sim_network", "udp_pair"])
def test_the_fixtures_need_an_async_test(run: Run, fixture: str) -> None:
    result = run(f"    def test_it({fixture}): pass")
    assert f"the fixture {fixture} needs an async test: make the test async, or" in problem(result).replace(
        "sim_network needs", f"{fixture} needs"
    )


def test_the_fixtures_are_refused_under_hypothesis(run: Run) -> None:
    result = run("""
    from hypothesis import given, strategies

    @given(number=strategies.integers())
    async def test_it(sim_network, number): pass
    """)
    assert problem(result) == (
        "the fixture sim_network is set up once, and Hypothesis runs a test often: use sim.run(scenario)"
    )


def test_the_fixtures_need_trio_mode(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(ASYNC)
    result = pytester.runpytest_inprocess(*LOAD)
    assert problem(result) == (
        "the fixture sim_network needs trio_mode = true in pytest's configuration, or @pytest.mark.trio at the test"
    )


def test_a_test_that_is_marked_trio_needs_no_trio_mode(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.trio\n{ASYNC}")
    pytester.runpytest_inprocess(*LOAD).assert_outcomes(passed=1)


def test_the_fixtures_need_pytest_trio(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASYNC)
    result = pytester.runpytest_inprocess(*LOAD, "-p", "no:trio")
    assert problem(result) == "the fixture sim_network needs pytest-trio: pip install pytest-trio"


def test_the_marker_sim_accepts_the_limits_of_a_run() -> None:
    settings = {field.name for field in attrs.fields(Settings)}
    assert settings - {"seed"} == LIMITS


@pytest.mark.parametrize(
    ("given", "wrong"), [("7", "7"), ("limit=7", "limit"), ("seed=1, check=True, payload=True", "check, seed")]
)
def test_the_marker_sim_refuses_other_arguments(run: Run, given: str, wrong: str) -> None:
    result = run(f"""
    @pytest.mark.sim({given})
    async def test_it(sim_network): pass
    """)
    assert problem(result) == f"sim accepts only the keyword arguments {', '.join(sorted(LIMITS))}, not {wrong}"


def test_limits_hold_for_the_fixture(run: Run) -> None:
    result = run("""
    @pytest.mark.sim(time_limit=10)
    async def test_time(sim_network, autojump_clock):
        await trio.sleep(20)

    @pytest.mark.sim(passes=50)
    async def test_passes(sim_network, autojump_clock):
        while True: await trio.sleep(0)

    async def beat():
        while True: await trio.sleep(1)

    @pytest.mark.sim(quiet_limit=60)
    async def test_quiet(sim_network, autojump_clock):
        sim_network.host("a").start_soon(beat)
        await trio.sleep_forever()

    @pytest.mark.sim(trace_limit=2, payload=True, timer_slack=0.25, fake_time=False, fake_randomness=False)
    async def test_all(sim_network, autojump_clock):
        for number in range(3):
            sim_network.note(str(number))
        await trio.sleep(1)
        assert sim_network.time == 1.25
        assert len(sim_network.trace.notes) == 2
        assert time.time() > 1_767_225_600 + 86_400

    @pytest.mark.sim(time_limit=-1)
    async def test_wrong(sim_network): pass
    """)
    result.assert_outcomes(failed=4, passed=1)
    text = result.stdout.str()
    assert "takes longer than 10 s" in text
    assert "time stands still" in text
    assert "has waited for 60 s without a deadline of its own" in text
    assert "time_limit must be at least 0" in text
