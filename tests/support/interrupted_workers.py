"""A program with worker processes to be interrupted."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from trio_dgram import workers

from .interrupts import MakeProgram, Program
from .programs import find_program
from .supervised import children

_WORKER: Final = """
socket(S, 1, 2, 0);
send(S, "READY=1", 0, pack("Sa108", 1, $ENV{NOTIFY_SOCKET}));
print STDERR "ready\n";
sleep 1000;
"""
"""A worker in Perl, which starts ten times as fast as Python: every interrupt needs processes of its own."""


class Supervised:
    """Two workers, which are replaced and stopped."""

    def __init__(self) -> None:
        self.over = False

    async def run(self) -> None:
        command = [find_program("perl"), "-e", _WORKER]
        supervise = partial(workers.supervise, command, listen=["127.0.0.1:0"], processes=2, steer=(0, 1))
        async with trio.open_nursery() as keeper:
            keeper.start_soon(self._keep_time)
            try:
                async with trio.open_nursery() as nursery:
                    supervisor = await nursery.start(supervise)
                    events = supervisor.events()
                    await supervisor.reload()
                    repr(supervisor)
                    supervisor.stop()
                async for _ in events:
                    pass
            finally:
                self.over = True

    @trio.lowlevel.enable_ki_protection
    async def _keep_time(self) -> None:
        """Keep the clock from advancing while processes start and end."""
        with trio.CancelScope(shield=True):
            while not self.over:
                await trio.lowlevel.checkpoint()

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        del interrupted_program
        yield from [f"process {pid} is left" for pid in children()]


@contextmanager
def _made() -> Generator[Program]:
    yield Supervised()


SUPERVISED: Final[dict[str, MakeProgram]] = {"Supervised udp4": _made} if hasattr(os, "pidfd_open") else {}
"""The programs with worker processes, by name; none where there is no supervisor."""
