"""The NOTIFY_SOCKET of the workers (sd_notify(3)): messages that the kernel attests to be from a worker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import trio

from .._socket.datagram_socket import DatagramSocket


@contextmanager
def private_path() -> Generator[str]:
    """Return a path for the socket in a directory that only this user can enter, for the block."""
    folder = tempfile.mkdtemp(prefix="trio-dgram-")
    try:
        yield str(Path(folder, "notify"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@trio.lowlevel.enable_ki_protection
async def receive_notifications(sock: DatagramSocket, handle: Callable[[int, str], None]) -> None:
    """Call ``handle`` with the pid of the sender and each line that it sends."""
    async for datagram in sock:
        credentials = datagram.info and datagram.info.credentials
        for line in datagram.data.decode(errors="replace").splitlines():
            handle(credentials.pid if credentials else 0, line)
