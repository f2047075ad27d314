"""The programs of ``examples/``, run as child processes."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

import attrs
import pytest

from .namespaces import Program, program

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


@attrs.define
class Example:
    """A running example, with its unread output."""

    program: Program
    _unread: bytes = b""

    def until(self, text: str) -> str:
        """Return its output up to ``text``."""
        while text.encode() not in self._unread:
            piece = self.program.read()
            assert piece, f"the example has ended after {self._unread!r}"
            self._unread += piece
        before, _, self._unread = self._unread.partition(text.encode())
        return before.decode() + text

    def line(self) -> str:
        """Return the next line of its output."""
        return self.until("\n").removesuffix("\n")

    def line_with(self, text: str) -> str:
        """Return the next line that contains ``text``, and skip the lines before it."""
        return next(line for line in iter(self.line, None) if text in line)

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """End it by a signal, by default that of Ctrl-C, and return its status and the rest of its output."""
        self.program.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait until it ends, and return its status and the rest of its output."""
        while piece := self.program.read():
            self._unread += piece
        return self.program.process.wait(), self._unread.decode()


_RUN_EACH: Final = """
import ast, importlib, json, os, pathlib, runpy, sys, tempfile

path = sys.argv[1]
for node in ast.parse(pathlib.Path(path).read_bytes()).body:
    if isinstance(node, ast.ImportFrom):
        importlib.import_module(node.module)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            importlib.import_module(alias.name)
results = []
for arguments in json.loads(sys.argv[2]):
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.argv = [path, *arguments]
            runpy.run_path(path, run_name="__main__")
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        results.append((status, output.read().decode()))
json.dump(results, sys.stdout)
"""


def offending_runs(name: str, rows: Sequence[tuple[list[str], int, str]]) -> list[str]:
    """Run an example with the arguments of each row, and return a line for each row that does not hold.

    A row holds if the exit status is the expected one and the output has the expected text and no traceback. The runs
    are forks of one process, which imports everything once.
    """
    command = [sys.executable, "-c", _RUN_EACH, str(EXAMPLES / name), json.dumps([row[0] for row in rows])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return [
        f"{arguments} ended with {status} and {output!r}, not with {expected} and {text!r}"
        for (arguments, expected, text), (status, output) in zip(rows, json.loads(done.stdout), strict=True)
        if status != expected or text not in output or "Traceback" in output
    ]


def load_example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the example ``name`` as a new module for the test."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, name, module)
    specification.loader.exec_module(module)
    return module


@contextmanager
def example(name: str, *arguments: str, output: Path | None = None) -> Generator[Example]:
    """Run an example for the block, with its standard output written to ``output``, if any.

    Otherwise standard output and standard error are read together.
    """
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    if output is not None:
        command = ["sh", "-c", f'exec "$@" >"{output}"', "sh", *command]
    with program(*command) as running:
        yield Example(running)
