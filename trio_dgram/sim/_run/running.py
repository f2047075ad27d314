"""Running a scenario on a simulated network, in virtual time, the same every time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Any, Final, TypeVar

import trio
import trio.testing

from ..._values.arguments import check_integer, check_number
from .._network.network import TRACE_LIMIT, Network, open_network
from .._network.session import default_seed
from .._trace.text import story
from .._values.random import Seed, check_seed
from .._values.records import Record
from .determinism import deterministic
from .stuck import PASSES, TIME_LIMIT, Watch

T = TypeVar("T")

_LINES: Final = 20
"""How much of the story is told when a scenario fails."""


class NotDeterministicError(Exception):
    """Two runs of one scenario with one seed were not the same."""


def run(
    scenario: Callable[..., Awaitable[T]],
    *args: Any,
    seed: Seed | None = None,
    time_limit: float = TIME_LIMIT,
    check: bool = False,
    payload: bool = False,
    trace_limit: int | None = TRACE_LIMIT,
    fake_time: bool = True,
    fake_randomness: bool = True,
    passes: int = PASSES,
) -> T:
    """Run ``scenario(network, *args)`` to its end and return what it returns.

    Time is virtual: it stands still while a task runs, and jumps when all of them wait. The order in which tasks run,
    and everything random on the network, follows from ``seed``.

    Args:
      scenario: an async function that takes a :class:`Network` first.
      args: what else it takes.
      seed: what everything random follows from; ``None`` for 0, or what pytest was told by ``--sim-seed``.
      time_limit: how long it may take, in virtual seconds.
      check: whether to run it twice, and compare.
      payload: whether the digest covers the payloads, too.
      trace_limit: how many records the trace keeps; ``None`` for all.
      fake_time: whether ``time.time`` and ``time.monotonic`` are virtual, too; the year begins when the scenario does.
      fake_randomness: whether ``random``, ``secrets``, ``os.urandom`` and ``uuid`` follow from ``seed``. What draws
        randomness in C, such as OpenSSL, does not.
      passes: how often tasks may run in one instant of virtual time.

    Raises:
      Stuck: if it waits for what will never happen, or runs on and on while time stands still.
      ThreadStartedError: if it starts a thread.
      NotDeterministicError: if ``check`` finds a difference.
      trio.TooSlowError: if it takes longer than ``time_limit``.

    What the scenario raises leaves it as it is, what tasks of hosts raise in an exception group; a note tells the seed,
    the digest, and the end of the story.
    """
    check_integer("passes", passes, 1, 2**62)
    check_number("time_limit", time_limit, 0)
    chosen = check_seed("seed", default_seed.get() if seed is None else seed)

    def once() -> tuple[T, tuple[Record, ...]]:
        with deterministic(chosen, fake_time=fake_time, fake_randomness=fake_randomness):
            clock = trio.testing.MockClock(autojump_threshold=0)
            return trio.run(_run, scenario, args, chosen, payload, trace_limit, time_limit, passes, clock=clock)

    result, records = once()
    if check:
        _compare(records, once()[1])
    return result


async def _run(
    scenario: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    seed: Seed,
    payload: bool,  # noqa: FBT001 -- as it was given
    trace_limit: int | None,
    time_limit: float,
    passes: int,
) -> tuple[T, tuple[Record, ...]]:
    async with open_network(seed=seed, payload=payload, trace_limit=trace_limit) as network:
        scope = trio.CancelScope()
        watch = Watch(network, scope.cancel, time_limit=time_limit, passes=passes)
        with scope, watch.watching():
            try:
                result = await scenario(network, *args)
                if watch.failure is None:
                    return result, network.trace.records
            except Exception as error:
                if watch.failure is None:
                    error.add_note(describe(network))
                    raise
        failure = watch.failure or AssertionError("only the watch cancels this scope")
        failure.add_note(describe(network))
        raise failure


def describe(network: Network) -> str:
    """Return what a person needs who wants to know why a scenario failed."""
    told = len(network.trace)
    return "\n".join(
        [
            f"On the simulated network, seed {network.seed!r}, digest {network.digest}.",
            f"The last {min(_LINES, told)} of {network.trace.total} datagrams:" if told else "Nothing was sent.",
            network.trace.to_text(last=_LINES),
            network.netstat(),
        ]
    )


def _compare(first: tuple[Record, ...], second: tuple[Record, ...]) -> None:
    for one, other in zip_longest(first, second):
        lines = ["nothing" if record is None else story([record]) for record in (one, other)]
        if lines[0] != lines[1]:
            raise NotDeterministicError(f"the runs differ first here:\n  {lines[0]}\n  {lines[1]}")
