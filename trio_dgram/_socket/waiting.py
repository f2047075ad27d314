"""Waiting for a socket: by its descriptor, or as the sockets of a custom factory offer it."""

from __future__ import annotations

import trio

from .._kernel.descriptor import Kernel


async def wait_readable(kernel: Kernel) -> None:
    """Wait until there is something to be read; ``trio.ClosedResourceError`` when the socket is closed."""
    if kernel.waits is None:
        await trio.lowlevel.wait_readable(kernel.fileno())
    else:
        await kernel.waits.wait_readable()


async def wait_writable(kernel: Kernel) -> None:
    """Wait until there is room to send; ``trio.ClosedResourceError`` when the socket is closed."""
    if kernel.waits is None:
        await trio.lowlevel.wait_writable(kernel.fileno())
    else:
        await kernel.waits.wait_writable()


def notify_closing(kernel: Kernel) -> None:
    """End these waits: the socket is about to be closed."""
    # Sockets that wait themselves, or are awaited, know when they are closed.
    if kernel.waits is None and kernel.awaited is None:
        trio.lowlevel.notify_closing(kernel.fileno())
