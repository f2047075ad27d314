"""Addresses that refuse datagrams."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import trio_dgram
from trio_dgram import Address

from .families import Family

# A port that was closed may soon be another socket's, of this process or of another. A socket that is connected
# elsewhere keeps its port and receives from its peer only: the kernel refuses other datagrams (ICMP port unreachable).


@asynccontextmanager
async def refusing_address(udp: Family) -> AsyncGenerator[Address]:
    """Yield an address on loopback that refuses datagrams during the block, on the transport of the test."""
    elsewhere = (udp.loopback, 9)
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, connect=elsewhere) as sock:
        yield sock.address


@contextmanager
def refusing_port(*hosts: str) -> Generator[int]:
    """Yield a port that the kernel refuses at each of these addresses during the block."""
    sockets: list[socket.socket] = []
    try:
        port = 0
        for host in hosts:
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(made)
            made.bind((host, port))
            made.connect((host, 9))
            port = made.getsockname()[1]
        yield port
    finally:
        for each in sockets:
            each.close()
