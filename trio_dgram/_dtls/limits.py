"""The limits of a DTLS listener, checked before anything is opened."""

from __future__ import annotations

import math
from typing import Any, Final, TypedDict, cast

import attrs
from attrs.validators import optional

from .._services.limits import count, document, networks, number, split, timeout
from .._socket.config import SocketOptions
from .._values.arguments import check_names

_MOST: Final = 2**31 - 1


class DTLSPeerOptions(TypedDict, total=False):
    """The limits of a DTLS listener, as keyword options. One that is left out has its default.

    Attributes:
      max_peers (int): the largest number of peers at a time, and of handlers that :func:`serve` runs for them, from 1.
        A peer counts from the end of its handshake. Default: 1024.
      max_peers_per_network (tuple[int, int] | None): the largest number of peers and handshakes in one IPv4 /24 and in
        one IPv6 /56; None for any number. Default: None.
      max_handshakes (int): the largest number of handshakes in progress, from 1; the oldest is cancelled in favour of a
        new one. Each costs about 90 kB. Default: 128.
      handshake_timeout (float): how long a handshake may take, in seconds. Default: 10.0.
      idle_timeout (float | None): after how many seconds without a datagram from a peer its channel ends; None for
        never. Default: 60.0.
      max_buffer_size (int): how many datagrams of one peer are queued, from 1. Default: 1024.
      max_buffer_bytes (int): how many bytes of one peer are queued, from 1. Default: 262144.
      max_total_bytes (int): how many bytes of all peers are queued, from 1. Default: 67108864.
    """

    max_peers: int
    max_peers_per_network: tuple[int, int] | None
    max_handshakes: int
    handshake_timeout: float
    idle_timeout: float | None
    max_buffer_size: int
    max_buffer_bytes: int
    max_total_bytes: int


class DTLSListenerOptions(DTLSPeerOptions, SocketOptions, total=False):
    """The keyword options of a DTLS listener: its limits, and those of its sockets. One left out has its default."""


document(DTLSListenerOptions, DTLSPeerOptions, SocketOptions)


@attrs.frozen(kw_only=True)
class DTLSLimits:
    """The checked form of :class:`DTLSPeerOptions`."""

    max_peers: int = attrs.field(default=1024, validator=count(_MOST))
    max_peers_per_network: tuple[int, int] | None = attrs.field(default=None, validator=optional(networks(_MOST)))
    max_handshakes: int = attrs.field(default=128, validator=count(_MOST))
    handshake_timeout: float = attrs.field(default=10.0, validator=number(0))
    idle_timeout: float | None = attrs.field(default=60.0, validator=timeout)
    max_buffer_size: int = attrs.field(default=1024, validator=count(_MOST))
    max_buffer_bytes: int = attrs.field(default=256 * 1024, validator=count(_MOST))
    max_total_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=count(_MOST))

    @property
    def longest_silence(self) -> float:
        """The idle timeout, in seconds."""
        return math.inf if self.idle_timeout is None else self.idle_timeout


def check_limits(options: DTLSPeerOptions) -> DTLSLimits:
    """Return the limits that the options set, or raise what is wrong with them."""
    check_names("DTLS listener option", options, DTLSPeerOptions.__annotations__)
    return DTLSLimits(**cast("dict[str, Any]", dict(options)))


def split_options(options: DTLSListenerOptions) -> tuple[DTLSPeerOptions, SocketOptions]:
    """Return the limits of a listener, checked, and the options of its sockets."""
    limits, of_sockets = split("DTLS listener option", options, DTLSListenerOptions, DTLSPeerOptions)
    check_limits(limits)
    return limits, of_sockets
