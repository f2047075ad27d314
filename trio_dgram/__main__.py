"""The command line: ``trio-dgram``, or ``python -m trio_dgram``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Final

from ._commands import doctor, listen, ping, send, show, workers
from ._commands.command import USAGE, Command, run
from ._commands.console import Console

# A further command is a module of _commands/ with a COMMAND, listed here.
COMMANDS: Final[dict[str, Command]] = {
    module.COMMAND.name: module.COMMAND for module in (listen, send, ping, doctor, workers, show)
}


def usage() -> str:
    """Return the help of ``trio-dgram`` without a command."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: trio-dgram COMMAND ...",
            "",
            "Datagrams on the command line, with every loss accounted for.",
            "",
            *(f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS.values()),
            "",
            "trio-dgram COMMAND --help describes a command, trio-dgram --version prints the version.",
        ]
    )


def main(words: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command line ``words``, by default that of this process, and return its exit code.

    It never ends with a traceback, unless ``--debug`` asks for one.
    """
    words = sys.argv[1:] if words is None else words
    if console is None:
        # Files of its own: sys.stdout would be flushed again at exit, which fails after a broken pipe.
        out, err = open(1, "wb", closefd=False), open(2, "wb", closefd=False)  # noqa: SIM115
        try:
            return main(words, Console(out, err))
        finally:
            for stream in (out, err):
                with suppress(OSError):
                    stream.close()
    if not words:
        console.note(usage())
        return USAGE
    name = words[0]
    if name in COMMANDS:
        return run(COMMANDS[name], words[1:], console)
    if name in ("-h", "--help"):
        console.print(usage())
        return 0
    if name == "--version":
        console.print(f"trio-dgram {version('trio_dgram')}")
        return 0
    console.complain(f"unknown command {name!r}, the commands are {', '.join(COMMANDS)}")
    return USAGE


if __name__ == "__main__":  # pragma: no cover -- tests run it as a process
    sys.exit(main())
