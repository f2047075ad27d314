"""INDEX.md names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
INDEX = (Path(__file__).parent / "INDEX.md").read_text()


def test_the_index_names_only_tests_that_exist() -> None:
    defined = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = set(re.findall(r"`(test_\w+)`", INDEX))
    assert named
    assert named <= defined, named - defined


@pytest.mark.parametrize("suite", ["Node", "libuv", "anyio"])
def test_every_row_has_a_test_or_a_reason(suite: str) -> None:
    section = INDEX.split(f"## {suite}")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        assert len(row) == 2, row
        assert row[1].strip(), row
