"""What the peers of one listener may take, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import Any, TypedDict, cast

import attrs

from .._values.arguments import check_integer, check_names, check_number, describe_value
from .._values.datagrams import Datagram

_MOST = 2**62


class ListenerOptions(TypedDict, total=False):
    """The keyword options of a listener. One that is left out has its default.

    Attributes:
      max_peers (int): the largest number of peers at a time, from 1. Default: 1024.
      max_buffer_size (int): how many datagrams of one peer are queued, from 1. Default: 64.
      max_buffer_bytes (int): how many bytes of one peer are queued, from 1. Default: 65536.
      max_total_bytes (int): how many bytes of all peers are queued, from 1. Default: 67108864.
      idle_timeout (float): after how many seconds without a datagram in either direction the channel of a peer ends.
        Default: 60.0.
      unvalidated_timeout (float | None): the same before ``mark_validated`` is called; None for ``idle_timeout``.
        Default: None.
      accept_filter (Callable[[Datagram], bool] | None): whether to admit a new peer, by its first datagram; None
        admits all. Default: None.
      max_peers_per_network (tuple[int, int] | None): the largest number of peers in one IPv4 /24 and in one IPv6 /56;
        None for any number. Default: None.
      amplification_limit (float | None): how many bytes may be sent for each one received before the peer is
        validated, from 1 (RFC 9000, 8.1); None for any number. Default: None.
    """

    max_peers: int
    max_buffer_size: int
    max_buffer_bytes: int
    max_total_bytes: int
    idle_timeout: float
    unvalidated_timeout: float | None
    accept_filter: Callable[[Datagram], bool] | None
    max_peers_per_network: tuple[int, int] | None
    amplification_limit: float | None


def _integer(lowest: int) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_integer(attribute.name, value, lowest, _MOST)

    return check


def _number(lowest: float) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_number(attribute.name, value, lowest, infinite=True)

    return check


def _check_filter(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{attribute.name} must be a function of a Datagram, not {describe_value(value)}")


def _check_networks(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{attribute.name} must be a number for IPv4 and one for IPv6, not {describe_value(value)}")
    for number in cast("tuple[object, ...]", value):
        check_integer(attribute.name, number, 1, _MOST)


@attrs.frozen(kw_only=True)
class PeerLimits:
    """The checked form of :class:`ListenerOptions`."""

    max_peers: int = attrs.field(default=1024, validator=_integer(1))
    max_buffer_size: int = attrs.field(default=64, validator=_integer(1))
    max_buffer_bytes: int = attrs.field(default=64 * 1024, validator=_integer(1))
    max_total_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=_integer(1))
    idle_timeout: float = attrs.field(default=60.0, validator=_number(0))
    unvalidated_timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(_number(0)))
    accept_filter: Callable[[Datagram], bool] | None = attrs.field(default=None, validator=_check_filter)
    max_peers_per_network: tuple[int, int] | None = attrs.field(default=None, validator=_check_networks)
    amplification_limit: float | None = attrs.field(default=None, validator=attrs.validators.optional(_number(1)))

    def patience(self, *, validated: bool) -> float:
        """Return after how many idle seconds a peer is given up."""
        return self.idle_timeout if validated or self.unvalidated_timeout is None else self.unvalidated_timeout


UNLIMITED = PeerLimits(max_peers=1, idle_timeout=math.inf)
"""For the one peer that a program has chosen itself."""


def check_limits(options: ListenerOptions) -> PeerLimits:
    """Return the limits that the options set, or raise what is wrong with them."""
    check_names("listener option", options, ListenerOptions.__annotations__)
    return PeerLimits(**cast("dict[str, Any]", dict(options)))


def network_of(host: str) -> tuple[str, int]:
    """Return the network that a peer counts for, and which of the two limits is meant: 0 for an IPv4 /24 and 1 for an
    IPv6 /56. An IPv4-mapped peer is an IPv4 one."""
    if ":" not in host:
        # Most are, and a flood of forged ones has to be refused at little cost.
        return f"{host.rpartition('.')[0]}.0/24", 0
    address = ipaddress.IPv6Address(host.partition("%")[0])
    mapped = address.ipv4_mapped
    if mapped is not None:
        return network_of(str(mapped))
    return str(ipaddress.IPv6Network((int(address), 56), strict=False)), 1
