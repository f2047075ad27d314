"""The payloads that ``send`` sends: arguments, or the lines of standard input."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Final, Protocol

import trio

from .arguments import hexadecimal
from .command import CommandError, UsageError
from .console import Console

_LONGEST: Final = 65527
"""The longest payload of a datagram, in bytes (IPv6)."""


class Payloads(Protocol):
    """The sources of payloads."""

    async def read(self) -> bytes | None:
        """Return the next payload, ``None`` at the end."""
        ...


class Arguments:
    """The payloads of the command line, ``count`` of them."""

    def __init__(self, payloads: Sequence[bytes], count: int | None) -> None:
        self._left = islice(cycle(payloads), count or len(payloads))

    async def read(self) -> bytes | None:
        """Return the next payload, ``None`` at the end."""
        return next(self._left, None)


class Lines:
    """The lines of a descriptor as payloads, at most ``count`` of them."""

    def __init__(self, descriptor: int, decode: Callable[[bytes], bytes], count: int | None) -> None:
        self._descriptor = descriptor
        self._decode = decode
        self._count = count
        self._buffer = b""
        self._ended = False
        self._number = 0

    async def read(self) -> bytes | None:
        """Return the next line without its newline, ``None`` at the end.

        Raises:
          CommandError: if it is longer than a datagram can be, or cannot be decoded.
        """
        if self._number == self._count:
            return None
        while b"\n" not in self._buffer and not self._ended:
            if len(self._buffer) > 2 * _LONGEST:
                raise CommandError(f"line {self._number + 1} of standard input is too long for a datagram")
            # A thread, since waiting for readiness fails on files; abandoned, since a terminal may stay silent.
            piece = await trio.to_thread.run_sync(os.read, self._descriptor, 1 << 16, abandon_on_cancel=True)
            self._buffer += piece
            self._ended = not piece
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._number += 1
        try:
            return self._decode(line)
        except ValueError as error:
            raise CommandError(f"line {self._number} of standard input {error}") from None


def payloads(arguments: Namespace, console: Console) -> Payloads:
    """Return what ``send`` sends.

    Raises:
      UsageError: if an argument is not hexadecimal.
    """

    def decode(data: bytes) -> bytes:
        return hexadecimal(data.decode("ascii", "backslashreplace")) if arguments.hex else data

    if not arguments.data:
        return Lines(console.stdin, decode, arguments.count)
    try:
        return Arguments([decode(os.fsencode(word)) for word in arguments.data], arguments.count)
    except ValueError as error:
        raise UsageError(f"argument DATA: {error}") from None
