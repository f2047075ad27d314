"""Random walks: many steps in random order, each compared with a model.

The steps of a walk are drawn before the first one is taken, and each can be taken in every state. So a walk that fails
can be repeated from its seed, and shortened by leaving out steps.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from random import Random
from typing import Any, Final, Protocol, TypeAlias

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_dgram import DatagramError

from .families import Family
from .namespaces import network_namespace
from .simulated import run_simulated

Step: TypeAlias = tuple[Any, ...]
"""The name of a method of the walk, and its arguments."""

_SECONDS: Final = 60
"""A limit for a walk that hangs; every walk takes milliseconds."""
_REPLAY: Final = "WALK_SEED"
"""The environment variable with the one seed to run."""


each_number_of_walks: Final = pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(20), id="20 walks", marks=[pytest.mark.long, pytest.mark.varied]),
        pytest.param(range(300), id="300 walks", marks=pytest.mark.long),
    ],
)


class Walk(Protocol):
    """What takes steps."""

    async def walk(self, steps: Iterable[Step]) -> None:
        """Take the steps and check the model after each."""


@contextmanager
def _network_of_its_own() -> Generator[None]:
    """Enter a new network namespace where that is allowed: other processes may use any port of this one."""
    if os.geteuid():
        yield
        return
    with network_namespace():
        yield


def check_walks(
    make: Callable[[Family], Walk],
    draw: Callable[[Random], list[Step]],
    seeds: Iterable[int],
    family: Family,
    transport: str,
) -> None:
    """Take the walk of each seed, and raise an ``AssertionError`` with seed and steps for the first that fails."""
    if _REPLAY in os.environ:
        seeds = [int(os.environ[_REPLAY])]
    run = run_simulated if transport == "simulation" else trio.run

    def error_of(steps: list[Step]) -> Exception | None:
        async def main() -> None:
            with trio.fail_after(_SECONDS):
                await make(family).walk(steps)

        try:
            run(main)
        except Exception as error:  # noqa: BLE001 -- any error is a difference from the model
            return error
        return None

    with _network_of_its_own():
        for seed in seeds:
            steps = draw(Random(seed))
            error = error_of(steps)
            if error is not None:
                shortest, error = _shorten(steps, error, error_of)
                raise AssertionError(
                    f"seed {seed} ({family.type}, {transport}) fails; repeat it with {_REPLAY}={seed}.\n"
                    f"Steps: {steps}\nShortest failing steps: {shortest}"
                ) from error


def _shorten(
    steps: list[Step], error: Exception, error_of: Callable[[list[Step]], Exception | None]
) -> tuple[list[Step], Exception]:
    """Return the steps without those that the failure does not need, and their error."""
    size = len(steps) // 2
    while size:
        position = 0
        while position < len(steps):
            fewer = steps[:position] + steps[position + size :]
            found = error_of(fewer)
            if found is None:
                position += size
            else:
                steps, error = fewer, found
        size //= 2
    return steps, error


@attrs.define(eq=False)
class Call:
    """A call that a task of its own makes, and its outcome."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    finished: bool = False
    cancelled: bool = False
    value: Any = None
    error: Exception | None = None

    async def run(self, async_fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        with self.scope:
            try:
                self.value = await async_fn(*args)
            except (DatagramError, OSError, trio.ClosedResourceError, trio.BusyResourceError) as error:
                self.error = error
            except trio.EndOfChannel as error:
                self.error = error
        self.cancelled = self.scope.cancelled_caught
        self.finished = True

    async def cancel(self) -> None:
        """Cancel the call, which waits, and check that this ends it."""
        self.scope.cancel()
        await wait_all_tasks_blocked()
        assert self.cancelled

    def result(self) -> Any:
        """Return the value of a call that must have succeeded by now."""
        assert self.finished, "it still waits"
        assert not self.cancelled
        if self.error is not None:
            raise AssertionError(f"unexpected {self.error!r}") from self.error
        return self.value


async def start_call(
    nursery: trio.Nursery, async_fn: Callable[..., Awaitable[Any]], *args: Any, cancelled: bool = False
) -> Call:
    """Have a task make a call, and return it when it has finished or waits; ``cancelled``: in a cancelled scope."""
    call = Call()
    if cancelled:
        call.scope.cancel()
    nursery.start_soon(call.run, async_fn, *args)
    await wait_all_tasks_blocked()
    return call


def error_of_call(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, Exception | None]:
    """Return what a synchronous call returns, and what it raises."""
    try:
        return function(*args, **options), None
    except (DatagramError, OSError, trio.ClosedResourceError, trio.BusyResourceError, trio.WouldBlock) as error:
        return None, error
    except trio.EndOfChannel as error:
        return None, error
