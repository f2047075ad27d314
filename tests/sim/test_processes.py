"""Stopped programs send nothing, and hosts start, freeze and lose datagrams in flight."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from .programs import ask, echo

Stop = Literal["crash", "kill", "restart"]
STOPS: list[Stop] = ["crash", "kill", "restart"]
PORT = 7


async def collect(received: list[bytes], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with trio_dgram.open_socket("udp4", port=PORT) as sock:
        task_status.started()
        async for datagram in sock:
            received.append(datagram.data)


async def send(payload: bytes) -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        await sock.send(payload, ("sink", PORT))


async def send_goodbye() -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True), suppress(OSError):
            await send(b"goodbye")


async def continue_behind_a_shield() -> None:
    with trio.CancelScope(shield=True):
        for _ in range(10):
            await trio.sleep(0.5)
            with suppress(OSError):
                await send(b"still here")


async def hold_a_socket() -> None:
    with trio.CancelScope(shield=True):
        async with trio_dgram.open_socket("udp4") as sock:
            for _ in range(10):
                await trio.sleep(0.5)
                with suppress(OSError, trio.ClosedResourceError):
                    await sock.send(b"still open", ("sink", PORT))


def stop(host: sim.Host, how: Stop) -> None:
    if how == "restart":
        host.restart(trio.sleep, 1)
    else:
        getattr(host, how)()


async def sent_after_stop(
    network: sim.Network,
    program: Callable[[], Awaitable[None]],
    how: Stop,
    *,
    active: bool = False,
    after: float = 0.75,
) -> list[bytes]:
    """Return the datagrams that a program sent after it was stopped."""
    received: list[bytes] = []
    host = network.host("old")
    await network.host("sink").start(collect, received)
    async with trio.open_nursery() as nursery:
        if active:
            with host.active():
                nursery.start_soon(program)
        else:
            host.start_soon(program)
        await trio.sleep(after)
        stop(host, how)
        await trio.sleep(0.1)
        received.clear()
        await trio.sleep(6)
        nursery.cancel_scope.cancel()
    return received


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("program", [send_goodbye, continue_behind_a_shield, hold_a_socket])
@pytest.mark.parametrize("how", STOPS)
def test_nothing_of_a_stopped_program_is_sent(how: Stop, program: Callable[[], Awaitable[None]], active: bool) -> None:
    async def scenario(network: sim.Network) -> list[bytes]:
        return await sent_after_stop(network, program, how, active=active)

    assert sim.run(scenario) == []


@pytest.mark.long
def test_nothing_of_a_stopped_program_is_sent_whenever_it_is_stopped() -> None:
    async def scenario(network: sim.Network, how: Stop, after: float) -> list[bytes]:
        return await sent_after_stop(network, hold_a_socket, how, after=after)

    for seed in range(200):
        assert sim.run(scenario, STOPS[seed % 3], seed * 0.011, seed=seed) == [], seed


def test_nothing_of_a_stopped_program_is_sent_when_it_is_cancelled_anywhere() -> None:
    async def scenario(network: sim.Network) -> None:
        received: list[bytes] = []
        await network.host("sink").start(collect, received)
        host = network.host("old")

        async def program() -> None:
            try:
                await send(b"alive")
                await trio.sleep(1)
            finally:
                host.kill()
                with trio.CancelScope(shield=True), pytest.raises(OSError, match="was stopped by kill"):
                    await send(b"dead")

        async def once() -> None:
            with host.active():
                await program()

        await sim.cancel_everywhere(once)
        assert set(received) <= {b"alive"}

    sim.run(scenario)


def test_a_program_that_is_stopped_before_it_has_begun_is_cancelled() -> None:
    async def program() -> None:
        async with trio_dgram.open_socket("udp4"):
            raise AssertionError

    async def scenario(network: sim.Network) -> None:
        host = network.host("a")
        host.start_soon(program)
        host.kill()
        await trio.sleep(1)

    sim.run(scenario)


def test_a_new_program_has_the_ports_of_the_old_one() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        for _ in range(3):
            await server.start(echo, "udp4")
            assert (await client.run(ask, "udp4", b"hello")).data == b"hello"
            server.kill()

    sim.run(scenario)


def test_starting_waits_until_a_program_reports_that_it_has_started() -> None:
    async def program(value: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        await trio.sleep(1)
        task_status.started(value)
        await trio.sleep_forever()

    async def returns(*, task_status: Any) -> None:
        pass

    async def waits(*, task_status: Any) -> None:
        await trio.sleep_forever()

    async def scenario(network: sim.Network) -> None:
        host = network.host("a")
        assert await host.start(program, 5) == 5
        assert network.time == pytest.approx(1, abs=1e-5)
        with pytest.raises(RuntimeError, match="without calling"):
            await host.start(returns)
        network.at(2, host.kill)
        with pytest.raises(sim.HostStoppedError, match="the host a was stopped"):
            await host.start(waits)

    sim.run(scenario)


def test_a_coroutine_in_place_of_a_function_is_refused() -> None:
    async def program() -> None: ...

    async def scenario(network: sim.Network) -> None:
        host = network.host("a")
        with pytest.raises(TypeError, match="async_fn must be an async function, not a coroutine: pass program"):
            host.start_soon(program())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="async_fn must be an async function, not 3"):
            host.start_soon(3)  # type: ignore[arg-type]

    sim.run(scenario)
    with pytest.raises(TypeError, match="scenario must be an async function, not a coroutine: pass program"):
        sim.run(program())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scenario must be an async function, not 3"):
        sim.run(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scenario must be an async function, but it returned 3"):
        sim.run(lambda _: 3)  # type: ignore[arg-type,return-value]


def test_a_frozen_host_stops_its_timers_and_its_sockets() -> None:
    async def tick(times: list[float]) -> None:
        for _ in range(3):
            await trio.sleep(1)
            times.append(round(trio.current_time(), 3))

    async def scenario(network: sim.Network) -> None:
        frozen, other = network.host("frozen"), network.host("other")
        times: list[float] = []
        frozen.start_soon(tick, times)
        await frozen.start(echo, "udp4")
        network.at(1.5, frozen.freeze)
        network.at(5.5, frozen.resume)
        await trio.sleep(2)
        assert (await other.run(ask, "udp4", b"x", "frozen")).data == b"x"
        assert network.time == pytest.approx(5.501, abs=1e-3)
        await trio.sleep(5)
        assert times == [1.0, 5.5, 6.5]

    sim.run(scenario)


def test_frozen_hosts_thaw_in_any_order_and_when_they_are_stopped() -> None:
    async def scenario(network: sim.Network) -> None:
        hosts = [network.host(name) for name in "abc"]
        done: list[str] = []

        async def sleep(name: str) -> None:
            try:
                await trio.sleep(1)
            finally:
                done.append(name)

        for host in hosts:
            host.start_soon(sleep, host.name)
        await trio.sleep(0.5)
        for host in hosts:
            host.freeze()
        hosts[0].freeze()
        await trio.sleep(5)
        assert done == []
        hosts[0].resume()
        hosts[1].kill()
        await trio.sleep(5)
        assert sorted(done) == ["a", "b"]

    sim.run(scenario)


def test_a_deadline_that_passes_while_a_task_waits_frozen_ends_one_wait() -> None:
    async def scenario(network: sim.Network) -> float:
        host = network.host("a")

        async def wait_twice() -> float:
            with trio.move_on_after(1), trio.move_on_after(2):
                await trio.Event().wait()
            await trio.sleep(1)
            return trio.current_time()

        network.at(0.5, host.freeze)
        network.at(10, host.resume)
        return await host.run(wait_twice)

    assert sim.run(scenario) == pytest.approx(11, abs=1e-3)


@pytest.mark.parametrize("drop", [False, True])
def test_a_partition_drops_datagrams_in_flight_on_request(drop: bool) -> None:
    async def scenario(network: sim.Network) -> None:
        sink, other = network.host("sink"), network.host("other")
        received: list[bytes] = []
        await sink.start(collect, received)
        await other.run(send, b"one")
        await network.host("third").run(send, b"three")
        with network.partition([other], [sink], drop_in_flight=drop):
            await trio.sleep(1)
        assert sorted(received) == ([b"three"] if drop else [b"one", b"three"])
        assert {record.reason for record in network.trace} == ({"", "partition"} if drop else {""})
        await other.run(send, b"two")
        await trio.sleep(1)
        assert received[-1] == b"two"

    sim.run(scenario)


def test_defaults_apply_to_paths_without_conditions_of_their_own() -> None:
    async def scenario(network: sim.Network) -> None:
        for name in ("a", "b", "c"):
            network.host(name)
        network.path("a", "b", delay=0.5)
        unnamed = network.pipe("b", "a")
        network.defaults(delay=0.2, loss=0.1)
        assert network.pipe("a", "b").conditions.delay == 0.5
        assert (unnamed.conditions.delay, unnamed.conditions.loss) == (0.2, 0.1)
        assert network.pipe("a", "c").conditions.delay == 0.2
        with pytest.raises(TypeError, match="there is no knob 'latency'"):
            network.defaults(latency=1)  # type: ignore[call-arg]

    sim.run(scenario)


def test_swizzle_clogging_does_not_affect_other_holds() -> None:
    async def scenario(network: sim.Network) -> None:
        received: list[bytes] = []
        sink, other = network.host("sink"), network.host("other")
        await sink.start(collect, received)
        network.hold(other, sink)
        network.swizzle_clog([other], seconds=1)
        await other.run(send, b"held")
        await trio.sleep(2)
        assert received == []
        network.release(other, sink)
        await trio.sleep(1)
        assert received == [b"held"]

    sim.run(scenario)


def test_arrivals_at_one_instant_have_a_random_order_per_seed() -> None:
    async def scenario(network: sim.Network) -> str:
        received: list[bytes] = []
        await network.host("sink").start(collect, received)
        for name in "abcd":
            await network.host(name).run(send, name.encode())
            await network.host(name).run(send, name.encode())
        await trio.sleep(1)
        return b"".join(received).decode()

    orders = [sim.run(scenario, seed=seed) for seed in range(20)]
    assert len(set(orders)) > 10
    assert all(len(order) == 8 and order[::2] == order[1::2] for order in orders)
    assert orders[3] == sim.run(scenario, seed=3)
