"""Serving peers: one handler for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias, Unpack, cast

import trio

from .._services.handlers import HandlerErrors, check_handler, serve_listeners
from .._values.addresses import UnixPath
from .._values.arguments import describe_value
from .channel import DatagramChannel
from .limits import ListenerOptions
from .listener import DatagramListener, open_listeners

Handler: TypeAlias = Callable[[DatagramChannel], Awaitable[object]]
"""An async function that serves one peer."""


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Handler,
    port: int | None = None,
    *,
    host: str | None = None,
    path: UnixPath | None = None,
    listeners: Iterable[DatagramListener] | None = None,
    handler_nursery: trio.Nursery | None = None,
    handler_errors: HandlerErrors = "log",
    task_status: trio.TaskStatus[list[DatagramListener]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ListenerOptions],
) -> None:
    """Call ``handler`` with a channel for each peer, for ever, as ``trio.serve_tcp`` does for TCP::

        async def handler(peer: trio.abc.Channel[bytes]) -> None:
            async for data in peer:
                await peer.send(data.upper())

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio_dgram.serve, handler, 0)
            async with trio_dgram.open_connection("localhost", listeners[0].address.port) as peer:
                await peer.send(b"hello")
                print(await peer.receive())
            nursery.cancel_scope.cancel()

    Args:
      handler: an async function that takes a channel; the channel is closed when it returns.
      port: the UDP port; 0 for one of the kernel's choice. Default: None, with ``path`` or ``listeners`` only.
      host: a local address, or a name that resolves to some; all interfaces without one. Default: None.
      path: the path of a ``"unix"`` socket, instead of port and host. Default: None.
      listeners: listeners to accept from instead, such as ``[DatagramListener(socket)]``; no other option applies then.
        Default: None.
      handler_nursery: the nursery that the handlers run in. Default: one of its own.
      handler_errors: ``"log"``: log a handler's ``Exception`` with its traceback (repeated ones at most once a second)
        and close only its channel; ``"raise"``: it ends the server. Default: ``"log"``.
      task_status: ``nursery.start`` returns the listeners.
      options: as in :func:`open_listeners`. The handlers that run count for ``max_peers``: evicting a peer cancels its
        handler, and a handler that runs on after its channel has ended is the first to be cancelled.

    A handler's ``trio.BrokenResourceError`` or ``trio.EndOfChannel`` because its peer was evicted or has expired is no
    failure.

    Raises as :func:`open_listeners` does. When it ends or is cancelled, the listeners are closed. In a worker process
    it returns after SIGTERM: it reads no more, channels end after what was read, and it waits for the handlers.
    """
    check_handler(handler, handler_errors, handler_nursery)
    if listeners is None:
        opened = await open_listeners(port, host=host, path=path, **options)
    elif port is None and host is None and path is None and not options:
        opened = _check_listeners(listeners)
    else:
        raise TypeError("listeners have their address and their options: pass listeners alone")
    await serve_listeners(handler, opened, handler_nursery, handler_errors, task_status)


def _check_listeners(listeners: Iterable[DatagramListener]) -> list[DatagramListener]:
    if not isinstance(cast("object", listeners), Iterable):
        raise TypeError(f"listeners must be an iterable of DatagramListener, not {describe_value(listeners)}")
    checked = list(listeners)
    for listener in checked:
        if not isinstance(cast("object", listener), DatagramListener):
            raise TypeError(f"listeners must contain only DatagramListener, not {describe_value(listener)}")
    if not checked:
        raise ValueError("listeners must contain at least one DatagramListener, not none")
    return checked
