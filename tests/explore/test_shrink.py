"""Shrinking finds the choices that a failure needs, over synthetic runs whose cause is known by construction."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterable
from itertools import count, islice

import attrs
import pytest
from hypothesis import given, settings, strategies

from trio_dgram.sim._explore.shrink import Budget, Choices, Outcome, Shrunk, one_by_one, shrink
from trio_dgram.sim._values.tape import Choice


def unlimited() -> Budget:
    return Budget(runs=None, seconds=None)


@attrs.frozen
class Scenario:
    """A run that fails if all choices of one of its causes are made, each number within its bounds."""

    choices: Choices
    causes: tuple[tuple[tuple[str, int, float, float], ...], ...]
    """Alternatives; for each of its choices a cause has place, number, and the bounds of the value."""
    other_failure: tuple[str, int] = ("none", 0)
    """A choice that makes every run fail otherwise that does not fail by a cause."""

    def run(self, choices: Choices) -> Outcome:
        made = {(choice.place, choice.number): float(choice.value) for choice in choices}
        for cause in self.causes:
            if all(low <= made.get((place, number), -1) <= high for place, number, low, high in cause):
                return "fails"
        return "fails otherwise" if self.other_failure in made else "passes"

    @property
    def smallest(self) -> int:
        return min(map(len, self.causes))

    def shrink(self, budget: Budget | None = None) -> Shrunk:
        return shrink(self.choices, one_by_one(self.run), budget or unlimited())


def scenario_of(source: random.Random, *, noise: int, alternatives: int = 1) -> Scenario:
    """Return a scenario with so many choices that no cause needs, among those of its causes."""
    places = [
        "n1: run of serve",
        *(f"n{i} -> n{j}: loss" for i in range(3) for j in range(3) if i != j),
        "n1 -> n2: delay",
        "nemesis: crash n2",
    ]
    numbers = {place: count(1) for place in places}

    def choice() -> Choice:
        place = source.choice(places)
        is_time = place.endswith(("delay", "crash n2"))
        value = round(source.uniform(0.01, 5), 6) if is_time else source.randint(1, 3)
        return Choice(place, next(numbers[place]), value)

    choices = tuple(choice() for _ in range(noise + 8))
    causes = []
    for _ in range(alternatives):
        cause = []
        for needed in source.sample(choices, source.randint(1, 4)):
            value = float(needed.value)
            slack = source.uniform(0, 0.5) if isinstance(needed.value, float) else 0
            cause.append((needed.place, needed.number, value * (1 - slack), value * (1 + slack)))
        causes.append(tuple(cause))
    return Scenario(choices, tuple(causes), source.choice([("none", 0), (choices[0].place, choices[0].number)]))


scenarios = strategies.builds(
    scenario_of,
    strategies.randoms(use_true_random=True),
    noise=strategies.integers(0, 60),
    alternatives=strategies.integers(1, 3),
)


@given(scenarios)
@settings(deadline=None, max_examples=30)
def test_the_shrunk_run_fails_in_the_same_way_and_needs_each_choice(scenario: Scenario) -> None:
    shrunk = scenario.shrink()
    assert shrunk.reproduced
    assert shrunk.is_complete
    assert scenario.run(shrunk.choices) == "fails"
    for cause in shrunk.causes:
        without = tuple(choice for choice in shrunk.choices if choice != cause.choice)
        assert cause.without == scenario.run(without) != "fails"
        if isinstance(cause.choice.value, float):
            assert cause.interval is not None
            assert cause.interval.low <= cause.choice.value <= cause.interval.high
    assert shrunk.neighbour is None or scenario.run(shrunk.neighbour) == "passes"


@given(scenarios)
@settings(deadline=None, max_examples=30)
def test_shrinking_is_idempotent(scenario: Scenario) -> None:
    shrunk = scenario.shrink()
    again = shrink(shrunk.choices, one_by_one(scenario.run), unlimited())
    assert attrs.evolve(again, runs=shrunk.runs) == shrunk


@pytest.mark.parametrize("noise", [100, pytest.param(1900, marks=pytest.mark.long)])
def test_shrinking_finds_the_smallest_cause_or_one_choice_more_in_95_of_100(noise: int) -> None:
    scenarios = [scenario_of(random.Random(seed), noise=noise, alternatives=seed % 3 + 1) for seed in range(100)]
    shrunk = [(scenario, scenario.shrink(Budget())) for scenario in scenarios]
    assert all(result.is_complete for _, result in shrunk)
    assert sum(len(result.choices) <= scenario.smallest + 1 for scenario, result in shrunk) >= 95


@given(scenarios, strategies.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_evaluating_candidates_ahead_changes_nothing(scenario: Scenario, ahead: int) -> None:
    def evaluate(candidates: Iterable[Choices]) -> Generator[Outcome]:
        waiting = iter(candidates)
        outcomes = deque(map(scenario.run, islice(waiting, ahead)))
        while True:
            yield outcomes.popleft()
            outcomes.extend(map(scenario.run, islice(waiting, 1)))

    assert shrink(scenario.choices, evaluate, unlimited()) == scenario.shrink()


LOSS = Choice("n1 -> n2: loss", 3, value=True)
CRASH = Choice("nemesis: crash n2", 1, 2.345678)
NOISE = tuple(Choice("n2 -> n1: loss", number, value=True) for number in range(1, 101))
CRASH_AND_LOSS = Scenario(
    (*NOISE, LOSS, CRASH), ((("n1 -> n2: loss", 3, 1, 1), ("nemesis: crash n2", 1, 2.1, 2.5)),), ("n1 -> n2: loss", 3)
)


def test_a_number_is_shortened_and_its_interval_is_found() -> None:
    shrunk = CRASH_AND_LOSS.shrink()
    loss, crash = shrunk.causes
    assert loss == (LOSS, "passes", None)
    assert crash.choice == Choice(CRASH.place, 1, 2.3)
    assert crash.without == "fails otherwise"
    interval = crash.interval
    assert interval is not None
    assert interval.passes_below is not None
    assert interval.passes_above is not None
    assert 2.05 < interval.passes_below < 2.1 <= interval.low < 2.13
    assert 2.47 < interval.high <= 2.5 < interval.passes_above < 2.53


def test_the_neighbour_is_the_run_with_the_smallest_change_that_passes() -> None:
    without_other_failure = attrs.evolve(CRASH_AND_LOSS, other_failure=("none", 0)).shrink()
    assert without_other_failure.neighbour is not None
    assert [choice.place for choice in without_other_failure.neighbour] == [LOSS.place, CRASH.place]
    # Another time of the crash fails otherwise, so the loss is taken away.
    assert CRASH_AND_LOSS.shrink().neighbour == (Choice(CRASH.place, 1, 2.3),)
    always = attrs.evolve(CRASH_AND_LOSS, causes=((),)).shrink()
    assert always.choices == ()
    assert always.neighbour is None


def test_a_number_may_be_without_bounds() -> None:
    scenario = Scenario((CRASH,), (((CRASH.place, 1, 0, 1e9),),))
    (crash,) = scenario.shrink().causes
    assert crash.interval is not None
    assert crash.interval.passes_below is crash.interval.passes_above is None


def test_the_end_of_a_fault_is_not_moved_before_its_begin() -> None:
    begin, end = Choice("nemesis: crash n2", 1, 2.0), Choice("nemesis: crash n2: end", 1, 2.3)

    def run(choices: Choices) -> Outcome:
        made = {choice.place: float(choice.value) for choice in choices}
        return "fails" if begin.place in made and made.get(end.place, 9) < 4 else "passes"

    _, cause = shrink((begin, end), one_by_one(run), unlimited()).causes
    assert cause.interval is not None
    assert cause.interval.low == 2
    assert cause.interval.passes_below is None
    assert cause.interval.passes_above == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("place", ["n1: run of serve", "run of main", "n1 -> n2: tie"])
@pytest.mark.parametrize(("low", "high", "shrunk_to"), [(1, 9, 1), (4, 9, 4), (9, 9, 9)])
def test_a_count_is_shrunk_to_the_least_that_fails(place: str, low: int, high: int, shrunk_to: int) -> None:
    choice = Choice(place, 3, 9)
    shrunk = Scenario((*NOISE, choice), (((place, 3, low, high),),)).shrink()
    assert shrunk.choices == (Choice(place, 3, shrunk_to),)
    assert type(shrunk.choices[0].value) is int
    assert shrunk.causes[0].interval is None


def test_a_number_that_is_no_count_is_not_shrunk() -> None:
    choice = Choice("n1: port", 1, 12345)
    assert Scenario((choice,), (((choice.place, 1, 1, 1e9),),)).shrink().choices == (choice,)


def test_a_negative_number_keeps_its_sign() -> None:
    delay = Choice("n1 -> n2: delay", 1, -0.0123)

    def run(choices: Choices) -> Outcome:
        return "fails" if any(float(choice.value) < -0.01 for choice in choices) else "passes"

    (cause,) = shrink((delay,), one_by_one(run), unlimited()).causes
    assert cause.choice.value == -0.011
    assert cause.interval is not None
    assert cause.interval.low == pytest.approx(0.01, abs=0.001)


def test_a_number_is_shortened_only_to_one_that_fails() -> None:
    def run(choices: Choices) -> Outcome:
        return "fails" if any(float(choice.value) > 2 and choice.value != 3 for choice in choices) else "passes"

    (cause,) = shrink((Choice("n1 -> n2: delay", 1, 3.1),), one_by_one(run), unlimited()).causes
    assert cause.choice.value == 3.1


def test_choices_that_do_not_fail_again_are_not_shrunk() -> None:
    shrunk = shrink(NOISE, one_by_one(lambda _: "passes"))
    assert not shrunk.reproduced
    assert shrunk.choices == NOISE
    assert shrunk.runs == 1
    assert shrunk.neighbour is None


@pytest.mark.parametrize("runs", range(1, 26))
def test_the_limit_on_runs_ends_shrinking_with_choices_that_fail(runs: int) -> None:
    shrunk = CRASH_AND_LOSS.shrink(Budget(runs=runs, seconds=None))
    assert shrunk.reproduced
    assert CRASH_AND_LOSS.run(shrunk.choices) == "fails"
    assert shrunk.runs == runs
    assert not shrunk.is_complete


def test_the_limit_on_time_ends_shrinking() -> None:
    time = iter(range(100))
    shrunk = CRASH_AND_LOSS.shrink(Budget(runs=None, seconds=5, clock=lambda: next(time)))
    assert shrunk.runs == 4
    assert not shrunk.is_complete
