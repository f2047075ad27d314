"""The limits of a server, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypedDict, cast

import attrs
from attrs.validators import optional

from .._services.limits import check_filter, count, document, networks, number, split
from .._socket.config import SocketOptions
from .._values.arguments import check_choice
from .._values.datagrams import Datagram

_MOST: Final = 2**31 - 1


class QuicPeerOptions(TypedDict, total=False):
    """The limits of a QUIC server, as keyword options. Omitted ones have their defaults.

    Attributes:
      retry (Literal['always', 'under_load', 'never']): whether a client must prove its address before anything is
        stored for it (RFC 9000, 8.1.2), which costs a round trip: ``"under_load"`` as soon as half of
        ``max_handshakes`` are in progress. Default: 'under_load'.
      max_connections (int): the largest number of connections at a time, and of handlers that run for them, from 1. One
        counts from the end of its handshake until its handler returns. Default: 1024.
      max_connections_per_network (tuple[int, int] | None): the largest number of connections and handshakes in one
        IPv4 /24 and in one IPv6 /56; None for any number. Default: None.
      max_handshakes (int): the largest number of handshakes in progress, from 1; the oldest is evicted for a new one.
        Each costs about 90 kB. Default: 128.
      handshake_timeout (float): the time limit of a handshake, in seconds. Default: 10.0.
      accept_filter (Callable[[Datagram], bool] | None): whether to admit a new client, by its first datagram; None
        admits all. Default: None.
    """

    retry: Literal["always", "under_load", "never"]
    max_connections: int
    max_connections_per_network: tuple[int, int] | None
    max_handshakes: int
    handshake_timeout: float
    accept_filter: Callable[[Datagram], bool] | None


class QuicListenerOptions(QuicPeerOptions, SocketOptions, total=False):
    """The keyword options of a QUIC server: its limits, and those of its sockets. Omitted ones have their defaults."""


document(QuicListenerOptions, QuicPeerOptions, SocketOptions)


def _check_retry(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_choice(attribute.name, value, ("always", "under_load", "never"))


@attrs.frozen(kw_only=True)
class QuicLimits:
    """The checked form of :class:`QuicPeerOptions`."""

    retry: str = attrs.field(default="under_load", validator=_check_retry)
    max_connections: int = attrs.field(default=1024, validator=count(_MOST))
    max_connections_per_network: tuple[int, int] | None = attrs.field(default=None, validator=optional(networks(_MOST)))
    max_handshakes: int = attrs.field(default=128, validator=count(_MOST))
    handshake_timeout: float = attrs.field(default=10.0, validator=number(0))
    accept_filter: Callable[[Datagram], bool] | None = attrs.field(default=None, validator=check_filter)


def split_options(options: QuicListenerOptions) -> tuple[QuicLimits, SocketOptions]:
    """Return the limits of a server, checked, and the options of its sockets."""
    limits, of_sockets = split("QUIC listener option", options, QuicListenerOptions, QuicPeerOptions)
    return QuicLimits(**cast("dict[str, Any]", limits)), of_sockets
