"""Tapes: where those of failed tests are written, and the replay of the one that a test is given."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from .._values.arguments import describe_value
from .examples import is_encoded
from .reports import file_name, from_start

if TYPE_CHECKING:
    from ..sim._values.choices import Replay
    from ..sim._values.tape import Tape

FOLDER: Final = ".trio_dgram"
"""The folder of the tapes of failed tests, in pytest's root folder."""

_REPLAYED: Final = pytest.StashKey[tuple[Path, "Replay"]]()
"""The tape that a test replays now."""
_SECTION: Final = "replay"
_LONGEST_NAME: Final = 100


def replay_of(item: pytest.Item) -> Replay | None:
    """Return the replay of the tape that a test is given, by the option or its marker; None without a valid one."""
    path = _chosen(item)
    if path is None:
        return None
    from ..sim._values.choices import Replay  # noqa: PLC0415 -- loaded where it is used
    from ..sim._values.tape import TapeError, read_tape  # noqa: PLC0415

    try:
        replay = Replay(read_tape(path))
    except TapeError:
        # The set-up of the test reports it.
        return None
    item.stash[_REPLAYED] = path, replay
    return replay


def replayed_tape(item: pytest.Item) -> Tape | None:
    """Return the tape that a test replays now."""
    replayed = item.stash.get(_REPLAYED, None)
    return None if replayed is None else replayed[1].tape


def end_replay(item: pytest.Item) -> None:
    """End the replay: the next run of the test has no tape."""
    del item.stash[_REPLAYED]


def option_of(item: pytest.Item, seed: int) -> str:
    """Return the option of pytest that repeats a run: with its tape if it is a replay, else under its seed."""
    replayed = item.stash.get(_REPLAYED, None)
    return f"--sim-seed={seed}" if replayed is None else f"--sim-tape={from_start(item.config, replayed[0])}"


def add_unused(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add to the report of a replay how many choices of its tape had no place in the run."""
    replayed = item.stash.get(_REPLAYED, None)
    if replayed is None or not (unused := len(replayed[1].unused)):
        return
    name, total = from_start(item.config, replayed[0]), len(replayed[1].tape.choices)
    report.sections.append((_SECTION, f"{name}: {unused} of {total} choices had no place any more in {item.nodeid}"))


def lines_of(reports: list[object]) -> list[str]:
    """Return what :func:`add_unused` has added to reports."""
    tests = [report for report in reports if isinstance(report, pytest.TestReport)]
    return [text for report in tests for title, text in report.sections if title == _SECTION]


def problem_of_tape(item: pytest.Item) -> str:
    """Return what is wrong with the marker ``tape`` of a test, or with its file; nothing if they are right."""
    marker = item.get_closest_marker("tape")
    if marker is None:
        return ""
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], (str, Path)):
        given = ", ".join([*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())])
        return f'tape must have the name of a file, such as @pytest.mark.tape("it.tape"), not ({given})'
    path = _chosen(item)
    return "" if path is None else problem_of_file(path)


def problem_of_file(path: Path) -> str:
    """Return why a tape cannot be read; nothing if it can."""
    from ..sim._values.tape import TapeError, read_tape  # noqa: PLC0415 -- loaded where it is used

    try:
        tape = read_tape(path)
    except TapeError as error:
        return str(error)
    if tape.example and not is_encoded(tape.example):
        return f"{path}, line 1: example must be one that Hypothesis has encoded, not {describe_value(tape.example)}"
    return ""


def file_for(item: pytest.Item, seed: int, kind: str) -> Path:
    """Return the path of a file about a failed test: with the name of the test, unless another test of that name has a
    tape there.

    Args:
      item: the test.
      seed: the seed under which it failed.
      kind: the end of the name, such as ``"tape"``.
    """
    folder = item.config.rootpath / FOLDER
    path = folder / f"{file_name(item.name, _LONGEST_NAME)}-{seed}"
    if _test_of(path.with_name(f"{path.name}.tape")) not in ("", item.nodeid):
        path = folder / f"{file_name(item.nodeid, _LONGEST_NAME)}-{seed}"
    return path.with_name(f"{path.name}.{kind}")


def _chosen(item: pytest.Item) -> Path | None:
    option: Path | None = item.config.getoption("--sim-tape")
    if option is not None or item.config.getoption("--sim-seed") is not None:
        return option
    marker = item.get_closest_marker("tape")
    names = marker.args if marker is not None else ()
    return item.path.parent / names[0] if len(names) == 1 and isinstance(names[0], (str, Path)) else None


def _test_of(path: Path) -> str:
    """Return the test that a tape is of; empty if there is none."""
    from ..sim._values.tape import TapeError, read_tape  # noqa: PLC0415 -- loaded where it is used

    with suppress(TapeError):
        return read_tape(path).test
    return ""
