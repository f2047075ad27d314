"""The end of a socket: what it means for the tasks that wait for something of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import trio


class Lifetime:
    """Whether a socket is closed, and the waits that its closing ends.

    Waits for the descriptor itself are ended by ``trio.lowlevel.notify_closing``; this is for all others.
    """

    __slots__ = ("_scopes", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._scopes: set[trio.CancelScope] = set()

    def check(self) -> None:
        """Raise ``trio.ClosedResourceError`` if the socket is closed."""
        if self.closed:
            raise trio.ClosedResourceError("this datagram socket was closed")

    @contextmanager
    def waiting(self, *, shield: bool = False) -> Generator[None]:
        """End the wait in the ``with`` block by ``trio.ClosedResourceError`` when the socket is closed.

        With ``shield`` nothing else ends it.
        """
        self.check()
        with trio.CancelScope(shield=shield) as scope:
            self._scopes.add(scope)
            try:
                yield
            except OSError:
                # It may be about the descriptor, which is gone.
                self.check()
                raise
            finally:
                self._scopes.remove(scope)
        self.check()

    def end(self) -> None:
        """Mark the socket as closed and end what waits for it."""
        self.closed = True
        for scope in self._scopes:
            scope.cancel()
