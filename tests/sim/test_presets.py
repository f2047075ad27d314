from __future__ import annotations

from typing import Any

import pytest

from trio_dgram.sim import presets
from trio_dgram.sim._path.conditions import KNOBS, Knobs, change
from trio_dgram.sim._path.pipe import ARRIVES, LOST, Pipe
from trio_dgram.sim._values.choices import Choices

from .packets import make_packet

PRESETS: dict[str, Any] = {name: value for name, value in vars(presets).items() if name.isupper()}


def enter(knobs: Knobs, count: int) -> list[tuple[float, str]]:
    pipe = Pipe("a>b", change(knobs), Choices(7))
    return [(at, reason) for number in range(count) for at, _, reason in pipe.enter(number / 10, make_packet(size=972))]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_knobs(name: str) -> None:
    conditions = change(PRESETS[name])
    assert all(getattr(conditions, knob) == value for knob, value in PRESETS[name].items())
    assert set(PRESETS[name]) < set(KNOBS)


def test_every_documented_preset_exists() -> None:
    assert {"DSL_DOWN", "DSL_UP", "LTE", "GEO_SATELLITE", "LOSSY_WIFI", "DATA_CENTRE", "QUIC"} < set(PRESETS)
    assert sum(name.startswith("QUIC_") for name in PRESETS) == 7


def test_presets_can_be_changed() -> None:
    conditions = change({**presets.LTE, "loss": 0.01})
    assert (conditions.delay, conditions.loss) == (0.035, 0.01)


def test_a_packet_on_the_link_of_the_interop_runner() -> None:
    ((at, reason),) = enter(presets.QUIC, 1)
    assert at == pytest.approx(0.015 + 8000 / 10e6)
    assert reason == ARRIVES


def test_the_scenario_with_a_drop_list() -> None:
    reasons = [reason for _, reason in enter(presets.QUIC_AMPLIFICATION_LIMIT, 8)]
    assert reasons == [ARRIVES, *[LOST] * 6, ARRIVES]
