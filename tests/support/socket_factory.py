"""A custom socket factory made from a function that makes one socket."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import attrs
import trio


@attrs.define
class _Factory(trio.abc.SocketFactory):
    make: Callable[[int, int, int], Any]

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> trio.socket.SocketType:
        return cast("trio.socket.SocketType", self.make(family, type, proto))


@contextmanager
def sockets_from(make: Callable[[int, int, int], Any]) -> Generator[None]:
    """Create Trio's sockets by ``make(family, type, proto)`` in the block, inside a Trio run."""
    previous = trio.socket.set_custom_socket_factory(_Factory(make))
    try:
        yield
    finally:
        trio.socket.set_custom_socket_factory(previous)
