"""Sockets of a custom socket factory that offers Trio's interface alone, whose calls are awaited."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

from .system_socket import SystemSocket


def unsupported(what: str) -> OSError:
    """Return the error that says ``what`` is with the sockets of the factory."""
    return OSError(errno.ENOTSUP, f"the sockets of this custom socket factory {what}")


class AwaitedSocket:
    """What such a socket can do at once, as the rest of the library asks for it.

    Nothing is ever there to be received but an error that is due, and there is never room to send: that is to be
    awaited, at ``awaited``.
    """

    def __init__(self, awaited: Any) -> None:
        self.awaited: Any = awaited
        """The factory's socket, a ``trio.socket.SocketType``."""
        self.fileno: Callable[..., Any] = awaited.fileno
        self.getsockname: Callable[..., Any] = awaited.getsockname
        self.getpeername: Callable[..., Any] = awaited.getpeername
        self.getsockopt: Callable[..., Any] = awaited.getsockopt
        self.setsockopt: Callable[..., Any] = awaited.setsockopt
        self.close: Callable[..., Any] = awaited.close

    def recvfrom(self, *_: object) -> NoReturn:
        """Raise what the next receive would fail with, or that it has to be awaited."""
        number = 0
        with suppress(OSError):
            number = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        self._not_at_once()

    def _not_at_once(self, *_: object) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, "the sockets of this custom socket factory are awaited")

    def disconnect(self) -> NoReturn:
        """Say that there is no such call."""
        raise unsupported("cannot be disconnected")

    def _not_at_all(self, *_: object) -> NoReturn:
        raise AssertionError("a call that is not made on a socket whose calls are awaited")  # pragma: no cover

    recvmsg: Callable[..., NoReturn] = _not_at_once
    send: Callable[..., NoReturn] = _not_at_once
    sendto: Callable[..., NoReturn] = _not_at_once
    sendmsg: Callable[..., NoReturn] = _not_at_once
    bind: Callable[..., NoReturn] = _not_at_all
    connect: Callable[..., NoReturn] = _not_at_all
    path_mtu: Callable[..., NoReturn] = _not_at_all
    watch_errors: Callable[..., NoReturn] = _not_at_all


KernelSocket: TypeAlias = SystemSocket | AwaitedSocket
"""What the library runs on."""
