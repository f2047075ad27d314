"""The cause of a failed test: its run is recorded and shrunk in copies of the process."""

from __future__ import annotations

import os
import re

import pytest

from trio_dgram import sim
from trio_dgram._plugin.options import Limits, parse_limits
from trio_dgram._plugin.reruns import Copies, identify

from .conftest import COUNTER, Run

pytestmark = pytest.mark.programs

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
SCENARIO = f"""
{COUNTER}
    async def scenario(network):
        network.defaults(delay=0.02, jitter=0.01, loss=0.4)
        totals = []
        network.host("server").start_soon(count, totals)
        await trio.testing.wait_all_tasks_blocked()
        await network.host("client").run(add)
        assert totals == [5], f"the total is {{totals[-1]}}"
"""
FIXTURE = "async def test_it(sim_network, autojump_clock): await scenario(sim_network)"
FAILING = {
    "fixture": FIXTURE,
    "run": "def test_it(): sim.run(scenario)",
    "seeds": f"@pytest.mark.seeds(5)\n    {FIXTURE}",
    "Hypothesis": """
    from hypothesis import given, settings, strategies

    @settings(max_examples=20, deadline=None, database=None)
    @given(strategies.integers(0, 9))
    def test_it(size):
        async def sized(network):
            if size > 4: await scenario(network)
        sim.run(sized)
    """,
    "set-up": """
    @pytest.fixture
    def prepared(): sim.run(scenario)

    def test_it(prepared): pass
    """,
}
OTHERS = [kind for kind in FAILING if kind != "fixture"]
CAUSE = """\
  fails only if  #2 (server -> client, total 5) is lost
  passes if it is taken away
  inevitable from 0.02 s, 0.22 s before it shows: 20 of 20 continuations fail
4 of 4 datagrams of the shrunk run:
"""


@pytest.mark.parametrize("kind", ["fixture", *(pytest.param(kind, marks=pytest.mark.long) for kind in OTHERS)])
def test_a_failed_test_shows_its_cause(run: Run, pytester: pytest.Pytester, kind: str) -> None:
    text = run(f"{SCENARIO}\n    {FAILING[kind]}", "--sim-shrink=400", "--sim-artifacts=shown").stdout.str()
    assert re.search(r"^seed 0, shrunk from \d+ choices to 1 in \d+ runs:$", text, re.MULTILINE)
    assert CAUSE in text
    tape, report = re.findall(r"(?:--sim-tape=|^Report: )(\S+)", text, re.MULTILINE)
    assert '["server -> client: loss", 1, true]' in pytester.path.joinpath(tape).read_text()
    assert "fails only if" in pytester.path.joinpath(report).read_text()


@pytest.mark.long
def test_the_number_of_processes_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"{SCENARIO}\n    {FIXTURE}"
    one = cause_of(run(program, "--sim-shrink=400", "--sim-jobs=1"))
    assert cause_of(run(program, "--sim-shrink=400", "--sim-jobs=3")) == one
    # The workers of pytest-xdist use the cores already.
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert cause_of(run(program, "--sim-shrink=400")) == one


def cause_of(result: pytest.RunResult) -> str:  # pragma: no cover -- of a long test
    """Return the section about the cause, without the command, which has the options."""
    text = result.stdout.str()
    return text[text.index("- cause -") : text.index("Replay:")]


def test_the_limit_on_runs_includes_continuations(run: Run) -> None:
    text = run(f"{SCENARIO}\n    {FIXTURE}", "--sim-shrink=7").stdout.str()
    assert " in 7 runs:" in text
    assert "passes if it is taken away\n4 of 4 datagrams" in text


@pytest.mark.long
def test_the_cause_of_one_of_several_failures_under_hypothesis_names_that(run: Run) -> None:
    hypothesis = FAILING["Hypothesis"].replace("if size > 4:", "assert size != 3, 'three'\n            if size > 4:")
    text = run(f"{SCENARIO}\n    {hypothesis}", "--sim-shrink=400").stdout.str()
    assert "2 distinct failures" in text
    assert re.search("- cause -+\nAssertionError: three\nseed 0, shrunk from ", text) is not None


def test_continuations_are_not_run_of_a_test_with_several_open_networks(run: Run) -> None:
    text = run(
        f"""{SCENARIO}
    async def two(network):
        async with sim.open_network() as inner:
            await scenario(inner)

    def test_it(): sim.run(two)
    """,
        "--sim-shrink=400",
    ).stdout.str()
    assert "fails only if" in text
    assert "inevitable" not in text


def test_the_limit_on_runs_is_reported(run: Run) -> None:
    text = run(f"{SCENARIO}\n    {FIXTURE}", "--sim-shrink=2").stdout.str()
    assert " in 2 runs:" in text
    assert "  fails if  " in text
    assert "  the limits ended shrinking before every choice was examined" in text


@pytest.mark.parametrize(
    ("program", "option"),
    [
        (f"{SCENARIO}\n    {FIXTURE}", "--sim-shrink=0"),
        ("    def test_it(): assert 0", "--sim-shrink=400"),
        (
            """
    from hypothesis import stateful

    class Machine(stateful.RuleBasedStateMachine):
        @stateful.rule()
        def fail(self):
            async def scenario(network): assert False
            sim.run(scenario)

    test_it = Machine.TestCase
    """,
            "--sim-shrink=400",
        ),
    ],
)
def test_other_failures_have_no_cause(run: Run, program: str, option: str) -> None:
    result = run(program, option)
    result.assert_outcomes(failed=1)
    assert "- cause -" not in result.stdout.str()


def test_a_failure_that_does_not_occur_again_is_reported(run: Run) -> None:
    text = run(
        """
    runs = []

    async def test_it(sim_network, autojump_clock):
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("first 1")
        raise ValueError("second")
    """,
        "--sim-shrink=400",
    ).stdout.str()
    assert "The run did not fail in the same way again: the test depends on more than its seed." in text


def test_a_test_that_ends_its_process_is_reported(run: Run) -> None:
    text = run(
        """
    import os
    runs = []

    async def test_it(sim_network, autojump_clock):
        runs.append(1)
        if len(runs) == 2:
            os._exit(1)
        assert 0
    """,
        "--sim-shrink=400",
    ).stdout.str()
    assert "The run that records the choices did not end." in text


def test_a_failure_of_a_fixture_of_a_wider_scope_is_reported(run: Run) -> None:
    text = run(
        """
    async def scenario(network): assert 0

    @pytest.fixture(scope="module")
    def prepared(): sim.run(scenario)

    def test_it(prepared): pass
    """,
        "--sim-shrink=400",
    ).stdout.str()
    assert "what fails is not the test, but a fixture of a wider scope" in text


def half(item: pytest.Item, number: int) -> int:  # pragma: no cover -- in another process
    """Called in a copy; it ends for an odd number."""
    if number % 2:
        os._exit(1)
    return number // 2


def test_copies_answer_in_order_and_are_replaced_when_they_end(request: pytest.FixtureRequest) -> None:
    copies = Copies(request.node, 2)
    try:
        assert list(copies.map(half, [2, 4, 5, 6, 7, 9, 8])) == [1, 2, None, 3, None, None, 4]
        assert copies.call(half, 10) == 5
    finally:
        copies.end()


@pytest.mark.parametrize(
    ("error", "same", "other"),
    [
        (ValueError("port 4000 at 0x7f12"), ValueError("port 5 at 0x1"), ValueError("socket 4000")),
        (ValueError("[1, 2, 3]"), ValueError("[4]"), TypeError("[1, 2, 3]")),
        (ValueError("first\nsecond"), ValueError("first"), ValueError("second")),
        (sim.InvariantError("a leader: no"), sim.InvariantError("a leader: two"), sim.InvariantError("no leader: no")),
        (
            ExceptionGroup("", [ValueError("x 1"), KeyError("y")]),
            ExceptionGroup("other", [KeyError("y"), ExceptionGroup("", [ValueError("x 2")])]),
            ExceptionGroup("", [ValueError("x 1")]),
        ),
    ],
)
def test_a_failure_is_identified_by_types_and_messages_without_numbers(
    error: Exception, same: Exception, other: Exception
) -> None:
    assert identify(error) == identify(same) != identify(other)


def test_copies_print_nothing(run: Run) -> None:
    program = f"{SCENARIO}\n    {FIXTURE}".replace("await scenario", "print('pr' + 'inted'); await scenario")
    text = run(program, "--sim-shrink=2", "-s", "-o", "log_cli=true", "-o", "log_cli_level=1").stdout.str()
    assert "- cause -" in text
    assert text.count("printed") == 1


@pytest.mark.parametrize(
    ("text", "limits"), [("400", Limits(400, None)), ("1.5m", Limits(None, 90.0)), ("0", Limits(0, None))]
)
def test_the_limit_is_a_number_of_runs_or_a_time(text: str, limits: Limits) -> None:
    assert parse_limits(text) == limits


def test_a_wrong_limit_is_refused(run: Run) -> None:
    result = run("def test_it(): pass", "--sim-shrink=soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "must be a number of runs, such as 400, a time, such as 30s, or 0, not 'soon'" in result.stderr.str()
