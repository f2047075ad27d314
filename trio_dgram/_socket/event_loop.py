"""The event loop: sockets need a Trio run."""

from __future__ import annotations

import trio


def require_trio() -> None:
    """Raise ``RuntimeError`` outside a Trio run, such as in a coroutine of asyncio."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("trio_dgram needs a Trio event loop (trio.run)")
