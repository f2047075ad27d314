"""Programs for the supervisor to run, and what a test asks them."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

import trio_dgram
from trio_dgram import Address, workers

ROOT: Final = Path(__file__).parents[2]

_LIGHT: Final = """
import os, socket, sys, time
passed = socket.socket(fileno=3)
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def notify(text):
    manager.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
def answer():
    while True:
        data, address = passed.recvfrom(65536)
        passed.sendto(b"%s %d %s" % (os.environ["TRIO_DGRAM_WORKER"].encode(), os.getpid(), data), address)
"""


def light(body: str = 'notify("READY=1")\nanswer()') -> list[str]:
    """Return the command of a worker that starts fast, since it imports nothing of ours."""
    return [sys.executable, "-S", "-E", "-c", _LIGHT + body]


@asynccontextmanager
async def supervised(command: list[str], **options: Any) -> AsyncGenerator[workers.Supervisor]:
    """Run workers for the block, by default two on one port of IPv4."""
    given = {"listen": ["127.0.0.1:0"], "processes": 2, **options}
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            supervisor = await nursery.start(partial(workers.supervise, command, **given))
            try:
                yield supervisor
            finally:
                nursery.cancel_scope.cancel()


async def ask(address: Address, data: bytes = b"hello") -> tuple[int, int]:
    """Return the index and the pid of the worker that answers a new client."""
    async with trio_dgram.open_connection(*address) as peer:
        await peer.send(data)
        index, pid, echo = (await peer.receive()).split(b" ", 2)
        assert echo == data
        return int(index), int(pid)


async def happens(events: trio.abc.ReceiveChannel[workers.WorkerEvent], event: str, index: int | None = None) -> int:
    """Wait for an event, by default of any worker, and return the pid."""
    async for each in events:
        if each.event == event and index in (None, each.index):
            return each.pid
    raise AssertionError


async def logged(text: str) -> None:
    """Wait until the library logs a line that contains ``text``."""
    event = trio.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():  # pragma: no branch -- other lines are possible
                event.set()

    watch = Watch()
    log = logging.getLogger("trio_dgram")
    log.addHandler(watch)
    try:
        await event.wait()
    finally:
        log.removeHandler(watch)


def children() -> list[int]:
    """Return the pids of the processes of this one, zombies included."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def unix_receiver(path: Path) -> socket.socket:
    """Return a socket that receives what is reported to ``path``."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(20)
    return made
