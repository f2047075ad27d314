"""Hosts, paths and names of a simulated network, and faults over time."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, cast

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Datagram, sim
from trio_dgram._socket.budget import current_budget
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._network.names import LookupFailure, Resolver

from ..support.families import Family
from .programs import ECHO_PORT, Type, ask, echo


async def start_echo(host: sim.Host, type: Type = "udp4") -> None:
    """Run an echo server on ``host``; it is bound when this returns."""
    host.start_soon(echo, type)
    await trio.testing.wait_all_tasks_blocked()


async def count(received: list[float], type: Type = "udp4") -> None:
    """Record the arrival of each datagram."""
    async with trio_dgram.open_socket(type, port=ECHO_PORT) as sock:
        async for _ in sock:
            received.append(trio.current_time())


async def send_numbers(count: int, name: str, interval: float = 0.0) -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        to = await trio_dgram.resolve(name, ECHO_PORT, "udp4")
        for number in range(count):
            await sock.send(str(number), to)
            await trio.sleep(interval)


# Hosts and names


def test_a_host_is_found_by_its_name_and_answers(udp: Family) -> None:
    async def scenario(network: sim.Network) -> Datagram:
        await start_echo(network.host("server"), udp.type)
        return await network.host("client").run(ask, udp.type, b"hello")

    answer = sim.run(scenario)
    assert answer.data == b"hello"


def test_a_datagram_arrives_after_the_delay_of_its_path() -> None:
    async def scenario(network: sim.Network) -> float:
        client, server = network.host("client"), network.host("server")
        network.path(client, server, delay=0.25)
        network.path("server", "client", delay=1)
        await start_echo(server)
        await client.run(ask, "udp4", b"hello")
        return network.time

    assert sim.run(scenario) == 1.25


def test_a_symmetric_path_is_the_same_both_ways_and_unset_knobs_are_as_by_default() -> None:
    async def scenario(network: sim.Network) -> None:
        there = network.path(network.host("a"), network.host("b"), symmetric=True, delay=0.5, loss=0.1)
        back = network.pipe("b", "a")
        assert there is network.pipe("a", "b")
        assert there.conditions == back.conditions
        assert there.conditions.delay == 0.5
        network.path("a", "b", jitter=0.1)
        assert (there.conditions.delay, there.conditions.loss, there.conditions.jitter) == (0.001, 0, 0.1)
        assert back.conditions.delay == 0.5

    sim.run(scenario)


def test_names_and_addresses_are_given_or_assigned() -> None:
    async def scenario(network: sim.Network) -> None:
        given = network.host("a", names=["a.example", "WWW.example."], addresses=["192.0.2.1", "2001:db8:0::1"])
        assert given.addresses == ("192.0.2.1", "2001:db8::1")
        half = network.host("b", addresses=["192.0.2.2"])
        assert (half.ipv4, half.ipv6[:4]) == ("192.0.2.2", "fd00")
        for name in ("a", "a.example", "A.Example.", "www.example"):
            assert await trio_dgram.resolve(name, 9, "udp4") == ("192.0.2.1", 9)
            assert await trio_dgram.resolve(name, 9, "udp6") == ("2001:db8::1", 9)
        assert network.hosts == (given, half)
        assert network.host("a") is given
        assert repr(given) == "<trio_dgram.sim.Host a: 192.0.2.1, 2001:db8::1>"

    sim.run(scenario)


def test_an_assigned_address_follows_from_the_name_alone() -> None:
    async def scenario(network: sim.Network, others: list[str]) -> tuple[str, ...]:
        for name in others:
            network.host(name)
        return network.host("the one").addresses

    assert sim.run(scenario, []) == sim.run(scenario, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda network: network.host(""), "name must be the name of a host, not ''"),
        (lambda network: network.host(7), "name must be the name of a host, not 7"),
        (lambda network: network.host("b", names="bb"), r"names must be several of them, such as \['bb'\]"),
        (lambda network: network.host("b", addresses="192.0.2.9"), "addresses must be several of them"),
        (lambda network: network.host("b", addresses=["b.example"]), "addresses must be numeric .*, not 'b.example'"),
        (lambda network: network.host("b", addresses=[7]), "addresses must be numeric .*, not 7"),
        (lambda network: network.host("b", addresses=["192.0.2.1"]), "192.0.2.1 is a's"),
        (lambda network: network.host("b", addresses=["127.0.0.1"]), "addresses must be unicast"),
        (
            lambda network: network.host("a", names=["c"]),
            "names and addresses cannot be given for 'a', a host that exists already",
        ),
        (lambda network: network.path("a", "b"), r"there is no host 'b': make it with network.host\('b'\)"),
        (lambda network: network.path("a", "a"), "a host has no path to itself"),
        (lambda network: network.at(-1, print), "time must be seconds since the network was opened, from 0"),
        (lambda network: network.at("1", print), "time must be seconds .*, not '1'"),
        (lambda network: network.at(float("nan"), print), "time must be seconds .*, not nan"),
        (
            lambda network: network.schedule([(3, network.pipe("a", "z"), {})], repeat=2),
            "repeat must be seconds, at least the 3 .*, not 2",
        ),
        (lambda network: network.schedule([], repeat=0), "repeat must be seconds.*, not 0"),
        (lambda network: network.look_up("a", error="nxdomain"), "error must be"),
        (lambda network: network.look_up("a", delay=-1), "delay must be"),
        (lambda network: network.swizzle_clog(["a"], seconds=0), "seconds must be"),
        (lambda network: network.partition(["a"], ["z"], direction="left").__enter__(), "direction must be"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[Any], object], message: str) -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a", addresses=["192.0.2.1"])
        network.host("z")
        with pytest.raises((ValueError, TypeError), match=message):
            call(network)

    sim.run(scenario)


def test_a_wrong_knob_is_named_and_nothing_changes() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a")
        network.host("b")
        with pytest.raises(TypeError, match="there is no knob 'latency'"):
            network.path("a", "b", latency=1)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="loss must be a probability"):
            network.path("a", "b", delay=5, loss=2)
        assert network.pipe("a", "b").conditions == sim.Conditions()

    sim.run(scenario)


def test_name_lookups_can_fail_temporarily_or_be_slow() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a")
        errors: dict[LookupFailure, int] = {"not found": socket.EAI_NONAME, "try again": socket.EAI_AGAIN}
        for error, number in errors.items():
            network.look_up("a", error=error)
            with pytest.raises(socket.gaierror) as caught:
                await trio_dgram.resolve("a", 9, "udp4")
            assert caught.value.errno == number
        network.look_up("a", delay=2.5)
        await trio_dgram.resolve("a", 9, "udp4")
        assert network.time == pytest.approx(2.5, abs=1e-5)
        with pytest.raises(socket.gaierror) as caught:
            await trio_dgram.resolve("nobody", 9, "udp4")
        assert caught.value.errno == socket.EAI_NONAME

    sim.run(scenario)


def test_names_and_addresses_are_resolved() -> None:
    async def scenario(network: sim.Network) -> None:
        with pytest.raises(socket.gaierror):
            await trio.socket.getaddrinfo(b"a", 9, socket.AF_INET, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)
        host = network.host("a", addresses=["192.0.2.1"])
        assert await trio.socket.getnameinfo((host.ipv4, 53), 0) == ("a", "domain")
        numeric = await trio.socket.getnameinfo((host.ipv4, 53), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        assert numeric == ("192.0.2.1", "53")
        assert await trio.socket.getnameinfo(("192.0.2.9", 9), socket.NI_NUMERICSERV) == ("192.0.2.9", "9")
        found = await trio.socket.getaddrinfo("localhost", 9, type=socket.SOCK_DGRAM)
        assert [entry[4][0] for entry in found] == ["127.0.0.1", "::1"]
        nothing = await Resolver().getaddrinfo(None, 9, socket.AF_INET, socket.SOCK_DGRAM)
        assert nothing[0][4] == ("127.0.0.1", 9)
        wildcard = await trio.socket.getaddrinfo(None, 9, socket.AF_INET, socket.SOCK_DGRAM, 0, socket.AI_PASSIVE)
        assert wildcard[0][4] == ("0.0.0.0", 9)

    sim.run(scenario)


def test_a_task_is_on_its_host_and_so_are_its_children() -> None:
    async def scenario(network: sim.Network) -> None:
        async def child() -> None:
            names.append(network.current_host.name)

        async def parent() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)

        names: list[str] = []
        host = network.host("a")
        await host.run(parent)
        host.start_soon(parent)
        await trio.testing.wait_all_tasks_blocked()
        with host.active():
            names.append(network.current_host.name)
        await child()
        assert names == ["a", "a", "a", "here"]

    sim.run(scenario)


def test_a_program_sees_the_interfaces_of_its_host() -> None:
    async def scenario(network: sim.Network) -> None:
        host = network.host("a", addresses=["192.0.2.1", "2001:db8::1"])
        with host.active():
            loopback, interface = trio_dgram.interfaces()
        assert (loopback.name, loopback.loopback, loopback.addresses) == ("lo", True, ("127.0.0.1", "::1"))
        assert (interface.name, interface.index, interface.mtu) == ("eth0", 2, 1500)
        assert interface.addresses == host.addresses

    before = trio_dgram.interfaces()
    sim.run(scenario)
    assert trio_dgram.interfaces() == before


# The end


async def real_socket() -> bool:
    """Return whether a socket made now is a real one."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return not isinstance(sock, sim.SimulatedSocket)


async def test_everything_is_restored_after_any_end() -> None:
    async with sim.open_network():
        assert not await real_socket()
        async with sim.open_network():
            assert not await real_socket()
        assert not await real_socket()
    assert await real_socket()
    with pytest.raises(ZeroDivisionError):
        async with sim.open_network():
            raise ZeroDivisionError
    assert await real_socket()
    with trio.move_on_after(0):
        async with sim.open_network():
            await trio.sleep_forever()
    assert await real_socket()
    assert await trio.socket.getaddrinfo("127.0.0.1", 9)


async def test_it_runs_in_real_time_too() -> None:
    async with sim.open_network(seed=1) as network:
        network.path(network.host("client"), network.host("server"), delay=0.01)
        await start_echo(network.host("server"))
        answer = await network.host("client").run(ask, "udp4", b"hello")
        assert answer.data == b"hello"
        assert network.time >= 0.01


async def test_two_networks_are_independent() -> None:
    async with sim.open_network() as outer:
        host = outer.host("a")
        async with sim.open_network() as inner:
            assert inner.host("a") is not host
            with host.active():
                assert inner.current_host.name == "here"


def test_repr_contains_the_seed() -> None:
    async def scenario(network: sim.Network) -> str:
        network.host("a")
        return repr(network)

    assert sim.run(scenario, seed=9) == "<trio_dgram.sim.Network, seed 9, 1 hosts, 0 datagrams>"


# Changes in time


def test_functions_are_called_at_their_time_in_order() -> None:
    async def scenario(network: sim.Network) -> list[tuple[str, float]]:
        called: list[tuple[str, float]] = []
        for name, time in (("late", 2.0), ("early", 1.0), ("same", 1.0), ("now", 0.0)):
            network.at(time, lambda name=name: called.append((name, network.time)))
        await trio.sleep(3)
        return called

    assert sim.run(scenario) == [("now", 0), ("early", 1), ("same", 1), ("late", 2)]


def test_an_exception_of_a_scheduled_function_ends_the_network() -> None:
    async def scenario(network: sim.Network) -> None:
        network.at(1, lambda: 1 / 0)
        await trio.sleep_forever()

    with pytest.RaisesGroup(ZeroDivisionError):
        sim.run(scenario)


def test_an_exception_of_a_loss_function_ends_the_network_when_a_host_answers_with_icmp() -> None:
    def lose(_packet: object) -> bool:
        raise ValueError("no such loss")

    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(server, client, loss=lose)
        await client.run(send_numbers, 1, "server", 1.0)

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no such loss")):
        sim.run(scenario)


def test_pipes_change_by_a_schedule_that_repeats() -> None:
    async def scenario(network: sim.Network) -> list[float]:
        pipe = network.path(network.host("a"), network.host("b"))
        network.schedule([(0, pipe, {"delay": 0.5}), (1, pipe, {"delay": 0.25})], repeat=2)
        await trio.sleep(0.1)
        delays = []
        for _ in range(6):
            delays.append(pipe.conditions.delay)
            await trio.sleep(1)
        return delays

    assert sim.run(scenario) == [0.5, 0.25, 0.5, 0.25, 0.5, 0.25]


def test_a_schedule_that_does_not_repeat_ends() -> None:
    async def scenario(network: sim.Network) -> tuple[float, float]:
        pipe = network.path(network.host("a"), network.host("b"))
        await trio.sleep(1)
        network.schedule([(1, pipe, {"delay": 0.5})])
        await trio.sleep(0.5)
        before = pipe.conditions.delay
        await trio.sleep(1)
        return before, pipe.conditions.delay

    assert sim.run(scenario) == (0.001, 0.5)


# Faults


@pytest.mark.parametrize(
    ("direction", "asked", "answered"), [("both", 1, False), ("there", 1, False), ("back", 2, False)]
)
def test_a_partition_drops_every_datagram_in_its_direction(direction: Any, asked: int, answered: bool) -> None:
    async def scenario(network: sim.Network) -> None:
        client, server = network.host("client"), network.host("server")
        await start_echo(server)
        with network.partition([client], ["server"], direction=direction):
            with trio.move_on_after(1) as scope:
                await client.run(ask, "udp4", b"hello")
            assert scope.cancelled_caught is not answered
            assert len(network.trace) == asked
            assert network.trace.records[-1].reason == "partition"
        assert (await client.run(ask, "udp4", b"hello")).data == b"hello"

    sim.run(scenario)


def test_held_datagrams_arrive_in_order_on_release() -> None:
    async def scenario(network: sim.Network) -> list[float]:
        client, server = network.host("client"), network.host("server")
        received: list[float] = []
        server.start_soon(count, received)
        network.hold(client, server)
        await client.run(send_numbers, 3, "server", 1.0)
        assert received == []
        network.release(client, server)
        await trio.sleep(1)
        return received

    assert sim.run(scenario) == pytest.approx([3.001] * 3, abs=1e-5)


def test_a_host_without_power_is_silent() -> None:
    async def goodbye(address: str) -> None:
        async with trio_dgram.open_socket("udp4") as sock:
            try:
                await trio.sleep_forever()
            finally:
                sock.send_nowait(b"goodbye", (address, ECHO_PORT))

    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        await start_echo(server)
        server.start_soon(goodbye, client.ipv4)
        await trio.testing.wait_all_tasks_blocked()
        server.crash()
        assert not server.is_up
        assert not server.interfaces()[1].up
        with trio.move_on_after(10) as scope:
            await client.run(ask, "udp4", b"hello")
        assert scope.cancelled_caught
        assert [(record.reason, record.receiver) for record in network.trace] == [("the host is down", "server")]
        server.restart(echo, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.run(ask, "udp4", b"again")).data == b"again"

    sim.run(scenario)


def test_a_killed_program_leaves_a_host_that_refuses() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        await start_echo(server)
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            await client.run(ask, "udp4", b"hello")

    sim.run(scenario)


def test_exceptions_of_a_killed_program_are_discarded() -> None:
    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in its last moment")

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    async def scenario(network: sim.Network) -> None:
        server = network.host("server")
        server.start_soon(program)
        await trio.testing.wait_all_tasks_blocked()
        server.kill()
        await trio.sleep(1)

    sim.run(scenario)


def test_no_socket_yields_for_the_time_that_has_passed() -> None:
    async def scenario(_: sim.Network) -> float:
        return current_budget().seconds

    assert sim.run(scenario) == math.inf


def test_a_call_on_a_stopped_host_raises() -> None:
    async def scenario(network: sim.Network) -> None:
        server = network.host("server")
        network.at(1, server.crash)
        with pytest.raises(sim.HostStoppedError, match="the host server was stopped"):
            await server.run(trio.sleep_forever)

    sim.run(scenario)


def test_a_paused_host_queues_datagrams_and_receives_them_on_resume() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        await start_echo(server)
        server.pause()
        with trio.move_on_after(5) as scope:
            await client.run(ask, "udp4", b"too late")
        assert scope.cancelled_caught
        network.at(network.time + 1, server.resume)
        answer = await client.run(ask, "udp4", b"hello")
        assert answer.data == b"hello"
        assert network.time == pytest.approx(6.001)

    sim.run(scenario)


def test_a_paused_host_sends_nothing() -> None:
    async def scenario(network: sim.Network) -> float:
        client = network.host("client")
        network.host("server")
        client.pause()
        network.at(2, client.resume)
        await client.run(send_numbers, 1, "server")
        await trio.sleep(1)
        return network.trace.records[0].packet.sent_at

    assert sim.run(scenario) == 2


def test_swizzle_clogging_holds_hosts_one_by_one_and_releases_all() -> None:
    async def scenario(network: sim.Network) -> list[float]:
        client = network.host("client")
        received: list[float] = []
        for name in ("a", "b", "c"):
            network.host(name)
        network.host("a").start_soon(count, received)
        network.swizzle_clog(["a", "b", "c"], seconds=10)
        await client.run(send_numbers, 20, "a", 1.0)
        await trio.sleep(5)
        return received

    received = sim.run(scenario, seed=3)
    assert len(received) == 20
    delays = [time - number for number, time in enumerate(received)]
    assert max(delays) > 1
    assert (delays[0], delays[-1]) == pytest.approx((0.001, 0.001), abs=1e-4)
    assert received != sim.run(scenario, seed=4)


def test_a_stream_socket_is_refused_clearly() -> None:
    async def scenario(_: sim.Network) -> None:
        with pytest.raises(OSError, match="carries datagrams only") as caught:
            trio.socket.socket()
        assert caught.value.errno == errno.EPROTONOSUPPORT

    sim.run(scenario)


def test_netstat_shows_every_host_with_its_sockets() -> None:
    async def scenario(network: sim.Network) -> str:
        server, client = network.host("server"), network.host("client")
        await start_echo(server)
        with client.active():
            async with trio_dgram.open_socket("udp6") as sock:
                await sock.connect((server.ipv6, 9))
                return network.netstat()

    text = sim.run(scenario)
    assert "server\n" in text
    assert "0.0.0.0:7" in text
    assert "]:9" in text


def test_colliding_assigned_addresses_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(network: sim.Network) -> None:
        hosts = [network.host(str(number)) for number in range(600)]
        assert len({host.ipv4 for host in hosts}) == len({host.ipv6 for host in hosts}) == 600

    # With so few addresses, some names collide, and some would get that of the router.
    monkeypatch.setattr("trio_dgram.sim._values.places.blake2b", _small)
    sim.run(scenario)


def _small(data: bytes, digest_size: int) -> Any:
    return blake2b(blake2b(data).hexdigest()[:3].encode(), digest_size=digest_size)


async def test_a_test_run_has_the_reports_of_the_networks_opened_last() -> None:
    test_run = TestRun(seed=7)
    with running_test(test_run):
        async with sim.open_network() as first:
            assert first.seed == 7
        async with sim.open_network() as outer, sim.open_network(seed=8) as inner:
            assert inner.seed == 8
    async with sim.open_network(trace_limit=None) as other:
        assert other.seed == 0
    reports: list[Any] = test_run.reports
    assert [report.trace for report in reports] == [outer.trace, inner.trace]


def test_a_paused_socket_waits_until_it_is_writable() -> None:
    async def scenario(network: sim.Network) -> float:
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            here = network.current_host
            here.pause()
            network.at(3, here.resume)
            network.at(2, lambda: cast("Any", sock).kernel_socket().notify())
            await sock.sendto(b"x", ("127.0.0.1", 9))
        return network.time

    assert sim.run(scenario) == 3


def test_networks_that_are_closed_out_of_order_raise_and_leave_nothing() -> None:
    async def hold_open(opened: trio.Event, close: trio.Event) -> None:
        async with sim.open_network():
            opened.set()
            await close.wait()

    async def main() -> None:
        events = [trio.Event() for _ in range(4)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_raises_out_of_order, hold_open, events[0], events[1])
            await events[0].wait()
            nursery.start_soon(hold_open, events[2], events[3])
            await events[2].wait()
            events[1].set()
            await trio.testing.wait_all_tasks_blocked()
            events[3].set()
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            assert not isinstance(sock, sim.SimulatedSocket)

    async def _raises_out_of_order(function: Any, *args: Any) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await function(*args)
        assert "must be closed before those opened before it" in str(caught.value.exceptions[0])

    trio.run(main)


def test_a_host_lists_its_sockets() -> None:
    async def scenario(network: sim.Network) -> None:
        host = network.host("a")
        with host.active():
            async with trio_dgram.open_socket("udp4", port=5000):
                assert "0.0.0.0:5000" in host.sockets()

    sim.run(scenario)
