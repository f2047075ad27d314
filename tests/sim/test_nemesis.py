"""A nemesis injects faults at random times, each of which is a choice, and ends in a calm."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import trio

import trio_dgram
from trio_dgram import sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._values.choices import Recording, Replay
from trio_dgram.sim._values.tape import Choice, Tape

NODES = tuple(f"n{number}" for number in range(1, 6))
KINDS = ("crash", "partition", "hold", "pause", "freeze", "clock", "path")
OFTEN: dict[str, Any] = dict.fromkeys(KINDS, 0.5)


async def gossip(network: sim.Network, name: str, seen: set[str]) -> None:
    """Send to all others again and again."""
    network.note(f"{name} starts")
    async with trio_dgram.open_socket("udp4", port=4000) as socket, trio.open_nursery() as nursery:
        nursery.start_soon(listen, socket, seen)
        for number in count():  # pragma: no branch -- it is endless
            for other in NODES:
                if other != name:
                    await socket.send(b"x" * (number % 50), (other, 4000))
            await trio.sleep(0.5)


async def listen(socket: trio_dgram.DatagramSocket, seen: set[str]) -> None:
    async for datagram in socket:
        seen.add(datagram.address.host)


def start(network: sim.Network) -> dict[str, set[str]]:
    seen: dict[str, set[str]] = {name: set() for name in NODES}
    for name in NODES:
        network.host(name).start_soon(gossip, network, name, seen[name])
    return seen


async def tick() -> None:
    """Take a step now and then: checks are called after steps."""
    for _ in count():  # pragma: no branch -- it is endless
        await trio.sleep(0.1)


def faults(network: sim.Network) -> list[str]:
    return [note.text for note in network.trace.notes if note.kind in ("fault", "crash", "restart")]


async def every_fault(network: sim.Network) -> tuple[str, list[str]]:
    start(network)
    network.nemesis(**OFTEN, restart=0.5, duration=10)
    await trio.sleep(12)
    return network.digest, faults(network)


def record(scenario: Callable[..., Any], seed: int) -> tuple[Any, Tape]:
    recording = Recording()
    with running_test(TestRun(seed, tape=recording)):
        return sim.run(scenario), recording.tape(seed, "test")


def replay(scenario: Callable[..., Any], tape: Tape) -> tuple[Any, Replay]:
    replaying = Replay(tape)
    with running_test(TestRun(5, tape=replaying)):
        return sim.run(scenario), replaying


@pytest.mark.long
def test_every_kind_of_fault_happens_at_its_rate() -> None:
    tapes = [record(every_fault, seed)[1] for seed in range(4)]
    counts = Counter(
        choice.place.split()[1]
        for tape in tapes
        for choice in tape.choices
        if choice.place.startswith("nemesis: ")
        and choice.place.rpartition(": ")[2] not in {"end", "offset", "loss", "delay"}
    )
    # Expected are 20 of each; the standard deviation of their bursts is about 7.
    assert set(counts) == set(KINDS)
    assert all(6 <= count <= 45 for count in counts.values()), counts
    assert 100 < counts.total() < 180


@pytest.mark.parametrize("seed", range(2))
def test_a_replay_has_the_faults_of_its_recording(seed: int) -> None:
    outcome, tape = record(every_fault, seed)
    replayed, replaying = replay(every_fault, tape)
    assert replayed == outcome
    assert replaying.unused == []


def test_each_fault_can_be_removed() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        start(network)
        network.nemesis(crash=1, partition=1, restart=1, duration=10)
        await trio.sleep(9)
        return faults(network)

    crash = Choice("nemesis: crash n2", 1, 0.5), Choice("nemesis: crash n2: end", 1, 0.75)
    partition = Choice("nemesis: partition n1, n2 | n3", 1, 2.0)
    tape = Tape((*crash, partition))
    assert replay(scenario, tape)[0] == [
        "crashes: its power is cut",
        "restarts with gossip",
        "partition: n1, n2 | n3",
    ]
    assert replay(scenario, tape.without(crash))[0] == ["partition: n1, n2 | n3"]
    assert replay(scenario, tape.without(crash[1:]))[0] == ["crashes: its power is cut", "partition: n1, n2 | n3"]


@pytest.mark.parametrize(
    "choice",
    [
        Choice("nemesis: crash n9", 1, 1.0),
        Choice("nemesis: crash n1", 1, 99.0),
        Choice("nemesis: crash n1", 1, "soon"),
        Choice("nemesis: crash n1: end", 1, 3.0),
        Choice("nemesis: clock n1", 1, 1.0),
        Choice("nemesis: unknown n1", 1, 1.0),
        Choice("nemesis: partition n1 | n1", 1, 1.0),
        Choice("nemesis: nothing", 1, 1.0),
    ],
)
def test_a_fault_that_has_no_place_any_more_does_not_happen(choice: Choice) -> None:
    async def scenario(network: sim.Network) -> list[str]:
        start(network)
        network.nemesis(crash=1, partition=1, duration=10)
        await trio.sleep(9)
        return faults(network)

    happened, replaying = replay(scenario, Tape((choice,)))
    assert happened == []
    assert replaying.unused == [choice]


def test_everything_is_healed_in_the_calm() -> None:
    async def scenario(network: sim.Network) -> tuple[bool, float]:
        seen = start(network)
        network.nemesis(**OFTEN, restart=100, duration=10, calm=3)
        await trio.sleep(10.001)
        for received in seen.values():
            received.clear()
        await trio.sleep(1)
        everybody = {network.host(name).ipv4 for name in NODES}
        for name, received in seen.items():
            assert received == everybody - {network.host(name).ipv4}, name
        with network.host("n1").active():
            return all(host.is_up for host in network.hosts), time.time() % 86400

    for seed in range(3):
        up, of_day = sim.run(scenario, seed=seed)
        assert up
        assert of_day == pytest.approx(11.001, abs=1e-3)


def test_without_restart_a_host_stays_down() -> None:
    async def scenario(network: sim.Network) -> int:
        start(network)
        network.nemesis(crash=5, duration=2, minority=True)
        await trio.sleep(5)
        return sum(host.is_up for host in network.hosts)

    assert [sim.run(scenario, seed=seed) for seed in range(3)] == [3] * 3


def test_a_minority_alone_is_cut_off() -> None:
    async def scenario(network: sim.Network) -> int:
        start(network)
        network.nemesis(crash=10, partition=3, hold=3, pause=3, freeze=3, restart=2, duration=10, minority=True)
        least = 5
        for _ in range(100):
            await trio.sleep(0.1)
            least = min(least, sum(host.is_up for host in network.hosts))
        return least

    assert sim.run(scenario) == 3


def test_faults_concern_the_hosts_given() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        start(network)
        network.nemesis(crash=3, hold=3, restart=0.2, hosts=["n1", network.host("n2")], duration=5)
        await trio.sleep(6)
        return faults(network) + [note.host for note in network.trace.notes if note.kind == "crash"]

    happened = sim.run(scenario)
    assert {"n1", "n2", "hold n1 -> n2", "hold n2 -> n1"} <= set(happened)
    assert not {"n3", "n4", "n5"} & set(happened)


def test_a_host_that_something_waits_for_does_not_crash() -> None:
    async def scenario(network: sim.Network) -> None:
        network.nemesis(crash=100, partition=1, duration=1)
        await network.host("client").run(trio.sleep, 2)
        assert "crashes: its power is cut" not in faults(network)

    sim.run(scenario)


def test_faults_follow_new_sizes_and_notes() -> None:
    async def scenario(network: sim.Network) -> list[float]:
        start(network)
        network.nemesis(pause=2, duration=9)
        for _ in range(9):
            await trio.sleep(0.987)
            network.note(f"at {network.time}")
        noted = [note.at for note in network.trace.notes if note.kind == "note"]
        paused = [note.at for note in network.trace.notes if "paused" in note.text]
        return [at for at in paused if any(0 <= at - noted_at < 0.006 for noted_at in noted)]

    assert sum(len(sim.run(scenario, seed=seed)) for seed in range(2)) >= 2


def test_eventually_is_judged_in_the_calm() -> None:
    async def scenario(network: sim.Network, holds: Callable[[float], bool], duration: float | None) -> None:
        network.host("n1").start_soon(tick)
        network.nemesis(partition=1, duration=duration, calm=3)
        network.eventually(lambda: holds(network.time), "in the end", within=2)
        await trio.sleep(10)

    def run(holds: Callable[[float], bool], duration: float | None) -> None:
        sim.run(scenario, holds, duration)

    run(lambda now: now >= 6, 5.0)
    run(lambda now: now >= 11, None)
    with pytest.raises(sim.InvariantError, match=r"in the end: has not held within 2 s") as caught:
        run(lambda now: now < 5 or now > 7.5, 5.0)
    assert "\n7.000000  !!  in the end: has not held within 2 s\n" in caught.value.__notes__[0]
    with pytest.raises(sim.InvariantError, match="in the end: has not held within 2 s"):
        run(lambda now: now < 10, None)


def test_a_calm_that_is_too_short_ends_the_scenario() -> None:
    async def scenario(network: sim.Network) -> None:
        network.nemesis(partition=1, calm=1)
        network.eventually(lambda: False, "in the end", within=2)

    with pytest.raises(sim.InvariantError, match="in the end: has not held before the scenario ended"):
        sim.run(scenario)


def test_a_run_that_fails_during_faults_leaves_nothing_behind() -> None:
    async def scenario(network: sim.Network) -> None:
        start(network)
        network.nemesis(partition=20, freeze=20, hold=20, path=20)
        await trio.sleep(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sim.run(scenario)
    # An exception in a finalizer would be a warning, which is an error here.
    gc.collect()


def test_one_nemesis_follows_another() -> None:
    async def scenario(network: sim.Network) -> tuple[str, list[str]]:
        start(network)
        network.nemesis(crash=2, restart=0.1, duration=2, calm=1)
        with pytest.raises(RuntimeError, match="a nemesis is active: the next one can begin when its duration is over"):
            network.nemesis(crash=1)
        await trio.sleep(3)
        network.nemesis(crash=2, restart=0.1, duration=2, calm=1)
        await trio.sleep(3)
        return network.digest, faults(network)

    outcome, tape = record(scenario, 1)
    assert replay(scenario, tape)[0] == outcome
    assert outcome[1].count("the nemesis ends") == 2


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({}, ValueError, "one of crash, partition, hold, pause, freeze, clock, path must have a rate of more than 0"),
        ({"crash": -1}, ValueError, "crash must be at least 0 and finite, not -1"),
        ({"freeze": "1"}, TypeError, r"freeze must be a number, not '1' \(str\)"),
        ({"crash": 1, "restart": -1}, ValueError, "restart must be at least 0"),
        ({"crash": 1, "duration": float("inf")}, ValueError, "duration must be at least 0 and finite, not inf"),
        ({"crash": 1, "calm": None}, TypeError, "calm must be a number, not None"),
        ({"crash": 1, "minority": 1}, TypeError, "minority must be a bool, not 1"),
        ({"crash": 1, "hosts": "n1"}, TypeError, "hosts must be a list of hosts or their names, not 'n1'"),
        ({"crash": 1, "hosts": 5}, TypeError, "hosts must be a list of hosts or their names, not 5"),
        ({"crash": 1, "hosts": []}, ValueError, "hosts must be one host at least"),
        ({"crash": 1, "hosts": ["n7"]}, ValueError, "there is no host 'n7'"),
        ({"crash": 1, "hosts": ["a, b"]}, ValueError, r"hosts must have names without ', ', .*, not 'a, b'"),
    ],
)
def test_a_wrong_argument_is_refused(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("a, b")
        with pytest.raises(error, match=message):
            network.nemesis(**wrong)

    sim.run(scenario)


async def test_a_nemesis_of_the_fixture_ends_in_its_calm(sim_network: sim.Network, autojump_clock: object) -> None:
    sim_network.host("n1").start_soon(tick)
    sim_network.nemesis(partition=1, calm=2)
    sim_network.eventually(lambda: sim_network.time > 1, "in the calm", within=2)


def test_reboot_starts_what_was_running() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        started = []

        async def serve(name: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
            started.append(name)
            task_status.started(name)
            await trio.sleep(float("inf") if name != "short" else 0.5)

        host = network.host("n1")
        assert await host.start(serve, "first") == "first"
        for name in ("second", "short"):
            host.start_soon(serve, name)
        await trio.sleep(1)
        host.crash()
        host.reboot()
        await trio.sleep(1)
        host.reboot()
        await trio.sleep(1)
        host.restart(serve, "third")
        await trio.sleep(1)
        host.kill()
        host.reboot()
        await trio.sleep(1)
        network.host("n2").reboot()
        return [*started, *(note.text for note in network.trace.notes if note.host == "n2")]

    assert sim.run(scenario, schedule="fifo") == [
        *("first", "second", "short"),
        *("first", "second", "first", "second"),
        *("third", "third"),
        "restarts with no program",
    ]


def test_buggify_is_false_outside_the_simulator() -> None:
    async def main() -> bool:
        return trio_dgram.buggify(1)

    assert not trio_dgram.buggify(1)
    assert not trio.run(main)


def test_buggify_is_a_choice_in_the_simulator() -> None:
    async def flush() -> int:
        taken = 0
        for _ in range(100):
            taken += trio_dgram.buggify(0.3)
        return taken

    async def scenario(network: sim.Network) -> tuple[int, int]:
        return await network.host("n1").run(flush), await flush()

    counts, tape = record(scenario, 1)
    assert all(15 < count < 45 for count in counts)
    name = f"buggify {__name__}.test_buggify_is_a_choice_in_the_simulator.<locals>.flush"
    assert Counter(choice.place for choice in tape.choices if "buggify" in choice.place) == {
        f"n1: {name}": counts[0],
        name: counts[1],
    }
    assert replay(scenario, tape)[0] == counts
    assert replay(scenario, Tape(()))[0] == (0, 0)


@pytest.mark.parametrize("wrong", [2, "1", None])
def test_buggify_refuses_what_is_no_probability(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="probability must be a probability from 0 to 1, not"):
        trio_dgram.buggify(wrong)
