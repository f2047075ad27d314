"""Binding the sockets of a listener: one for each address family, all to the same port."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import trio

from .._codecs.families import FAMILIES, UDP4, UDP6
from .._socket.config import SocketOptions, check_options
from .._socket.creation import passed_on_port
from .._socket.datagram_socket import DatagramSocket
from .._socket.resolution import numeric_addresses
from .._values.addresses import UnixPath, check_host, check_port
from .sockets import bind_socket

_PORT_TRIES: Final = 16
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@trio.lowlevel.enable_ki_protection
async def bind_sockets(
    port: int | None, host: str | None, path: UnixPath | None, options: SocketOptions
) -> list[DatagramSocket]:
    """Return a bound socket for each address family, all on one port; or one that is bound to ``path``.

    Args:
      port: 0 for one of the kernel's choice that is free in each family.
      host: a local address, or a name that resolves to some. Without one the sockets for this port that were passed to
        this process, or else all interfaces. With ``ipv6_only=False`` these are one dual-stack socket.
      path: the path of a ``"unix"`` socket, instead of port and host.
      options: the options of the sockets.

    Raises:
      TypeError, ValueError: if an argument is wrong; no socket was opened.
      socket.gaierror: if the name does not resolve.
      OSError: the kernel's error, such as EADDRINUSE; no socket stays open.

    A family that this machine does not have is left out where there is another.
    """
    if path is not None:
        if port is not None or host is not None:
            raise TypeError("pass a path alone, or port and host, not both")
        check_options("unix", options)
        return [await bind_socket("unix", (path,), options)]
    if port is None:
        raise TypeError("a port is needed (0 for any), or the path of a unix socket")
    check_port("port", port)
    name = check_host("host", host)
    check_options(UDP6.type, options)
    passed = [] if name or not port else passed_on_port(port)
    if passed:
        await trio.lowlevel.checkpoint()
        return await _take_all([(each.family.type, each.address.host) for each in passed], port, options)
    types = (UDP6.type,) if options.get("ipv6_only") is False else (UDP6.type, UDP4.type)
    everywhere = [(type_, FAMILIES[type_].wildcard.host) for type_ in types]
    await trio.lowlevel.checkpoint()
    addresses = await numeric_addresses(name, port, options.get("lookup")) if name else everywhere
    tries = 1 if port else _PORT_TRIES
    while True:
        tries -= 1
        try:
            return await _bind_all(addresses, port, options)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise


async def _take_all(passed: Sequence[tuple[str, str]], port: int, options: SocketOptions) -> list[DatagramSocket]:
    taken: list[DatagramSocket] = []
    try:
        for type_, host in passed:
            taken.append(await bind_socket(type_, (port, host), options))
    except BaseException:
        for each in taken:
            each.close()
        raise
    return taken


async def _bind_all(addresses: Sequence[tuple[str, str]], port: int, options: SocketOptions) -> list[DatagramSocket]:
    bound: list[DatagramSocket] = []
    missing: list[OSError] = []
    try:
        for type_, host in addresses:
            try:
                bound.append(await bind_socket(type_, (port, host), options))
            except OSError as error:
                # This machine may have only one of the families.
                if error.errno not in _NO_SUCH_FAMILY or len(addresses) == 1:
                    raise
                missing.append(error)
            else:
                # The other families have to have the same port.
                port = bound[-1].address.port
    except BaseException:
        for each in bound:
            each.close()
        raise
    if not bound:
        raise missing[0]
    return bound
