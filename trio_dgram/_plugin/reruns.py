"""Running a test several times: in this process, and after a failure in copies of it, where it is torn down."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final, NoReturn, TypeAlias

import attrs
import pytest

from .._values.test_runs import Tape, TestRun, Underlay, running_test

_IS_COPY: Final = pytest.StashKey[bool]()
"""Whether this process is a copy that runs a failed test again."""
_LONGEST_RUN: Final = 60.0
"""How long a copy may take for one answer, in real seconds."""
_FAILURE: Final = "trio_dgram_failure"
"""The attribute of a report that identifies the failure."""

_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:,\s*-?\d+(?:\.\d+)?)*")

Function: TypeAlias = Callable[[pytest.Item, Any], Any]
"""A function of a module that is called in a copy, with a test that is torn down."""


def is_copy(config: pytest.Config) -> bool:
    """Return whether this process is a copy that runs a failed test again."""
    return config.stash.get(_IS_COPY, False)


def run_once(item: pytest.Item, test_run: TestRun, seed: int) -> list[pytest.TestReport]:
    """Run a test under one seed, and return its reports. Fixtures of a wider scope than the test stay set up."""
    # pytest has no public function that repeats a test; plugins that repeat tests use this one.
    from _pytest.runner import runtestprotocol  # noqa: PLC0415

    # With the same parent as next item, pytest keeps the fixtures of a wider scope.
    parent: Any = item.parent
    test_run.seed = seed
    test_run.reports.clear()
    # Discard the captured output of earlier runs.
    item._report_sections.clear()  # noqa: SLF001 -- pytest has no public name for it
    return runtestprotocol(item, log=False, nextitem=parent)


def run_again(  # pragma: no cover -- in another process
    item: pytest.Item, tape: Tape, seed: int | str, underlay: Underlay | None = None
) -> tuple[TestRun, pytest.TestReport]:
    """Run a test with a tape, on simulated hosts unless it is given others; return the run, and the report of its first
    phase that failed, or of the last."""
    test_run = TestRun(tape=tape, underlay=underlay)
    with running_test(test_run):
        reports = run_once(item, test_run, int(seed))
    return test_run, next((report for report in reports if report.failed), reports[-1])


def mark_failure(report: pytest.TestReport, error: BaseException) -> None:
    """Store in a report which failure it is about: another process may read it."""
    vars(report)[_FAILURE] = identify(error)


def failure_of(report: pytest.TestReport) -> str:
    """Return which failure a report is about; empty if the test passed."""
    return str(vars(report).get(_FAILURE, ""))


def identify(error: BaseException) -> str:
    """Return a text that is the same for equal failures: the types of exceptions, and their messages without numbers.

    A check of the network is identified by its name.
    """
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(sorted({identify(inner) for inner in error.exceptions}))
    name, message = type(error).__name__, str(error).partition("\n")[0]
    if name == "InvariantError":
        message = message.partition(":")[0]
    return f"{name}: {_NUMBERS.sub('#', message)}"


@attrs.frozen
class _Copy:
    """One copy of this process."""

    pid: int
    connection: Connection

    def answer(self) -> Any:
        """Return the answer to a question; None if the copy has ended or takes too long."""
        with suppress(EOFError, ConnectionError):
            if self.connection.poll(_LONGEST_RUN):  # pragma: no branch -- it takes a minute
                return self.connection.recv()
        return None

    def end(self) -> None:
        """End the copy."""
        self.connection.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Copies:
    """Copies of this process, each of which runs one test again on request.

    Args:
      item: the test.
      count: the number of copies.
    """

    def __init__(self, item: pytest.Item, count: int) -> None:
        self._item = item
        self._all: list[_Copy] = []
        self._free = deque(self._start() for _ in range(count))

    def call(self, function: Function, argument: Any) -> Any:
        """Return what ``function(test, argument)`` returns in a copy; None if the copy ends or takes too long."""
        return next(self.map(function, [argument]))

    def map(self, function: Function, arguments: Iterable[Any]) -> Generator[Any]:
        """Yield what :meth:`call` returns for each of the arguments, in order; later ones are evaluated ahead."""
        waiting = iter(arguments)
        asked: deque[_Copy] = deque()
        try:
            while True:
                for argument in islice(waiting, len(self._free)):
                    asked.append(self._free.popleft())
                    asked[-1].connection.send((function, argument))
                if not asked:
                    return
                yield self._answer(asked.popleft())
        except GeneratorExit:
            for copy in asked:
                self._answer(copy)
            raise

    def _answer(self, copy: _Copy) -> Any:
        answer = copy.answer()
        if answer is None:
            self._all.remove(copy)
            copy.end()
            copy = self._start()
        self._free.append(copy)
        return answer

    def end(self) -> None:
        """End all copies."""
        for copy in self._all:
            copy.end()

    def _start(self) -> _Copy:
        here, there = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of threads, such as Trio's idle ones, which do not exist in the copy.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:  # pragma: no cover -- in another process
            # Otherwise the copy would not notice that this process has ended.
            here.close()
            _serve(self._item, there)
        there.close()
        copy = _Copy(pid, here)
        self._all.append(copy)
        return copy


def _serve(item: pytest.Item, connection: Connection) -> NoReturn:  # pragma: no cover -- in another process
    """Tear a test down, call functions with it until the process is ended."""
    try:
        item.config.stash[_IS_COPY] = True
        # With -s nothing is captured.
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 -- a device
            separate_output(item.config, nowhere.fileno())
        with suppress(Exception):
            _tear_down(item)
        while True:
            function, argument = connection.recv()
            connection.send(function(item, argument))
    finally:
        # Only the first process may run the exit handlers of pytest and the interpreter.
        os._exit(0)


def _tear_down(item: pytest.Item) -> None:  # pragma: no cover -- in another process
    """End a test in the midst of its protocol, as pytest does at the end of it."""
    test: Any = item
    # pytest makes the fixtures of a test anew if it has no request.
    test._request, test.funcargs = False, None  # noqa: SLF001 -- see above
    item.session._setupstate.teardown_exact(test.parent)  # noqa: SLF001 -- pytest has no public function that does


def separate_output(config: pytest.Config, target: int | None = None) -> None:  # pragma: no cover -- likewise
    """Capture the output of this process apart from that of the process that it is a copy of: both share a file.

    Args:
      config: pytest's configuration.
      target: the descriptor that gets what is not captured. Default: None, that of the other process.
    """
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
    if target is not None:
        os.dup2(target, 1)
        os.dup2(target, 2)
    if capture is not None:
        capture.start_global_capturing()
