"""The test file to copy, run by a pytest of its own in a folder where there is nothing else."""

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

# It loads by itself where the package is installed.
LOADED: Final = any(point.name == "trio_dgram" for point in entry_points(group="pytest11"))

pytestmark = pytest.mark.long

Run: TypeAlias = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest on a copy of the file; returns its exit status and what it says."""
    copy = shutil.copy(EXAMPLES / "lossy_test.py", tmp_path)

    def run(*options: str) -> tuple[int, str]:
        load = () if LOADED else ("-p", "trio_dgram.pytest_plugin")
        command = [sys.executable, "-m", "pytest", f"--rootdir={tmp_path}", *load, "-W", "error", *options]
        done = subprocess.run([*command, copy], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_client_passes_and_the_naive_one_fails_as_expected(run: Run) -> None:
    status, said = run()
    assert status == 0
    assert re.search("6 passed, 1 xfailed in", said)


def test_a_failing_test_reports_the_same_trace_in_every_run(run: Run, tmp_path: Path) -> None:
    said = []
    for _ in range(2):
        status, told = run("--runxfail", "-k", "naive", "--sim-artifacts=shown")
        assert status == 1
        assert "1 failed, 6 deselected" in told
        said.append(told.partition(" simulated network ")[2].rpartition(" in ")[0])
    assert said[0] == said[1]
    assert "On the simulated network, seed 0, digest " in said[0]
    assert re.search(r"server [\d.]+:5005 -> client .* dropped: lost", said[0])
    assert "Run just this again: pytest lossy_test.py::test_the_naive_client --sim-seed=0\n" in said[0]
    (picture,) = re.findall("Picture: (.*)", said[0])
    assert (tmp_path / picture).read_text().startswith("<svg")


def test_other_seeds_pass_too(run: Run) -> None:
    for option in ("--sim-seeds=3", "--sim-seed=3"):
        status, said = run(option)
        assert status == 0
        assert "6 passed, 1 xfailed" in said
