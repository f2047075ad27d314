"""What a command is, its errors, and its frame: arguments, interrupts, exit codes."""

from __future__ import annotations

import signal
import socket
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn, TypeAlias

import attrs
import trio

from .console import Console

FAILURE: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
"""What shells report for a program that SIGINT ended."""


class CommandError(Exception):
    """The command failed: exit code 1."""


class UsageError(CommandError):
    """The arguments alone are wrong: exit code 2."""


Run: TypeAlias = Callable[[Namespace, Console], Awaitable[int]]


@attrs.frozen
class Command:
    """One command of ``trio-dgram``."""

    name: str
    summary: str
    """One line for the help."""
    add_arguments: Callable[[ArgumentParser], None]
    run: Run
    """Returns the exit code. It is cancelled by SIGINT and prints its summary then as well."""
    handles_signals: bool = False
    """Whether ``run`` handles SIGINT itself."""
    takes_program: bool = False
    """Whether the words after ``--`` are a program and its arguments."""


class _Parser(ArgumentParser):
    """A parser that raises UsageError and prints its help to the console."""

    console: Console

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def print_help(self, file: object = None) -> None:  # noqa: ARG002 -- argparse passes none
        self.console.print(self.format_help().rstrip("\n"))


def parse(command: Command, words: Sequence[str], console: Console) -> Namespace:
    """Return the arguments of a command.

    Raises:
      UsageError: if they are wrong.
      SystemExit: after ``--help``.
    """
    parser = _Parser(prog=f"trio-dgram {command.name}", description=f"{command.summary}.", allow_abbrev=False)
    parser.console = console
    command.add_arguments(parser)
    program: Sequence[str] = ()
    if command.takes_program:
        parser.epilog = "The program and its arguments follow after --."
        if "--" in words:
            end = list(words).index("--")
            words, program = words[:end], words[end + 1 :]
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    arguments = parser.parse_intermixed_args(words)
    if command.takes_program:
        if not program:
            raise UsageError("the following arguments are required: -- PROGRAM")
        arguments.program = list(program)
    console.json = arguments.json
    return arguments


def run(command: Command, words: Sequence[str], console: Console) -> int:
    """Run a command to its end or until SIGINT, and return its exit code."""
    console.program = f"trio-dgram {command.name}"
    debug = "--debug" in words
    try:
        arguments = parse(command, words, console)
        if command.handles_signals:
            return trio.run(command.run, arguments, console)
        return trio.run(until_interrupted, command.run, arguments, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit:
        return 0
    except BrokenPipeError:
        return FAILURE
    except Exception as error:  # noqa: BLE001 -- a command never ends with a traceback
        return report(error, console, debug=debug)


def report(error: BaseException, console: Console, *, debug: bool = False) -> int:
    """Print one line about the error that ended a command, and return the exit code."""
    error = first_error(error)
    if isinstance(error, BrokenPipeError):
        return FAILURE
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    console.complain(explain(error))
    return USAGE if isinstance(error, UsageError) else FAILURE


def first_error(error: BaseException) -> BaseException:
    """Return the first exception in nested groups: one line reports one error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def explain(error: BaseException) -> str:
    """Return one line about an error."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, OSError):
        name = "" if error.filename is None else f"{error.filename}: "
        return f"{name}{error.strerror or error}"
    return f"internal error, --debug prints the traceback: {error!r}"


async def until_interrupted(run: Run, arguments: Namespace, console: Console) -> int:
    """Run a command; the first SIGINT cancels it, so that it prints its summary."""
    interrupted = False

    async def cancel_at_sigint(scope: trio.CancelScope) -> None:
        nonlocal interrupted
        async for _ in signals:
            interrupted = True
            scope.cancel()

    code = INTERRUPTED
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at_sigint, nursery.cancel_scope)
            code = await run(arguments, console)
            nursery.cancel_scope.cancel()
    return INTERRUPTED if interrupted else code


def unresolved(host: str, error: socket.gaierror) -> CommandError:
    """Return the error about a name that does not resolve."""
    return CommandError(f"cannot resolve {host!r}: {error.strerror}")
