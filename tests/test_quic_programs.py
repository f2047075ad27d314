"""QUIC with aioquic's own asyncio client and server, and qh3's client, each in a process of its own."""

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

from .support.certificates import AUTHORITY, CLIENT
from .support.certificates import SERVER as CERTIFICATE
from .support.quic import client_configuration, echo_all, files, server_configuration, serving
from .support.supervised import ROOT, supervised

pytestmark = pytest.mark.programs

PEER: Final = [sys.executable, str(Path(__file__).parent / "support" / "quic_peer.py")]
QH3_CLIENT: Final = [sys.executable, str(Path(__file__).parent / "support" / "qh3_peer.py")]


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


async def test_a_client_of_aioquic_presents_its_certificate() -> None:
    subjects: list[str] = []
    configuration = server_configuration(datagrams=True, trust=files() / "ca.pem", verify_clients=True)
    certificate = [f"certificate={files() / 'client.pem'}", f"key={files() / 'key.pem'}"]
    async with serving(partial(echo_to, subjects), configuration) as (listener,):
        client = [*PEER, "client", str(listener.address.port), str(files() / "ca.pem"), *certificate]
        await trio.run_process(client, capture_stdout=True, check=True)
    assert subjects == ["CN=client"]


async def echo_to(subjects: list[str], connection: quic.Connection) -> None:
    subjects.append(connection.peer_certificate.subject.rfc4514_string())
    await echo_everything(connection)


async def test_qh3s_client_presents_its_certificate_to_our_server(tmp_path: Path) -> None:
    # qh3 does not offer Ed25519 for certificates.
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    CERTIFICATE.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    CLIENT.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    settings: dict[str, Any] = {"certificate": tmp_path / "server.pem", "key": None, "trust": tmp_path / "ca.pem"}
    async with serving(echo_all, server_configuration(**settings, verify_clients=True)) as (listener,):
        client = [*QH3_CLIENT, str(listener.address.port), str(tmp_path / "ca.pem"), str(tmp_path / "client.pem")]
        done = await trio.run_process(client, capture_stdout=True, check=True)
    assert done.stdout == b"done\n"


@pytest.mark.parametrize(
    ("arguments", "certificate"),
    [([], {}), (["retry"], {}), (["request"], {"certificate": "client.pem", "key": "key.pem"})],
    ids=["plain", "retry", "client certificate"],
)
async def test_our_client_talks_to_aioquics_server(arguments: list[str], certificate: dict[str, str]) -> None:
    async with trio.open_nursery() as nursery:
        command = [*PEER, "server", str(files() / "cert.pem"), str(files() / "key.pem"), *arguments]
        run = partial(trio.run_process, command, check=False, stdout=subprocess.PIPE)
        process = await nursery.start(run)
        port = int(await process.stdout.receive_some())
        paths = {field: files() / name for field, name in certificate.items()}
        configuration = client_configuration(datagrams=True, **paths)
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
