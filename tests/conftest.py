"""What every test may use, and what holds for every run."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Final

import hypothesis
import pytest

from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel import python_calls as _python_calls
from trio_dgram._socket import inbox as _inbox

from .support.families import FAMILIES, Family
from .support.faults import RefusingSocket, faulty_kernel
from .support.refusals import NAMES

pytest_plugins = ["pytester", "tests.support.namespaces", "tests.support.passing"]

# Plain pytest does not put it there; last, so that it hides no package that is installed.
sys.path.append(str(Path(__file__).parents[1]))

# .ci/run installs every program that a test uses, so only a feature of the kernel, or one that the distribution builds
# its program without, may be missing there.
COMPLETE: Final = os.environ.get("CI") == "true" and sys.platform == "linux"
PURE: Final = ("pure:",) if os.environ.get("TRIO_DGRAM_PURE", "0") not in ("", "0") else ()
ALLOWED_SKIPS: Final = ("kernel:", "distribution:", *PURE) if COMPLETE else ("",)

# Slow is not wrong on a shared machine, and CI tries the same examples each time.
hypothesis.settings.register_profile("trio_dgram", deadline=None, derandomize=COMPLETE)
hypothesis.settings.register_profile("few", hypothesis.settings.get_profile("trio_dgram"), max_examples=20)
hypothesis.settings.load_profile("trio_dgram")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--portable",
        action="store_true",
        help="run as on a platform that can do no more than the portable calls",
    )
    parser.addoption(
        "--refuse",
        action="append",
        choices=["each", *NAMES],
        default=[],
        metavar="NAME",
        help="run the conformance suite on a kernel without this option or call (tests/support/refusals.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts in the background ignore interrupts, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--portable"):
        _capabilities.detected = _capabilities.portable()  # pragma: no cover -- the session tests_portable runs it


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    # A full garbage collection takes half a second where it visits the tests themselves, thousands of them.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report, ALLOWED_SKIPS)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report, ALLOWED_SKIPS)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport, allowed: tuple[str, ...]) -> None:
    """Make a failure of a skip whose reason starts with none of ``allowed``."""
    # What was expected to fail is a skip too in pytest's eyes, but without a place and a reason.
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(allowed):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be missing: {reason}"


@pytest.fixture
def coalescing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sockets switch receive offload on when they are first read, not only in a flood."""
    monkeypatch.setattr(_inbox, "FLOOD", 0)


@pytest.fixture(params=["offload", "no offload", "offload refused half-way"])
async def offload(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[bool]:
    """The offload of sockets: enabled, disabled, and enabled on a kernel that refuses it after a while."""
    if request.param == "offload refused half-way":
        monkeypatch.setattr("tests.support.faults.FaultySocket", RefusingSocket)
        with faulty_kernel():
            yield True
    else:
        yield request.param == "offload"


@pytest.fixture(params=["one by one", "in batches"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sockets read each datagram by a call of its own, or all that are there by one."""
    monkeypatch.setattr(_python_calls, "_BURST", 0 if request.param == "in batches" else sys.maxsize)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.type, scope="module")
def udp(request: pytest.FixtureRequest) -> Family:
    """Each address family in turn. Of module scope, because Hypothesis rejects function-scoped fixtures."""
    assert isinstance(request.param, Family)
    return request.param
