"""Programs interrupted by SIGINT at every line of a module, one line per run.

A trace function raises the signal, so Trio's own handler decides by the stack whether KeyboardInterrupt arises at that
line or is deferred. The handler runs in the frame of the trace function, whose caller is the traced frame.

Rule 1: an interrupted run ends with KeyboardInterrupt and nothing else, within a bounded number of steps.
Rule 2: every descriptor is closed afterwards, and no coroutine was left unawaited.
Rule 3: the program's own counts agree with those of the library.
"""

from __future__ import annotations

import dis
import gc
import inspect
import itertools
import linecache
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Literal, Protocol, TypeAlias

import attrs
import trio
from trio.lowlevel import enable_ki_protection
from trio.testing import MockClock

from trio_dgram.sim._explore.descriptors import open_descriptors
from trio_dgram.sim._network.trio_internals import deterministic_scheduling
from trio_dgram.sim._run.schedules import order_of
from trio_dgram.sim._values.choices import Choices

Granularity: TypeAlias = Literal["line", "signal check"]
"""Where to interrupt: before each line, or wherever the interpreter itself handles signals."""

_SECONDS: Final = 1_000.0
"""When a run counts as hanging, by a clock that advances only while every task is blocked."""
_QUIET: Final = 0.01
"""How long every task is blocked before the clock advances, in seconds. Under load the kernel defers the delivery of a
datagram on loopback (ksoftirqd), so that a task that waits for it is blocked for a moment."""
_STEPS: Final = 20_000
"""When a run counts as hanging, in steps of its tasks."""
_ALARM: Final = 20.0
"""When a run counts as hanging that reaches no checkpoint, in seconds."""
_TRIES: Final = 10
"""How many runs are to reach a place again."""
_SIGNAL_HANDLER: Final = inspect.getfile(enable_ki_protection)
"""The file of Trio that handles SIGINT."""
_CALLS: Final = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW", "CALL_INTRINSIC_1"})


class Program(Protocol):
    """What is interrupted; a context manager makes one for each run."""

    async def run(self) -> None:
        """Run to the end, which is always the same without an interrupt."""

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        """Compare the program's counts with the library's, after the end.

        ``interrupted_program`` is whether the interrupt arose in the program itself, which may have lost the result of
        the call that it was about to store.
        """


MakeProgram: TypeAlias = Callable[[], AbstractContextManager[Program]]


@attrs.frozen
class Place:
    """One place in a source file."""

    filename: str
    line: int
    offset: int | None = None
    """The instruction's offset in its code object; None for a whole line."""
    function: str = ""

    def __str__(self) -> str:
        source = linecache.getline(self.filename, self.line).strip()
        path = "/".join(Path(self.filename).parts[-2:])
        offset = "" if self.offset is None else f" at offset {self.offset} of {self.function}"
        return f"{path}:{self.line}{offset}: {source}"


class Stuck(BaseException):
    """Raised by the alarm in a run that reaches no checkpoint."""


# Places


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return list(dis.get_instructions(code))


def _unreal(code: CodeType) -> frozenset[int]:
    """Return the offsets where a trace function may raise and a signal handler cannot.

    The interpreter handles no signal between the end of a ``with`` block and the call of ``__exit__`` (bpo-29988), nor
    at a ``try:``, which is an instruction that no handler covers, not even that of a block around it.
    """
    found: set[int] = set()
    instructions = _instructions(code)
    names = [each.opname for each in instructions]
    for number, each in enumerate(instructions):
        following = instructions[number : number + 4]
        is_exit = len(following) == 4 and all(
            loaded.opname == "LOAD_CONST" and loaded.argval is None for loaded in following[:3]
        )
        if is_exit and following[3].opname in {"PRECALL", "CALL"}:
            found.add(each.offset)
            if names[number - 1] == "SWAP":
                # The value that the block returns.
                found.add(instructions[number - 1].offset)
        elif each.opname == "NOP" or (each.opname == "PUSH_EXC_INFO" and names[number + 1] == "WITH_EXCEPT_START"):
            found.add(each.offset)
    return frozenset(found)


def _checks(code: CodeType) -> frozenset[int]:
    """Return the offsets before which the interpreter handles signals: at a start, after a call, in a loop."""
    found: set[int] = set()
    instructions = _instructions(code)
    for each, following in itertools.pairwise(instructions):
        # What follows an await is no check, and a coroutine is awaited without one.
        is_start = each.opname == "RESUME" and not each.arg
        if (is_start or each.opname in _CALLS) and following.opname != "GET_AWAITABLE":
            found.add(following.offset)
        if following.opname == "JUMP_BACKWARD":
            found.add(following.offset)
    return frozenset(found)


class _Tracer:
    """A trace function that reports each place of interest to ``reached``."""

    def __init__(self, filenames: Iterable[str], granularity: Granularity, reached: Callable[[Place], None]) -> None:
        self._filenames = frozenset(filenames)
        self._granularity = granularity
        self._reached = reached
        self._offsets: dict[int, frozenset[int]] = {}

    # Python switches tracing off while a trace function runs, so coverage sees none of it.

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Any:  # pragma: no cover -- as above
        if frame.f_code.co_filename not in self._filenames:
            return None
        if self._granularity == "line":
            return self._line
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._instruction

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:  # pragma: no cover -- as above
        if event == "line":
            code = frame.f_code
            unreal = self._offsets.get(id(code))
            if unreal is None:
                unreal = self._offsets[id(code)] = _unreal(code)
            if frame.f_lasti not in unreal:
                self._reached(Place(code.co_filename, frame.f_lineno))
        return self._line

    def _instruction(self, frame: FrameType, event: str, _argument: object) -> Any:  # pragma: no cover -- as above
        if event == "opcode":
            code = frame.f_code
            checks = self._offsets.get(id(code))
            if checks is None:
                checks = self._offsets[id(code)] = _checks(code)
            if frame.f_lasti in checks:
                place = Place(code.co_filename, frame.f_lineno or 0, frame.f_lasti, code.co_qualname)
                self._reached(place)
        return self._instruction


@contextmanager
def _tracing(tracer: _Tracer) -> Generator[None]:
    # Coverage may be tracing.
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(before)


# Runs


class _Steps(trio.abc.Instrument):
    """Cancels a scope when the run's tasks have made too many steps."""

    def __init__(self) -> None:
        self.left = _STEPS
        self.scope = trio.CancelScope(deadline=_SECONDS)
        self.clock = MockClock(autojump_threshold=_QUIET)
        self.hung = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 -- Trio names it
        self.left -= 1
        if not self.left:
            self.scope.cancel()


@contextmanager
def _alarm() -> Generator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Stuck

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _ALARM)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def _describe(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    because = f" from {_describe(cause)}" if cause is not None and isinstance(error, trio.TrioInternalError) else ""
    return f"{type(error).__name__}: {error}{because}"


def _origin(error: BaseException) -> str:
    """Return the file in which an error arose, or a signal was handled: by Trio, in the last frame."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [file for file in files if file != _SIGNAL_HANDLER][-1]


@contextmanager
def frozen() -> Generator[None]:
    """Exempt every object that exists now from garbage collection, which then takes little time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run_once(
    make: MakeProgram,
    *,
    tracer: _Tracer | None = None,
    interrupted: bool | Callable[[], bool] = True,
    program_files: Sequence[str] = (),
) -> list[str]:
    """Run a program and return how its end differs from a good one.

    Its clock advances only while every task is blocked, so a hang takes no time.

    Args:
      make: makes the program.
      tracer: what traces it.
      interrupted: whether it is to end with KeyboardInterrupt.
      program_files: the files of the program itself, where an interrupt may lose the result of one call.
    """
    unraisable: list[str] = []

    def note(raised: sys.UnraisableHookArgs, /) -> None:
        unraisable.append(f"unraisable {raised.exc_value!r} in {raised.object!r}")

    before = open_descriptors()
    hook, sys.unraisablehook = sys.unraisablehook, note
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with deterministic_scheduling(order_of("random", Choices(0))):
                found = _judge(make, tracer, interrupted, program_files)
            _collect()
    finally:
        sys.unraisablehook = hook
    found += unraisable
    found += [f"{each.category.__name__}: {each.message}" for each in warned]
    after = open_descriptors()
    found += [f"left open: {number} {target}" for number, target in after.items() - before.items()]
    found += [f"closed: {number} {target}" for number, target in before.items() - after.items()]
    return [" ".join(complaint.split()) for complaint in found]


def _collect() -> None:
    # The finalizers of coroutines run code of theirs, which may keep others alive.
    for _ in range(5):
        if not gc.collect():
            break


def _judge(
    make: MakeProgram,
    tracer: _Tracer | None,
    interrupted: bool | Callable[[], bool],
    program_files: Sequence[str],
) -> list[str]:
    # A function of its own, so that nothing keeps the run's frames alive after it.
    steps = _Steps()

    async def main(run: Callable[[], Awaitable[None]]) -> None:
        try:
            with steps.scope:
                await run()
        finally:
            steps.hung = steps.scope.cancel_called

    with make() as program:
        raised = _end_of(partial(trio.run, main, program.run, clock=steps.clock, instruments=[steps]), tracer)
        leaves = [] if raised is None else _leaves(raised)
        interrupts = [leaf for leaf in leaves if isinstance(leaf, KeyboardInterrupt)]
        found = [_describe(leaf) for leaf in leaves if not isinstance(leaf, KeyboardInterrupt)]
        expected = interrupted if isinstance(interrupted, bool) else interrupted()
        if expected != bool(interrupts):
            found.append("no KeyboardInterrupt" if expected else "KeyboardInterrupt")
        if steps.hung:
            found.append("hung")
        in_program = any(_origin(leaf) in program_files for leaf in interrupts)
        return [*found, *program.complaints(interrupted_program=in_program)]


def _end_of(run: Callable[[], None], tracer: _Tracer | None) -> BaseException | None:
    try:
        with _alarm():
            if tracer is None:
                run()
            else:
                with _tracing(tracer):
                    run()
    except BaseException as error:  # noqa: BLE001 -- whatever it is, it is reported
        return error
    return None


def reached(make: MakeProgram, filenames: Iterable[str], granularity: Granularity) -> Counter[Place]:
    """Return how often a run that is not interrupted reaches each place in ``filenames``."""
    counts: Counter[Place] = Counter()

    def count(place: Place) -> None:  # pragma: no cover -- not traced by coverage
        counts[place] += 1

    # Some lines are reached once per process, and only the first run would reach them.
    for _ in range(2):
        counts.clear()
        complaints = run_once(make, tracer=_Tracer(filenames, granularity, count), interrupted=False)
        assert not complaints, complaints
    return counts


def interrupt_at(make: MakeProgram, place: Place, occurrence: int, granularity: Granularity) -> list[str] | None:
    """Raise SIGINT when ``place`` is reached for that many times.

    Returns:
      What was wrong with the end; None if no run reaches the place again.
    """
    left = 0

    def fire(at: Place) -> None:  # pragma: no cover -- not traced by coverage
        nonlocal left
        if at == place:
            left -= 1
            if not left:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)

    # A socket yields when some time has passed, so how often a line is reached varies, and some are reached rarely.
    for _ in range(_TRIES):
        left = occurrence
        complaints = run_once(make, tracer=_Tracer([place.filename], granularity, fire))
        if left <= 0:
            if granularity == "signal check":
                # A call that returns a coroutine is not distinguishable from others, and no check follows it.
                complaints = [each for each in complaints if "was never awaited" not in each]
            return complaints
        occurrence = max(1, occurrence - left)
    return None


class _AfterDelay:
    """A program that a thread interrupts after a delay, unless it has ended by then."""

    def __init__(self, program: Program, delay: float) -> None:
        self._program = program
        self._delay = delay
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._interrupt)
        self.interrupted = False

    def _interrupt(self) -> None:
        if not self._ended.wait(self._delay):
            self.interrupted = True
            os.kill(os.getpid(), signal.SIGINT)

    async def run(self) -> None:
        self._start()
        try:
            await self._program.run()
        finally:
            self._end()

    @enable_ki_protection
    def _start(self) -> None:
        self._thread.start()

    @enable_ki_protection
    def _end(self) -> None:
        self._ended.set()
        # The signal has been handled by the end of this, or of the run.
        self._thread.join()

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        # An interrupt just before _end has kept it from being called.
        self._end()
        return self._program.complaints(interrupted_program=interrupted_program)


def interrupt_after(make: MakeProgram, delay: float, program_files: Sequence[str]) -> tuple[bool, list[str]]:
    """Interrupt a program after a delay; return whether it had not ended by then, and what was wrong with the end."""
    made: list[_AfterDelay] = []

    @contextmanager
    def make_delayed() -> Generator[Program]:
        with make() as program:
            made.append(_AfterDelay(program, delay))
            yield made[0]

    complaints = run_once(make_delayed, interrupted=lambda: made[0].interrupted, program_files=program_files)
    return made[0].interrupted, complaints


def interrupt_everywhere(
    makes: dict[str, MakeProgram],
    filenames: Iterable[str],
    *,
    granularity: Granularity = "line",
    counts: dict[str, Counter[Place]] | None = None,
    one_in: int = 1,
) -> dict[Place, str]:
    """Interrupt at every place of ``filenames`` that a program reaches; return what was wrong, and with which.

    Args:
      makes: the programs by their names. A place is interrupted in the first one that reaches it.
      filenames: the source files.
      granularity: which places.
      counts: how often each program reaches each place, where that is known.
      one_in: interrupt at one in so many places.
    """
    wanted = frozenset(filenames)
    found: dict[Place, str] = {}
    done: set[Place] = set()
    missed: list[Place] = []
    with frozen():
        for name, make in makes.items():
            counted = reached(make, wanted, granularity) if counts is None else counts[name]
            places = [place for place in counted if place not in done and place.filename in wanted]
            done.update(places)
            for place in places[::one_in]:
                complaints = interrupt_at(make, place, 1, granularity)
                if complaints is None:
                    missed.append(place)
                elif complaints:
                    found[place] = f"{name}: {'; '.join(complaints)}"
    assert len(missed) <= 1 + len(done) // 20, missed
    return found


def report(found: dict[Place, str]) -> str:
    """Return a readable list of the places at which an interrupt did harm."""
    places = sorted(found, key=lambda place: (place.filename, place.line, place.offset or 0))
    return "\n".join([f"{len(found)} places", *(f"{place}\n    {found[place]}" for place in places)])
