"""The process that repeats a scenario with another hash seed."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import Any

import attrs

from .comparison import NOT_PICKLED, Outcome, ScriptHasBegunError, loading, outcome_of
from .running import run_once


def answer() -> None:  # pragma: no cover -- in a process of its own
    """Run the scenario named on standard input, and write its outcome to standard output."""
    # The output of the scenario must not mix with the answer.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        main, job = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from a process of this program
        output.write(_run(main, job))


def _run(main: str | None, job: bytes) -> bytes:
    try:
        if main is not None:
            _load_main(main)
        scenario, args, settings = pickle.loads(job)  # noqa: S301 -- from a process of this program
    except Exception:  # noqa: BLE001 -- the program's own
        return pickle.dumps(None)
    try:
        outcome = outcome_of(*run_once(scenario, args, settings))
    except Exception:  # noqa: BLE001 -- the program's own
        return pickle.dumps(traceback.format_exc())
    return _pickled(outcome)


def _pickled(outcome: Outcome) -> bytes:
    try:
        return pickle.dumps(outcome)
    except Exception:  # noqa: BLE001 -- pickling calls code of the program
        return pickle.dumps(attrs.evolve(outcome, result=NOT_PICKLED))


def _load_main(path: str) -> None:
    """Run a script up to its first ``sim.run``, as the main module."""
    spec = importlib.util.spec_from_file_location("__trio_dgram_check__", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = sys.modules["__main__"] = importlib.util.module_from_spec(spec)
    loading.append(path)
    try:
        run: Callable[[Any], None] = spec.loader.exec_module
        run(module)
    except ScriptHasBegunError:
        pass
    finally:
        loading.pop()
