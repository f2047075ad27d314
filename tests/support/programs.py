"""Programs of the distribution that our sockets are tried against."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from .families import Family


def find_program(name: str) -> str:
    """Return the path of a program; skip the test where it is missing, which on CI is a failure."""
    # Administration's programs may not be on an ordinary user's path.
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"program: {name} is not installed")
    return found


@asynccontextmanager
async def started(name: str, *arguments: str) -> AsyncGenerator[trio.Process]:
    """Run a program for the block, with pipes."""
    process = await trio.lowlevel.open_process(
        [find_program(name), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()


async def printed(process: trio.Process, text: bytes, times: int = 1) -> bytes:
    """Return what a program prints until ``text`` has been printed so often."""
    assert process.stdout is not None
    output = b""
    while output.count(text) < times:
        more = await process.stdout.receive_some()
        assert more, output
        output += more
    return output


async def type_in(process: trio.Process, text: bytes) -> None:
    """Write to the program's standard input."""
    assert process.stdin is not None
    await process.stdin.send_all(text)


def url_host(host: str) -> str:
    """Return a host as URLs have it."""
    return f"[{host}]" if ":" in host else host


def unused_port(udp: Family) -> int:
    """Return a port that no socket of the family is bound to.

    Systems choose higher ports for other processes, so that none of them gets it a moment later.
    """
    port = secrets.choice(range(20_000, 32_000))
    with socket.socket(udp.family, socket.SOCK_DGRAM) as unused:
        unused.bind((udp.loopback, port))
    return port


def coap_answer(request: bytes) -> bytes:
    """Acknowledge a CoAP request (RFC 7252, 4.2) with 2.05 Content and a payload."""
    token = request[4 : 4 + (request[0] & 0x0F)]
    return bytes([0x60 | len(token), 0x45]) + request[2:4] + token + b"\xffhello from trio"
