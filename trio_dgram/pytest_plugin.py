"""The pytest plugin: tests on a simulated network, under many seeds, cancelled everywhere.

pytest loads it automatically; its fixtures need pytest-trio. Tests that do not use the simulated network do not import
any part of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, nullcontext
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing

from ._plugin.causes import add_cause
from ._plugin.checks import check_test, count_of
from ._plugin.examples import current_example, only_example
from ._plugin.options import cores, parse_jobs, parse_limits, parse_seconds
from ._plugin.reports import add_reports
from ._plugin.reruns import is_copy, mark_failure, run_once
from ._plugin.seeds import Plan, run_under_seeds
from ._plugin.tapes import add_unused, end_replay, lines_of, option_of, problem_of_file, replay_of
from ._values.test_runs import TestRun, current_test_run, running_test
from ._values.words import plural

if TYPE_CHECKING:
    from . import DatagramSocket
    from .sim import Network

_RUNS: Final = pytest.StashKey[dict[str, int]]()
"""The number of seeds that each test ran under."""
_IS_ONE_OF_MANY: Final = pytest.StashKey[bool]()
"""Whether a run of a test is one under many seeds, of which only the last one is explained."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of simulated networks."""
    group = parser.getgroup("trio_dgram", "simulated networks (trio_dgram)")
    group.addoption("--sim-seed", type=int, metavar="SEED", help="run simulated networks under this seed alone")
    group.addoption(
        "--sim-seeds", type=int, metavar="COUNT", help="run each test that is marked with seeds under so many"
    )
    group.addoption(
        "--sim-for",
        type=parse_seconds,
        metavar="TIME",
        help="run each test that is marked with seeds under as many as fit into a time, such as 60s or 5m",
    )
    group.addoption(
        "--sim-jobs",
        type=parse_jobs,
        metavar="COUNT",
        help="run the seeds of a test in so many processes; auto is one for each core (default: in this process; for "
        "shrinking one for each core)",
    )
    group.addoption(
        "--sim-tape", type=Path, metavar="FILE", help="replay the choices of a failed test from the tape in a file"
    )
    group.addoption(
        "--sim-artifacts",
        type=Path,
        metavar="DIR",
        help="the folder for captures and pictures of failed tests (default: pytest's cache)",
    )
    group.addoption(
        "--sim-confirm",
        action="store_true",
        help="run each shrunk failure on the real kernel too, in network namespaces and real time (Linux; root or user "
        "namespaces)",
    )
    group.addoption(
        "--sim-shrink",
        type=parse_limits,
        metavar="LIMIT",
        help="shrink a failed run to its cause within so many runs, or a time, such as 30s; 0 does not (default: 400 "
        "runs and 60s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and check the options."""
    tape = config.getoption("--sim-tape")
    if tape is not None:
        if config.getoption("--sim-seed") is not None:
            raise pytest.UsageError("--sim-tape and --sim-seed exclude each other: a tape has a seed")
        if problem := problem_of_file(tape):
            raise pytest.UsageError(problem)
    limits = config.getoption("--sim-shrink")
    if config.getoption("--sim-confirm") and limits is not None and limits.runs == 0:
        raise pytest.UsageError("--sim-confirm needs a failure that was shrunk, so --sim-shrink must not be 0")
    config.addinivalue_line(
        "markers", "tape(file): replay the choices of a failed run from a tape, a file beside the test"
    )
    config.addinivalue_line(
        "markers", "seeds(count): run the test under the seeds 0 to count - 1; the smallest that fails is reported"
    )
    config.addinivalue_line(
        "markers", "sim(**limits): arguments of sim.run for the fixture sim_network, such as time_limit and payload"
    )
    config.addinivalue_line(
        "markers", "cancel_everywhere: run the async test again and again, each time cancelled one schedule point later"
    )


# Missing requirements


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that does not meet the requirements of the plugin."""
    check_test(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test under Hypothesis with the example of its tape alone, if it has one."""
    result = None
    with only_example(item, current_test_run().tape):
        result = yield
    return result


# Many seeds


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that is marked with seeds under each of them, until one fails; before that with its tape."""
    marker = item.get_closest_marker("seeds")
    marked = count_of(marker) if marker is not None else None
    options = item.config.getoption("--sim-seed"), item.config.getoption("--sim-tape")
    if marked is None or options != (None, None):
        return None
    seconds = item.config.getoption("--sim-for")
    count = item.config.getoption("--sim-seeds") or (marked if seconds is None else None)
    plan = Plan(count, seconds, item.config.getoption("--sim-jobs") or 1)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = _run_tape_and_seeds(item, current_test_run(), plan)
    # As pytest does: an error of a fixture of a wider scope is one of the last test that uses it.
    teardown = functools.partial(item.session._setupstate.teardown_exact, nextitem)  # noqa: SLF001 -- no public name
    call = pytest.CallInfo.from_call(teardown, "teardown", reraise=(pytest.exit.Exception, KeyboardInterrupt))
    if call.excinfo is not None:
        reports.append(item.ihook.pytest_runtest_makereport(item=item, call=call))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_tape_and_seeds(item: pytest.Item, test_run: TestRun, plan: Plan) -> list[pytest.TestReport]:
    if test_run.tape is not None:
        reports = run_once(item, test_run, test_run.seed)
        if not all(report.passed for report in reports):
            return reports
        end_replay(item)
        test_run.tape = None
    item.stash[_IS_ONE_OF_MANY] = True
    outcome = run_under_seeds(item, test_run, plan)
    item.config.stash.setdefault(_RUNS, {})[item.nodeid] = outcome.runs
    for report in outcome.reports:
        if report.failed:
            add_cause(item, report, outcome.seed, _jobs_for_shrinking(item.config))
            break
    return outcome.reports


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the number of seeds that the time allowed, and which tapes do not fit any more."""
    for line in lines_of([report for reports in terminalreporter.stats.values() for report in reports]):
        terminalreporter.write_line(line)
    if config.getoption("--sim-for") is not None:
        for test, runs in config.stash.get(_RUNS, {}).items():
            terminalreporter.write_line(f"{test}: {runs} {plural(runs, 'seed')}")


# Cancelled everywhere


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cancel the async tests with the marker at each schedule point."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("cancel_everywhere") is None:
            continue
        if iscoroutinefunction(item.obj):
            item.obj = _cancelled_everywhere(item.obj)


def _cancelled_everywhere(test: Any) -> Any:
    @functools.wraps(test)
    async def run(**arguments: Any) -> None:
        from .sim import cancel_everywhere  # noqa: PLC0415 -- loaded where it is used

        await cancel_everywhere(functools.partial(test, **arguments))

    return run


# Reports of failures


@pytest.hookimpl(specname="pytest_runtest_protocol", wrapper=True, tryfirst=True)
def pytest_trio_dgram_collect_reports(item: pytest.Item) -> Generator[None, object, object]:
    """Collect the reports of the networks that a test opens, and give them its seed, or its tape."""
    replay = replay_of(item)
    seed = item.config.getoption("--sim-seed") or 0 if replay is None else replay.tape.seed
    with running_test(TestRun(seed, replay, find_example=current_example)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the story of its networks, and the cause, to the report of a test that failed."""
    report = yield
    if report.failed and call.excinfo is not None:
        test_run = current_test_run()
        mark_failure(report, call.excinfo.value)
        add_reports(item, report, test_run.seed, test_run.reports, option_of(item, test_run.seed))
        if call.when != "teardown" and not is_copy(item.config) and not item.stash.get(_IS_ONE_OF_MANY, False):
            add_cause(item, report, test_run.seed, _jobs_for_shrinking(item.config))
    if call.when == "call":
        add_unused(item, report)
    return report


def _jobs_for_shrinking(config: pytest.Config) -> int:
    # pytest-xdist uses the cores already.
    return config.getoption("--sim-jobs") or (1 if "PYTEST_XDIST_WORKER" in os.environ else cores())


# Fixtures


@pytest.fixture
async def sim_network(request: pytest.FixtureRequest) -> AsyncGenerator[Network]:
    """A simulated network for a test, under the test's seed.

    With the fixture ``autojump_clock`` of pytest-trio time is virtual, ``time.time`` and randomness included, and a
    test that would never end fails with :class:`sim.StuckError`. The limits and other arguments of :func:`sim.run` are
    arguments of a marker: ``@pytest.mark.sim(time_limit=600, payload=True)``.
    """
    from .sim._run.running import Settings  # noqa: PLC0415 -- loaded where it is used
    from .sim._run.tasks import all_tasks  # noqa: PLC0415
    from .sim._run.watch import guard  # noqa: PLC0415
    from .sim._values.choices import new_choices  # noqa: PLC0415

    test_run = current_test_run()
    marker = request.node.get_closest_marker("sim")
    settings = Settings(seed=test_run.seed, **(marker.kwargs if marker is not None else {}))
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    choices = new_choices(settings.seed)
    with settings.deterministic(choices) if virtual else nullcontext():
        async with trio.open_nursery() as nursery, settings.open_network(choices) as network:
            if virtual:
                watching = functools.partial(
                    guard,
                    network,
                    time_limit=settings.time_limit,
                    passes=settings.passes,
                    quiet_limit=settings.quiet_limit,
                    # pytest-trio expects this name.
                    task=next((task for task in all_tasks() if task.name.startswith("<test ")), None),
                )
                await nursery.start(watching)
            try:
                yield network
                await network._settle()  # noqa: SLF001 -- before the reports end
            finally:
                test_run.end_reports()
            nursery.cancel_scope.cancel()


@pytest.fixture
async def udp_pair(sim_network: Network) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket]]:
    """Two IPv4 sockets that are connected to each other, on the hosts ``"one"`` and ``"other"`` of ``sim_network``."""
    from . import open_socket  # noqa: PLC0415 -- loaded where it is used

    one, other = sim_network.host("one"), sim_network.host("other")
    async with AsyncExitStack() as stack:
        with one.active():
            first = await stack.enter_async_context(open_socket("udp4", port=0, host=one.ipv4))
        with other.active():
            second = await stack.enter_async_context(open_socket("udp4", port=0, host=other.ipv4))
        await first.connect(second.address)
        await second.connect(first.address)
        yield first, second
