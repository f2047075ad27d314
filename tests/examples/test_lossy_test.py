"""The test file for users to copy, run by a separate pytest in a folder of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from ..support.examples import EXAMPLES

# An installed package loads the plugin automatically.
LOADED: Final = any(point.name == "trio_dgram" for point in entry_points(group="pytest11"))

pytestmark = pytest.mark.long

Run: TypeAlias = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest on a copy of the file; returns its exit status and its output."""
    copy = shutil.copy(EXAMPLES / "lossy_test.py", tmp_path)

    def run(*options: str) -> tuple[int, str]:
        load = () if LOADED else ("-p", "trio_dgram.pytest_plugin")
        command = [sys.executable, "-m", "pytest", f"--rootdir={tmp_path}", *load, "-W", "error", *options]
        done = subprocess.run([*command, copy], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_client_passes_and_the_naive_one_fails_as_expected(run: Run) -> None:
    status, output = run()
    assert status == 0
    assert re.search("6 passed, 1 xfailed in", output)


def test_a_failing_test_reports_the_same_trace_in_every_run(run: Run, tmp_path: Path) -> None:
    reports = []
    for _ in range(2):
        status, output = run("--runxfail", "-k", "naive", "--sim-artifacts=shown")
        assert status == 1
        assert "1 failed, 6 deselected" in output
        reports.append(output.partition(" simulated network ")[2].rpartition(" in ")[0])
    assert reports[0] == reports[1]
    assert "On the simulated network, seed 0, digest " in reports[0]
    assert re.search(r"server [\d.]+:5005 -> client .* dropped: lost", reports[0])
    assert re.search(r"Run just this again: .* lossy_test\.py::test_the_naive_client --sim-seed=0\n", reports[0])
    (picture,) = re.findall("Picture: (.*)", reports[0])
    assert (tmp_path / picture).read_text().startswith("<svg")


def test_other_seeds_pass_too(run: Run) -> None:
    for option in ("--sim-seeds=3", "--sim-seed=3"):
        status, output = run(option)
        assert status == 0
        assert "6 passed, 1 xfailed" in output
