"""Serving DTLS peers: one handler for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, Unpack

import trio
from OpenSSL import SSL

from .._services.handlers import HandlerErrors, check_handler, serve_listeners
from .channel import DTLSChannel
from .limits import DTLSListenerOptions
from .listener import DTLSListener, open_listeners

Handler: TypeAlias = Callable[[DTLSChannel], Awaitable[object]]
"""An async function that serves one peer."""


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Handler,
    port: int,
    ssl_context: SSL.Context,
    *,
    host: str | None = None,
    handler_nursery: trio.Nursery | None = None,
    handler_errors: HandlerErrors = "log",
    task_status: trio.TaskStatus[list[DTLSListener]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[DTLSListenerOptions],
) -> None:
    """Call ``handler`` with an encrypted channel for each peer, for ever, as :func:`trio_dgram.serve` does without
    encryption.

    Args:
      handler: an async function that takes a ``trio.abc.Channel[bytes]``; the channel is closed when it returns.
      port: the UDP port; 0 for one of the kernel's choice.
      ssl_context: an OpenSSL context with ``SSL.DTLS_METHOD``, a certificate and its key. Its ``set_verify`` decides
        whether clients need certificates.
      host: as in :func:`open_listeners`. Default: None.
      handler_nursery: the nursery that the handlers run in. Default: one of its own.
      handler_errors: ``"log"``: log a handler's ``Exception`` with its traceback (repeated ones at most once a second)
        and close only its channel; ``"raise"``: it ends the server. Default: ``"log"``.
      task_status: ``nursery.start`` returns the listeners.
      options: as in :func:`open_listeners`. The handlers that run count for ``max_peers``: a handler that runs on after
        its channel has ended is cancelled when its place is needed.

    A handler runs once the handshake of its peer is done. A peer proves its address by a cookie before anything is
    stored for it (RFC 6347, 4.2.1). Failed handshakes are counted, and logged at most once a second for each cause.

    Raises as :func:`open_listeners` does. When it ends or is cancelled, the listeners are closed. In a worker process
    it returns after SIGTERM: it cancels the handlers and closes their channels.
    """
    check_handler(handler, handler_errors, handler_nursery)
    listeners = await open_listeners(port, ssl_context, host=host, **options)
    await serve_listeners(handler, listeners, handler_nursery, handler_errors, task_status)
