"""Tables of calls with wrong arguments, checked in one test that lists the rows which do not hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import Any

import attrs


@attrs.frozen
class Wrong:
    """A row: arguments, and the error that they raise."""

    error: type[Exception]
    message: str
    """A pattern to be found in the error's text."""
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def __str__(self) -> str:
        shown = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.keywords.items())]
        return f"({', '.join(shown)})"


def wrong(error: type[Exception], message: str, *arguments: Any, **keywords: Any) -> Wrong:
    """Return the row of a call with these arguments."""
    return Wrong(error, message, arguments, keywords)


def each_wrong(error: type[Exception], message: str, values: Iterable[Any]) -> list[Wrong]:
    """Return a row for each of the values as the only argument."""
    return [wrong(error, message, value) for value in values]


async def offending_rows(
    call: Callable[..., object], rows: Iterable[Wrong], state: Callable[[], object] = lambda: None
) -> list[str]:
    """Call with the arguments of each row, and return a line for each row that does not hold.

    A row also does not hold if its call changes ``state``.
    """
    lines = []
    for row in rows:
        before = state()
        try:
            answer = call(*row.arguments, **row.keywords)
            if isawaitable(answer):
                answer = await answer
        except Exception as error:  # noqa: BLE001 -- a line of the table's failure
            if not isinstance(error, row.error) or not re.search(row.message, str(error)):
                lines.append(f"{row} raised {error!r}, not {row.error.__name__} with {row.message!r}")
        else:
            lines.append(f"{row} returned {answer!r}")
        after = state()
        if after != before:
            lines.append(f"{row} changed {before!r} to {after!r}")
    return lines
