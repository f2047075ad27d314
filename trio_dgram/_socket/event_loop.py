"""The event loop: sockets need a Trio run."""

from __future__ import annotations

import trio


def require_trio() -> None:
    """Raise ``RuntimeError`` outside a Trio run, such as in a coroutine of asyncio."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise RuntimeError("trio_dgram needs a Trio event loop (trio.run)") from None
