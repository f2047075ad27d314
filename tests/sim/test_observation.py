"""The observable side of a program: notes, decoded payloads, and checks that stop the run when they fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import trio

import trio_dgram
from trio_dgram import sim
from trio_dgram.sim import Note

PORT = 7


async def receive() -> None:
    async with trio_dgram.open_socket("udp4", port=PORT) as sock:
        async for _ in sock:
            pass


async def send(payload: bytes, host: str) -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        await sock.send(payload, (host, PORT))


def lines(text: str) -> list[str]:
    return [re.sub(r" 10[.\d]+:\d+", "", " ".join(line.split())) for line in text.splitlines()]


def test_a_note_is_in_the_story_between_the_datagrams_that_surround_it() -> None:
    async def scenario(network: sim.Network) -> str:
        network.note("begins")
        server, client = network.host("server"), network.host("client")

        async def noting() -> None:
            network.note("starts")
            await send(b"one", server.ipv4)
            network.note("sent one")
            await send(b"two", server.ipv4)
            await trio.sleep(0.5)
            network.note("waited")

        server.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await client.run(noting)
        assert network.trace.notes[0] == Note(0.0, "", "begins")
        assert network.trace.notes[-1] == Note(0.500001, "client", "waited", "note", 2)
        return network.trace.to_text()

    assert lines(sim.run(scenario)) == [
        "0.000000 * begins",
        "0.000000 * client: starts",
        '0.000000 #1 client -> server 3 bytes "one" delivered after 1.000 ms',
        "0.000000 * client: sent one",
        '0.000000 #2 client -> server 3 bytes "two" delivered after 1.000 ms',
        "0.500001 * client: waited",
    ]


def test_notes_change_no_digest() -> None:
    async def scenario(network: sim.Network, text: str) -> str:
        if text:
            network.note(text)
        with network.host("client").active():
            await send(b"x", network.host("server").ipv4)
        await trio.sleep(1)
        return network.digest

    assert sim.run(scenario, "") == sim.run(scenario, "noted")


def test_a_trace_keeps_as_many_notes_as_records() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        for number in range(5):
            network.note(str(number))
        return [note.text for note in network.trace.notes]

    assert sim.run(scenario, trace_limit=2) == ["3", "4"]


def test_faults_note_themselves() -> None:
    async def scenario(network: sim.Network) -> list[tuple[str, str]]:
        one, other = network.host("one"), network.host("other")
        network.path(one, other, delay=0.1)
        nat = network.nat([one], name="router")
        await trio.sleep(1)
        pipe = network.path(one, other, delay=0.2, loss=0.5)
        pipe.set(delay=0.2)
        pipe.set(loss=sim.DropList({1}))
        other.crash()
        other.restart(receive)
        other.kill()
        other.pause()
        other.resume()
        other.resume()
        other.freeze()
        other.resume()
        other.clock_skew(2, 1.5)
        network.defaults(loss=0.1)
        with network.partition([one], ["other"], direction="there"):
            network.hold(one, other)
            network.release(one, other)
        nat.rebind()
        assert {note.at for note in network.trace.notes} == {1.000001}
        assert [note.kind for note in network.trace.notes].count("crash") == 1
        return [(note.host, note.text) for note in network.trace.notes]

    notes = sim.run(scenario)
    assert [(host, re.sub(r"10\.[.\d]+", "10.x", text)) for host, text in notes] == [
        ("", "path one -> other: delay=0.2, loss=0.5"),
        ("", "path one -> other: loss=DropList(numbers=frozenset({1}))"),
        ("other", "crashes: its power is cut"),
        ("other", "restarts with receive"),
        ("other", "its programs are killed"),
        ("other", "its programs are paused"),
        ("other", "its programs are resumed"),
        ("other", "its programs and their timers are frozen"),
        ("other", "its programs are resumed"),
        ("other", "its clock is 2 s ahead, at 1.5 s per second"),
        ("", "path by default: loss=0.1"),
        ("", "partition: one -/-> other"),
        ("", "hold one -> other"),
        ("", "release one -> other"),
        ("", "the partition ends: one -/-> other"),
        ("", "router rebinds to 10.x"),
    ]


def test_payloads_are_decoded_by_the_program() -> None:
    async def scenario(network: sim.Network) -> str:
        network.decode(PORT, lambda payload: f"VOTE term {payload[0]}")
        with network.host("client").active():
            await send(b"\x03", network.host("server").ipv4)
        await trio.sleep(1)
        return network.trace.to_text()

    assert "1 byte  VOTE term 3  dropped" in sim.run(scenario)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda network: network.note(b"x"), TypeError, "text must be a str, not b'x'"),
        (lambda network: network.decode(0, str), ValueError, "port must be"),
        (lambda network: network.decode(7, "text"), TypeError, "function must accept a payload and return text"),
        (lambda network: network.always("text", "x"), TypeError, "check must be a function without"),
        (lambda network: network.always(receive, "x"), TypeError, "check must be a function without arguments"),
        (lambda network: network.always(lambda: True, ""), TypeError, "name must be text that describes the check"),
        (lambda network: network.eventually(lambda: True, 7, within=1), TypeError, "name must be text"),
        (lambda network: network.eventually(lambda: True, "x", within=-1), ValueError, "within must be"),
    ],
)
def test_wrong_arguments_are_refused(use: Callable[[Any], None], error: type[Exception], message: str) -> None:
    async def scenario(network: sim.Network) -> None:
        use(network)

    with pytest.raises(error, match=f"^{re.escape(message)}"):
        sim.run(scenario)


# Checks


class Values:
    """A value on each of two hosts, and a task that changes them."""

    def __init__(self, network: sim.Network) -> None:
        self.network = network
        self.value = 0

    async def count(self) -> None:
        while True:
            await trio.sleep(0.5)
            self.value += 1
            await send(b"%d" % self.value, self.network.host("server").ipv4)

    def start(self) -> None:
        self.network.host("server").start_soon(receive)
        self.network.host("client").start_soon(self.count)


def check_that_returns(values: Values) -> Callable[[], object]:
    return lambda: values.value < 3


def check_that_asserts(values: Values) -> Callable[[], object]:
    def check() -> None:
        assert values.value < 3, f"{values.value} is too much"

    return check


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (check_that_returns, "small: does not hold"),
        (check_that_asserts, "small: 3 is too much"),
        (lambda values: lambda: 1 / max(0, 3 - values.value), "small: division by zero"),
    ],
)
def test_a_run_stops_where_a_check_does_not_hold(make: Callable[[Values], Any], message: str) -> None:
    networks: list[sim.Network] = []

    async def scenario(network: sim.Network) -> None:
        networks.append(network)
        values = Values(network)
        network.always(make(values), "small")
        values.start()
        await trio.sleep_forever()

    with pytest.raises(sim.InvariantError, match=r"^small: ") as caught:
        sim.run(scenario)
    assert str(caught.value).startswith(message)
    (network,) = networks
    assert network.trace.notes == (Note(1.5 + 3e-6, "client", message, "violation", 2),)
    (report,) = caught.value.__notes__
    *_, last = re.findall(r"^\d\.\d{6}  .*", report, re.MULTILINE)
    assert last == f"1.500003  !!  client: {message}"


@pytest.mark.parametrize("way", ["open_network", "run"])
def test_a_check_that_does_not_hold_at_once_stops_the_run_too(way: str) -> None:
    async def scenario(network: sim.Network) -> None:
        network.always(lambda: False, "impossible")
        await trio.sleep_forever()

    async def with_open_network() -> None:
        async with sim.open_network() as network:
            await scenario(network)

    with pytest.raises(sim.InvariantError, match=r"^impossible: does not hold\n"):
        if way == "run":
            sim.run(scenario)
        else:
            trio.run(with_open_network)


def test_the_violation_is_raised_even_if_cancelled_tasks_raise() -> None:
    async def stubborn(network: sim.Network) -> None:
        try:
            await trio.sleep_forever()
        finally:
            network.note("too late")
            raise ValueError

    async def scenario(network: sim.Network) -> None:
        network.host("client").start_soon(stubborn, network)
        values = Values(network)
        network.always(lambda: values.value < 1, "zero")
        network.always(lambda: values.value < 1, "zero as well")
        values.start()
        await stubborn(network)

    with pytest.raises(sim.InvariantError, match=r"^zero: does not hold\n") as caught:
        sim.run(scenario)
    assert "too late" not in caught.value.__notes__[0]


def test_an_eventual_check_must_hold_once() -> None:
    async def scenario(network: sim.Network, limit: float) -> float:
        values = Values(network)
        network.eventually(lambda: values.value == 3, "three", within=limit)
        network.eventually(lambda: values.value == 1, "one", within=0.7)
        network.eventually(lambda: True, "at once", within=0)
        values.start()
        await trio.sleep(9)
        return network.time

    assert sim.run(scenario, 2.0) > 9
    with pytest.raises(sim.InvariantError, match=r"^three: has not held within 1.2 s\n") as caught:
        sim.run(scenario, 1.2)
    assert "1.200000  !!  three: has not held within 1.2 s" in caught.value.__notes__[0]


def test_an_eventual_check_may_raise_assertion_errors_until_it_holds() -> None:
    async def scenario(network: sim.Network) -> None:
        values = Values(network)

        def check() -> None:
            assert values.value == 3

        network.eventually(check, "three", within=2)
        values.start()
        await trio.sleep(9)

    sim.run(scenario)


def test_an_eventual_check_must_hold_before_the_scenario_ends() -> None:
    async def scenario(network: sim.Network) -> None:
        network.always(lambda: True, "true")
        network.eventually(lambda: False, "never", within=9)
        await trio.sleep(1)

    with pytest.raises(sim.InvariantError, match=r"^never: has not held before the scenario ended\n"):
        sim.run(scenario)


def test_the_error_of_a_scenario_is_unchanged_if_every_check_holds() -> None:
    async def scenario(network: sim.Network) -> None:
        network.always(lambda: True, "true")
        network.eventually(lambda: False, "later", within=9)
        await trio.sleep(1)
        raise ValueError

    with pytest.raises(ValueError, match=r"^\nOn the simulated"):
        sim.run(scenario)
