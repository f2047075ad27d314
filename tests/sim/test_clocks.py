"""Every clock of the standard library is virtual, and timers are slightly late."""

from __future__ import annotations

import datetime as dt
import importlib.util
import socket
import time
from datetime import datetime as early_datetime
from time import time as early_time
from typing import Any

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from .programs import echo

MIDNIGHT = 1_767_225_600.0


def readings() -> list[Any]:
    return [
        time.time(),
        time.time_ns() / 1e9,
        time.clock_gettime(time.CLOCK_REALTIME),
        time.clock_gettime_ns(time.CLOCK_REALTIME) / 1e9,
        dt.datetime.now(dt.UTC).timestamp(),
        early_datetime.now(dt.UTC).timestamp(),
        early_time(),
    ]


def test_every_clock_returns_the_virtual_time() -> None:
    async def scenario(_: sim.Network) -> None:
        await trio.sleep(86_400 * 40 + 0.5)
        assert readings() == pytest.approx([MIDNIGHT + 86_400 * 40 + 0.5] * 7, abs=1e-5)
        assert time.gmtime()[:3] == time.localtime()[:3] == (2026, 2, 10)
        assert "Feb 10" in time.ctime()
        assert time.ctime() == time.asctime()
        assert time.strftime("%Y-%m-%d") == str(dt.date.today()) == "2026-02-10"  # noqa: DTZ011 -- virtual, too
        assert time.ctime(0) == time.asctime(time.localtime(0))
        assert time.strftime("%Y", time.gmtime(0)) == "1970"
        assert time.clock_gettime(time.CLOCK_MONOTONIC) == time.monotonic()
        assert time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) < 86_400

    sim.run(scenario, time_limit=float("inf"))
    assert time.time() > MIDNIGHT + 86_400 * 40
    assert early_datetime.now(dt.UTC).timestamp() == pytest.approx(time.time(), abs=60)


def test_without_time_machine_the_module_time_is_virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: sim.Network) -> tuple[float, bool]:
        return time.time(), dt.datetime.now(dt.UTC).timestamp() > MIDNIGHT + 86_400

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert sim.run(scenario) == (MIDNIGHT, True)


def test_a_skewed_clock_is_wrong_on_its_host_alone() -> None:
    async def scenario(network: sim.Network) -> None:
        fast, right = network.host("fast"), network.host("right")
        await trio.sleep(10)
        fast.clock_skew(offset=5.0, rate=1.5)
        assert await fast.run(read) == pytest.approx(MIDNIGHT + 15)
        await trio.sleep(10)
        assert await fast.run(read) == pytest.approx(MIDNIGHT + 30)
        assert await right.run(read) == pytest.approx(MIDNIGHT + 20)
        fast.clock_skew()
        assert await fast.run(read) == pytest.approx(MIDNIGHT + 20)
        fast.clock_skew(offset=-86_400)
        assert await fast.run(read) == pytest.approx(MIDNIGHT - 86_380)
        with pytest.raises(ValueError, match="rate must be at least 0"):
            fast.clock_skew(rate=-1)

    async def read() -> float:
        assert dt.datetime.now(dt.UTC).timestamp() == pytest.approx(time.time(), abs=1e-3)
        return time.time()

    sim.run(scenario)


def test_a_sleeping_task_wakes_later_than_its_deadline() -> None:
    async def scenario(_: sim.Network) -> list[float]:
        late = []
        for seconds in (0.1, 1e-9, 3.7, 1000.0):
            deadline = trio.current_time() + seconds
            await trio.sleep_until(deadline)
            late.append(trio.current_time() - deadline)
        return late

    assert sim.run(scenario) == pytest.approx([1e-6] * 4, abs=1e-9)
    assert sim.run(scenario, timer_slack=0.25) == pytest.approx([0.25] * 4)
    assert sim.run(scenario, timer_slack=0) == pytest.approx([0.0] * 4, abs=1e-9)
    with pytest.raises(ValueError, match="timer_slack must be at least 0"):
        sim.run(scenario, timer_slack=-1)


@pytest.mark.parametrize("early", [0.0, 3e-7, -3e-7])
def test_a_deadline_at_the_instant_of_a_delivery_does_not_delay_it(early: float) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, delay=0.05)
        server.start_soon(echo, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        woken: list[float] = []

        async def sleep() -> None:
            await trio.sleep_until(0.05 - early)
            woken.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            with client.active():
                async with trio_dgram.open_socket("udp4") as sock:
                    await sock.send(b"x", ("server", 7))
                    await sock.receive()
        assert network.trace.records[0].at == 0.05
        assert woken[0] > 0.05 - early

    sim.run(scenario)


def test_a_program_may_move_the_clock_itself() -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        async with sim.open_network() as network:
            server, client = network.host("server"), network.host("client")
            server.start_soon(echo, "udp4")
            await trio.testing.wait_all_tasks_blocked()
            with client.active():
                async with trio_dgram.open_socket("udp4") as sock:
                    await sock.send(b"x", ("server", 7))
                    clock.jump(0.001)
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(network.trace) == 1
                    clock.jump(0.001)
                    assert (await sock.receive()).data == b"x"

    trio.run(main, clock=clock)


def test_two_networks_share_one_clock() -> None:
    async def scenario(outer: sim.Network) -> None:
        async def exchange(network: sim.Network) -> None:
            with network.host("a").active(), trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
                await sock.sendto(b"x", (network.host("b").ipv4, 7))
                with pytest.raises(ConnectionRefusedError):
                    await sock.connect((network.host("b").ipv4, 7))
                    await sock.sendto(b"x", (network.host("b").ipv4, 7))
                    await sock.recv(9)

        async with sim.open_network(timer_slack=0.5) as inner:
            await exchange(inner)
            assert inner.time == pytest.approx(0.002)
            await trio.sleep(1)
            assert inner.time == pytest.approx(1.502)
        await exchange(outer)
        await trio.sleep(1)
        assert outer.time == pytest.approx(2.504, abs=1e-3)

    sim.run(scenario)


def test_a_program_that_compares_its_deadlines_strictly_makes_progress() -> None:
    """Like aioquic's recovery, whose timers fired endlessly at one instant when woken exactly at their deadline."""

    async def scenario(_: sim.Network) -> int:
        due, fired = 0.1, 0
        while fired < 10:
            await trio.sleep_until(due)
            if trio.current_time() > due:  # pragma: no branch -- a timer is late
                fired += 1
                due += 0.1
        return fired

    assert sim.run(scenario, passes=1000) == 10
