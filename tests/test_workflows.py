"""The workflows of public CI, the script of every check and the documents use nox sessions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
FILES: Final = [
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    *[ROOT / name for name in (".ci/run", "README.md", "CONTRIBUTING.md")],
]
# A session is named without the Python it runs on: tests-3.13 is tests.
USED: Final = re.compile(r"\bnox -s ((?: ?[a-z][\w-]*)+)")


def defined_sessions() -> set[str]:
    """Return the names of the functions in ``noxfile.py`` that are decorated with ``nox.session``."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        if any(ast.unparse(decorator).startswith("nox.session") for decorator in node.decorator_list)
    }


def used_sessions(text: str) -> set[str]:
    """Return the sessions that the commands in a text run."""
    return {name.partition("-")[0] for match in USED.finditer(text) for name in match[1].split()}


def test_the_sessions_of_a_command_are_found() -> None:
    assert used_sessions("- run: nox -s tests-${{ matrix.python }}") == {"tests"}
    assert used_sessions('run: nox -s lint typing -- "$TAG"') == {"lint", "typing"}
    assert used_sessions("run: nox -s tests --force-python python") == {"tests"}
    assert {"lint", "tests", "typing"} < defined_sessions()


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_file_runs_sessions_that_exist(file: Path) -> None:
    used = used_sessions(file.read_text(encoding="utf-8").replace('"$nox"', "nox"))
    assert used
    assert used <= defined_sessions()


def test_the_workflows_test_every_supported_python() -> None:
    classifiers = re.findall(r'Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"^ +(3\.\d+)$", ci, re.MULTILINE)) == set(classifiers)
