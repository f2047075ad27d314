"""Worker processes: one process per core, each with a socket of its own for the same port.

A supervisor opens the sockets and passes them to its workers, so that a worker that ends loses nothing that was queued.
Importing this module reads the variables of systemd's protocol for passed sockets (sd_listen_fds(3)); ``trio_dgram``
imports it if they are set.
"""

from __future__ import annotations

from ._services.draining import is_draining, wait_draining
from ._services.worker_process import index, passed_sockets, read_environment
from ._workers.settings import Backoff
from ._workers.supervisor import Supervisor, supervise
from ._workers.values import Worker, WorkerEvent, WorkersFailedError

__all__ = [
    "Backoff",
    "Supervisor",
    "Worker",
    "WorkerEvent",
    "WorkersFailedError",
    "index",
    "is_draining",
    "passed_sockets",
    "supervise",
    "wait_draining",
]

# Documentation and tracebacks show the public name of a class, not the module that defines it.
for _name in __all__:
    globals()[_name].__module__ = __name__

read_environment()
