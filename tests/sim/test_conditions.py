from __future__ import annotations

from typing import Any

import attrs
import pytest

from trio_dgram.sim._path.conditions import KNOBS, Conditions, Knobs, change
from trio_dgram.sim._path.losses import DropList


def test_defaults() -> None:
    assert attrs.asdict(Conditions()) == {
        "delay": 0.001,
        "jitter": 0,
        "distribution": "uniform",
        "keep_order": True,
        "loss": 0,
        "duplicate": 0,
        "reorder": 0,
        "gap": 1,
        "corrupt": 0,
        "corrupt_undetected": 0,
        "rate": None,
        "queue": 150_000,
        "queue_delay": None,
        "mtu": 1500,
        "too_big": "fragment",
        "seed": None,
    }


def test_the_keywords_are_the_knobs() -> None:
    assert sorted(Knobs.__annotations__) == sorted(KNOBS)


def test_every_knob_can_be_set() -> None:
    knobs: Knobs = {
        "delay": 1,
        "jitter": 0.5,
        "distribution": "normal",
        "keep_order": False,
        "loss": DropList({2}),
        "duplicate": 0.1,
        "reorder": 0.2,
        "gap": 5,
        "corrupt": 0.3,
        "corrupt_undetected": 1,
        "rate": 1e6,
        "queue": 0,
        "queue_delay": 0.1,
        "mtu": 1280,
        "too_big": "icmp",
        "seed": "mine",
    }
    conditions = change(knobs)
    assert {name: getattr(conditions, name) for name in KNOBS} == knobs
    assert attrs.evolve(Conditions(), **knobs) == conditions


def test_omitted_knobs_are_unchanged() -> None:
    before = Conditions(delay=0.5, loss=0.1)
    assert change({"loss": 0.2}, before) == Conditions(delay=0.5, loss=0.2)
    assert before == Conditions(delay=0.5, loss=0.1)


def test_a_table_cannot_be_changed_from_outside() -> None:
    table = [0.0, 1.0]
    conditions = Conditions(distribution=table)
    table.append(2.0)
    assert conditions.distribution == (0.0, 1.0)


def test_unknown_knobs_are_named() -> None:
    with pytest.raises(TypeError, match="there is no knob 'latency', 'loses'; there are delay, jitter, "):
        change({"latency": 0.1, "delay": 0.1, "loses": 0.1})  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("delay", -1, ValueError, "delay must be at least 0 and finite, not -1"),
        ("delay", float("inf"), ValueError, "delay must be at least 0 and finite, not inf"),
        ("delay", float("nan"), ValueError, "delay must be at least 0"),
        ("delay", "1", TypeError, r"delay must be a number, not '1' \(str\)"),
        ("jitter", True, TypeError, "jitter must be a number, not True"),
        ("distribution", "odd", ValueError, "distribution must be one of 'uniform'"),
        ("keep_order", 1, TypeError, "keep_order must be a bool"),
        ("loss", 2, ValueError, "loss must be a probability"),
        ("duplicate", 1.1, ValueError, "duplicate must be a probability from 0 to 1, not 1.1"),
        ("reorder", "often", TypeError, "reorder must be a probability from 0 to 1, not 'often'"),
        ("gap", 0, ValueError, "gap must be from 1"),
        ("corrupt", -0.1, ValueError, "corrupt must be a probability"),
        ("corrupt_undetected", None, TypeError, "corrupt_undetected must be a probability"),
        ("rate", 0, ValueError, "rate must be more than 0 bits a second; .* set loss to 1"),
        ("rate", -5, ValueError, "rate must be at least 0"),
        ("queue", 1.5, TypeError, "queue must be an integer"),
        ("queue", -1, ValueError, "queue must be from 0"),
        ("queue_delay", -1, ValueError, "queue_delay must be at least 0"),
        ("mtu", 67, ValueError, "mtu must be from 68 to 65575, not 67"),
        ("too_big", "drop", ValueError, "too_big must be one of 'fragment', 'icmp', 'blackhole', not 'drop'"),
        ("seed", 1.5, TypeError, r"seed must be an integer, a string or bytes, not 1.5 \(float\)"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, error: type[Exception], message: str) -> None:
    knobs: Any = {name: value}
    with pytest.raises(error, match=message):
        Conditions(**knobs)
    with pytest.raises(error, match=message):
        change(knobs)
