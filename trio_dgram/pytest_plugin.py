"""The pytest plugin: tests on a simulated network, under many seeds, cancelled everywhere.

pytest loads it by itself; its fixtures need pytest-trio. Nothing of the simulated network is imported by tests that do
not use it.
"""

from __future__ import annotations

import functools
import re
import shlex
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, nullcontext, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
import trio.testing

if TYPE_CHECKING:
    from . import DatagramSocket
    from .sim import Network

_SEED: Final = pytest.StashKey[int]()
_NETWORKS: Final = pytest.StashKey["list[Network]"]()
_LONGEST_NAME: Final = 120
"""Of a file that is written, in characters."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options ``--sim-seed``, ``--sim-seeds`` and ``--sim-artifacts``."""
    group = parser.getgroup("trio_dgram", "simulated networks (trio_dgram)")
    group.addoption("--sim-seed", type=int, metavar="SEED", help="run simulated networks under this seed alone")
    group.addoption(
        "--sim-seeds", type=int, metavar="COUNT", help="run each test that is marked with seeds under so many"
    )
    group.addoption(
        "--sim-artifacts",
        type=Path,
        metavar="DIR",
        help="where the captures and pictures of failed tests go (default: pytest's cache)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line(
        "markers", "seeds(count): run the test under the seeds 0 to count - 1; the smallest that fails is reported"
    )
    config.addinivalue_line(
        "markers", "cancel_everywhere: run the async test again and again, each time cancelled one schedule point later"
    )


# Many seeds


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that is marked with seeds under each of them, until one fails."""
    marker = item.get_closest_marker("seeds")
    chosen: int | None = item.config.getoption("--sim-seed")
    item.stash[_SEED] = chosen or 0
    if marker is None or chosen is not None:
        return None
    count = item.config.getoption("--sim-seeds") or _count_of(marker, item)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _first_that_fails(item, nextitem, count):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _count_of(marker: pytest.Mark, item: pytest.Item) -> int:
    if len(marker.args) != 1 or not isinstance(marker.args[0], int) or marker.args[0] < 1:
        raise pytest.UsageError(f"{item.nodeid}: seeds takes how many there are, from 1 on, not {marker.args!r}")
    return marker.args[0]


def _first_that_fails(item: pytest.Item, nextitem: pytest.Item | None, count: int) -> list[pytest.TestReport]:
    """Return the reports of the first run that fails, of the last if none does."""
    # pytest has no public way to run a test again; this is how the plugins do it that have to.
    from _pytest.runner import runtestprotocol  # noqa: PLC0415

    reports: list[pytest.TestReport] = []
    for seed in range(count):
        item.stash[_SEED] = seed
        # What has a wider scope than the test lives on until its last run: what comes next is of the same parent.
        parent: Any = item.parent
        reports = runtestprotocol(item, log=False, nextitem=parent)
        if not all(report.passed for report in reports):
            break
    item.session._setupstate.teardown_exact(nextitem)  # noqa: SLF001 -- likewise
    return reports


# Cancelled everywhere


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that are marked so be cancelled everywhere."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("cancel_everywhere"):
            if not iscoroutinefunction(item.obj):
                raise pytest.UsageError(f"{item.nodeid}: cancel_everywhere is for async tests")
            item.obj = _cancelled_everywhere(item.obj)


def _cancelled_everywhere(test: Any) -> Any:
    @functools.wraps(test)
    async def run(**arguments: Any) -> None:
        from .sim import cancel_everywhere  # noqa: PLC0415 -- loaded where it is used

        await cancel_everywhere(functools.partial(test, **arguments))

    return run


# What failed


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Gather the networks that a test opens, and tell them its seed."""
    # Where nobody has imported it, there are none.
    if "trio_dgram.sim" not in sys.modules:
        return (yield)
    from .sim._network.session import default_seed, opened  # noqa: PLC0415 -- loaded where it is used

    networks = item.stash[_NETWORKS] = []
    seed_token, opened_token = default_seed.set(item.stash[_SEED]), opened.set(networks)
    try:
        return (yield)
    finally:
        opened.reset(opened_token)
        default_seed.reset(seed_token)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the story of the networks of a test that failed."""
    report = yield
    if call.when == "call" and report.failed:
        networks: list[Network] = item.stash.get(_NETWORKS, [])
        for number, network in enumerate(networks):
            # Where it ran by sim.run, the error tells the story itself.
            told = f"digest {network.digest}" in report.longreprtext
            report.sections.append(("simulated network", _story(item, network, number, told=told)))
    return report


def _story(item: pytest.Item, network: Network, number: int, *, told: bool) -> str:
    from .sim._run.running import describe  # noqa: PLC0415 -- loaded where it is used

    again = f"pytest {shlex.quote(item.nodeid)} --sim-seed={item.stash[_SEED]}"
    written = _write_artifacts(item, network, number)
    story = [] if told else [describe(network), ""]
    return "\n".join([*story, f"Run just this again: {again}", *written])


def _write_artifacts(item: pytest.Item, network: Network, number: int) -> list[str]:
    chosen: Path | None = item.config.getoption("--sim-artifacts")
    folder = chosen if chosen is not None else _cache_of(item.config)
    if folder is None or not len(network.trace):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", item.nodeid)[-_LONGEST_NAME:]
    base = f"{name}-seed-{item.stash[_SEED]}-{number}"
    picture, capture = folder / f"{base}.svg", folder / f"{base}.pcapng"
    network.trace.to_svg(picture)
    try:
        network.trace.to_pcapng(capture)
    except ImportError as error:
        return [f"Picture: {picture}", f"No capture: {error}"]
    return [f"Picture: {picture}", f"Capture: {capture}"]


def _cache_of(config: pytest.Config) -> Path | None:
    # There is none where the plugin that keeps it is switched off.
    with suppress(AttributeError):
        return Path(config.cache.mkdir("trio_dgram"))
    return None


# Fixtures


@pytest.fixture
async def sim_network(request: pytest.FixtureRequest) -> AsyncGenerator[Network]:
    """A simulated network for a test, under the test's seed.

    With the fixture ``autojump_clock`` of pytest-trio time is virtual, ``time.time`` and what passes for chance
    included, and a test that will never end fails with :class:`sim.StuckError`.
    """
    from .sim import open_network  # noqa: PLC0415 -- loaded where it is used
    from .sim._run.determinism import deterministic  # noqa: PLC0415
    from .sim._run.watch import guard  # noqa: PLC0415

    seed = request.node.stash[_SEED]
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    with deterministic(seed) if virtual else nullcontext():
        async with trio.open_nursery() as nursery, open_network(seed=seed) as network:
            if virtual:
                nursery.start_soon(guard, network)
            yield network
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
