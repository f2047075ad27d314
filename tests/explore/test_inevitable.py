"""The moment from which a failure is inevitable: the same prefix fails whatever is drawn after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable
from typing import Final, TypeVar

import pytest
import trio

from trio_dgram import open_socket, sim
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._explore.inevitable import CONTINUATIONS, inevitable_from
from trio_dgram.sim._explore.shrink import Budget, Outcome
from trio_dgram.sim._values.choices import Continuation, Recording
from trio_dgram.sim._values.tape import Choice, Tape

from .runs import moment_of

T = TypeVar("T")

DRAWN: Final = 8
"""The number of continuations of which the results are compared."""


# The search, over continuations whose outcomes are known by construction


def search(point: float, budget: Budget, *, passing: int = CONTINUATIONS) -> tuple[float | None, list[float]]:
    """Return the moment that is found, and those that were tried; before ``point`` one continuation passes."""
    tried: list[float] = []

    def evaluate(candidates: Iterable[tuple[float, int]]) -> Generator[Outcome]:
        for moment, number in candidates:  # pragma: no branch -- the search ends before them
            if number == 1:
                tried.append(moment)
            yield "passes" if moment < point and number == passing else "fails"

    return inevitable_from([float(moment) for moment in range(101)], evaluate, budget), tried


@pytest.mark.parametrize("passing", [1, CONTINUATIONS])
@pytest.mark.parametrize("point", [0, 1, 42, 99])
def test_the_first_moment_from_which_all_continuations_fail_is_found(point: int, passing: int) -> None:
    budget = Budget(runs=None, seconds=None)
    found, tried = search(point, budget, passing=passing)
    assert found == point
    assert len(tried) <= 7
    assert budget.spent <= 7 * CONTINUATIONS


def test_a_failure_that_is_inevitable_only_when_it_shows_has_no_moment() -> None:
    assert search(100, Budget()) == (None, [50, 75, 88, 94, 97, 99])


def test_a_continuation_that_fails_otherwise_does_not_count() -> None:
    def evaluate(candidates: Iterable[tuple[float, int]]) -> Generator[Outcome]:
        for _ in candidates:  # pragma: no branch -- likewise
            yield "fails otherwise"

    assert inevitable_from([1, 2], evaluate, Budget()) is None


def test_the_limit_on_runs_leaves_the_first_moment_that_is_known() -> None:
    assert search(42, Budget(runs=CONTINUATIONS - 1)) == (None, [50])
    assert search(42, Budget(runs=CONTINUATIONS)) == (50, [50])


# Runs


async def count(votes: list[bytes]) -> None:
    async with open_socket("udp4", port=4000) as sock:
        async for datagram in sock:
            votes.append(datagram.data)


async def vote_at(network: sim.Network, *times: float, seed: int | None = None) -> list[bytes]:
    """Vote at each of the times, over a path that loses datagrams, and return the votes at 10 s."""
    network.path(network.host("voter"), network.host("counter"), delay=0.02, loss=0.5, seed=seed)
    votes: list[bytes] = []
    network.host("counter").start_soon(count, votes)

    async def vote() -> None:
        async with open_socket("udp4") as sock:
            await sock.connect(("counter", 4000))
            for time in times:
                await trio.sleep(time - network.time)
                await sock.send(f"vote {time:g}")

    await trio.testing.wait_all_tasks_blocked()
    await network.host("voter").run(vote)
    await trio.sleep(10 - network.time)
    return votes


async def lost_at_once(network: sim.Network) -> None:
    """Fail if the vote at 1 s is lost; those that follow do not matter."""
    votes = await vote_at(network, 0.5, 1, 2)
    assert b"vote 1" in votes


async def lost_at_last(network: sim.Network) -> None:
    """Fail if the vote just before the end is lost."""
    votes = await vote_at(network, 1, 2, 9.9)
    assert b"vote 9.9" in votes


def test_a_lost_vote_makes_a_failure_inevitable_long_before_it_shows() -> None:
    tape = Tape((Choice("voter -> counter: loss", 2, value=True),))
    assert moment_of(lost_at_once, tape) == pytest.approx(1, abs=1e-5)


def test_a_failure_that_the_last_datagram_decides_is_not_inevitable_before() -> None:
    tape = Tape((Choice("voter -> counter: loss", 3, value=True),))
    assert moment_of(lost_at_last, tape) == pytest.approx(9.9, abs=1e-5)


# What a continuation follows, and what it draws


def continued(run: Callable[[], T], tape: Tape, moment: float, *, number_of_run: int = 1) -> list[T]:
    """Return the results of some continuations."""
    results = []
    for number in range(DRAWN):
        with running_test(TestRun(0, Continuation(tape, number_of_run, moment, number))):
            results.append(run())
    return results


@pytest.mark.parametrize("seed", [None, 7])
def test_a_continuation_follows_the_tape_up_to_the_moment_and_then_draws(seed: int | None) -> None:
    async def scenario(network: sim.Network) -> tuple[bytes, ...]:
        return tuple(await vote_at(network, 1, 2, 3, 4, 5, 6, seed=seed))

    tape = Tape(tuple(Choice("voter -> counter: loss", number, value=True) for number in (1, 6)))
    results = continued(lambda: sim.run(scenario), tape, 3.00001)
    assert {votes[:2] for votes in results} == {(b"vote 2", b"vote 3")}
    assert len(set(results)) > 4
    assert continued(lambda: sim.run(scenario), tape, 3.00001) == results


def test_a_continuation_draws_the_randomness_of_the_program() -> None:
    async def scenario(_: sim.Network) -> tuple[float, float, bytes]:
        before = random.random()
        await trio.sleep(2)
        return before, random.random(), random.SystemRandom().randbytes(4)

    tape = Tape((Choice("random", 1, 5),))
    results = continued(lambda: sim.run(scenario), tape, 1.0)
    for index, distinct in ((0, 1), (1, DRAWN), (2, DRAWN)):
        assert len({result[index] for result in results}) == distinct


def test_a_continuation_draws_faults_and_the_ends_of_those_of_the_tape() -> None:
    async def scenario(network: sim.Network) -> list[tuple[float, str]]:
        for name in ("n1", "n2"):
            network.host(name).start_soon(trio.sleep_forever)
        network.nemesis(crash=0.5, restart=1.0, duration=10.0, calm=0.0)
        await trio.sleep(10.5)
        return [(round(note.at, 3), note.text) for note in network.trace.notes]

    begins = tuple(Choice("nemesis: crash n1", number + 1, time) for number, time in enumerate((1.0, 2.0, 4.0)))
    ends = tuple(Choice("nemesis: crash n1: end", number + 1, time) for number, time in enumerate((1.5, 9.0, 9.5)))
    results = continued(lambda: sim.run(scenario), Tape(begins + ends), 3.0)
    following = set()
    for notes in results:
        assert [at for at, _ in notes if at <= 3] == [1, 1.5, 2]
        following.add(tuple(notes[3:]))
        # The end of the second crash is drawn anew, and the third crash is not on the tape any more.
        assert not {4.0, 9.0, 9.5} & {at for at, _ in notes}
    assert len(following) == DRAWN
    assert max(map(len, following)) > 3


def test_a_nemesis_that_has_ended_before_the_moment_draws_nothing() -> None:
    async def scenario(network: sim.Network) -> list[str]:
        network.host("n1").start_soon(trio.sleep_forever)
        network.nemesis(crash=5.0, duration=1.0, calm=0.0)
        await trio.sleep(10)
        return [note.text for note in network.trace.notes]

    assert continued(lambda: sim.run(scenario), Tape(()), 2.0) == [["the nemesis ends"]] * DRAWN


def test_a_nemesis_that_begins_after_the_moment_draws_its_faults() -> None:
    async def scenario(network: sim.Network) -> int:
        network.host("n1").start_soon(trio.sleep_forever)
        await trio.sleep(3)
        network.nemesis(crash=5.0, restart=0.1, duration=5.0, calm=0.0)
        await trio.sleep(6)
        return len(network.trace.notes)

    assert max(continued(lambda: sim.run(scenario), Tape(()), 2.0)) > 4


def test_only_the_run_that_fails_is_continued_and_later_ones_are_drawn() -> None:
    async def scenario(network: sim.Network) -> bytes:
        return b"".join(await vote_at(network, 1, 5))

    def scenarios() -> tuple[bytes, ...]:
        return tuple(sim.run(scenario) for _ in range(3))

    recording = Recording()
    with running_test(TestRun(1, recording)):
        first, second, _ = scenarios()
    results = continued(scenarios, recording.tape(1, "test"), 3.0, number_of_run=2)
    found = [{result[run] for result in results} for run in range(3)]
    assert found[0] == {first}
    assert {votes[:6] for votes in found[1]} == {second[:6]}
    assert len(found[1]) == 2
    assert len(found[2]) > 2
