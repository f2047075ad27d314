"""The strategies for Hypothesis yield valid conditions, and shrink towards a perfect network."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from trio_dgram import sim
from trio_dgram.sim import Knobs

from .programs import ask, echo


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(knobs=sim.strategies.conditions())
def test_a_program_that_retries_succeeds(knobs: Knobs) -> None:
    async def scenario(network: sim.Network) -> bytes:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, **knobs)
        server.start_soon(echo, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        while True:
            with trio.move_on_after(10):
                return (await client.run(ask, "udp4", b"hello")).data

    assert sim.run(scenario) == b"hello"


@pytest.mark.long
def test_conditions_shrink_towards_a_perfect_network() -> None:
    assert find(sim.strategies.conditions(), lambda _: True) == {}
    lossy = find(sim.strategies.conditions(), lambda knobs: knobs.get("loss", 0) != 0)
    assert set(lossy) == {"loss"}


@pytest.mark.long
def test_losses_of_every_kind_are_generated() -> None:
    for kind in (float, sim.DropList, sim.Burst, sim.GilbertElliott):
        find(sim.strategies.losses(), partial(is_a, kind))


def is_a(kind: type, value: object) -> bool:  # pragma: no cover -- long tests run it
    return type(value) is kind


@pytest.mark.programs
def test_hypothesis_is_imported_only_on_use() -> None:
    program = """
import sys
from functools import partial
from trio_dgram import sim
assert "hypothesis" not in sys.modules
assert sim.strategies.conditions
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_missing_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'weather'"):
        _ = sim.weather
    assert isinstance(sim.strategies.losses(), st.SearchStrategy)
