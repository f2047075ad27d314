"""The files that name ``"unix"`` sockets: made by binding, removed by whoever made them (unix(7))."""

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
class MadePath:
    """A file that binding a socket has made."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, if it is still the one that was made."""
        with suppress(OSError):
            found = Path(self.path).lstat()
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                Path(self.path).unlink()


def made_path(path: str) -> MadePath | None:
    """Return the file that binding to ``path`` has just made, wherever the program goes from here.

    ``None`` where somebody was quick to remove it.
    """
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return MadePath(str(Path(path).absolute()), found.st_dev, found.st_ino)


def close_descriptors(ancillary: Iterable[ControlMessage]) -> None:
    """Close the descriptors that came with a datagram: nobody asked for them, and they would add up."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            for (descriptor,) in struct.iter_unpack("=i", data[: len(data) // 4 * 4]):
                os.close(descriptor)


def why_not_bound(number: int | None, path: str) -> str | None:
    """Return in words why a socket could not be bound to ``path``, where there is anything to add."""
    if number == errno.EADDRINUSE:
        return _what_is_there(path)
    return "there is no such directory" if number == errno.ENOENT else None


def why_not_reached(number: int | None, path: str) -> str | None:
    """Return in words why nothing could be sent to ``path``, where there is anything to add."""
    if not path:
        return "a socket without a name cannot be answered"
    return _REASONS.get(number or 0)


_REASONS = {
    errno.ENOENT: "no socket has that name",
    errno.ECONNREFUSED: "no process has that socket open any more",
    errno.EPROTOTYPE: "that is not a datagram socket",
    errno.EPERM: "that socket is connected to another one",
    errno.ENOTCONN: "the peer has gone away: disconnect, and connect again",
}


def _what_is_there(path: str) -> str:
    if path.startswith("\0"):
        return "another socket has that name"
    with suppress(OSError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return "a file that is not a socket is there"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return "a socket that no process has open any more is there: remove it first"
        except OSError:
            pass
    return "another socket has that name"
