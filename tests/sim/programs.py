"""Programs that tests run on hosts."""

from __future__ import annotations

from typing import Literal

import trio

import trio_dgram
from trio_dgram import Datagram

ECHO_PORT = 7
Type = Literal["udp4", "udp6"]


async def echo(type: Type, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Answer everybody."""
    async with trio_dgram.open_socket(type, port=ECHO_PORT) as sock:
        task_status.started()
        async for datagram in sock:
            await sock.send(datagram.data, datagram.address)


async def ask(type: Type, payload: bytes, name: str = "server") -> Datagram:
    """Return the answer of the echo server ``name``."""
    async with trio_dgram.open_socket(type) as sock:
        await sock.connect((name, ECHO_PORT))
        await sock.send(payload)
        return await sock.receive()
