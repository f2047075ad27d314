"""Serving connections: one handler for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, Unpack

import trio

from .._services.binding import bind_sockets
from .._services.handlers import HandlerErrors, check_handler, serve_listeners
from .._services.sockets import answer_from_asked_address
from .._socket.interrupts import interruptibly_awaited
from .._values.arguments import check_number, describe_value
from .._values.construction import create
from .configuration import Configuration
from .connection import Connection
from .errors import HANDLER_FAILED
from .limits import QuicListenerOptions, split_options
from .listener import Listener
from .router import Router

Handler: TypeAlias = Callable[[Connection], Awaitable[object]]
"""An async function that serves one connection."""


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Handler,
    port: int,
    configuration: Configuration,
    *,
    host: str | None = None,
    drain_timeout: float = 5.0,
    handler_errors: HandlerErrors = "log",
    task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[QuicListenerOptions],
) -> None:
    """Call ``handler`` with each connection of a client, for ever.

    Args:
      handler: an async function whose argument is a :class:`Connection`. When it returns, the connection is closed once
        the client has acknowledged the streams that were ended.
      port: the UDP port, the same for all address families; 0 for an ephemeral port.
      configuration: the settings, with a certificate.
      host: a local address, or a name that resolves to some; all interfaces without one. Default: None.
      drain_timeout: how long to wait for these acknowledgements, in seconds. Default: 5.0.
      handler_errors: ``"log"``: log a handler's ``Exception`` with its traceback (repeated ones at most once a second)
        and close only its connection, with application code 1; ``"raise"``: end the server. Default: ``"log"``.
      task_status: ``nursery.start`` returns the listeners, one for each socket.
      options: limits, and options of the sockets, as documented in :class:`QuicListenerOptions`.

    A client never causes the cancellation of a handler: the handler's waits raise ``trio.BrokenResourceError``, which
    is not logged. A client may change its address, also between the families.

    Raises:
      TypeError, ValueError: if an argument is invalid; no socket was opened.
      socket.gaierror: if the name does not resolve.
      OSError: the kernel's error, such as EADDRINUSE; no socket stays open.

    When it ends or is cancelled, the connections are closed with code 0. In a worker process it returns after SIGTERM:
    it cancels the handlers and closes their connections.
    """
    check_handler(handler, handler_errors, None)
    if not isinstance(configuration, Configuration):
        raise TypeError(f"configuration must be a quic.Configuration, not {describe_value(configuration)}")
    if configuration.certificate is None:
        raise ValueError("configuration must have a certificate for a server: Configuration(certificate=..., key=...)")
    check_number("drain_timeout", drain_timeout, 0, infinite=True)
    limits, socket_options = split_options(options)
    bound = await bind_sockets(port, host, None, socket_options)
    router = Router(configuration, limits)
    async with router.endpoint:
        for sock in bound:
            answer_from_asked_address(sock)
            router.listeners[sock] = create(Listener, sock, limits, drain_timeout)
            router.endpoint.add_socket(sock)
        listeners = list(router.listeners.values())
        await serve_listeners(partial(_attend, handler), listeners, None, handler_errors, task_status)


@trio.lowlevel.enable_ki_protection
async def _attend(handler: Handler, connection: Connection) -> None:
    try:
        await interruptibly_awaited(handler, connection)
    except Exception:
        connection.close(HANDLER_FAILED)
        raise
    await connection.aclose()
