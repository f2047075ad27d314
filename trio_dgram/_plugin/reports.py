"""The report of a failed test: the story of its networks, the command that repeats it, a picture, a capture."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from .examples import is_under_hypothesis

if TYPE_CHECKING:
    from ..sim._trace.report import FailureReport

TITLE: Final = "simulated network"
"""The title of the section of a report that is about a network."""
_LONGEST_NAME: Final = 120
"""The length of the name of a written file, in characters."""
_OF_SEEDS: Final = ("--sim-seed", "--sim-seeds", "--sim-jobs", "--sim-for", "--sim-shrink", "--sim-tape")
"""The options that the command replaces by its own."""


def add_reports(item: pytest.Item, report: pytest.TestReport, seed: int, networks: Sequence[Any], option: str) -> None:
    """Add a section for each network to the report of a failed test; ``option`` repeats its run."""
    for number, network in enumerate(networks):
        # An exception that left the network has the story as its note already.
        is_shown = f"digest {network.trace.digest}" in report.longreprtext
        lines = [] if is_shown else [str(network), ""]
        lines += [f"Run just this again: {command(item, option)}", *_write_artifacts(item, network, seed, number)]
        report.sections.append((TITLE, "\n".join(lines)))


def command(item: pytest.Item, option: str) -> str:
    """Return the command that repeats a test with an option, in the folder that pytest was started in."""
    config = item.config
    started_by_python = Path(sys.argv[0]).name == "__main__.py"
    program = ["python", "-m", "pytest"] if started_by_python else ["pytest"]
    options = list(_without_seeds(_without_files(config)))
    path, found, rest = item.nodeid.partition("::")
    place = from_start(config, config.rootpath / path) + found + rest
    command = shlex.join([*program, *options, place, option])
    if is_under_hypothesis(item) and not option.startswith("--sim-tape"):
        return f"{command}  (Hypothesis tries the example that failed first)"
    return command


def _without_files(config: pytest.Config) -> list[str]:
    arguments = [str(argument) for argument in config.invocation_params.args]
    # Search from the end, since an option may have the same value as a file.
    for file in reversed(config.getoption("file_or_dir") or ()):
        # A file that comes from the configuration is not among the arguments.
        with suppress(ValueError):
            del arguments[len(arguments) - 1 - arguments[::-1].index(file)]
    return arguments


def _without_seeds(arguments: Sequence[str]) -> Iterator[str]:
    remaining = iter(arguments)
    for argument in remaining:
        if argument in _OF_SEEDS:
            next(remaining, None)
        elif argument.partition("=")[0] not in _OF_SEEDS:
            yield argument


def from_start(config: pytest.Config, path: Path) -> str:
    """Return a path relative to the folder that pytest was started in."""
    # On Windows there is no relative path between two drives.
    with suppress(ValueError):
        return os.path.relpath(path, config.invocation_params.dir)
    return str(path)  # pragma: no cover -- Windows


def _write_artifacts(item: pytest.Item, network: FailureReport, seed: int, number: int) -> list[str]:
    chosen: Path | None = item.config.getoption("--sim-artifacts")
    folder = chosen if chosen is not None else _cache_of(item.config)
    if folder is None or not (network.trace.total or network.trace.in_flight):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    base = f"{file_name(item.nodeid, _LONGEST_NAME)}-seed-{seed}-{number}"
    picture, capture = folder / f"{base}.svg", folder / f"{base}.pcapng"
    network.trace.to_svg(picture)
    lines = [f"Picture: {from_start(item.config, picture)}"]
    try:
        network.trace.to_pcapng(capture)
    except ImportError as error:
        return [*lines, f"No capture: {error}"]
    return [*lines, f"Capture: {from_start(item.config, capture)}"]


def file_name(test: str, longest: int) -> str:
    """Return the name of a test as one of a file, of at most so many characters: the end of it."""
    return re.sub(r"[^\w.-]+", "-", test)[-longest:]


def _cache_of(config: pytest.Config) -> Path | None:
    # pytest has no cache if its cacheprovider plugin is disabled.
    with suppress(AttributeError):
        return Path(config.cache.mkdir("trio_dgram"))
    return None
