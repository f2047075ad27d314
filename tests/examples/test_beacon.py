"""The discovery beacon, on a network of three hosts."""

from __future__ import annotations

from types import ModuleType

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from ..support.examples import load_example

pytestmark = pytest.mark.programs


@pytest.fixture
def beacon(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_example("beacon", monkeypatch)


@pytest.fixture
async def changes(beacon: ModuleType, sim_network: sim.Network) -> list[tuple[str, str, str, int]]:
    """The report of a watcher: the change, and the service's name, host and port."""
    changes: list[tuple[str, str, str, int]] = []
    sim_network.host("watcher").start_soon(beacon.watch, lambda change, service: changes.append((change, *service)))
    await trio.sleep(0.5)
    return changes


async def test_services_are_announced_and_withdrawn(
    beacon: ModuleType,
    changes: list[tuple[str, str, str, int]],
    sim_network: sim.Network,
    autojump_clock: object,
) -> None:
    printer, scanner = sim_network.host("printer"), sim_network.host("scanner")
    printer.start_soon(beacon.announce, "printer", 631)
    scanner.start_soon(beacon.announce, "scanner", 6566)
    await trio.sleep(2)
    assert sorted(changes) == [("up", "printer", printer.ipv4, 631), ("up", "scanner", scanner.ipv4, 6566)]
    changes.clear()
    printer.kill()
    await trio.sleep(5)
    assert changes == [("down", "printer", printer.ipv4, 631)]


async def test_two_lost_announcements_in_a_row_are_survived(
    beacon: ModuleType,
    changes: list[tuple[str, str, str, int]],
    sim_network: sim.Network,
    autojump_clock: object,
) -> None:
    printer = sim_network.host("printer")
    sim_network.path(printer, "watcher", loss=sim.DropList({2, 3}))
    printer.start_soon(beacon.announce, "printer", 631)
    await trio.sleep(10)
    assert changes == [("up", "printer", printer.ipv4, 631)]


async def test_a_malformed_announcement_is_ignored(
    beacon: ModuleType,
    changes: list[tuple[str, str, str, int]],
    sim_network: sim.Network,
    autojump_clock: object,
) -> None:
    async def send() -> None:
        async with trio_dgram.open_socket("udp4") as socket:
            for data in (b"", b"printer", b"x printer", b"1 \x1b[2J", b"\xff"):
                await socket.send(data, (beacon.GROUP, beacon.PORT))

    await sim_network.host("other").run(send)
    await trio.sleep(1)
    assert changes == []


async def test_an_interface_that_refuses_is_reported(
    beacon: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], autojump_clock: object
) -> None:
    async def refuse(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(trio_dgram.DatagramSocket, "send", refuse)
    with trio.move_on_after(0.5):
        await beacon.announce("printer", 631)
    assert "not announced: no route" in capsys.readouterr().out
