"""The report of a network on which something failed: seed, digest, story, and the tables of sockets."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from .._values.random import Seed
from .trace import Trace

_LINES: Final = 30
"""The length of the story, in lines."""


class FailureReport:
    """The report that explains a failure on a network. It ends with the first failure.

    Args:
      seed: the seed of the network.
      trace: its trace.
      sockets: returns the tables of sockets.
      clock: returns the time of the network, in seconds since it was opened.
    """

    def __init__(self, seed: Seed, trace: Trace, sockets: Callable[[], str], clock: Callable[[], float]) -> None:
        self.trace: Trace = trace
        self._seed = seed
        self._get_sockets = sockets
        self._clock = clock
        self._text = ""
        self.sockets: str = ""
        """The tables of sockets when the report ended."""
        self.ended_at: float = math.inf
        """When the report ended, in seconds since the network was opened; infinity before that."""

    def end(self) -> None:
        """End the report here: later datagrams, such as those of tasks that are cancelled, are not recorded."""
        if not self._text:
            self.ended_at = self._clock()
            self.sockets = self._get_sockets()
            self._text = self._describe()
            self.trace.end()

    def attach(self, error: BaseException) -> None:
        """End the report, and add it to an exception as a note, unless one inside of that has it."""
        self.end()
        if not self._is_in(error):
            error.add_note(self._text)

    def _is_in(self, error: BaseException) -> bool:
        inside = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        return self._text in getattr(error, "__notes__", ()) or any(map(self._is_in, inside))

    @contextmanager
    def attaching(self) -> Generator[None]:
        """Attach the report to an exception that leaves the ``with`` block."""
        try:
            yield
        except Exception as error:
            self.attach(error)
            raise

    def __str__(self) -> str:
        return self._text or self._describe()

    def _describe(self) -> str:
        shown = self.trace.excerpt(_LINES)
        total = self.trace.total + len(self.trace.in_flight)
        return "\n".join(
            [
                f"On the simulated network, seed {self._seed!r}, digest {self.trace.digest}.",
                f"The last {shown.datagrams} of {total} datagrams:" if total else "Nothing was sent.",
                self.trace.to_text(last=_LINES),
                self.sockets or self._get_sockets(),
            ]
        )
