"""Output of commands: text or JSON lines on standard output, notes and errors on standard error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Final, Literal, Protocol

Colour = Literal["red", "green", "yellow", "faint"]

_CODES: Final[Mapping[Colour, int]] = {"red": 31, "green": 32, "yellow": 33, "faint": 2}


class Stream(Protocol):
    """What a console needs of a binary file."""

    def write(self, data: bytes, /) -> object:
        """Write ``data``."""
        ...

    def flush(self) -> object:
        """Pass what was written to the system."""
        ...

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        ...


class Console:
    """The standard streams of one command.

    Args:
      out: standard output.
      err: standard error.
      stdin: the descriptor of standard input.
    """

    def __init__(self, out: Stream, err: Stream, stdin: int = 0) -> None:
        self._out = out
        self._err = err
        self.stdin = stdin
        self.json = False
        self.program = "trio-dgram"
        """The prefix of errors."""

    def emit(self, event: Mapping[str, object], text: str) -> None:
        """Print ``event`` as a JSON line with ``--json``, otherwise ``text``."""
        self.print(json.dumps(event) if self.json else text)

    def print(self, text: str) -> None:
        """Print lines to standard output."""
        self.write(_encoded(text))

    def write(self, data: bytes) -> None:
        """Write bytes to standard output."""
        self._out.write(data)
        self._out.flush()

    def note(self, text: str) -> None:
        """Print lines to standard error."""
        self._err.write(_encoded(text))
        self._err.flush()

    def complain(self, text: str) -> None:
        """Print one line about an error to standard error."""
        self.note(f"{self.program}: {escape(text)}")

    def paint(self, text: str, colour: Colour) -> str:
        """Return ``text`` in a colour, if standard output is a terminal and NO_COLOR is not set."""
        if self.json or os.environ.get("NO_COLOR") or not self._out.isatty():
            return text
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def _encoded(text: str) -> bytes:
    # A terminal without UTF-8 shows other characters, which is better than an error.
    return f"{text}\n".encode(errors="backslashreplace")


def escape(text: str | bytes) -> str:
    r"""Return ``text`` as one line that a terminal cannot interpret.

    Undecodable bytes become ``\xff``, backslashes ``\\``, and characters that are not printable (C0, C1, DEL, line
    separators, bidirectional controls) escapes of Python's syntax.
    """
    # surrogateescape keeps an undecodable byte apart from the character of the same number.
    decoded = text.decode(errors="surrogateescape") if isinstance(text, bytes) else text
    return decoded if decoded.isprintable() and "\\" not in decoded else "".join(map(_escaped, decoded))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    if "\x80" <= character <= "\x9f":
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()
