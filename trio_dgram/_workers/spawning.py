"""Starting a worker: its descriptors, its environment, and that it ends with its supervisor."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from .._kernel.passed_sockets import FIRST_DESCRIPTOR, VARIABLES
from .._services.worker_process import INDEX_VARIABLE, NOTIFY_VARIABLE, SECRET_VARIABLE

# The death signal belongs to the thread that forks (PR_SET_PDEATHSIG, prctl(2)), so a worker must be started in the
# thread of the Trio run and in no thread of Trio's cache, which ends after some seconds. Only the new process knows its
# pid, which LISTEN_PID needs. The parent may have ended before the signal was requested.
_SHELL: Final = '[ "$PPID" = "$0" ] || exit 1; LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
_PYTHON: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def shim(program: str, command: Sequence[str]) -> list[str]:
    """Return what to run so that the program gets its LISTEN_PID and is killed when this process ends."""
    own, words = str(os.getpid()), [program, *command[1:]]
    setpriv, shell = shutil.which("setpriv"), shutil.which("sh")
    if setpriv and shell:
        return [setpriv, "--pdeathsig", "KILL", "--", shell, "-c", _SHELL, own, *words]
    return [sys.executable, "-S", "-E", "-c", _PYTHON, own, *words]


def worker_environment(index: int, names: Sequence[str], notify_path: str) -> dict[str, str]:
    """Return the environment of a worker, without LISTEN_PID."""
    return {
        **{name: value for name, value in os.environ.items() if name not in VARIABLES},
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(names),
        NOTIFY_VARIABLE: notify_path,
        INDEX_VARIABLE: str(index),
        # Its descriptor follows the sockets.
        SECRET_VARIABLE: str(FIRST_DESCRIPTOR + len(names)),
    }


def open_secret(secret: bytes, lowest: int) -> int:
    """Return a descriptor, of at least ``lowest``, that ``secret`` can be read from once."""
    reading, writing = os.pipe()
    try:
        os.write(writing, secret)
        return fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, lowest)
    finally:
        os.close(reading)
        os.close(writing)


def spawn(arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int], stderr: int) -> int:
    """Start a process with ``descriptors`` from number 3 on, and return its pid.

    Args:
      arguments: the program and its arguments.
      environment: its environment.
      descriptors: the sockets, and what else it gets; their numbers are above those that the process gets.
      stderr: the descriptor of its standard error.

    Raises:
      OSError: the kernel's error.
    """
    actions = [(os.POSIX_SPAWN_DUP2, stderr, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, each, number) for number, each in enumerate(descriptors, FIRST_DESCRIPTOR)]
    return os.posix_spawn(
        arguments[0],
        list(arguments),
        environment,
        file_actions=actions,
        # A terminal sends Ctrl-C to a process group.
        setpgroup=0,
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        setsigmask=(),
    )
