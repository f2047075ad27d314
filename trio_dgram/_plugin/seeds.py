"""Running a test under many seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from .._values.test_runs import TestRun


def run_until_failure(item: pytest.Item, test_run: TestRun, seeds: Iterable[int]) -> list[pytest.TestReport]:
    """Run a test under each of the seeds until it fails, and return the reports of the last run.

    Fixtures of a wider scope than the test stay set up.
    """
    # pytest has no public function that runs a test again; plugins that repeat tests use this one.
    from _pytest.runner import runtestprotocol  # noqa: PLC0415

    # A next test with the same parent keeps the fixtures of a wider scope.
    parent: Any = item.parent
    reports: list[pytest.TestReport] = []
    for seed in seeds:
        test_run.seed = seed
        test_run.reports.clear()
        reports = runtestprotocol(item, log=False, nextitem=parent)
        if not all(report.passed for report in reports):
            break
    return reports
