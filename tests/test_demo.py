"""The demo shows what it promises and ends by itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import trio

import trio_dgram

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("demo", DEMO)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "demo", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "ROUND_TRIPS", 20)
    monkeypatch.setattr(module, "FLOOD", 2_000)
    return module


def test_it_shows_a_table_of_what_happened(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    trio.run(demo.main)
    shown = capsys.readouterr().out
    for expected in (
        "serves on 127.0.0.1",
        "localhost is 127.0.0.1",
        "member 2 of 239.41.23.4 heard 'to whom it may concern'",
        "connected to",
        "Connection refused",
        "client on IPv6",
        "round trip",
    ):
        assert expected in shown
    if trio_dgram._system.capabilities.drop_counter:
        assert "2,000 sent = " in shown


def test_without_ipv6_it_says_so_and_goes_on(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = trio_dgram.DatagramSocket.bind

    async def without_ipv6(self: trio_dgram.DatagramSocket, port: int = 0, host: str | None = None) -> object:
        if host == "::1":
            raise OSError(99, "bind ::1: Cannot assign requested address")
        return await bind(self, port, host)

    monkeypatch.setattr(trio_dgram.DatagramSocket, "bind", without_ipv6)
    trio.run(demo.main)
    shown = capsys.readouterr().out
    assert "::1 is left out" in shown
    assert "client on IPv6" not in shown
