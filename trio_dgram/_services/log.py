"""Logging what the network causes, at a bounded rate."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable
from traceback import walk_tb
from typing import Final

import attrs
import trio

from .._socket.interrupts import defer_interrupts

_INTERVAL: Final = 1.0
"""The time between two lines about one cause, in seconds."""
_MOST_CAUSES: Final = 64


@attrs.define
class _Cause:
    last_logged: float
    suppressed: int = 0


@defer_interrupts
class RateLimitedLog:
    """Logs each cause at most once a second, and how often it was suppressed in between."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        # The cause reported longest ago is the first.
        self._causes: OrderedDict[Hashable, _Cause] = OrderedDict()

    def report(
        self,
        cause: Hashable,
        message: str,
        *args: object,
        level: int = logging.ERROR,
        exc_info: BaseException | None = None,
    ) -> None:
        """Log ``message % args``, as one line, unless ``cause`` was logged within the last second."""
        now = trio.current_time()
        known = self._causes.get(cause)
        if known is not None and now < known.last_logged + _INTERVAL:
            known.suppressed += 1
            return
        args = tuple(map(_printable, args))
        if known is not None and known.suppressed:
            message, args = f"{message} (and %d more like it)", (*args, known.suppressed)
        self._causes[cause] = _Cause(now)
        self._causes.move_to_end(cause)
        if len(self._causes) > _MOST_CAUSES:
            self._causes.popitem(last=False)
        self._logger.log(level, message, *args, exc_info=exc_info)


def _printable(value: object) -> object:
    # The peer of a "unix" socket chooses its path, which may hold line breaks, escape sequences or undecodable bytes.
    text = str(value)
    return value if text.isprintable() else ascii(text)


def cause_of(error: BaseException) -> Hashable:
    """Return what errors of one cause have in common: their type and the line that raised them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    return (type(error), lines[-1] if lines else None)
