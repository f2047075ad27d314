"""The limits of a listener's peers, checked before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypedDict, cast

import attrs
from attrs.validators import optional

from .._services.limits import check_filter, count, document, networks, number, split, timeout
from .._socket.config import SocketOptions
from .._values.arguments import check_names
from .._values.datagrams import Datagram

_MOST: Final = 2**62


class PeerOptions(TypedDict, total=False):
    """The limits of a listener, as keyword options. One that is left out has its default.

    Attributes:
      max_peers (int): the largest number of peers at a time, and of handlers that :func:`serve` runs for them, from 1.
        Default: 1024.
      max_buffer_size (int): how many datagrams of one peer are queued, from 1. Default: 1024.
      max_buffer_bytes (int): how many bytes of one peer are queued, from 1. Default: 262144.
      max_total_bytes (int): how many bytes of all peers are queued, from 1; unvalidated peers have at most half of it.
        Default: 67108864.
      idle_timeout (float | None): after how many seconds without a datagram from a peer its channel ends; None for
        never. Default: 60.0.
      unvalidated_timeout (float | None): the same before ``mark_validated`` is called; None for ``idle_timeout``.
        Default: None.
      accept_filter (Callable[[Datagram], bool] | None): whether to admit a new peer, by its first datagram; None
        admits all. It may close the listener. Default: None.
      max_peers_per_network (tuple[int, int] | None): the largest number of peers in one IPv4 /24 and in one IPv6 /56;
        None for any number. Not for ``"unix"`` sockets. Default: None.
      amplification_limit (float | None): how many bytes may be sent for each one received before the peer is
        validated, from 1 (RFC 9000, 8.1); None for any number. Default: None.
    """

    max_peers: int
    max_buffer_size: int
    max_buffer_bytes: int
    max_total_bytes: int
    idle_timeout: float | None
    unvalidated_timeout: float | None
    accept_filter: Callable[[Datagram], bool] | None
    max_peers_per_network: tuple[int, int] | None
    amplification_limit: float | None


class ListenerOptions(PeerOptions, SocketOptions, total=False):
    """The keyword options of a listener: its limits, and those of its sockets. One left out has its default."""


document(ListenerOptions, PeerOptions, SocketOptions)


@attrs.frozen(kw_only=True)
class PeerLimits:
    """The checked form of :class:`PeerOptions`."""

    max_peers: int = attrs.field(default=1024, validator=count(_MOST))
    max_buffer_size: int = attrs.field(default=1024, validator=count(_MOST))
    max_buffer_bytes: int = attrs.field(default=256 * 1024, validator=count(_MOST))
    max_total_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=count(_MOST))
    idle_timeout: float | None = attrs.field(default=60.0, validator=timeout)
    unvalidated_timeout: float | None = attrs.field(default=None, validator=timeout)
    accept_filter: Callable[[Datagram], bool] | None = attrs.field(default=None, validator=check_filter)
    max_peers_per_network: tuple[int, int] | None = attrs.field(default=None, validator=optional(networks(_MOST)))
    amplification_limit: float | None = attrs.field(default=None, validator=optional(number(1)))

    def timeout(self, *, validated: bool) -> float:
        """Return after how many seconds without a datagram from it a peer expires."""
        if not validated and self.unvalidated_timeout is not None:
            return self.unvalidated_timeout
        return math.inf if self.idle_timeout is None else self.idle_timeout


UNLIMITED: Final = PeerLimits(max_peers=1, idle_timeout=None)
"""For the one peer that a program has chosen itself."""


def check_limits(options: PeerOptions, *, unix: bool) -> PeerLimits:
    """Return the limits that the options set, or raise what is wrong with them on a ``"unix"`` socket or another."""
    check_names("listener option", options, PeerOptions.__annotations__)
    limits = PeerLimits(**cast("dict[str, Any]", dict(options)))
    if unix and limits.max_peers_per_network is not None:
        raise ValueError("max_peers_per_network is for udp4 and udp6 sockets, not for unix sockets")
    return limits


def split_options(options: ListenerOptions, *, unix: bool) -> tuple[PeerOptions, SocketOptions]:
    """Return the limits of a listener and the options of its sockets, or raise what is wrong with a limit."""
    limits, of_sockets = split("listener option", options, ListenerOptions, PeerOptions)
    check_limits(limits, unix=unix)
    return limits, of_sockets
