"""Comparing runs of one scenario, including a run in a separate process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from itertools import zip_longest
from typing import Any, Final

import attrs

from .._network.network import Network

_COMMAND: Final = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from trio_dgram.sim._run.elsewhere import answer; answer()"
)
_HASH_SEEDS: Final = ("1", "2")
NOT_PICKLED: Final = "a result that cannot be pickled"


class NotDeterministicError(Exception):
    """Two runs of one scenario with one seed differ."""


class ScriptHasBegunError(BaseException):
    """A script that was loaded for its functions has reached its own ``sim.run``."""


@attrs.frozen
class Outcome:
    """The outcome of one run of a scenario."""

    result: object
    digest: str
    lines: tuple[str, ...]
    """A line for each record."""


def outcome_of(result: object, network: Network) -> Outcome:
    """Return the outcome of a run."""
    return Outcome(result, network.digest, tuple(network.trace.lines()))


def compare(first: Outcome, second: Outcome, where: str) -> None:
    """Raise NotDeterministicError if two runs differ.

    Args:
      first: the outcome of the first run.
      second: the outcome of the second run.
      where: where the second run was, for the message.
    """
    for one, other in zip_longest(first.lines, second.lines, fillvalue="nothing"):
        if one != other:
            raise NotDeterministicError(f"the first run and one in {where} differ first here:\n  {one}\n  {other}")
    if first.digest != second.digest:
        raise NotDeterministicError(
            f"the first run and one in {where} have the digests {first.digest} and {second.digest}"
        )
    if not _are_same(first.result, second.result):
        raise NotDeterministicError(f"the first run and one in {where} return {first.result!r} and {second.result!r}")


def _are_same(one: object, other: object) -> bool:
    """Whether two results are the same, also if they are of a class that compares by identity."""
    if one == other or NOT_PICKLED in (one, other):
        return True
    try:
        return pickle.dumps(one) == pickle.dumps(other)
    except Exception:  # noqa: BLE001 -- pickling calls code of the program
        return type(one) is type(other) and type(one).__eq__ is object.__eq__


def outcome_elsewhere(scenario: object, args: tuple[Any, ...], settings: object) -> Outcome | None:
    """Return the outcome of a run in a process with another PYTHONHASHSEED; ``None`` if the scenario cannot be imported
    there.

    Raises:
      NotDeterministicError: if it fails there.
    """
    try:
        job = pickle.dumps((scenario, args, settings))
    except Exception:  # noqa: BLE001 -- pickling calls code of the program
        return None
    main = getattr(sys.modules["__main__"], "__file__", None)
    needs_main = getattr(scenario, "__module__", None) == "__main__"
    hash_seed = next(seed for seed in _HASH_SEEDS if seed != os.environ.get("PYTHONHASHSEED"))
    process = subprocess.run(
        [sys.executable, "-c", _COMMAND],
        input=pickle.dumps(sys.path) + pickle.dumps((main if needs_main else None, job)),
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"the process that was to run the scenario ended with status {process.returncode}")
    answered: Outcome | str | None = pickle.loads(process.stdout)  # noqa: S301 -- from a process of this program
    if isinstance(answered, str):
        raise NotDeterministicError(f"the scenario fails in a process with another PYTHONHASHSEED:\n{answered}")
    return answered


loading: Final[list[str]] = []
"""The script that is being loaded."""


def stop_loading() -> None:
    """Stop here if this process loads a script to run one of its scenarios; called by ``sim.run``."""
    if loading:
        raise ScriptHasBegunError
