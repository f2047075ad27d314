"""One worker process, from its start to its end: its exit status, its readiness and what it writes to stderr."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from contextlib import suppress
from typing import Final

import trio

from .._socket.interrupts import defer_interrupts

_TAIL: Final = 20
"""How many lines of stderr are kept for the report of a crash."""
_CHUNK: Final = 65536
_LONGEST_LINE: Final = 65536


@defer_interrupts
class Process:
    """A child process. :meth:`watch` must run until it has ended, or the process stays a zombie.

    Args:
      pid: the child.
      stderr: the descriptor to read its standard error from, which this object closes.
      untaken: the addresses of the sockets that were passed to it, for a report.
    """

    def __init__(self, pid: int, stderr: int, untaken: str) -> None:
        self.pid: int = pid
        self.started: float = trio.current_time()
        self.ready: trio.Event = trio.Event()
        self.exited: trio.Event = trio.Event()
        self.exit_code: int | None = None
        """The status, negative for a signal, once it has ended."""
        self.untaken: str = untaken
        """The sockets that it has not bound, as far as it has reported them."""
        self.expected: bool = False
        """Whether the supervisor has ended it."""
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._stderr = stderr
        self._partial = b""
        os.set_blocking(stderr, False)
        self._pidfd = os.pidfd_open(pid)

    async def watch(self) -> None:
        """Wait for its end, whatever is cancelled, and pass its stderr on."""
        with trio.CancelScope(shield=True):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_stderr_on)
                    await trio.lowlevel.wait_readable(self._pidfd)
                    _, status = os.waitpid(self.pid, 0)  # noqa: ASYNC222 -- it has ended
                    self.exit_code = os.waitstatus_to_exitcode(status)
                    nursery.cancel_scope.cancel()
            finally:
                # Descriptors of its children may keep the pipe open, so it is read without waiting for its end.
                self._read_stderr()
                self._show(self._partial)
                os.close(self._stderr)
                os.close(self._pidfd)
        self.exited.set()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if not self.exited.is_set():
            # Until it was waited for, no other process has its pid.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def terminate(self, drain_timeout: float) -> None:
        """End it by SIGTERM, after ``drain_timeout`` seconds by SIGKILL, and wait for its end."""
        self.expected = True
        self.signal(signal.SIGTERM)
        with trio.move_on_after(drain_timeout):
            await self.exited.wait()
        self.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await self.exited.wait()

    def describe_end(self) -> str:
        """Return how it ended, in words."""
        code = self.exit_code or 0
        if code >= 0:
            return f"exited with code {code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    async def _pass_stderr_on(self) -> None:
        while self._read_stderr():
            await trio.lowlevel.wait_readable(self._stderr)

    def _read_stderr(self) -> bool:
        """Forward the available output; return whether more may follow."""
        while True:
            try:
                chunk = os.read(self._stderr, _CHUNK)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            for line in lines:
                self._show(line + b"\n")
            if len(self._partial) > _LONGEST_LINE:
                self._show(self._partial)
                self._partial = b""

    def _show(self, line: bytes) -> None:
        if line:
            text = line.decode(errors="replace")
            self.tail.append(text.rstrip("\n"))
            sys.stderr.write(text)
            sys.stderr.flush()


@trio.lowlevel.enable_ki_protection
async def first_of(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
