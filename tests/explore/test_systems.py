"""Small distributed systems: a planted bug is found and explained, and without it none is found.

The markers have few seeds; ``--sim-seeds=2000 --sim-jobs=auto`` runs all that the systems have been tried with.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from trio_dgram import sim

from ..sim.conftest import Run
from .address_cache import roaming
from .election import election
from .go_back_n import transfer
from .membership import membership

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
GUIDE: Final = Path(__file__).parents[2] / "docs" / "exploration.md"
PLANTED = {
    "election that forgets its vote": (
        "election.election(sim_network, forgetful=True)",
        r"(n\d) crashes .*\n.* \1 restarts ",
    ),
    "go-back-N with as large a window as its modulus": (
        "go_back_n.transfer(sim_network, window=4)",
        r"#\d+ \((sender -> receiver, \d message-\d+|receiver -> sender, ACK \d)\) is lost",
    ),
    "cache that stores a stale answer": (
        "address_cache.roaming(sim_network, checks_answers=False)",
        r"#\d+ \(registry -> cache, (INVALID BEFORE|ADDRESS) 192\.0\.2\.\d\) has (an additional|a) delay",
    ),
}
LONG = pytest.mark.long


@LONG
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_the_sentence_names_it(run: Run, name: str) -> None:
    call, words = PLANTED[name]
    result = run(
        f"""
    from tests.explore import address_cache, election, go_back_n

    @pytest.mark.seeds(500)
    async def test_it(sim_network, autojump_clock):
        await {call}
    """,
        "--sim-jobs=auto",
        "--sim-shrink=400",
    )
    text = result.stdout.str()
    found = re.search(r"shrunk from \d+ choices to (\d+) in", text)
    assert found is not None, text
    assert 1 <= int(found[1]) <= 5
    assert "fails only if" in text
    assert re.search(words, text) is not None, text
    if name.startswith("election"):
        # The guide shows this run.
        cause = text[text.index("seed 113, shrunk") : text.index("Replay:")]
        assert cause in GUIDE.read_text(encoding="utf-8")


@LONG
@pytest.mark.seeds(50)
async def test_an_election_that_keeps_its_votes_has_one_leader_in_each_term(
    sim_network: sim.Network, autojump_clock: object
) -> None:
    await election(sim_network, forgetful=False)


@LONG
@pytest.mark.seeds(100)
async def test_go_back_n_with_a_smaller_window_delivers_in_order(
    sim_network: sim.Network, autojump_clock: object
) -> None:
    await transfer(sim_network, window=3)


@LONG
@pytest.mark.seeds(100)
async def test_a_cache_that_checks_answers_has_no_stale_one(sim_network: sim.Network, autojump_clock: object) -> None:
    await roaming(sim_network, checks_answers=True)


@LONG
@pytest.mark.seeds(10)
async def test_swim_declares_no_living_member_dead(sim_network: sim.Network, autojump_clock: object) -> None:
    await membership(sim_network)
