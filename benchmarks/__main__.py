"""Measure trio_dgram beside its alternatives on this machine, in one run of interleaved rounds."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs

import trio_dgram
from benchmarks.cases import CASES, OWN, PEERS, Case, Row
from benchmarks.measuring import Figure, Measuring
from benchmarks.programs import (
    HERE,
    CompilerError,
    ProgramError,
    allow_many_sockets,
    compile_c,
    core_count,
    missing,
)
from benchmarks.report import Line, sum_up, table

QUICK: Final = Measuring(None, warm_up=0.05, seconds=0.1, forged=5_000, connections=50, sources=100)
WARM_UP: Final = 0.3


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything, only to see that it runs")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case; may be repeated")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only this peer; may be repeated")
    parser.add_argument("--rounds", type=int, default=9, help="how many interleaved rounds (default: 9)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long one measurement takes (default: 1)")
    parser.add_argument(
        "--output",
        type=Path,
        help="the folder for <date>.json and <date>.svg (default: benchmarks/results for a whole run, else none)",
    )
    parser.add_argument("--chart", type=Path, help="draw the chart into this SVG file too")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 0 < options.seconds <= 60:
        parser.error("--rounds is at least 1, --seconds more than 0 and at most 60")
    if options.quick:
        options.rounds = 1
    elif options.output is None and options.case is None and options.peer is None:
        options.output = HERE / "results"
    # Checked before the measurement, which takes long.
    for folder in filter(None, (options.output, options.chart and options.chart.parent)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"no folder {folder} can be made: {error.strerror}")
        if not os.access(folder, os.W_OK):
            parser.error(f"nothing can be written to the folder {folder}")
    return options


@attrs.frozen
class Run:
    """The rows to measure, their figures, and the rows left out."""

    rows: dict[str, list[Row]]
    """By case."""
    left_out: dict[str, str]
    """Peers, cases or a peer at a case, with the reason."""
    measured: dict[str, dict[str, list[Figure]]] = attrs.field(factory=dict)
    """The figures of all rounds, by case and row."""

    def round(self, measuring: Measuring, announce: Callable[[str], None]) -> None:
        """Measure every row once."""
        for case, rows in self.rows.items():
            for row in tuple(rows):
                if CASES[case].once and row.name in self.measured.get(case, {}):
                    continue
                announce(f"{case}: {row.name}")
                try:
                    figure = measuring.measure(row)
                except ProgramError as error:
                    # Only rows with all rounds can be compared, so discard its earlier figures.
                    rows.remove(row)
                    self.measured.get(case, {}).pop(row.name, None)
                    self.left_out[f"{row.name} at {case}"] = str(error)
                else:
                    self.measured.setdefault(case, {}).setdefault(row.name, []).append(figure)

    @property
    def complete(self) -> bool:
        """Whether something was measured and nothing of ours failed."""
        return bool(self.measured) and not any(
            f"{case.rows[0].name} at {case.name}" in self.left_out for case in CASES.values()
        )


def plan(cases: Sequence[Case], wanted: Sequence[str] | None, without_c: str) -> Run:
    """Choose the wanted rows that this machine can measure; ``without_c`` is the reason for missing C programs."""
    run = Run({}, {})
    for case in cases:
        if without_c and case.rows[0].needs_c:
            run.left_out[case.name] = f"its load is written in C, and {without_c}"
            continue
        run.rows[case.name] = []
        for row in case.rows:
            name = row.peer.name
            if name not in OWN and wanted is not None and name not in wanted:
                continue
            reason = without_c if row.needs_c and without_c else missing(row.peer.needs)
            if reason:
                run.left_out[name] = reason
            else:
                run.rows[case.name].append(row)
    return run


def progress(number: int, rounds: int, text: str) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{f'round {number} of {rounds}: {text}':78.78}", end="", file=sys.stderr, flush=True)


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, None without one."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def python_build() -> list[str]:
    """Return the optimizations that this Python was built with: PGO, LTO."""
    configured = sysconfig.get_config_var("CONFIG_ARGS") or ""
    options = {"PGO": "--enable-optimizations", "LTO": "--with-lto"}
    return [name for name, option in options.items() if option in configured]


def write(folder: Path, about: Mapping[str, object], summary: Mapping[str, Sequence[Line]], chart: Path | None) -> None:
    """Write the figures as JSON, and the chart."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    cases = {
        name: {"unit": CASES[name].unit, "rows": [attrs.asdict(line) for line in lines]}
        for name, lines in summary.items()
    }
    document = {"about": {"date": today, **about}, "cases": cases}
    (folder / f"{today}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {folder / today}.json")
    try:
        from benchmarks.chart import draw  # noqa: PLC0415 -- the one place that needs matplotlib
    except ImportError as error:
        print(f"no chart: {error}")
        return
    for path in filter(None, (folder / f"{today}.svg", chart)):
        draw(summary, path)
        print(f"drawn: {path}")


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write; return the exit status."""
    options = parse(arguments)
    allow_many_sockets()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
        folder = Path(temporary)
        # A supervisor that is killed leaves files.
        os.environ["TMPDIR"] = temporary
        without_c = ""
        try:
            compile_c(folder)
        except CompilerError as error:
            without_c = str(error)
        c = None if without_c else folder
        measuring = attrs.evolve(QUICK, c=c) if options.quick else Measuring(c, WARM_UP, options.seconds)
        run = plan([CASES[name] for name in options.case or CASES], options.peer, without_c)
        cores = core_count()
        if cores == 1:
            print("The programs and their load share one core, so the ratios are not meaningful.")
        for number in range(1, options.rounds + 1):
            run.round(measuring, partial(progress, number, options.rounds))
        summary = {
            name: sum_up(CASES[name], figures, judge=not options.quick and CASES[name].cores <= cores)
            for name, figures in run.measured.items()
        }
        for name, lines in summary.items():
            print(*table(CASES[name], lines, cores), sep="\n", end="\n\n")
        for name, reason in run.left_out.items():
            print(f"left out: {name}: {reason}")
        about = {
            "python": platform.python_version(),
            "python built with": python_build(),
            "compiled layer": trio_dgram.capabilities().compiled,
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "versions": {name: version(name) for name in ("trio_dgram", "trio", "anyio", "uvloop")},
            "rounds": options.rounds,
            "seconds": measuring.seconds,
            "cores": cores,
            "left out": run.left_out,
        }
        if run.measured and (options.output or options.chart or options.quick):
            write(options.output or folder, about, summary, options.chart)
    return 0 if run.complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
