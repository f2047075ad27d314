"""Binding one port in each address family, for those who serve peers of both."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

import trio

from .._codecs.families import FAMILIES, UDP4, UDP6
from .._socket.resolution import numeric_addresses
from .._values.addresses import Address, check_host, check_port

_PORT_TRIES: Final = 16
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Bound(Protocol):
    """What has been bound to an address."""

    @property
    def address(self) -> Address:
        """The local address."""
        ...

    def close(self) -> None:
        """Let it go."""


BoundT = TypeVar("BoundT", bound=Bound)

Bind: TypeAlias = Callable[[str, str, int], Awaitable[BoundT]]
"""Binds a new socket of a type to a numeric address and a port; it leaves nothing open where it fails."""


@trio.lowlevel.enable_ki_protection
async def bind_each_family(
    port: int, host: str | None, bind: Bind[BoundT], types: Sequence[str] = (UDP6.type, UDP4.type)
) -> list[BoundT]:
    """Bind a socket for each address family, all to one port.

    Args:
      port: 0 for one of the kernel's choice that is free in each family.
      host: a local address, or a name that resolves to some; all interfaces if there is none.
      bind: binds one socket.
      types: the socket types to bind without a host. Default: both.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      socket.gaierror: if the name does not resolve.
      OSError: what the kernel says, such as EADDRINUSE; nothing is left open then.

    A family that this machine does not have is left out where there is another.
    """
    check_port("port", port)
    name = check_host("host", host)
    everywhere = [(type_, FAMILIES[type_].wildcard.host) for type_ in types]
    await trio.lowlevel.checkpoint()
    addresses = await numeric_addresses(name, port) if name else everywhere
    tries = 1 if port else _PORT_TRIES
    while True:
        tries -= 1
        try:
            return await _bind_all(addresses, port, bind)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise


async def _bind_all(addresses: Sequence[tuple[str, str]], port: int, bind: Bind[BoundT]) -> list[BoundT]:
    bound: list[BoundT] = []
    missing: list[OSError] = []
    try:
        for type_, host in addresses:
            try:
                bound.append(await bind(type_, host, port))
            except OSError as error:
                # This machine may have but one of the families.
                if error.errno not in _NO_SUCH_FAMILY or len(addresses) == 1:
                    raise
                missing.append(error)
            else:
                # The others have to have the same.
                port = bound[-1].address.port
    except BaseException:
        for each in bound:
            each.close()
        raise
    if not bound:
        raise missing[0]
    return bound
