"""The NOTIFY_SOCKET of the workers (sd_notify(3)): messages that the kernel attests to be from a worker."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from .._services.sockets import bind_socket
from .._socket.datagram_socket import DatagramSocket


@asynccontextmanager
async def open_notifications() -> AsyncGenerator[tuple[DatagramSocket, str]]:
    """Open the socket in a directory that only this user can enter; also return its path."""
    folder = tempfile.mkdtemp(prefix="trio-dgram-")
    try:
        path = str(Path(folder, "notify"))
        sock = await bind_socket("unix", (path,), {"packet_info": True})
        try:
            yield sock, path
        finally:
            sock.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def receive_notifications(sock: DatagramSocket, handle: Callable[[int, str], None]) -> None:
    """Call ``handle`` with the pid of the sender and each line that it sends."""
    async for datagram in sock:
        credentials = datagram.info and datagram.info.credentials
        for line in datagram.data.decode(errors="replace").splitlines():
            handle(credentials.pid if credentials else 0, line)
