"""What this process is to a supervisor: a worker with an index, which reports when it is ready.

``trio_dgram.workers`` calls :func:`read_environment` when it is imported, which ``trio_dgram`` does if sockets were
passed to the process.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

from .._kernel.passed_sockets import FIRST_DESCRIPTOR, PassedSockets, registry
from .._values.addresses import Address, format_address

INDEX_VARIABLE: Final = "TRIO_DGRAM_WORKER"
NOTIFY_VARIABLE: Final = "NOTIFY_SOCKET"
SECRET_VARIABLE: Final = "TRIO_DGRAM_QUIC_SECRET_FD"  # noqa: S105 -- the name of a variable
_LONGEST_NUMBER: Final = 9
SECRET_SIZE: Final = 32
"""How many bytes all workers of a supervisor share as a secret."""
UNTAKEN: Final = "STATUS=not bound yet: "
"""What a worker reports while it has not bound every passed socket; the addresses follow."""


class WorkerProcess:
    """The place of this process under a supervisor."""

    def __init__(self) -> None:
        self._index: int | None = None
        self._process = os.getpid()
        self._notify_path: str | None = None
        self.secret: bytes | None = None
        """What all workers of one supervisor know, also later ones, and nothing else; None without a supervisor."""

    @property
    def index(self) -> int | None:
        """The number of this worker; None in every other process."""
        return self._index if self._process == os.getpid() else None

    def read(self, environment: MutableMapping[str, str], sockets: PassedSockets) -> None:
        """Read the variables of the environment if they concern this process, and remove those that name it."""
        if not sockets.read(environment):
            return
        self._process = os.getpid()
        self._index = _number(environment.pop(INDEX_VARIABLE, ""))
        self._notify_path = environment.get(NOTIFY_VARIABLE)
        self.secret = _read_secret(environment.pop(SECRET_VARIABLE, ""))
        sockets.on_taken = lambda: self._report(sockets)

    def _report(self, sockets: PassedSockets) -> None:
        if self._notify_path is None:
            return
        untaken = sockets.untaken()
        if untaken:
            notify(self._notify_path, UNTAKEN + ", ".join(format_address(each.address) for each in untaken))
            return
        notify(self._notify_path, "READY=1")
        self._notify_path = None


def _number(text: str) -> int | None:
    """Return the number in a variable of the environment, None if it is no valid one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else None


def _read_secret(text: str) -> bytes | None:
    """Read the secret from the pipe that the supervisor has opened for it, and close that."""
    descriptor = _number(text)
    with suppress(OSError):
        # A descriptor of something else stays open.
        if descriptor is None or descriptor < FIRST_DESCRIPTOR or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", buffering=0) as pipe:  # noqa: PTH123 -- a descriptor
            secret = pipe.read(SECRET_SIZE)
            return secret if secret is not None and len(secret) == SECRET_SIZE else None
    return None


def notify(path: str, text: str) -> None:
    """Send ``text`` to a NOTIFY_SOCKET (sd_notify(3)); an error is ignored, such as ECONNREFUSED without a receiver."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(text.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


process: Final = WorkerProcess()


def read_environment() -> None:
    """Find out what a supervisor, or systemd, has passed to this process."""
    process.read(os.environ, registry)


def passed_sockets() -> list[tuple[str, Address]]:
    """Return the datagram sockets that systemd or a supervisor passed to this process (sd_listen_fds(3))::

        for name, address in trio_dgram.workers.passed_sockets():
            print(f"{name} is bound to {address}")

    ``bind`` finds them by their address: a program that binds to it needs no change. systemd does not define the order
    of several units.

    Returns:
      The name (``FileDescriptorName=`` in a socket unit) and the local address of each; an empty list without any, and
      in a forked child.

    Raises:
      OSError: EBADF if fewer descriptors were open at the start than LISTEN_FDS announces.
    """
    return [(each.name, each.address) for each in registry.all()]


def index() -> int | None:
    """Return the number of this worker process, from 0; None in a process that no supervisor started."""
    return process.index
