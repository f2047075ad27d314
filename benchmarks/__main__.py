"""Run the benchmarks: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks.cases import CASES, IDLE_LIMIT, OURS, PEERS, Case
from benchmarks.comparing import ratio
from benchmarks.measuring import Figure, Measuring
from benchmarks.programs import HERE, compile_c, cores, missing

SCALES = {"peers": (1, 100, 10_000), "sockets": (1, 100, 1_000)}

Rounds = dict[str, dict[str, list[Figure]]]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything, to see that it runs")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case; may be repeated")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only this peer; may be repeated")
    parser.add_argument("--rounds", type=int, default=9, help="how many interleaved rounds (default: 9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long one measurement takes (default: 1)")
    parser.add_argument("--output", type=Path, help="where to write the JSON and SVG (default: benchmarks/results)")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.rounds, parsed.seconds = 1, 0.1
    return parsed


def choose_peers(case: Case, wanted: Sequence[str] | None, c_missing: str, left_out: dict[str, str]) -> list[str]:
    """Return the peers of ``case`` that are wanted and here; note the others in ``left_out``."""
    chosen = [OURS]
    for name in case.peers:
        if name in PEERS and (wanted is None or name in wanted):
            needs = PEERS[name].needs
            reason = c_missing if "cc" in needs else missing(needs)
            if reason:
                left_out[name] = reason
            else:
                chosen.append(name)
    return chosen


def run_case(case: Case, peers: Sequence[str], measuring: Measuring, rounds: Rounds) -> None:
    """Add one round of ``case`` to ``rounds``."""
    figures = rounds.setdefault(case.name, {})
    if case.name == "scaling":
        for kind, counts in SCALES.items():
            for count in counts:
                figures.setdefault(f"{count:,} {kind}", []).append(measuring.scale(kind, count))
    elif case.name == "idle sockets":
        figures.setdefault(OURS, []).append(measuring.idle())
    else:
        for name in peers:
            figures.setdefault(name, []).append(measuring.measure(case, PEERS[name]))
        if "our echo" in case.peers:
            figures.setdefault("our echo", []).append(measuring.measure(CASES["echo"], PEERS[OURS]))


def show(case: Case, figures: dict[str, list[Figure]]) -> list[dict[str, object]]:
    """Print the table of one case and return its rows."""
    print(f"\n{case.name} ({case.unit})")
    print(f"  {'':22}{'median':>12}{'spread':>23}{'lost':>8}  {'ours / theirs':24}{'bar':>6}")
    rows: list[dict[str, object]] = []
    for name, measured in figures.items():
        values = sorted(figure.value for figure in measured)
        median, lost = statistics.median(values), statistics.median(figure.lost for figure in measured)
        row: dict[str, object] = {"peer": name, "median": median, "rounds": [attrs.asdict(f) for f in measured]}
        line = f"  {name:22}{median:12,.1f}{f'{values[0]:,.1f} .. {values[-1]:,.1f}':>23}{lost:8.2%}"
        bar = case.peers.get(name)
        if name in case.peers and OURS in figures:
            compared = ratio([f.value for f in figures[OURS]], [f.value for f in measured])
            row["ratio"] = attrs.asdict(compared)
            line += f"  {f'{compared.median:.2f} ({compared.low:.2f} .. {compared.high:.2f})':24}"
            if bar is not None:
                met = compared.reaches(bar, higher_is_better=case.higher_is_better)
                row |= {"bar": bar, "met": met}
                line += f"{bar:6} {'met' if met else 'MISSED'}"
        elif case.name == "idle sockets":
            row |= {"bar": IDLE_LIMIT, "met": median <= IDLE_LIMIT}
            line += f"  {'at most':24}{IDLE_LIMIT:6} {'met' if median <= IDLE_LIMIT else 'MISSED'}"
        print(line)
        rows.append(row)
    return rows


def main(arguments: Sequence[str]) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    c, c_missing = compile_c()
    if c is None:
        print(f"left out: every case but idle sockets: the load is written in C, and {c_missing}")
        options.case = ["idle sockets"]
    names = options.case or list(CASES)
    measuring = Measuring(c or HERE, options.seconds)
    left_out: dict[str, str] = {}
    peers = {name: choose_peers(CASES[name], options.peer, c_missing, left_out) for name in names}
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    server, load = cores()
    if server == load:
        print("the server and the load share a core here: the ratios are not comparable")
    rounds: Rounds = {}
    for number in range(options.rounds):
        for name in names:
            print(f"\rround {number + 1} of {options.rounds}: {name:45}", end="", file=sys.stderr, flush=True)
            run_case(CASES[name], peers[name], measuring, rounds)
    print(file=sys.stderr)
    rows = {name: show(CASES[name], rounds[name]) for name in names}
    if options.quick:
        return
    folder: Path = options.output or HERE / "results"
    folder.mkdir(parents=True, exist_ok=True)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    about = {
        "date": today,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "left out": left_out,
    }
    (folder / f"{today}.json").write_text(json.dumps({"about": about, "cases": rows}, indent=1) + "\n")
    try:
        from benchmarks.chart import draw  # noqa: PLC0415 -- the one place that needs matplotlib
    except ImportError as error:
        print(f"no chart: {error}")
        return
    draw(
        {name: {peer: [f.value for f in figures] for peer, figures in case.items()} for name, case in rounds.items()},
        folder / f"{today}.svg",
    )
    print(f"\nwritten: {folder / today}.json and .svg")


if __name__ == "__main__":
    main(sys.argv[1:])
