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

from .._values.arguments import describe_value
from .._values.errors import with_context

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


@attrs.frozen(kw_only=True)
class Interface:
    """A network interface at the moment of the call.

    Attributes:
      name (str): its name, such as ``"eth0"``.
      index (int): its number in the kernel, from 1.
      addresses (tuple[str, ...]): its IPv4 and IPv6 addresses; link-local IPv6 ones with their zone.
      up (bool): whether it is enabled.
      multicast (bool): whether it supports multicast.
      loopback (bool): whether it is a loopback interface.
      mtu (int): the largest packet that it sends unfragmented, in bytes.
    """

    name: str
    index: int
    addresses: tuple[str, ...]
    up: bool
    multicast: bool
    loopback: bool
    mtu: int


def interfaces() -> list[Interface]:
    """Return the network interfaces of this machine, by index; on a simulated network those of the task's host.

    Each call queries the kernel, since interfaces appear and disappear. Flags besides ``up`` depend on the platform:
    on Windows ``multicast`` is true and ``loopback`` is derived from the addresses.

    Raises:
      OSError: the kernel's error, such as EMFILE; its ``operation`` is ``"interfaces"``.
    """
    try:
        return listing.get()()
    except OSError as error:
        raise with_context(error, "interfaces", None) from None


def _list_system() -> list[Interface]:
    # Importing psutil takes 45 ms, and most programs never list interfaces.
    import psutil  # noqa: PLC0415

    addresses: defaultdict[str, list[str]] = defaultdict(list)
    for label, found in psutil.net_if_addrs().items():
        # On Linux an IPv4 address has a label: the name of the interface, perhaps followed by a colon and more.
        name = label.partition(":")[0] if sys.platform == "linux" else label
        addresses[name] += [each.address for each in found if each.family in _INTERNET]
    listed = []
    for name, statistics in psutil.net_if_stats().items():
        try:
            index = socket.if_nametoindex(name)
        except OSError:  # pragma: no cover -- the interface was removed between the two calls
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


listing: Final[ContextVar[Callable[[], list[Interface]]]] = ContextVar("trio_dgram interfaces", default=_list_system)
"""The function that lists the interfaces: of this machine, or of a simulated host."""


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
