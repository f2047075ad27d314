"""KeyboardInterrupt: deferred while the library's own code runs.

An interrupt between taking a datagram from the kernel and storing it would lose the datagram uncounted; one between
removing a task from a wait list and rescheduling it would corrupt the run. Trio looks up the stack for a function that
is marked and, if that is protected, raises the interrupt at the next checkpoint of the main task instead. So it
suffices to mark what the program, or Trio, calls. Marking costs nothing per call (Trio 0.28 on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, TypeVar

import trio

ClassT = TypeVar("ClassT", bound=type)
T = TypeVar("T")


def defer_interrupts(cls: ClassT) -> ClassT:
    """Defer KeyboardInterrupt in every method and property that ``cls`` defines."""
    for member in vars(cls).values():
        for function in _functions_of(member):
            trio.lowlevel.enable_ki_protection(function)
    return cls


def _functions_of(member: Any) -> Iterable[FunctionType]:
    candidates = [member.fget, member.fset, member.fdel] if isinstance(member, property) else [member]
    for candidate in candidates:
        if isinstance(candidate, FunctionType):
            yield candidate
            # A decorator such as contextmanager wraps the function that the class defines.
            wrapped = getattr(candidate, "__wrapped__", None)
            if isinstance(wrapped, FunctionType):
                yield wrapped


@trio.lowlevel.disable_ki_protection
def interruptibly(function: Callable[..., T], *args: Any) -> T:
    """Call a function of the program, which an interrupt may end: it may run for any time."""
    return function(*args)


@trio.lowlevel.disable_ki_protection
async def interruptibly_awaited(function: Callable[..., Any], *args: Any) -> Any:
    """Await an async function of the program, which an interrupt may end."""
    return await function(*args)
