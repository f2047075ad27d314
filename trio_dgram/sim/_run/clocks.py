"""One clock: every time function of the standard library follows Trio's clock."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import trio
import trio.testing

from .._network.host import current_process
from .._network.pump import EPOCH
from .._values.replacing import replaced

_NANO: Final = 1_000_000_000
_OF_NOW: Final = ("gmtime", "localtime", "ctime")
"""Functions of ``time`` with an optional time, by default now."""
_OF_FIELDS: Final = {"asctime": 0, "strftime": 1}
"""Functions of ``time`` with optional fields of a time, by default now, and their position."""
_CLOCKS_OF_DAY: Final = ("CLOCK_REALTIME", "CLOCK_TAI")
_CLOCKS_OF_UPTIME: Final = ("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME")


def _numbers(names: tuple[str, ...]) -> list[int]:
    return [getattr(time, name) for name in names if hasattr(time, name)]


def _virtual_now() -> float | None:
    """Return the virtual time in seconds; ``None`` in another thread, outside Trio and in real time."""
    try:
        clock = trio.lowlevel.current_clock()
    except RuntimeError:
        return None
    return clock.current_time() if isinstance(clock, trio.testing.MockClock) else None


def _skewed(now: float) -> float:
    process = current_process.get()
    return now if process is None else now + process.host.skew_at(now)


@contextmanager
def virtual_time() -> Generator[None]:
    """Make the module ``time`` follow Trio's clock, and ``datetime`` too where time-machine is installed.

    The time of day starts at :data:`EPOCH`, and is skewed on hosts that have a clock skew. ``time.perf_counter``,
    ``time.process_time`` and ``time.thread_time`` measure the program itself and stay real.
    """
    real = {name: getattr(time, name) for name in dir(time)}

    def of_day() -> float:
        return real["time"]() if (now := _virtual_now()) is None else EPOCH + _skewed(now)

    def of_day_ns() -> int:
        now = _virtual_now()
        return real["time_ns"]() if now is None else int(EPOCH) * _NANO + round(_skewed(now) * _NANO)

    def monotonic() -> float:
        return real["monotonic"]() if (now := _virtual_now()) is None else now

    def monotonic_ns() -> int:
        return real["monotonic_ns"]() if (now := _virtual_now()) is None else round(now * _NANO)

    def of_now(name: str) -> Callable[..., Any]:
        return lambda seconds=None: real[name](of_day() if seconds is None else seconds)

    def of_fields(name: str, place: int) -> Callable[..., Any]:
        return lambda *args: real[name](*args, *(() if len(args) > place else (real["localtime"](of_day()),)))

    def of_clock(name: str, of_day: Callable[[], Any], monotonic: Callable[[], Any]) -> Callable[[int], Any]:
        read = dict.fromkeys(_numbers(_CLOCKS_OF_DAY), of_day) | dict.fromkeys(_numbers(_CLOCKS_OF_UPTIME), monotonic)
        return lambda which: read[which]() if which in read else real[name](which)

    replacements: dict[str, Any] = {
        "time": of_day,
        "time_ns": of_day_ns,
        "monotonic": monotonic,
        "monotonic_ns": monotonic_ns,
        **{name: of_now(name) for name in _OF_NOW},
        **{name: of_fields(name, place) for name, place in _OF_FIELDS.items()},
    }
    if hasattr(time, "clock_gettime"):  # pragma: no branch -- Windows lacks it
        replacements["clock_gettime"] = of_clock("clock_gettime", of_day, monotonic)
        replacements["clock_gettime_ns"] = of_clock("clock_gettime_ns", of_day_ns, monotonic_ns)
    with ExitStack() as stack:
        # This comes first: time-machine patches the C functions in the module, and corrupts memory if they were
        # replaced.
        if importlib.util.find_spec("time_machine") is not None:
            stack.enter_context(_virtual_datetime(of_day_ns))
        stack.enter_context(replaced(time, **replacements))
        yield


@contextmanager
def _virtual_datetime(of_day_ns: Callable[[], int]) -> Generator[None]:
    """Make ``datetime`` follow, and names that were imported from ``time`` and ``datetime`` before."""
    import time_machine  # noqa: PLC0415 -- it is optional

    real_ns = time_machine.escape_hatch.time.time_ns

    class Follower(time_machine.Traveller):
        def time_ns(self) -> int:
            return real_ns() if _virtual_now() is None else of_day_ns()

    with time_machine.travel(EPOCH, tick=False):
        # time-machine has no public API to follow another clock: its functions query the last of these.
        time_machine.traveller_stack[-1] = Follower(0, None, tick=False)
        yield
