"""Commands of ``trio-dgram``, run in the test's process with streams in memory."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio

from trio_dgram.__main__ import COMMANDS, main
from trio_dgram._commands.command import parse, report
from trio_dgram._commands.console import Console

not_portable = pytest.mark.skipif(
    "config.getoption('--portable')",
    reason="kernel: the portable path reports no drops, ICMP errors or local addresses",
)

PROGRAM = [sys.executable, "-m", "trio_dgram"]


class Screen:
    """A stream that keeps what is written."""

    def __init__(self, *, terminal: bool = False) -> None:
        self._terminal = terminal
        self._written = b""
        self._waiting = trio.lowlevel.ParkingLot()

    def write(self, data: bytes) -> None:
        self._written += data
        self._waiting.unpark_all()

    def flush(self) -> None:
        """Nothing is buffered."""

    def isatty(self) -> bool:
        return self._terminal

    @property
    def data(self) -> bytes:
        """Everything that was written."""
        return self._written

    @property
    def text(self) -> str:
        """The same as text."""
        return self._written.decode()

    async def until(self, text: str, times: int = 1) -> str:
        """Wait until ``text`` has been written so often, and return everything that was written."""
        with trio.fail_after(20):
            while self.text.count(text) < times:
                await self._waiting.park()
        return self.text


@attrs.frozen
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@contextmanager
def standard_input(data: bytes) -> Generator[int]:
    """A descriptor to read ``data`` from."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def run_command(*words: str, stdin: bytes = b"") -> Outcome:
    """Run a command line to its end, outside of Trio."""
    out, err = Screen(), Screen()
    with standard_input(stdin) as descriptor:
        code = main(words, Console(out, err, descriptor))
    return Outcome(code, out.text, err.text)


@attrs.define
class Running:
    """A command that runs as a task."""

    out: Screen
    err: Screen
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    code: int | None = None

    async def port(self) -> int:
        """Return the port that ``listen`` reports."""
        line = await self.err.until("\n")
        return int(line.split("\n")[0].rpartition(":")[2])

    async def wait(self) -> int | None:
        """Wait until it has ended by itself, and return its exit code."""
        with trio.fail_after(20):
            await self.ended.wait()
        return self.code


@asynccontextmanager
async def running(*words: str, stdin: int | None = None, terminal: bool = False) -> AsyncGenerator[Running]:
    """Run a command line as a task for the block."""
    command = COMMANDS[words[0]]
    out, err = Screen(terminal=terminal), Screen()
    with standard_input(b"") as nothing:
        console = Console(out, err, nothing if stdin is None else stdin)
        console.program = f"trio-dgram {command.name}"
        task = Running(out, err)

        async def run() -> None:
            with task.scope:
                try:
                    task.code = await command.run(parse(command, words[1:], console), console)
                except Exception as error:  # noqa: BLE001 -- as the frame does
                    task.code = report(error, console)
            task.ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield task
            nursery.cancel_scope.cancel()
