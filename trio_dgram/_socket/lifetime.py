"""The lifetime of a socket: the thread that it belongs to, whether it is closed, and the waits that closing ends."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from threading import get_ident

import trio


class Lifetime:
    """Whether a socket is closed, and the waits that closing it ends.

    ``trio.lowlevel.notify_closing`` ends the waits for the descriptor; this class ends all others.
    """

    __slots__ = ("_process", "_scopes", "_thread", "closed")

    def __init__(self) -> None:
        self.closed: bool = False
        # An empty set would take three times the memory.
        self._scopes: dict[trio.CancelScope, None] = {}
        self._thread = get_ident()
        self._process = os.getpid()

    def check(self, operation: str = "this call") -> None:
        """Raise ``trio.ClosedResourceError`` if the socket is closed, ``RuntimeError`` in another thread."""
        if get_ident() != self._thread:
            self.check_thread(operation)
        if self.closed:
            raise trio.ClosedResourceError("this datagram socket was closed")

    def check_thread(self, operation: str) -> None:
        """Raise ``RuntimeError`` in a thread other than the one of the socket's Trio run."""
        # A forked child has one thread, the copy of the one that forked.
        if get_ident() != self._thread and not self.inherited:
            raise RuntimeError(
                f"{operation} must run in the thread of the socket's Trio run, because nothing in a socket is locked: "
                "use trio.from_thread.run_sync"
            )

    @property
    def inherited(self) -> bool:
        """Whether this process is a forked child of the one that created the socket."""
        return os.getpid() != self._process

    @contextmanager
    def waiting(self, *, shield: bool = False) -> Generator[None]:
        """End the wait in the ``with`` block with ``trio.ClosedResourceError`` when the socket is closed.

        With ``shield``, cancellation does not end it.
        """
        self.check()
        with trio.CancelScope(shield=shield) as scope:
            self._scopes[scope] = None
            try:
                yield
            except OSError:
                # It may concern the descriptor, which is closed.
                self.check()
                raise
            finally:
                del self._scopes[scope]
        self.check()

    def end(self) -> None:
        """Mark the socket as closed and end what waits for it."""
        self.closed = True
        for scope in self._scopes:
            scope.cancel()
