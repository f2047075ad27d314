"""Name resolution: from a host and a port to numeric addresses."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from .._codecs.families import UDP4, UDP6, Family, SocketType, check_type, is_literal
from .._values.addresses import Address, check_host, check_port, unmapped
from .._values.arguments import describe_value
from .event_loop import require_trio
from .interrupts import interruptibly_awaited

Lookup: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[Address | tuple[str, int]]]
"""Resolves a name and a port to an address of the family; its exceptions propagate to the caller."""


async def resolve(host: str | None, port: int, type: SocketType) -> Address:
    """Resolve a name once, for an address to send to many times::

        server = await trio_dgram.resolve("localhost", 41234, "udp4")

    Args:
      host: a name or a numeric address; ``""`` or ``None`` is loopback.
      port: a UDP port, 1 to 65535.
      type: the type of the sockets that will use the address, ``"udp4"`` or ``"udp6"``: it selects the family.

    Returns:
      The first address of the name.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      socket.gaierror: if the name does not resolve in that family (getaddrinfo(3)).

    A checkpoint. Names are resolved by Trio's resolver, or by the custom one that a program or test installed.
    """
    family = check_type(type)
    if not family.is_internet:
        raise ValueError(f"type must be 'udp4' or 'udp6' to resolve a name, not {type!r}")
    name = check_host("host", host)
    check_port("port", port, lowest=1)
    require_trio()
    await trio.lowlevel.checkpoint()
    address, sockaddr = family.locate(Address(name, port), dual_stack=False)
    if sockaddr is None:
        return (await look_up(address, family, None))[0]
    unmapped_host = str(sockaddr[0]) if sockaddr else address.host
    return address if len(sockaddr) > 2 else Address(unmapped_host, port)


async def numeric_addresses(host: str | None, port: int, lookup: Lookup | None = None) -> list[tuple[SocketType, str]]:
    """Return the addresses of a name in both families, in the order to try them, each with its type of sockets.

    A ``lookup`` is asked for an IPv6 address, then for an IPv4 one; what it raises is raised if it has neither. An
    IPv4-mapped address counts as IPv4.
    """
    for family in (UDP4, UDP6):
        if host and is_literal(host.partition("%")[0], family.family):
            return [_typed(family, host)]
    if host and lookup is not None:
        return await _ask_for_each_family(lookup, host, port)
    found = await _get_addresses(host, port)
    families = {int(family.family): family for family in (UDP4, UDP6)}
    return list(
        dict.fromkeys(_typed(family := families[int(entry[0])], family.address(entry[4]).host) for entry in found)
    )


def _typed(family: Family, host: str) -> tuple[SocketType, str]:
    plain = unmapped(host)
    return (family.type, host) if plain is host else (UDP4.type, plain)


async def _ask_for_each_family(lookup: Lookup, host: str, port: int) -> list[tuple[SocketType, str]]:
    found: list[tuple[SocketType, str]] = []
    failures: list[OSError] = []
    for family in (UDP6, UDP4):
        try:
            addresses = await look_up(Address(host, port), family, lookup)
        except OSError as error:
            failures.append(error)
        else:
            found.extend(_typed(family, address.host) for address in addresses)
    if not found:
        raise failures[0]
    return found


async def _get_addresses(host: str | None, port: int, family: int = 0) -> list[Any]:
    try:
        found = list(await trio.socket.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM))
    except UnicodeError as error:
        # A label that is empty, too long, or has characters that no name has.
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a valid name: {error}") from None
    if not found:
        # A custom resolver may return nothing, where the system's raises this.
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} has no address")
    return found


async def look_up(address: Address, family: Family, lookup: Lookup | None) -> list[Address]:
    """Resolve the name in ``address`` with ``lookup``, or with Trio's resolver; return its addresses in order."""
    if lookup is None:
        found = await _get_addresses(address.host, address.port, family.family)
        return list(dict.fromkeys(family.address(entry[4]) for entry in found))
    answer = await interruptibly_awaited(lookup, address.host, address.port, family.family)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], str):
        raise TypeError(f"lookup must return an Address, not {describe_value(answer)}")
    return [Address(answer[0], check_port("the port of what lookup returned", answer[1]))]
