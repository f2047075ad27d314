"""The summary of the benchmarks' figures, and the rows left out: nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

import trio_dgram
from benchmarks.__main__ import main, plan, python_build
from benchmarks.cases import CASES, OURS, OWN, PEERS, PURE, Bulk, Case, Peer, Row
from benchmarks.comparing import Ratio, ratio
from benchmarks.measuring import Figure
from benchmarks.report import Line, sum_up, table

BARS = {
    "echo": {"Node": 1.6, "trio.socket": 4.5, "asyncio": 5.0, "uvloop": 1.0, "blocking C": 0.5},
    "batched echo": {"uvloop": 1.25, "blocking Python": 1.2},
    "ping-pong": {"trio.socket": 0.9},
    "receive flood": {"asyncio": 25.0, "uvloop": 2.5},
    "receive flood, sender without offload": {"uvloop": 1.6},
    "bulk send": {"blocking Python": 8.0, "Node": 4.0},
    "many peers": {"our own echo": 0.9},
    "workers": {"1 worker": 1.7},
    "a channel per peer": {"the bare socket": 1.8},
    "a channel per peer, 16 peers": {"the bare socket": 1.8},
    "a channel per peer, wildcard address": {"on one address": 1.1},
    "many sockets, 100": {"one socket": 2.0, "uvloop": 1.0},
    "many sockets, 1,000": {"one socket": 2.0, "uvloop": 1.0},
    "import": {"import trio": 1.15},
    "simulated network": {"trio.socket on loopback": 0.5},
    "simulated ping-pong": {"trio.socket on loopback": 0.5},
    "simulated seeds": {"1 process": 1.6},
    "QUIC transfer": {"aioquic on asyncio": 1.3},
    "QUIC transfer beside an unread stream": {"alone": 0.8},
}
PURE_BARS = {
    "echo": {"Node": 1.1, "trio.socket": 2.8, "asyncio": 3.6},
    "batched echo": {"uvloop": 0.95},
    "ping-pong": {"trio.socket": 1.05},
    "receive flood": {"asyncio": 15.0, "uvloop": 1.5, "Node": 2.5},
    "receive flood, sender without offload": {"uvloop": 0.9, "asyncio": 5.0},
    "bulk send": {"blocking Python": 8.0, "Node": 4.0},
    "many sockets, 100": {"one socket, pure": 3.0},
    "many sockets, 1,000": {"one socket, pure": 3.0},
}
AT_MOST = {
    "idle sockets": 4096,
    "idle peers": 2048,
    "idle QUIC connections": 120,
    "under attack": 66 * 1024,
    "a million simulated datagrams": 2**20,
    "1,000 simulated hosts, all to all": 2.0,
    "recording a simulated run": 1.05,
}
QUIC_CASES = {"QUIC transfer", "QUIC transfer beside an unread stream", "idle QUIC connections"}
SIMULATED_CASES = {
    "simulated network",
    "simulated ping-pong",
    "simulated seeds",
    "1,000 simulated hosts, all to all",
    "recording a simulated run",
    "simulated hosts, growing",
    "a million simulated datagrams",
}
LESS_IS_BETTER = {
    "ping-pong",
    "a channel per peer",
    "a channel per peer, 16 peers",
    "a channel per peer, wildcard address",
    "many sockets, 100",
    "many sockets, 1,000",
    "idle peers",
    "under attack",
    "idle QUIC connections",
    "idle sockets",
    "import",
    "peers, growing",
    "sockets, growing",
    "simulated hosts, growing",
    "a million simulated datagrams",
    "1,000 simulated hosts, all to all",
    "recording a simulated run",
}

COMPILED = trio_dgram.capabilities().compiled
NO_COMPILER = "no C compiler is installed"
OTHER = Peer("other", ("other",))
NOT_INSTALLED = Peer("abacus", ("abacus",), ("python:no_such_module",))


def case(
    bar: float | None = None,
    *,
    growth: bool = False,
    higher_is_better: bool = True,
    at_most: float | None = None,
    other: Peer = OTHER,
) -> Case:
    return Case(
        name="sums",
        unit="sums/s",
        rows=(Row(OURS, PEERS[OURS], (), Bulk()), Row(other.name, other, (), Bulk(), bar)),
        growth=growth,
        higher_is_better=higher_is_better,
        at_most=at_most,
    )


def figures(*values: float) -> list[Figure]:
    return [Figure(value) for value in values]


def shown(of: Case, lines: Sequence[Line]) -> list[str]:
    """Return the lines of the table, with one space for many."""
    return [" ".join(line.split()) for line in table(of, lines, 2)]


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_the_medians() -> None:
    assert ratio([10, 40, 90], [10, 10, 30]).median == 3


@pytest.mark.parametrize(
    "ours", [[3.0], [1.0, 9.0], [1.0, 2.0, 50.0], [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0]], ids=len
)
def test_the_interval_contains_the_median(ours: list[float]) -> None:
    found = ratio(ours, [1.0] * len(ours))
    assert min(ours) <= found.low <= found.median <= found.high <= max(ours)


def test_the_same_figures_give_the_same_interval() -> None:
    # So many different ones that chance alone would hardly choose the same interval a few times.
    ours, theirs = [math.exp(number / 10) for number in range(100)], [1.0] * 100
    first = ratio(ours, theirs)
    assert first.low < first.high
    assert [ratio(ours, theirs) for _ in range(3)] == [first] * 3


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    assert ratio([2, 4, 6, 8], [1, 2, 3, 4]) == Ratio(2, 2, 2)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0])])
def test_rounds_that_are_not_paired_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"argument 2 is (longer|shorter)"):
        ratio(ours, theirs)


def test_a_bar_is_reached_by_the_better_end_of_the_interval_and_no_further() -> None:
    found = Ratio(1.0, 0.9, 1.1)
    assert found.reaches(1.1, higher_is_better=True)
    assert not found.reaches(math.nextafter(1.1, math.inf), higher_is_better=True)
    assert found.reaches(0.9, higher_is_better=False)
    assert not found.reaches(math.nextafter(0.9, -math.inf), higher_is_better=False)


def test_a_bar_that_is_met_and_the_summary_of_the_rounds() -> None:
    of = case(bar=2.0)
    theirs = [Figure(10, lost=0.5), Figure(20, lost=0.0), Figure(15, lost=0.25)]
    ours, other = lines = sum_up(of, {"other": theirs, OURS: figures(20, 40, 30)}, judge=True)
    assert (ours.ratio, ours.bar, ours.met) == (None, None, None)
    assert (other.ratio, other.bar, other.met) == (Ratio(2, 2, 2), 2.0, True)
    assert (other.median, other.low, other.high, other.lost) == (15, 10, 20, 0.25)
    assert other.rounds == tuple(theirs)
    assert shown(of, lines) == [
        "sums (sums/s; more is better)",
        "median spread lost CPU us first / this",
        "trio_dgram 30.0 20.0 .. 40.0 0.0%",
        "other 15.0 10.0 .. 20.0 25.0% 2.00 (2.00 .. 2.00) >= 2 met",
    ]


def test_a_bar_that_is_missed() -> None:
    of = case(bar=2.5)
    lines = sum_up(of, {OURS: figures(20), "other": figures(10)}, judge=True)
    assert lines[1].met is False
    assert shown(of, lines)[-1] == "other 10.0 10.0 .. 10.0 0.0% 2.00 (2.00 .. 2.00) >= 2.5 MISSED"


@pytest.mark.parametrize(("ours", "met"), [(10, True), (11, False)])
def test_where_less_is_better_the_bar_is_an_upper_limit(ours: float, met: bool) -> None:
    of = case(bar=1.0, higher_is_better=False)
    lines = sum_up(of, {OURS: figures(ours), "other": figures(10)}, judge=True)
    assert lines[1].met is met
    assert "less is better" in shown(of, lines)[0]
    assert shown(of, lines)[-1].endswith(f"<= 1 {'met' if met else 'MISSED'}")


@pytest.mark.parametrize(("median", "met"), [(4096, True), (4097, False)])
def test_a_figure_with_an_upper_limit(median: float, met: bool) -> None:
    of = case(at_most=4096, higher_is_better=False)
    lines = sum_up(of, {OURS: figures(1, median, 9000)}, judge=True)
    assert [(line.ratio, line.bar, line.met) for line in lines] == [(None, 4096, met)]
    assert shown(of, lines)[-1].endswith(f"<= 4096 {'met' if met else 'MISSED'}")


def test_a_note_is_printed_below_the_figure() -> None:
    of = case(at_most=4096, higher_is_better=False)
    lines = sum_up(of, {OURS: [Figure(1, note="and it rained")]}, judge=True)
    assert shown(of, lines)[-1] == "and it rained"


def test_rows_that_grow_are_compared_with_the_first() -> None:
    of = case(growth=True, higher_is_better=False)
    lines = sum_up(of, {OURS: figures(1, 2), "other": figures(3, 6)}, judge=True)
    assert [line.ratio for line in lines] == [None, Ratio(3, 3, 3)]
    assert "to the first" in shown(of, lines)[1]


def test_a_run_that_is_too_short_is_not_judged() -> None:
    of = case(bar=2.0, at_most=1.0)
    lines = sum_up(of, {OURS: figures(20), "other": figures(10)}, judge=False)
    assert [line.met for line in lines] == [None, None]
    assert not any(line.endswith(("met", "MISSED")) for line in shown(of, lines))


def test_a_case_that_needs_more_cores_than_there_are_says_so() -> None:
    of = CASES["workers"]
    lines = sum_up(of, {"2 workers": figures(20), "1 worker": figures(10)}, judge=False)
    assert shown(of, lines)[-1] == "not judged: it needs 3 cores, and here are 2"
    assert "not judged" not in "".join(table(of, lines, 3))
    assert [name for name, each in CASES.items() if each.cores > 2] == ["workers"]


def test_a_row_without_figures_has_no_line_and_without_the_first_nothing_is_compared() -> None:
    (line,) = sum_up(case(bar=2.0), {"other": figures(10)}, judge=True)
    assert (line.name, line.ratio, line.bar, line.met) == ("other", None, 2.0, None)


def test_without_a_compiler_the_cases_whose_load_is_c_are_left_out() -> None:
    run = plan(list(CASES.values()), None, NO_COMPILER)
    assert set(run.rows) == {"bulk send", "idle peers", "idle sockets", "import", *QUIC_CASES, *SIMULATED_CASES}
    for name in CASES.keys() - run.rows.keys():
        assert run.left_out[name] == f"its load is written in C, and {NO_COMPILER}"
    assert run.left_out["blocking C"] == run.left_out["C with offloads"] == NO_COMPILER
    assert not any(row.needs_c for rows in run.rows.values() for row in rows)


@pytest.mark.parametrize("option", ["--output", "--chart"])
def test_an_unwritable_path_is_refused_before_anything_is_measured(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["--quick", option, str(tmp_path / "file" / "folder" / "name")])
    assert "can be made: Not a directory" in capsys.readouterr().err


def test_a_run_without_figures_fails_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.__main__.allow_many_sockets", int)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    assert main(["--case", "echo", "--output", str(tmp_path / "results")]) == 1
    assert "left out: echo: its load is written in C" in capsys.readouterr().out
    assert list((tmp_path / "results").iterdir()) == []


def test_a_peer_that_is_not_installed_is_left_out_by_name() -> None:
    of = case(other=NOT_INSTALLED)
    run = plan([of], None, "")
    assert run.rows == {"sums": [of.rows[0]]}
    assert run.left_out == {"abacus": "no_such_module is not installed"}


def test_our_rows_are_measured_beside_the_wanted_peers() -> None:
    run = plan([CASES["echo"], CASES["many peers"], case(other=NOT_INSTALLED)], ["trio.socket"], "")
    assert {name: [row.name for row in rows] for name, rows in run.rows.items()} == {
        "echo": [OURS, *([PURE] if COMPILED else []), "trio.socket"],
        "many peers": ["from 10,000 addresses", "our own echo"],
        "sums": [OURS],
    }
    assert run.left_out == ({} if COMPILED else {PURE: "trio_dgram is pure Python here"})


@pytest.mark.parametrize(
    ("compiled", "expected"),
    [
        (True, ["2.00 (2.00 .. 2.00) >= 2 met 1.00 (1.00 .. 1.00) >= 0.5 met", 2.0]),
        (False, ["2.00 (2.00 .. 2.00) >= 0.5 met", 0.5]),
    ],
)
def test_both_implementations_have_a_column_and_bars(*, compiled: bool, expected: list[object]) -> None:
    own = (Row(name, PEERS[name], (), Bulk()) for name in (OURS, PURE))
    of = Case(name="sums", unit="sums/s", rows=(*own, Row("other", OTHER, (), Bulk(), 2.0, 0.5)))
    measured = {OURS: figures(20), PURE: figures(10), "other": [Figure(10, cpu=3.5)]}
    if not compiled:
        del measured[PURE]
    lines = sum_up(of, measured, judge=True)
    assert shown(of, lines)[-1] == f"other 10.0 10.0 .. 10.0 0.0% 3.50 {expected[0]}"
    assert lines[-1].bar == expected[1]
    assert lines[-1].cpu == 3.5


def test_the_optimizations_of_this_python_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for configured, expected in (("--enable-optimizations --with-lto", ["PGO", "LTO"]), (None, [])):
        monkeypatch.setattr("sysconfig.get_config_var", {"CONFIG_ARGS": configured}.get)
        assert python_build() == expected


def test_the_bars_are_those_that_were_set() -> None:
    bars = {name: {row.name: row.bar for row in of.rows if row.bar is not None} for name, of in CASES.items()}
    assert {name: rows for name, rows in bars.items() if rows} == BARS
    pure = {name: {row.name: row.pure_bar for row in of.rows if row.pure_bar is not None} for name, of in CASES.items()}
    assert {name: rows for name, rows in pure.items() if rows} == PURE_BARS
    assert {name: of.at_most for name, of in CASES.items() if of.at_most is not None} == AT_MOST
    assert {name for name, of in CASES.items() if not of.higher_is_better} == LESS_IS_BETTER
    assert {of.rows[0].peer.name for of in CASES.values()} == OWN - {PURE}
