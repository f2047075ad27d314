"""``trio-dgram workers``: a program in several processes that share a port."""

from __future__ import annotations

import logging
import re
import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, cast

import attrs
import trio

from .._values.errors import DatagramError
from .._workers.settings import Backoff, Settings, Steer, check_settings
from .._workers.supervisor import Supervisor, run_supervisor
from .._workers.values import WorkerEvent
from .command import FAILURE, USAGE, Command, explain
from .console import Console, escape

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_NOT_FOUND: Final = 127
"""The exit code of a shell for a program that does not exist."""


def parse_size(text: str) -> int:
    """Return a number of bytes that is written as ``8M``, ``64K`` or plainly."""
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text)
    if match is None:
        raise ArgumentTypeError(f"a size must be a number of bytes, with K, M or G, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def parse_steer(text: str) -> Steer:
    """Return what ``--steer`` names."""
    if text in ("hash", "quic"):
        return cast("Steer", text)
    match = re.fullmatch(r"([0-9]{1,5}),([0-9]{1,3})", text)
    if match is None:
        raise ArgumentTypeError(f"steering must be hash, quic or OFFSET,MASK, not {text!r}")
    return int(match[1]), int(match[2])


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``workers``."""
    parser.add_argument("--processes", type=int, metavar="N", help="how many workers (default: one for each CPU)")
    parser.add_argument(
        "--udp", action="append", default=[], metavar="HOST:PORT", help="an address to listen on; may be repeated"
    )
    parser.add_argument("--name", default="udp", help="the name of the sockets (default: %(default)s)")
    parser.add_argument("--receive-buffer", type=parse_size, metavar="SIZE", help="in bytes, or as 8M")
    parser.add_argument(
        "--steer", type=parse_steer, default="hash", help="hash, quic or OFFSET,MASK of a byte (default: %(default)s)"
    )
    parser.add_argument(
        "--ready", choices=("bound", "start"), default="bound", help="when a worker is ready (default: %(default)s)"
    )
    parser.add_argument("--no-gro", dest="gro", action="store_false", help="for programs that cannot split batches")
    parser.add_argument("--start-timeout", type=float, default=30, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--drain-timeout", type=float, default=30, metavar="SECONDS", help="default: %(default)s")


async def run(arguments: Namespace, console: Console) -> int:
    """Run the workers that the arguments describe until a signal ends them; return the exit code.

    SIGTERM and SIGINT end the workers, and kill them the second time. SIGHUP replaces one after the other. SIGUSR1
    prints their state. With ``--json`` each change of a worker is a line.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = vars(arguments)
    names = ("processes", "name", "steer", "ready", "gro", "start_timeout", "drain_timeout")
    given: dict[str, Any] = {name: options[name] for name in names}
    given |= {"receive_buffer_size": options["receive_buffer"], "restart": Backoff()}
    await trio.lowlevel.checkpoint()
    try:
        settings = check_settings(options["program"], options["udp"], given)
        await _supervise(settings, console)
    except FileNotFoundError as error:
        console.complain(explain(error))
        return _NOT_FOUND
    except ValueError as error:
        console.complain(str(error))
        return USAGE
    except OSError as error:
        console.complain(explain(error))
        return FAILURE
    except DatagramError as error:
        reason, *tail = str(error).splitlines()
        console.complain(reason)
        for line in tail:
            console.note(escape(line))
        return FAILURE
    return 0


async def _supervise(settings: Settings, console: Console) -> None:
    failure: Exception | None = None
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as printing, trio.open_nursery() as nursery:

            def attend(supervisor: Supervisor) -> None:
                nursery.start_soon(_obey, signals, supervisor, nursery, console)
                if console.json:
                    printing.start_soon(_print_events, supervisor.events(), console)

            try:
                await run_supervisor(settings, created=attend)
            except (ValueError, OSError, DatagramError) as error:
                # Not through the nursery, which would wrap it in a group.
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _print_events(events: trio.abc.ReceiveChannel[WorkerEvent], console: Console) -> None:
    async for event in events:
        console.emit(attrs.asdict(event), "")


async def _obey(signals: AsyncIterator[int], supervisor: Supervisor, nursery: trio.Nursery, console: Console) -> None:
    # A request during a round leads to another one: the program may have changed since the first worker was replaced.
    requests, rounds = trio.open_memory_channel[None](1)
    nursery.start_soon(_reload_on_request, rounds, supervisor)
    async for number in signals:
        if number == signal.SIGHUP:
            with suppress(trio.WouldBlock):
                requests.send_nowait(None)
        elif number == signal.SIGUSR1:
            console.note(_state_table(supervisor))
        else:
            supervisor.stop()


async def _reload_on_request(rounds: trio.MemoryReceiveChannel[None], supervisor: Supervisor) -> None:
    async for _ in rounds:
        await supervisor.reload()


def _state_table(supervisor: Supervisor) -> str:
    lines = [["worker", "pid", "state", "restarts", "dropped by kernel", "queued bytes"]]
    lines += [["-" if value is None else str(value) for value in attrs.astuple(each)] for each in supervisor.workers]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(value.rjust(width) for value, width in zip(line, widths, strict=True)) for line in lines)


COMMAND: Final = Command(
    "workers",
    "Run a program in several processes that share a port",
    add_arguments,
    run,
    handles_signals=True,
    takes_program=True,
)
