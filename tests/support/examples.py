"""The programs of ``examples/``, run as their users run them."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Generator
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
    """An example that runs, and what it has said so far that nobody has looked at."""

    program: Program
    _unread: bytes = b""

    def until(self, text: str) -> str:
        """Return what it prints, or logs, up to ``text``."""
        while text.encode() not in self._unread:
            piece = self.program.read()
            assert piece, f"the example has ended after {self._unread!r}"
            self._unread += piece
        before, _, self._unread = self._unread.partition(text.encode())
        return before.decode() + text

    def line(self) -> str:
        """Return the next line that it prints, or logs."""
        return self.until("\n").removesuffix("\n")

    def line_with(self, text: str) -> str:
        """Return the next line that has ``text`` in it; the others are passed over."""
        return next(line for line in iter(self.line, None) if text in line)

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """End it by a signal, as Ctrl-C does, and return its status and what it still had to say."""
        self.program.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Wait until it ends, and return its status and what it still had to say."""
        while piece := self.program.read():
            self._unread += piece
        return self.program.process.wait(), self._unread.decode()


def load_example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module of its own, made of the example ``name``, for the test."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, name, module)
    specification.loader.exec_module(module)
    return module


@contextmanager
def example(name: str, *arguments: str, output: Path | None = None) -> Generator[Example]:
    """Run an example for the block, its standard output in a file if ``output`` names one.

    Without that, what it prints and what it logs come as one.
    """
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    if output is not None:
        command = ["sh", "-c", f'exec "$@" >"{output}"', "sh", *command]
    with program(*command) as running:
        yield Example(running)
