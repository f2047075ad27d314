"""Names: from what the program says to a numeric address."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from .._codecs.families import UDP4, UDP6, Family, check_type, is_literal
from .._values.addresses import Address, check_host, check_port
from .._values.arguments import describe_value

Lookup: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[Address | tuple[str, int]]]
"""Turns a name and a port into an address of the family; what it raises goes to whoever asked."""


async def resolve(host: str | None, port: int, type: str) -> Address:
    """Resolve a name once, for an address to send to many times.

    Args:
      host: a name or a numeric address; ``""`` or ``None`` is loopback.
      port: a UDP port, 1 to 65535.
      type: the type of the sockets that will use it, ``"udp4"`` or ``"udp6"``, which says the family.

    Raises:
      TypeError, ValueError: if an argument is not of that form; nothing was asked then.
      socket.gaierror: if the name does not resolve in that family (getaddrinfo(3)).

    A cancellation point always; names are asked of Trio's resolver, and so of a custom one where a program or
    test has installed it.
    """
    family = check_type(type)
    if not family.is_internet:
        raise ValueError(f"type must be 'udp4' or 'udp6' to resolve a name, not {type!r}")
    name = check_host("host", host)
    check_port("port", port, lowest=1)
    await trio.lowlevel.checkpoint()
    address, sockaddr = family.locate(Address(name, port), dual_stack=False)
    return await look_up(address, family, None) if sockaddr is None else address


async def numeric_addresses(host: str | None, port: int) -> list[tuple[str, str]]:
    """Return the addresses of a name in both families, in the order in which they are to be tried, each with the type
    of the sockets that reach it."""
    for family in (UDP4, UDP6):
        if host and is_literal(host.partition("%")[0], family.family):
            return [(family.type, host)]
    found = await _ask(host, port)
    types = {int(family.family): family.type for family in (UDP4, UDP6)}
    return list(dict.fromkeys((types[int(entry[0])], str(entry[4][0])) for entry in found))


async def _ask(host: str | None, port: int, family: int = 0) -> list[Any]:
    try:
        return list(await trio.socket.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM))
    except UnicodeError as error:
        # A label that is empty or too long, or has characters that no name has.
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} cannot be a name: {error}") from None


async def look_up(address: Address, family: Family, lookup: Lookup | None) -> Address:
    """Resolve the name in ``address`` with ``lookup``, or Trio's resolver where there is none."""
    if lookup is None:
        found = await _ask(address.host, address.port, family.family)
        return family.address(found[0][4])
    answer = await lookup(address.host, address.port, family.family)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], str):
        raise TypeError(f"lookup must return an Address, not {describe_value(answer)}")
    return Address(answer[0], check_port("the port of what lookup returned", answer[1]))
