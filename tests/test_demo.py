"""The demo shows what it promises and ends by itself."""

from __future__ import annotations

import errno
from types import ModuleType
from typing import Any, Unpack

import attrs
import pytest
import trio

import trio_dgram

from .support.examples import load_example


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_example("demo", monkeypatch)
    monkeypatch.setattr(module, "ROUND_TRIPS", 20)
    monkeypatch.setattr(module, "FLOOD", 2_000)
    return module


def test_the_demo_prints_its_table(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    trio.run(demo.main)
    shown = capsys.readouterr().out
    for expected in (
        "serves on 127.0.0.1:",
        "localhost is 127.0.0.1",
        "member 2 of 239.41.23.4 received 'hello, members'",
        "connected to 127.0.0.1:",
        "Connection refused",
        "client on IPv6",
        "the library",
        "99 %",
        "round trip",
        "in us",
    ):
        assert expected in shown
    for column in ("sent, received", "dropped by the kernel", "dropped by the library", "errors", "round trip"):
        assert f"\n{column} " in shown, "the figures are not explained"
    assert max(map(len, shown.splitlines())) <= 100
    if trio_dgram.capabilities().drop_counter:  # pragma: no branch -- not on the portable path
        assert "2,000 sent = " in shown


def test_the_simulated_network_repeats_each_run(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    demo.simulated()
    runs = [line for line in capsys.readouterr().out.splitlines() if "answered at attempt" in line]
    assert len(runs) == len(demo.SEEDS)
    assert all(run.endswith("run again: the same") for run in runs)
    assert len({run.split("after")[1] for run in runs}) > 1


def test_the_median_and_the_99th_percentile_precede_the_slowest(
    demo: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    report = demo.Report()
    nothing: dict[str, Any] = dict.fromkeys(attrs.fields_dict(trio_dgram.SocketStatistics), 0)
    report.add("client", trio_dgram.SocketStatistics(**nothing), [number / 1e3 for number in range(101)])
    report.show()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("client")]
    assert row.split()[-3:] == ["50,000", "99,000", "100,000"]


def test_without_ipv6_it_reports_that_and_continues(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = trio_dgram.DatagramSocket.bind

    async def without_ipv6(self: trio_dgram.DatagramSocket, port: int = 0, host: str | None = None) -> object:
        if host == "::1":
            raise OSError(errno.EADDRNOTAVAIL, "bind ::1: Cannot assign requested address")
        return await bind(self, port, host)

    monkeypatch.setattr(trio_dgram.DatagramSocket, "bind", without_ipv6)
    trio.run(demo.main)
    shown = capsys.readouterr().out
    assert "::1 is left out" in shown
    assert "client on IPv6" not in shown


def test_without_ipv6_in_the_kernel_it_reports_that_and_continues(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create_socket = trio_dgram.DatagramNursery.create_socket

    def without_ipv6(
        self: trio_dgram.DatagramNursery, type_: trio_dgram.SocketType, **options: Unpack[trio_dgram.SocketOptions]
    ) -> trio_dgram.DatagramSocket:
        if type_ == "udp6":
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create_socket(self, type_, **options)

    monkeypatch.setattr(trio_dgram.DatagramNursery, "create_socket", without_ipv6)
    trio.run(demo.main)
    shown = capsys.readouterr().out
    assert "::1 is left out: Address family not supported" in shown
    assert "client on IPv6" not in shown
