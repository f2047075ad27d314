"""Deadlines for a request that, like its reply, may be lost (RFC 8085, 3.1.1)."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self, TypeGuard, cast

import trio

from .._socket.interrupts import defer_interrupts
from .._values.arguments import check_integer, check_number
from .._values.errors import PeerUnreachable

_UNREACHABLE_ERRNOS: Final = frozenset(
    number
    for name in ("ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH", "WSAECONNRESET")
    if (number := getattr(errno, name, None)) is not None
)
"""The errnos of a peer that cannot be reached now and may be later; WSAECONNRESET is the refusal of Windows."""


def is_unreachable(error: BaseException) -> TypeGuard[OSError]:
    """Return whether ``error`` means that the peer cannot be reached now."""
    return isinstance(error, PeerUnreachable) or (isinstance(error, OSError) and error.errno in _UNREACHABLE_ERRNOS)


def retry(
    *, timeout: float = 1.0, factor: float = 2.0, attempts: int = 4, jitter: float = 0.1
) -> AsyncIterator[AbstractContextManager[None, bool]]:
    """Iterate over attempts, each a ``with`` block that is cancelled when its time is up::

        async def ask(peer: trio.abc.Channel[bytes], question: bytes) -> bytes:
            async for attempt in trio_dgram.retry():
                with attempt:
                    await peer.send(question)
                    answer = await peer.receive()
            return answer

    The loop ends after the first attempt whose block completes. An attempt fails if its time is up, or if its block
    raises nothing but errors of an unreachable peer: ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN or
    :class:`PeerUnreachable`, alone or in exception groups. The next attempt begins when the time of the failed one is
    up. Any other exception leaves the block.

    Args:
      timeout: the time of the first attempt in seconds, from 0. Default: 1.0.
      factor: the time of each further attempt divided by that of the one before, from 1. Default: 2.0.
      attempts: the largest number of attempts, from 1. Default: 4.
      jitter: the largest random extension of each attempt, as a part of its time, from 0; it keeps clients from
        sending in step. Default: 0.1.

    Raises:
      TypeError, ValueError: at once, if an argument is wrong.
      RuntimeError: from the loop, if its body did not enter the attempt (``with attempt:``).
      trio.TooSlowError: from the loop, as soon as the last attempt has failed. Its ``__cause__`` is the latest error
        of an unreachable peer, if there was one.

    Each step of the loop is a checkpoint; a cancelled one ends the loop. The cancellation of an outer scope is never
    mistaken for a failed attempt.
    """
    check_number("timeout", timeout, 0)
    check_number("factor", factor, 1)
    check_number("jitter", jitter, 0)
    check_integer("attempts", attempts, 1, 2**31 - 1)
    return _Attempts(timeout, factor, attempts, jitter)


@defer_interrupts
class _Attempts(AsyncIterator[AbstractContextManager[None, bool]]):
    """The attempts of one :func:`retry`."""

    def __init__(self, timeout: float, factor: float, attempts: int, jitter: float) -> None:
        self._count = attempts
        self._timeouts = _timeouts(timeout, factor, attempts, jitter)
        self._latest: _Attempt | None = None
        self._failure: OSError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AbstractContextManager[None, bool]:
        latest = self._latest
        if latest is not None and not latest.ended:
            raise RuntimeError("each attempt must be entered and left before the next: write `with attempt:`")
        timeout = None if latest is not None and latest.completed else next(self._timeouts, None)
        if latest is None or timeout is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep_until(latest.deadline)
        if latest is not None:
            if latest.completed:
                raise StopAsyncIteration
            self._failure = latest.failure or self._failure
        if timeout is None:
            raise trio.TooSlowError(f"none of {self._count} attempts completed in time") from self._failure
        self._latest = attempt = _Attempt(trio.current_time() + timeout)
        return attempt


def _timeouts(timeout: float, factor: float, attempts: int, jitter: float) -> Iterator[float]:
    for _ in range(attempts):
        yield timeout * (1 + jitter * random.random())
        timeout *= factor


@defer_interrupts
class _Attempt(AbstractContextManager[None, bool]):
    """One attempt: a cancel scope that also catches the errors of an unreachable peer."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.ended = False
        self.completed = False
        """Whether the block ran to its end."""
        self.failure: OSError | None = None
        self._scope = trio.CancelScope(deadline=deadline)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.ended = True
        self.completed = exc is None
        self.failure, rest = (None, None) if exc is None else _split(exc)
        caught = self._scope.__exit__(None if rest is None else type(rest), rest, traceback)
        if rest is None or caught:
            return exc is not None
        if rest is exc:
            return False
        # An outer scope is cancelled, and the errors beside its cancellation are handled.
        raise rest


def _split(error: BaseException) -> tuple[OSError | None, BaseException | None]:
    """Return the last error of an unreachable peer in ``error``, and the rest; or None and ``error``.

    The second if it has another error than those and cancellations.
    """
    if is_unreachable(error):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        failures, rest = error.split(is_unreachable)
        if failures is not None and (rest is None or rest.split(trio.Cancelled)[1] is None):
            return _last_leaf(failures), rest
    return None, error


def _last_leaf(error: BaseException) -> OSError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[-1]
    return cast("OSError", error)
