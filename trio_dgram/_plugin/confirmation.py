"""Running a shrunk failure on the real kernel, with ``--sim-confirm``."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from .reruns import Copies, failure_of, run_again

if TYPE_CHECKING:
    from ..sim._explore.shrink import Choices, Shrunk
    from ..sim._values.tape import Tape

_ATTEMPTS: Final = 3
"""How many runs on the kernel may pass: real time is inexact, and a failure may depend on it."""
_SECONDS: Final = 20.0
"""How much time the runs may have taken when a further one begins, in seconds; 60 s end them."""


def confirm(
    item: pytest.Item, tape: Tape, shrunk: Shrunk, failure: str, copies: Copies
) -> str:  # pragma: no cover -- long tests run it
    """Return whether a failure happens on the kernel too, as a line.

    Args:
      item: the test.
      tape: the tape of the failing run.
      shrunk: what it was shrunk to.
      failure: the failure.
      copies: copies of this process, for simulated runs.
    """
    from ..sim._explore.confirmation import LONGEST, centred, not_tried, obstacles  # noqa: PLC0415 -- where it is used

    if cannot := obstacles(shrunk.choices):
        return not_tried(f"it cannot replay {cannot}")
    if "StuckError" in failure:
        return not_tried("a run that waits for ever does not fail in real time")

    def fails(choices: Choices) -> bool:
        seconds: float | None = copies.call(_simulate, (attrs.evolve(tape, choices=choices), failure))
        return seconds is not None and seconds <= LONGEST

    if not fails(shrunk.choices):
        return not_tried(f"the run takes longer than {LONGEST:g} s")
    choices = centred(shrunk.causes, fails)
    # A copy that has run on the kernel is not used again: its clocks are real, and it may be in a user namespace.
    own = Copies(item, 1)
    try:
        line = own.call(_on_kernel, (attrs.evolve(tape, choices=choices), failure))
    finally:
        own.end()
    return str(line or not_tried(f"the run did not end within {LONGEST:g} s of real time"))


# Called in copies


def _simulate(item: pytest.Item, question: tuple[Tape, str]) -> float | None:  # pragma: no cover -- in another process
    """Return the time of the last datagram of a simulated run that fails in the same way; None if it does not."""
    from ..sim._values.choices import Replay  # noqa: PLC0415 -- loaded where it is used

    tape, failure = question
    test_run, report = run_again(item, Replay(tape), tape.seed)
    if failure_of(report) != failure:
        return None
    network: Any = test_run.reports[-1]
    return max((record.at for record in network.trace.records), default=0.0)


def _on_kernel(item: pytest.Item, question: tuple[Tape, str]) -> str:  # pragma: no cover -- in another process
    from ..sim._explore.confirmation import (  # noqa: PLC0415 -- where it is used
        TOGETHER_WITHIN,
        confirmed,
        has_order,
        not_confirmed,
        not_tried,
    )
    from ..sim._namespaces.namespace import NotTriedError, check_namespaces  # noqa: PLC0415

    tape, failure = question
    together_within = TOGETHER_WITHIN if has_order(tape.choices) else 0.0
    begin = monotonic()
    attempts = 0
    try:
        check_namespaces()
        while True:
            attempts += 1
            found, hosts = _run_on_kernel(item, tape, together_within)
            if found == failure:
                # Otherwise the failure might be one of real time, which has nothing to do with the faults.
                neutral = attrs.evolve(tape, choices=())
                passing = tape.choices and _run_on_kernel(item, neutral, together_within)[0] != failure
                return confirmed(tape.choices if passing else (), hosts)
            if attempts == _ATTEMPTS or monotonic() - begin > _SECONDS:
                return not_confirmed(tape.choices, hosts, attempts, found)
    except NotTriedError as error:
        return not_tried(str(error))


def _run_on_kernel(
    item: pytest.Item, tape: Tape, together_within: float
) -> tuple[str, int]:  # pragma: no cover -- in another process
    """Run a test on the kernel; return its failure, empty if it passes, and the number of namespaces.

    Args:
      item: the test.
      tape: what is replayed.
      together_within: how far apart arrivals are due at most that count as those of one instant, in seconds.

    Raises:
      NotTriedError: if the run does not count.
    """
    from ..sim._namespaces.hosts import Namespaces  # noqa: PLC0415 -- loaded where it is used
    from ..sim._values.choices import Replay  # noqa: PLC0415

    underlay = Namespaces(together_within)
    pytest_trio: Any = item.config.pluginmanager.getplugin("trio")
    if pytest_trio is not None:
        # Its fixtures make their clock by this name.
        pytest_trio.MockClock = lambda clock=underlay.clock, **_: clock
    _, report = run_again(item, Replay(tape), tape.seed, underlay)
    underlay.check()
    return failure_of(report), len(underlay.machines)
