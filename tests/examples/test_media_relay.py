"""The media relay: two parties who do not know each other's address, and those that are not parties."""

from __future__ import annotations

from types import ModuleType

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from ..support.examples import load_example


@pytest.fixture
def media_relay(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_example("media_relay", monkeypatch)


def test_the_parties_of_each_call_reach_each_other_and_nobody_else_does(media_relay: ModuleType) -> None:
    reports: list[str] = []

    async def talk(start: float, port: int, own: bytes, expected: list[bytes]) -> None:
        await trio.sleep(start)
        async with trio_dgram.open_socket("udp4", connect=("relay", port)) as party:
            await party.send(b"hello")
            await trio.sleep(1)
            await party.send(own)
            assert [(await party.receive()).data for _ in expected] == expected

    async def intrude(port: int) -> None:
        await trio.sleep(0.5)
        async with trio_dgram.open_socket("udp4") as intruder:
            await intruder.send(b"forged", ("relay", port))

    async def scenario(network: sim.Network) -> None:
        relay, alice, bob, mallory = (network.host(name) for name in ("relay", "alice", "bob", "mallory"))
        relay.start_soon(media_relay.serve, "0.0.0.0", 50, reports.append)
        await trio.sleep(1)
        ports = [(int(report.split()[3]), int(report.split()[5])) for report in reports]
        assert len({port for pair in ports for port in pair}) == 100
        with trio.fail_after(10):
            async with trio.open_nursery() as tasks:
                for number, (first, second) in enumerate(ports[:3]):
                    names = [b"alice %d" % number, b"bob %d" % number]
                    tasks.start_soon(alice.run, talk, 0.0, first, names[0], [b"hello", names[1]])
                    tasks.start_soon(bob.run, talk, 0.1, second, names[1], [names[0]])
                    tasks.start_soon(mallory.run, intrude, first)

    sim.run(scenario, seed=1)
    # The first party's greeting finds no second party, and the forged datagrams are ignored.
    assert reports[-1] == "forwarded 9, ignored 6"
