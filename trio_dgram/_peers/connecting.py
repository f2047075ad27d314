"""Connecting to a name, which may have addresses of either family."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import trio

from .._socket.resolution import numeric_addresses
from .._values.addresses import check_host, check_port

T = TypeVar("T")

Connect: TypeAlias = Callable[[str, str, int], Awaitable[T]]
"""Connects a new socket of a type to a numeric address and a port; it leaves nothing open where it fails."""


@trio.lowlevel.enable_ki_protection
async def connect_first(host: str, port: int, connect: Connect[T]) -> T:
    """Connect to the first address of ``host``, in either family, to which there is a way.

    Args:
      host: a name or an address; ``""`` for this machine.
      port: the peer's.
      connect: how to connect to one.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      socket.gaierror: if the name does not resolve.
      OSError: what the kernel says of the first, if there is a way to none.
    """
    check_host("host", host)
    check_port("port", port, lowest=1)
    failures: list[OSError] = []
    await trio.lowlevel.checkpoint()
    for type_, address in await numeric_addresses(host or None, port):
        try:
            return await connect(type_, address, port)
        except OSError as error:
            failures.append(error)
    raise failures[0]
