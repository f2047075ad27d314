"""Running a scenario on a simulated network, in virtual time, deterministically."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar, get_args

import attrs
import trio
import trio.testing

from ..._values.arguments import check_bool, check_choice, check_integer, check_number, describe_value
from ..._values.test_runs import current_test_run
from .._network.network import TRACE_LIMIT, Network, open_network_with
from .._network.pump import TIMER_SLACK
from .._network.trio_internals import TaskEndedError
from .._values.choices import Choices, new_choices
from .._values.random import Seed, check_seed
from .comparison import compare, outcome_elsewhere, outcome_of, stop_loading
from .determinism import Threads, deterministic
from .schedules import Schedule
from .watch import PASSES, QUIET_LIMIT, TIME_LIMIT, Watch

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of a run, documented at :func:`run`."""

    seed: Seed
    time_limit: float = TIME_LIMIT
    payload: bool = False
    trace_limit: int | None = TRACE_LIMIT
    fake_time: bool = True
    fake_randomness: bool = True
    passes: int = PASSES
    quiet_limit: float = QUIET_LIMIT
    timer_slack: float = TIMER_SLACK
    threads: Threads = "inline"
    schedule: Schedule = "random"

    def __attrs_post_init__(self) -> None:
        check_number("time_limit", self.time_limit, 0, infinite=True)
        check_number("quiet_limit", self.quiet_limit, 0, infinite=True)
        check_number("timer_slack", self.timer_slack, 0)
        check_integer("passes", self.passes, 1, 2**62)
        check_choice("threads", self.threads, get_args(Threads))
        check_choice("schedule", self.schedule, get_args(Schedule))

    def deterministic(self, choices: Choices) -> AbstractContextManager[None]:
        """Return the context manager for the determinism of a run."""
        return deterministic(
            choices,
            fake_time=self.fake_time,
            fake_randomness=self.fake_randomness,
            threads=self.threads,
            schedule=self.schedule,
        )

    def open_network(self, choices: Choices) -> AbstractAsyncContextManager[Network]:
        """Return the context manager for the network of a run."""
        return open_network_with(
            choices, payload=self.payload, trace_limit=self.trace_limit, timer_slack=self.timer_slack
        )


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
    quiet_limit: float = QUIET_LIMIT,
    timer_slack: float = TIMER_SLACK,
    threads: Threads = "inline",
    schedule: Schedule = "random",
) -> T:
    """Run ``scenario(network, *args)`` to its end and return its result.

    Time is virtual: it stands still while a task runs, and jumps when all of them wait. The order in which tasks run,
    and all randomness on the network, derive from ``seed``.

    Args:
      scenario: an async function whose first argument is the :class:`Network`.
      args: its other arguments.
      seed: the seed of all randomness; ``None`` for that of the test under pytest, and for 0 elsewhere.
      time_limit: the longest duration, in virtual seconds.
      check: whether to run it twice here, and once in a process with another hash seed if ``scenario`` and ``args`` can
        be imported and pickled there, and compare: results, records and digests. All records are kept meanwhile.
      payload: whether the digest includes the payloads.
      trace_limit: the most records that the trace keeps; ``None`` for all.
      fake_time: whether the time of the modules ``time`` and ``datetime`` is virtual; the scenario begins at the start
        of a year. For ``datetime``, and names imported from either before, install the extra ``sim``.
      fake_randomness: whether ``random``, ``secrets``, ``os.urandom``, ``os.getrandom`` and ``uuid`` derive from
        ``seed``. Randomness drawn in C, such as by OpenSSL, does not.
      passes: the most scheduler passes in one instant of virtual time.
      quiet_limit: the longest wait of the scenario's own task without a deadline of its own while other tasks run, in
        virtual seconds.
      timer_slack: how late a sleeping task wakes, in seconds, as everywhere else. Deliveries are exact.
      threads: ``"inline"`` runs the functions of ``trio.to_thread.run_sync`` at once, where a thread would start; one
        that waits for another task deadlocks. ``"refuse"`` raises :exc:`ThreadStartedError`.
      schedule: the order of the tasks that are ready in one pass of the scheduler. ``"random"``: each order is equally
        probable. ``"pct"``: by a random priority of each task, and at three random steps the running one gets the
        lowest, which finds bugs that need one task to be slow for long. ``"fifo"``: the oldest first.

    Raises:
      StuckError: if it waits for an event that cannot happen, waits longer than ``quiet_limit``, or runs without end
        while time stands still.
      ThreadStartedError: if it starts a thread with ``threads="refuse"``.
      NotDeterministicError: if ``check`` finds a difference.
      trio.TooSlowError: if it takes longer than ``time_limit``.
      RuntimeError: if another thread runs a simulated network.

    The errors that end a run list every waiting task and socket. They also end tasks that are shielded or swallow
    ``Cancelled``: their waits fail, and in the end they are abandoned and never run again. Exceptions of the scenario
    propagate unchanged, those of tasks on hosts in an exception group; a note contains the seed, the digest, and the
    end of the story.
    """
    stop_loading()
    _check_scenario(scenario)
    check_bool("check", check)
    settings = Settings(
        seed=check_seed("seed", current_test_run().seed if seed is None else seed),
        time_limit=time_limit,
        payload=payload,
        trace_limit=None if check else trace_limit,
        fake_time=fake_time,
        fake_randomness=fake_randomness,
        passes=passes,
        quiet_limit=quiet_limit,
        timer_slack=timer_slack,
        threads=threads,
        schedule=schedule,
    )
    result, network = run_once(scenario, args, settings)
    # A run that is recorded or replayed makes its choices once.
    if check and current_test_run().tape is None:
        outcome = outcome_of(result, network)
        compare(outcome, outcome_of(*run_once(scenario, args, settings)), "the same process")
        elsewhere = outcome_elsewhere(scenario, args, settings)
        if elsewhere is not None:
            compare(outcome, elsewhere, "a process with another PYTHONHASHSEED")
    return result


def _check_scenario(scenario: object) -> None:
    if inspect.iscoroutine(scenario):
        scenario.close()
        raise TypeError(
            f"scenario must be an async function, not a coroutine: pass {scenario.__name__} and its arguments apart"
        )
    if not callable(scenario):
        raise TypeError(f"scenario must be an async function, not {describe_value(scenario)}")


def run_once(scenario: Callable[..., Awaitable[T]], args: tuple[Any, ...], settings: Settings) -> tuple[T, Network]:
    """Run a scenario once; return its result, and the network."""
    choices = new_choices(settings.seed)
    with settings.deterministic(choices):
        clock = trio.testing.MockClock(autojump_threshold=0)
        watches: list[Watch] = []
        try:
            return trio.run(_run, scenario, args, settings, choices, watches, clock=clock)
        except (Exception, BaseExceptionGroup, TaskEndedError) as error:
            # Discard the exceptions of tasks that the failure has ended.
            for watch in watches:
                if watch.failure is not None:
                    raise watch.failure from None
                watch.network.report.attach(error)
            raise


async def _run(
    scenario: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    settings: Settings,
    choices: Choices,
    watches: list[Watch],
) -> tuple[T, Network]:
    async with settings.open_network(choices) as network:
        scope = trio.CancelScope()
        watch = Watch(
            network,
            scope.cancel,
            time_limit=settings.time_limit,
            passes=settings.passes,
            task=trio.lowlevel.current_task(),
            quiet_limit=settings.quiet_limit,
        )
        watches.append(watch)
        # Until the end of the run: tasks of hosts may outlive the network.
        trio.lowlevel.add_instrument(watch)
        with scope:
            try:
                result = await _awaitable(scenario(network, *args))
            finally:
                watch.scenario_ended()
        if watch.failure is not None:
            raise watch.failure
        # Without a failure the scope was not cancelled.
        return result, network  # pyright: ignore[reportReturnType, reportPossiblyUnboundVariable]


def _awaitable(value: Awaitable[T]) -> Awaitable[T]:
    if not inspect.isawaitable(value):
        raise TypeError(f"scenario must be an async function, but it returned {describe_value(value)}")
    return value
