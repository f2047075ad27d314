"""Asking again: deadlines for a request that may get lost, or its answer (RFC 8085, 3.1.1)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import trio

from .._values.arguments import check_integer, check_number


def retry(
    *, timeout: float = 1.0, factor: float = 2.0, attempts: int = 4, jitter: float = 0.1
) -> Iterator[trio.CancelScope]:
    """Iterate over attempts, each a ``with`` block that is cut off after a while::

        async def ask(peer: trio.abc.Channel[bytes], question: bytes) -> bytes:
            for attempt in trio_dgram.retry():
                with attempt:
                    await peer.send(question)
                    answer = await peer.receive()
            return answer

    It ends after the first attempt that was not cut off.

    Args:
      timeout: how long the first attempt may take, in seconds.
      factor: each next one may take so many times as long, from 1.
      attempts: how many there are.
      jitter: by up to this part of it each is longer, drawn by lot, so that many clients do not ask at once.

    Raises:
      TypeError, ValueError: at once, if an argument is wrong.
      trio.TooSlowError: after the last attempt, if that was cut off, too.
    """
    check_number("timeout", timeout, 0)
    check_number("factor", factor, 1)
    check_number("jitter", jitter, 0)
    check_integer("attempts", attempts, 1, 2**31 - 1)
    return _attempts(timeout, factor, attempts, jitter)


def _attempts(timeout: float, factor: float, attempts: int, jitter: float) -> Iterator[trio.CancelScope]:
    for _ in range(attempts):
        attempt = trio.CancelScope(deadline=trio.current_time() + timeout * (1 + jitter * random.random()))
        yield attempt
        if not attempt.cancelled_caught:
            return
        timeout *= factor
    raise trio.TooSlowError(f"nothing came in {attempts} attempts")
