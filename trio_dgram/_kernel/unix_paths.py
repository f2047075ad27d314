"""The files that name ``"unix"`` sockets: binding creates them, the process that bound removes them (unix(7))."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import attrs

from .._codecs.ancillary import ControlMessage


@attrs.frozen
class BoundPath:
    """A file that binding a socket created."""

    path: str
    device: int
    inode: int
    process: int

    def remove(self) -> None:
        """Remove the file, if it is still the same one and this process created it, not a forked child of that."""
        if os.getpid() != self.process:
            return
        with suppress(OSError):
            found = Path(self.path).lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                Path(self.path).unlink()


def bound_path(path: str) -> BoundPath | None:
    """Return the file that binding to ``path`` has just created, absolute, so that a later chdir does not matter.

    ``None`` if it has been removed since.
    """
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return BoundPath(str(Path(path).absolute()), found.st_dev, found.st_ino, os.getpid())


def close_descriptors(ancillary: Iterable[ControlMessage]) -> None:
    """Close the descriptors of a datagram: the API does not return them, so they would leak."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            for (descriptor,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4]):
                with suppress(OSError):
                    os.close(descriptor)


def why_not_bound(number: int | None, path: str) -> str | None:
    """Return why a socket could not be bound to ``path``, ``None`` where the errno suffices."""
    if number == errno.EADDRINUSE:
        return _what_exists(path)
    return "the directory does not exist" if number == errno.ENOENT else None


def why_not_reached(number: int | None, path: str) -> str | None:
    """Return why a datagram could not be sent to ``path``, ``None`` where the errno suffices."""
    if not path:
        return "an unnamed socket cannot be answered"
    return _REASONS.get(number or 0)


_REASONS = {
    errno.ENOENT: "no socket has that name",
    errno.ECONNREFUSED: "no process has that socket open any more",
    errno.EPROTOTYPE: "it is not a datagram socket",
    errno.EPERM: "that socket is connected to another one",
    errno.ENOTCONN: "the peer was closed: disconnect, and connect again",
}


def _what_exists(path: str) -> str:
    in_use = "another socket has that name"
    if path.startswith("\0"):
        return in_use
    with suppress(OSError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return "a file that is not a socket exists there"
    # An explanation must not fail: there may be no descriptor left, or sockets may be forbidden.
    with suppress(OSError, RuntimeError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return "a socket that no process has open any more exists there: remove it first"
    return in_use
