"""The two address families, with their addresses, options and errors."""

from __future__ import annotations

import socket
from typing import Final, Literal

import attrs


@attrs.frozen(kw_only=True)
class Family:
    """The values in which the two families differ."""

    type: Literal["udp4", "udp6"]
    family: socket.AddressFamily
    loopback: str
    wildcard: str
    foreign: str
    """An address that no machine of ours has."""
    group: str
    """An unused multicast group."""


FAMILIES: Final = (
    Family(
        type="udp4",
        family=socket.AF_INET,
        loopback="127.0.0.1",
        wildcard="0.0.0.0",
        foreign="1.1.1.1",
        group="239.1.2.3",
    ),
    Family(
        type="udp6",
        family=socket.AF_INET6,
        loopback="::1",
        wildcard="::",
        foreign="2001:db8::1",
        group="ff02::1234",
    ),
)
