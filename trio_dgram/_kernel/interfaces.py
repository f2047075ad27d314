"""The network interfaces of this machine."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import attrs
import psutil

from .._values.arguments import describe_value

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


@attrs.frozen(kw_only=True)
class Interface:
    """A network interface as it was when it was asked for."""

    name: str
    """Its name, such as ``"eth0"``."""
    index: int
    """Its number in the kernel, from 1."""
    addresses: tuple[str, ...]
    """Its IPv4 and IPv6 addresses; link-local IPv6 ones with their zone."""
    up: bool
    """Whether it was switched on."""
    multicast: bool
    """Whether it can multicast."""
    loopback: bool
    """Whether it leads back to this machine."""
    mtu: int
    """The largest packet that it takes whole, in bytes."""


def interfaces() -> list[Interface]:
    """Return the network interfaces of this machine, by index; on a simulated network those of the task's host.

    It asks the kernel each time, since interfaces come and go. Which flags there are besides ``up`` depends
    on the platform: on Windows ``multicast`` is true and ``loopback`` is read off the addresses.
    """
    return listing.get()()


def _of_this_machine() -> list[Interface]:
    addresses: defaultdict[str, list[str]] = defaultdict(list)
    for label, found in psutil.net_if_addrs().items():
        # Linux labels IPv4 addresses, with the interface's name or with one that goes on after a colon.
        name = label.partition(":")[0] if sys.platform == "linux" else label
        addresses[name] += [each.address for each in found if each.family in _INTERNET]
    listed = []
    for name, statistics in psutil.net_if_stats().items():
        try:
            index = socket.if_nametoindex(name)
        except OSError:  # pragma: no cover -- it went away between the two calls
            continue
        flags = set(statistics.flags.split(",")) - {""}
        hosts = tuple(addresses[name])
        listed.append(
            Interface(
                name=name,
                index=index,
                addresses=hosts,
                up="up" in flags if flags else statistics.isup,
                multicast="multicast" in flags or not flags,
                loopback="loopback" in flags or "127.0.0.1" in hosts,
                mtu=statistics.mtu,
            )
        )
    return sorted(listed, key=lambda interface: interface.index)


listing: Final[ContextVar[Callable[[], list[Interface]]]] = ContextVar(
    "trio_dgram interfaces", default=_of_this_machine
)
"""Where the interfaces come from that a program sees: this machine, unless its sockets are on a simulated network."""


def find_interface(which: object, name: str = "interface") -> Interface:
    """Return the interface that has ``which`` as a local address, name or index.

    Raises:
      TypeError: if ``which`` is neither a string nor an integer.
      OSError: ENODEV if there is none.
    """
    if not isinstance(which, str | int) or isinstance(which, bool):
        raise TypeError(f"{name} must be a local address, interface name or index, not {describe_value(which)}")
    for interface in interfaces():
        if which in (interface.index, interface.name) or _is_local(which, interface):
            return interface
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def _is_local(which: str | int, interface: Interface) -> bool:
    try:
        address = ipaddress.ip_address(which) if isinstance(which, str) else None
    except ValueError:
        return False
    return any(
        address == ipaddress.ip_address(local) or which == local.partition("%")[0] for local in interface.addresses
    )
