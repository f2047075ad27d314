"""The lines that a program logs, at their virtual times."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from .._network.host import current_process
from .._network.network import current_networks


class LogLine(NamedTuple):
    """A line that a program logged."""

    at: float
    """The time, in seconds since the network was opened."""
    host: str
    """The name of the host; empty for none."""
    text: str
    """The level, the name of the logger, and the message."""


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.lines: list[LogLine] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            networks = current_networks()
        except RuntimeError:
            # Outside a Trio run.
            return
        if networks:
            process = current_process.get()
            host = "" if process is None else process.host.name
            self.lines.append(LogLine(networks[-1].time, host, self.format(record)))


@contextmanager
def collecting_log() -> Generator[list[LogLine]]:
    """Yield a list to which the lines are added that programs log in the ``with`` block while a network is open.

    Levels are unchanged: by default, warnings and errors are logged.
    """
    collector = _Collector()
    root = logging.getLogger()
    root.addHandler(collector)
    try:
        yield collector.lines
    finally:
        root.removeHandler(collector)
