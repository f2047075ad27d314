"""The file transfer, on a bad network and under attack."""

from __future__ import annotations

from types import ModuleType

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from ..support.examples import load_example

pytestmark = pytest.mark.programs

FILES = {"empty": b"", "short": b"short", "block": b"x" * 1024, "long": bytes(range(256)) * 20}


@pytest.fixture
def transfer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_example("transfer", monkeypatch)


@pytest.fixture
async def client(transfer: ModuleType, sim_network: sim.Network) -> sim.Host:
    """A host with a bad path to the server."""
    server, client = sim_network.host("server"), sim_network.host("client")
    sim_network.path(client, server, symmetric=True, delay=0.05, jitter=0.05, keep_order=False, loss=0.2, duplicate=0.2)
    server.start_soon(transfer.serve_files, FILES)
    await trio.sleep(1)
    return client


@pytest.mark.seeds(5)
@pytest.mark.parametrize("name", FILES)
async def test_a_file_arrives_whole(transfer: ModuleType, client: sim.Host, name: str, autojump_clock: object) -> None:
    assert await client.run(transfer.fetch, "server", name) == FILES[name]


async def test_a_missing_file_is_reported(transfer: ModuleType, client: sim.Host, autojump_clock: object) -> None:
    with pytest.raises(FileNotFoundError, match="no file 'other'"):
        await client.run(transfer.fetch, "server", "other")


async def test_a_silent_server_is_given_up(
    transfer: ModuleType, client: sim.Host, sim_network: sim.Network, autojump_clock: object
) -> None:
    with sim_network.partition(["client"], ["server"]), pytest.raises(trio.TooSlowError):
        await client.run(transfer.fetch, "server", "short")


@pytest.mark.parametrize("request_", [b"GET long", b"READ 00000000 0", b"READ", b"", b"\xff" * 40])
async def test_a_forged_request_gets_no_file(
    transfer: ModuleType, sim_network: sim.Network, request_: bytes, autojump_clock: object
) -> None:
    server, client = sim_network.host("server"), sim_network.host("client")
    server.start_soon(transfer.serve_files, FILES)
    await trio.sleep(1)

    async def forge() -> None:
        async with trio_dgram.open_connection("server", transfer.PORT) as channel:
            await channel.send(request_)
            with trio.move_on_after(5):
                await channel.receive()
                raise AssertionError

    await client.run(forge)
