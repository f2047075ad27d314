"""Block lists: hosts whose datagrams a socket drops, or that it does not send to."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from .addresses import unmapped
from .arguments import describe_value

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
BlockListEntry: TypeAlias = str | ipaddress.IPv4Address | ipaddress.IPv6Address | IPNetwork
"""An address or a network, as text or as an :mod:`ipaddress` object."""

_MOST_CACHED_HOSTS: Final = 4096
"""How many verdicts are cached: forged sources must not grow the cache without a bound."""

_LOOPBACK_OF_UNSPECIFIED: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The address that the kernel sends to instead of the unspecified one."""


def check_block_list(name: str, value: object) -> tuple[IPNetwork, ...]:
    """Return the networks of a block list, IPv4-mapped ones as IPv4."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be an iterable of addresses and networks, not {describe_value(value)}")
    return tuple(_network(name, entry) for entry in value)


def blocker(networks: tuple[IPNetwork, ...]) -> Callable[[str], bool] | None:
    """Return a predicate: whether a numeric host is in ``networks``, however it is spelled. ``None`` without any."""
    if not networks:
        return None

    def contains(host: str) -> bool:
        address = ipaddress.ip_address(host)
        return any(address in network for network in networks)

    @lru_cache(_MOST_CACHED_HOSTS)
    def is_blocked(host: str) -> bool:
        plain = unmapped(host.partition("%")[0])
        loopback = _LOOPBACK_OF_UNSPECIFIED.get(plain)
        return contains(plain) or (loopback is not None and contains(loopback))

    return is_blocked


def _network(name: str, entry: object) -> IPNetwork:
    kinds = str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network
    if not isinstance(entry, kinds):
        raise TypeError(f"{name} must hold addresses and networks, not {describe_value(entry)}")
    try:
        network = ipaddress.ip_network(str(entry), strict=False)
    except ValueError as error:
        raise ValueError(f"{name} must hold addresses and networks: {error}") from None
    mapped = network.network_address
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped.ipv4_mapped, network.prefixlen - 96))
    return network
