"""QUIC with aioquic's own asyncio client and server, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trio_dgram
from trio_dgram import quic

from .support.quic import client_configuration, echo_all, files, server_configuration, serving
from .support.supervised import ROOT, supervised

pytestmark = pytest.mark.programs

PEER: Final = [sys.executable, str(Path(__file__).parent / "support" / "quic_peer.py")]


async def echo_everything(connection: quic.Connection) -> None:
    """Send back streams and datagrams."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo_datagrams, connection.datagrams)
        await echo_all(connection)


async def echo_datagrams(channel: trio.abc.Channel[bytes]) -> None:
    async for data in channel:
        await channel.send(data)


@pytest.mark.parametrize(
    ("options", "arguments", "version"),
    [
        ({}, [], "0x1"),
        ({"retry": "always"}, [], "0x1"),
        ({}, ["v2"], "0x6b3343cf"),
    ],
    ids=["plain", "retry", "version 2"],
)
async def test_aioquics_client_talks_to_our_server(options: dict[str, Any], arguments: list[str], version: str) -> None:
    configuration = server_configuration(datagrams=True)
    async with serving(echo_everything, configuration, **options) as (listener,):
        client = [*PEER, "client", str(listener.address.port), str(files() / "ca.pem"), *arguments]
        done = await trio.run_process(client, capture_stdout=True, check=True)
    assert done.stdout.decode() == f"version {version}\n"


@pytest.mark.parametrize("arguments", [[], ["retry"]], ids=["plain", "retry"])
async def test_our_client_talks_to_aioquics_server(arguments: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        command = [*PEER, "server", str(files() / "cert.pem"), str(files() / "key.pem"), *arguments]
        run = partial(trio.run_process, command, check=False, stdout=subprocess.PIPE)
        process = await nursery.start(run)
        port = int(await process.stdout.receive_some())
        configuration = client_configuration(datagrams=True)
        async with quic.open_connection("127.0.0.1", port, configuration) as connection:
            await ask(connection, 300_000)
            connection.update_keys()
            await ask(connection, 1000)
            await connection.rebind()
            async with trio.open_nursery() as asking:
                for _ in range(100):
                    asking.start_soon(ask, connection, 1000)
            await connection.datagrams.send(b"hello")
            assert await connection.datagrams.receive() == b"hello"
        process.kill()
        await process.stdout.aclose()


SERVER: Final = """
import os
from functools import partial
import trio
from tests.support.quic import echo_all, server_configuration
import trio_dgram
from trio_dgram import quic
trio.run(partial(quic.serve, echo_all, int(os.environ["PORT"]), server_configuration(), host="127.0.0.1"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: only Linux steers")
async def test_connections_survive_a_change_of_address_between_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        port = sock.address.port
    for name, value in {"PYTHONPATH": str(ROOT), "PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", SERVER]
    async with supervised(command, listen=[f"127.0.0.1:{port}"], steer="quic"), trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(move_about, port)


async def move_about(port: int) -> None:
    async with quic.open_connection("127.0.0.1", port, client_configuration()) as connection:
        for _ in range(4):
            await ask(connection, 1000)
            await connection.rebind()
        await ask(connection, 1000)


async def ask(connection: quic.Connection, size: int) -> None:
    async with await connection.open_stream() as stream:
        await stream.send_all(bytes(size))
        await stream.send_eof()
        assert sum([len(data) async for data in stream]) == size
