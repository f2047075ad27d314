"""The request to a worker process to drain: SIGTERM, while something waits for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import trio

from .._socket.interrupts import defer_interrupts
from .worker_process import process


@defer_interrupts
class DrainRequest:
    """SIGTERM to this worker. While nothing waits for it, and outside a worker, the signal keeps its usual meaning."""

    def __init__(self) -> None:
        self.is_made = False
        """Whether the supervisor has asked this process to drain."""
        self._events: dict[trio.Event, None] = {}
        self._former: Any = None
        self._services = 0

    @property
    def can_be_received(self) -> bool:
        """Whether this is the main thread of a worker."""
        return process.index is not None and threading.current_thread() is threading.main_thread()

    async def wait(self) -> None:
        """Wait for the request, for ever where it cannot be received."""
        if self.is_made:
            await trio.lowlevel.checkpoint()
            return
        if not self.can_be_received:
            await trio.sleep_forever()
        if not self._events:
            token = trio.lowlevel.current_trio_token()
            self._former = signal.signal(signal.SIGTERM, lambda *_: token.run_sync_soon(self._make))
        event = trio.Event()
        self._events[event] = None
        try:
            await event.wait()
        finally:
            del self._events[event]
            if not self._events:
                signal.signal(signal.SIGTERM, self._former)

    @contextmanager
    def service(self) -> Generator[None]:
        """Count a service that drains for the block. After the last one, a handler of the program gets the signal: it
        may be what ends the other tasks of the program."""
        self._services += 1
        try:
            yield
        finally:
            self._services -= 1
            if self.is_made and not self._services and callable(signal.getsignal(signal.SIGTERM)):
                signal.raise_signal(signal.SIGTERM)

    def _make(self) -> None:
        self.is_made = True
        for event in self._events:
            event.set()


drain_request: Final = DrainRequest()


def is_draining() -> bool:
    """Return whether the supervisor has asked this worker to end: whether SIGTERM arrived while ``serve`` ran, or while
    a task waited in :func:`wait_draining`."""
    return drain_request.is_made


@trio.lowlevel.enable_ki_protection
async def wait_draining() -> None:
    """Wait until the supervisor asks this worker to end (SIGTERM), and return at once afterwards.

    For programs that read a socket themselves: stop reading then, answer what was read, and end. While a task waits
    here, SIGTERM does not end the process. In other processes, and outside the main thread, it waits for ever.

    A checkpoint, always.
    """
    await drain_request.wait()
