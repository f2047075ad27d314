"""What the plugin reports, in one line at the test, where a test lacks something."""

from __future__ import annotations

import pytest

from trio_dgram import sim

from .conftest import LOAD, Run

# A pytest in this process forgets the modules that it imports, so import the simulator before.
KEPT = sim
ASYNC = "async def test_it(sim_network): pass"


def problem(result: pytest.RunResult) -> str:
    """Return the one line that is reported of the one test."""
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
