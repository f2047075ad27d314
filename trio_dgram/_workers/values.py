"""What a supervisor shows: its workers, their changes, and that they failed."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from .._values.errors import DatagramError

State: TypeAlias = Literal["starting", "ready", "draining", "waiting", "stopped"]


class WorkersFailedError(DatagramError):
    """No worker became ready: each of the first ones ended within a second. The text has the end of their stderr."""


@attrs.frozen
class Worker:
    """One worker of a supervisor, at one moment.

    Attributes:
      index (int): its number, from 0.
      pid (int | None): its process, None between two processes.
      state (str): "starting", "ready", "draining", "waiting" (for the next start) or "stopped".
      restarts (int): how often it was started again.
      dropped_by_kernel (int): how many datagrams the kernel has dropped because its sockets were full.
      queued_bytes (int): how much memory the datagrams in its sockets take, in bytes, as the kernel counts it.
    """

    index: int
    pid: int | None
    state: str
    restarts: int
    dropped_by_kernel: int
    queued_bytes: int


@attrs.frozen
class WorkerEvent:
    """One change of a worker.

    Attributes:
      event (str): "started", "ready" or "exited".
      index (int): the number of the worker.
      pid (int): its process.
      exit_code (int | None): with "exited" the exit code, negative for a signal.
    """

    event: str
    index: int
    pid: int
    exit_code: int | None = None
