"""The cause of a failure in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_dgram.sim._explore.places import Place, parse_place
from trio_dgram.sim._explore.sentence import sentence
from trio_dgram.sim._explore.shrink import Cause, Interval, Outcome, Shrunk
from trio_dgram.sim._values.tape import Choice, Value, read_tape

RECORDED = Path(__file__).parents[1] / "sim" / "many_hosts.tape"
LOSS = Cause(Choice("n1 -> n2: loss", 5, value=True), "passes", None)
DATAGRAMS = {("n1 -> n2: loss", 5): "#17 (n1 -> n2, VOTE term 3)", ("n1 -> n2: delay", 2): "#3 (n1 -> n2, ACK)"}
INTERVAL = Interval(0.412, 0.4687, 0.4043, 0.4731)


def restart(without: Outcome | None = "passes", interval: Interval | None = INTERVAL) -> Cause:
    return Cause(Choice("nemesis: crash n2: end", 1, 0.45), without, interval)


def shrunk(*causes: Cause, neighbour: tuple[Choice, ...] | None = None, is_complete: bool = True) -> Shrunk:
    choices = tuple(cause.choice for cause in causes)
    return Shrunk(choices, causes, neighbour, runs=99, reproduced=True, is_complete=is_complete)


def test_the_sentence_names_datagrams_faults_and_intervals() -> None:
    later = Choice("nemesis: crash n2: end", 1, 0.4731)
    assert sentence(shrunk(LOSS, restart(), neighbour=(LOSS.choice, later)), DATAGRAMS).splitlines() == [
        "fails only if  #17 (n1 -> n2, VOTE term 3) is lost",
        "          and  n2 restarts between 0.41 s and 0.47 s",
        "passes if either is taken away, or if n2 restarts after 0.47 s",
    ]


def test_the_sentence_names_what_fails_in_another_way() -> None:
    earlier = Choice("nemesis: crash n2: end", 1, 0.4043)
    causes = [LOSS, restart("fails otherwise")]
    assert sentence(shrunk(*causes, neighbour=(LOSS.choice, earlier)), DATAGRAMS).splitlines()[2:] == [
        "passes if not: #17 (n1 -> n2, VOTE term 3) is lost, or if n2 restarts before 0.41 s",
        "fails in another way if not: n2 restarts between 0.41 s and 0.47 s",
    ]


def test_a_sentence_that_the_limits_cut_short_claims_no_necessity() -> None:
    causes = [LOSS, restart(None, None)]
    assert sentence(shrunk(*causes, is_complete=False), {}).splitlines() == [
        "fails if  datagram 5 of n1 -> n2 is lost",
        "     and  n2 restarts at any time",
        "passes if not: datagram 5 of n1 -> n2 is lost",
        "the limits ended shrinking before every choice was examined",
    ]


@pytest.mark.parametrize(
    ("count", "words"), [(1, "it"), (2, "either"), (3, "any of the three"), (5, "any of the five"), (6, "any of the 6")]
)
def test_the_choices_that_can_be_taken_away_are_counted(count: int, words: str) -> None:
    causes = [Cause(Choice("n1 -> n2: loss", number + 1, value=True), "passes", None) for number in range(count)]
    assert sentence(shrunk(*causes), {}).splitlines()[-1] == f"passes if {words} is taken away"


def test_a_failure_without_a_choice_has_a_sentence() -> None:
    assert sentence(shrunk(), {}) == "fails also without loss, delay, faults and reordering of tasks"


def test_a_failure_that_always_becomes_another_one_has_a_sentence() -> None:
    assert sentence(shrunk(restart("fails otherwise", None)), {}).splitlines() == [
        "fails only if  n2 restarts at any time",
        "fails in another way if not: n2 restarts at any time",
    ]


BETWEEN = Interval(0.1, 0.2, 0.095, 0.22)
BELOW = Interval(0.001, 0.2, None, 0.22)
ABOVE = Interval(0.1, 9, 0.095, None)
ANY = Interval(0.001, 9, None, None)


@pytest.mark.parametrize(
    ("place", "value", "interval", "words"),
    [
        ("n1 -> n2: duplicate", True, None, "datagram 2 of n1 -> n2 is duplicated"),
        ("n1 -> n2 (copy): loss", True, None, "the duplicate of datagram 2 of n1 -> n2 is lost"),
        ("n1 -> n2: reorder", True, None, "datagram 2 of n1 -> n2 overtakes earlier ones"),
        ("n1 -> n2: corrupt", True, None, "datagram 2 of n1 -> n2 is corrupted"),
        ("n1 -> n2: corrupt_undetected", 9, None, "datagram 2 of n1 -> n2 is corrupted undetected"),
        ("n1 -> n2: tie", 1, None, "datagram 2 of n1 -> n2 arrives before 1 datagram due at the same instant"),
        ("n1 -> n2: delay", 0.15, BETWEEN, "#3 (n1 -> n2, ACK) has an additional delay of between 0.1 s and 0.2 s"),
        ("n1 -> n2: delay", 0.15, BELOW, "#3 (n1 -> n2, ACK) has an additional delay of less than 0.2 s"),
        ("n1 -> n2: delay", -0.15, ABOVE, "#3 (n1 -> n2, ACK) has a delay shorter by more than 0.1 s"),
        ("n1 -> n2: delay", 0.15, ANY, "#3 (n1 -> n2, ACK) has an additional delay of any size"),
        ("n1: run of serve", 3, None, "the task serve on n1 runs before 3 earlier tasks in its step 2"),
        ("run of main", 1, None, "the task main runs before 1 earlier task in its step 2"),
        ("n1: port", 40000, None, "the ephemeral port 2 of n1 is 40000"),
        ("run 3: n1 -> n2: loss", True, None, "in run 3 datagram 2 of n1 -> n2 is lost"),
        ("random", 7, None, "the program's randomness has the seed 7"),
        ("another place", 7, None, "another place 2 is 7"),
        ("nemesis: crash n2", 0.15, BETWEEN, "n2 crashes between 0.1 s and 0.2 s"),
        ("nemesis: crash n2", 0.15, BELOW, "n2 crashes before 0.2 s"),
        ("nemesis: crash n2", 0.15, ABOVE, "n2 crashes after 0.1 s"),
        ("nemesis: crash n2", 0.15, ANY, "n2 crashes at any time"),
        ("nemesis: partition n1, n2 | n3", 0.15, ABOVE, "the partition n1, n2 | n3 begins after 0.1 s"),
        ("nemesis: hold n1 -> n2: end", 0.15, ABOVE, "the hold of n1 -> n2 ends after 0.1 s"),
        ("nemesis: clock n2: offset", 0.15, ABOVE, "the clock of n2 is wrong by more than 0.1 s"),
        ("nemesis: path n1 -> n2: loss", 0.15, ABOVE, "the path n1 -> n2 loses a share of more than 0.1"),
    ],
)
def test_each_kind_of_choice_has_words(place: str, value: Value, interval: Interval | None, words: str) -> None:
    text = sentence(shrunk(Cause(Choice(place, 2, value), "passes", interval)), DATAGRAMS)
    assert text.splitlines()[0] == f"fails only if  {words}"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("n1 -> n2 (copy): delay", Place("delay", "n1 -> n2", is_copy=True)),
        ("odd: name -> n2: delay", Place("delay", "odd: name -> n2")),
        ("nemesis: pause n2: end", Place("pause", "n2", "end", is_fault=True)),
        ("run 12: n1: port", Place("port", "n1", run=12)),
        ("nemesis: unknown n2", Place("nemesis: unknown n2")),
    ],
)
def test_the_name_of_a_place_is_parsed(name: str, place: Place) -> None:
    assert parse_place(name) == place


def test_each_place_of_a_recorded_run_is_known() -> None:
    places = {choice.place: parse_place(choice.place) for choice in read_tape(RECORDED).choices}
    assert [name for name, place in places.items() if place.kind == name] == ["random"]
    assert {place.kind for place in places.values()} >= {"loss", "duplicate", "delay", "run", "port"}
    assert {place.is_copy for place in places.values()} == {False, True}
    assert not any("copy" in place.target for place in places.values())
