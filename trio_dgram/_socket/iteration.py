"""Taking the argument of ``send_many`` in parts, so that other tasks can run in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, Final, cast

from .._values.arguments import describe_value
from .interrupts import interruptibly

_PART: Final = 512
"""How many datagrams one part has at most."""


def parts_of(datagrams: object, seconds: float) -> Iterator[list[Any]]:
    """Yield the items of ``datagrams`` in lists; an iterator of the program is run for about ``seconds`` each time.

    Raises:
      TypeError: if it is not iterable.
    """
    if not isinstance(datagrams, Iterable):
        raise TypeError(f"datagrams must be an iterable of Datagram, not {describe_value(datagrams)}")
    if type(datagrams) in (list, tuple):
        # They run no code of the program, and slicing costs a third of iterating.
        sequence = cast("Sequence[Any]", datagrams)
        start = 0
        while part := list(sequence[start : start + _PART]):
            yield part
            start += _PART
        return
    items = interruptibly(iter, datagrams)
    while part := interruptibly(_take, items, seconds):
        yield part


def _take(items: Iterator[Any], seconds: float) -> list[Any]:
    end = perf_counter() + seconds
    part: list[Any] = []
    for item in islice(items, _PART):
        part.append(item)
        if perf_counter() >= end:
            break
    return part
