"""The StatsD aggregator, on a network without duplicates and with a configured loss."""

from __future__ import annotations

from types import ModuleType

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from ..support.examples import load_example

pytestmark = pytest.mark.programs


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_example("statsd", monkeypatch)


@pytest.mark.parametrize(
    ("lines", "report"),
    [
        (["hits:1|c", "hits:2|c"], ["hits 3"]),
        (["hits:1|c|@0.1"], ["hits 10"]),
        (["load:0.5|g", "load:0.7|g"], ["load 0.7"]),
        (["query:10|ms", "query:30|ms", "query:20|ms"], ["query 20 ms of 3"]),
    ],
)
def test_metrics_are_aggregated_by_kind(statsd: ModuleType, lines: list[str], report: list[str]) -> None:
    metrics = statsd.Metrics()
    for line in lines:
        metrics.add(line)
    assert metrics.report() == report


@pytest.mark.parametrize(
    "line", ["", "x", "x:1", "x:|c", "x:1|q", "x:nan|c", "x:inf|g", "x:1|c|@0", "x:1|c|@no", "x\x1b[2J:1|c", "x:1:2|c"]
)
def test_a_malformed_metric_is_counted(statsd: ModuleType, line: str) -> None:
    metrics = statsd.Metrics()
    metrics.add(line)
    assert (metrics.report(), metrics.malformed) == ([], 1)


def test_a_report_keeps_gauges_only(statsd: ModuleType) -> None:
    metrics = statsd.Metrics()
    for line in ("hits:1|c", "load:1|g", "query:1|ms"):
        metrics.add(line)
    metrics.report()
    assert metrics.report() == ["load 1"]


async def test_a_report_accounts_for_every_datagram(
    statsd: ModuleType, sim_network: sim.Network, autojump_clock: object
) -> None:
    server, client = sim_network.host("server"), sim_network.host("client")
    sim_network.path(client, server, loss=sim.DropList({2}))
    lines: list[str] = []
    server.start_soon(statsd.aggregate, 8125, 10, lines.append)
    await trio.sleep(1)

    async def send() -> None:
        async with trio_dgram.open_socket("udp4", connect=("server", 8125)) as socket:
            for number in range(4):
                await socket.send(f"hits:{10**number}|c\nnonsense")

    await client.run(send)
    await trio.sleep(10)
    assert lines == ["hits 1101", "received 3, lost 0, malformed 3"]
