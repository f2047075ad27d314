from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

import trio_dgram
from trio_dgram import sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._values.choices import Choices, Recording, Replay, in_order
from trio_dgram.sim._values.tape import Choice, Tape

KNOBS: sim.Knobs = {
    "delay": 0.01,
    "jitter": 0.005,
    "loss": 0.1,
    "duplicate": 0.1,
    "reorder": 0.1,
    "corrupt": 0.1,
    "corrupt_undetected": 0.1,
    "keep_order": False,
}


TAPE: Final = Path(__file__).parent / "many_hosts.tape"
"""Of many_hosts, with 6 hosts and seed 1, recorded on Python 3.11."""
# On every machine and with every Python.
DIGEST: Final = "5541e8d07c64a7957a8137c0fafde393"
PROGRAM: Final = """
import sys
from pathlib import Path
from tests.support.many_hosts import scenario
from trio_dgram import sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._values.choices import Replay
from trio_dgram.sim._values.tape import read_tape

replaying = Replay(read_tape(Path(sys.argv[1])))
with running_test(TestRun(5, tape=replaying)):
    sys.stdout.write(sim.run(scenario, 6, 0, payload=True))
assert not replaying.unused, replaying.unused
"""


async def chatter(network: sim.Network) -> tuple[str, float]:
    """Clients on four hosts ask a server over bad paths, in no order in particular."""
    network.defaults(**KNOBS)
    clients = [network.host(f"client {number}") for number in range(4)]
    network.nat(clients[:1])

    async def serve() -> None:
        async with trio_dgram.open_socket("udp4", port=7) as socket:
            async for request in socket:
                await socket.send(request.data, request.address)

    async def ask() -> None:
        async with trio_dgram.open_socket("udp4", port=0) as socket:
            for _ in range(5):
                await socket.send(b"x", ("server", 7))
                with trio.move_on_after(0.1):
                    await socket.receive()

    server = network.host("server")
    for client in clients[1:]:
        network.path(client, server, delay=0.01, loss=0.1)
    server.start_soon(serve)
    network.swizzle_clog(["server"], seconds=0.1)
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(client.run, ask)
    return network.digest, random.random()


def record(seed: int) -> tuple[tuple[str, float], Tape]:
    recording = Recording()
    with running_test(TestRun(seed, tape=recording)):
        return sim.run(chatter, payload=True), recording.tape(seed, "test")


def replay(tape: Tape) -> tuple[tuple[str, float], Replay]:
    replaying = Replay(tape)
    with running_test(TestRun(5, tape=replaying)):
        return sim.run(chatter, payload=True), replaying


def test_recording_does_not_change_a_run() -> None:
    assert record(3)[0] == sim.run(chatter, seed=3, payload=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_has_the_digest_of_its_recording_under_any_seed(seed: int) -> None:
    outcome, tape = record(seed)
    replayed, replaying = replay(tape)
    assert replayed == outcome
    assert replaying.unused == []


@pytest.mark.programs
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_tape_replays_the_same_in_every_process(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TAPE)],
        cwd=Path(trio_dgram.__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == DIGEST


def test_a_tape_has_every_kind_of_choice_and_no_neutral_one() -> None:
    tape = record(2)[1]
    kinds = {choice.place.rpartition(": ")[2] for choice in tape.choices}
    assert {"loss", "duplicate", "delay", "reorder", "corrupt", "corrupt_undetected", "tie", "port"} <= kinds
    assert {"random", "hold", "release", "run of <TrioToken.run_sync_soon task>"} <= kinds
    assert any("(copy)" in choice.place for choice in tape.choices)
    assert all(choice.value for choice in tape.choices)


def test_an_empty_tape_replays_a_perfect_network() -> None:
    def outcome_of(network: sim.Network) -> set[tuple[str, float]]:
        return {(record.reason, round(record.at - record.packet.sent_at, 9)) for record in network.trace}

    async def scenario(network: sim.Network) -> set[tuple[str, float]]:
        await chatter(network)
        return outcome_of(network)

    with running_test(TestRun(5, tape=Replay(Tape(())))):
        assert sim.run(scenario) == {("", 0.01)}


def test_removing_a_choice_undoes_that_choice() -> None:
    async def scenario(network: sim.Network) -> list[bytes]:
        network.path(network.host("here"), network.host("b"), loss=0.5)
        with network.host("b").active():
            receiver = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
            await receiver.bind(("0.0.0.0", 7))
        sender = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        for data in (b"1", b"2", b"3"):
            await sender.sendto(data, ("b", 7))
        received = []
        with trio.move_on_after(1):
            while True:
                received.append(await receiver.recv(100))
        return received

    first, second = (Choice("here -> b: loss", number, value=True) for number in (1, 2))
    tape = Tape((first, second))
    for removed, received in (([], [b"3"]), ([first], [b"1", b"3"]), ([second], [b"2", b"3"])):
        with running_test(TestRun(5, tape=Replay(tape.without(removed)))):
            assert sim.run(scenario) == received


def test_choices_that_have_no_place_are_counted_and_ignored() -> None:
    outcome, tape = record(0)
    of_no_place = (Choice("gone -> server: loss", 1, value=True), Choice("client 1 -> server: loss", 999, value=True))
    of_another_kind = (Choice("client 2 -> server: tie", 999, "x"), Choice("server: port", 1, "x"))
    replayed, replaying = replay(Tape((*tape.choices, *of_no_place, *of_another_kind)))
    assert replayed == outcome
    assert replaying.unused == [*of_no_place, *of_another_kind]


def test_further_runs_of_a_test_have_places_of_their_own() -> None:
    recording = Recording()
    with running_test(TestRun(1, tape=recording)):
        outcomes = [sim.run(chatter), sim.run(chatter, seed=2)]
    tape = recording.tape(1, "test")
    assert {choice.place.startswith("run 2: ") for choice in tape.choices} == {False, True}
    with running_test(TestRun(1, tape=Replay(tape))):
        assert [sim.run(chatter), sim.run(chatter)] == outcomes


def test_a_recorded_run_is_not_checked() -> None:
    async def scenario(_: sim.Network) -> None:
        runs.append(None)

    runs: list[None] = []
    with running_test(TestRun(1, tape=Recording())):
        sim.run(scenario, check=True)
    assert len(runs) == 1


def test_a_followed_choice_knows_the_packet_it_was_about() -> None:
    _, tape = record(2)
    _, replaying = replay(tape)
    lost = next(choice for choice in tape.choices if choice.place.endswith("server: loss"))
    assert replaying.followed[lost].destination.port == 7


@pytest.mark.parametrize(("overtaken", "order"), [(0, "abc"), (1, "bca"), (2, "cba"), (9, "cba"), (-1, "abc")])
def test_items_overtake_those_before_them(overtaken: int, order: str) -> None:
    assert "".join(in_order("abc", lambda _item, _order: overtaken)) == order


def test_every_order_is_equally_probable() -> None:
    source = Choices(1).stream("x")
    counts: dict[str, int] = {}
    for _ in range(6000):
        order = "".join(in_order("abc", lambda _, order: int(source.random() * (len(order) + 1))))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts.values()) < 150
