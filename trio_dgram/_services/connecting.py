"""Connecting to a name, which may have several addresses of either family."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar, cast

import trio

from .._codecs.families import UDP6
from .._socket.resolution import Lookup, numeric_addresses
from .._values.arguments import describe_value

T = TypeVar("T")

Connect: TypeAlias = Callable[[str, str, int], Awaitable[T]]
"""Connects a new socket of a type to a numeric address and a port; it leaves nothing open where it fails."""


def check_local(local: object) -> None:
    """Raise what is wrong with the local ``(host, port)`` of a connection."""
    if local is not None:
        if not isinstance(local, tuple):
            raise TypeError(f"local must be a (host, port) tuple, not {describe_value(local)}")
        UDP6.check_local(cast("object", local), None)


@trio.lowlevel.enable_ki_protection
async def addresses_of(host: str, port: int, lookup: Lookup | None = None) -> deque[tuple[str, str]]:
    """Return the addresses of ``host`` in the order to try them, each with the type of socket that it needs.

    Args:
      host: a name or an address, checked; ``""`` for this machine.
      port: the peer's port, checked.
      lookup: resolves names instead of Trio's resolver.

    Raises:
      socket.gaierror: if the name does not resolve.
    """
    await trio.lowlevel.checkpoint()
    return deque(await numeric_addresses(host or None, port, lookup))


@trio.lowlevel.enable_ki_protection
async def connect_next(addresses: deque[tuple[str, str]], port: int, connect: Connect[T]) -> T:
    """Connect to the first of ``addresses`` that has a route, and remove it and those before it.

    Args:
      addresses: what :func:`addresses_of` returned; at least one.
      port: the peer's port.
      connect: connects to one address.

    Raises:
      OSError: the kernel's error for the last address, if none can be connected to.
    """
    while True:
        type_, address = addresses[0]
        try:
            connected = await connect(type_, address, port)
        except OSError:
            addresses.popleft()
            if not addresses:
                raise
        else:
            addresses.popleft()
            return connected
