"""The sockets of the workers: for each address a SO_REUSEPORT group with one socket for each worker.

Rule 1: all are open before the first worker starts, and none is reopened: on each change of a group the kernel would
    move a part of the clients to another worker.
Rule 2: the first socket of a group is bound without SO_REUSEPORT, so that a port that others share is EADDRINUSE too.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import attrs
import trio

from .._codecs.ancillary import UDP_GRO
from .._codecs.families import FAMILIES, SocketAddress
from .._kernel.capabilities import SO_MEMINFO, capabilities
from .._kernel.descriptor import SO_MEMINFO_DROPS
from .._kernel.passed_sockets import FIRST_DESCRIPTOR, Passed
from .._socket.resolution import numeric_addresses
from .._values.addresses import Address, format_address
from .._values.errors import with_context
from .settings import Settings
from .steering import attach

_log = logging.getLogger("trio_dgram")

_PORT_TRIES: Final = 16
_MEMINFO: Final = struct.Struct("=9I")
_SPARE: Final = 16
"""How far the descriptors are moved above those that a worker gets, since a process is started by overwriting those."""


@attrs.define
class Group:
    """The sockets that are bound to one address, by the index of the worker."""

    address: Address
    name: str
    sockets: list[socket.socket]

    def close(self) -> None:
        """Close all of them."""
        for each in self.sockets:
            each.close()


@attrs.frozen
class _Local:
    """One address to bind to."""

    family: int
    sockaddr: SocketAddress
    address: Address
    ipv6_only: bool


@trio.lowlevel.enable_ki_protection
async def open_groups(settings: Settings, passed: Sequence[Passed]) -> list[Group]:
    """Return the sockets for every address, or those that were passed to this process.

    Raises:
      socket.gaierror: if a name does not resolve.
      OSError: the kernel's error, such as EADDRINUSE; no socket stays open.
    """
    locals_ = [] if passed else await _resolve(settings.listen)
    groups: list[Group] = []
    try:
        groups.extend(_adopt(former, settings) for former in _by_address(passed))
        groups.extend(_open(local, settings) for local in locals_)
        for group in groups:
            group.sockets = [_moved(each, FIRST_DESCRIPTOR + len(groups) + _SPARE) for each in group.sockets]
    except BaseException:
        for group in groups:
            group.close()
        raise
    return groups


async def _resolve(listen: Iterable[Address]) -> list[_Local]:
    found: list[tuple[str, str, int]] = []
    for address in listen:
        found += [(type_, host, address.port) for type_, host in await numeric_addresses(address.host, address.port)]
    ipv4_ports = {port for type_, _, port in found if type_ == "udp4"}
    locals_ = []
    for type_, host, port in dict.fromkeys(found):
        family = FAMILIES[type_]
        address = Address(host, port)
        sockaddr = family.sockaddr(address, dual_stack=True)
        # A numeric address always has one.
        locals_ += [_Local(family.family, sockaddr, address, port in ipv4_ports)] if sockaddr else []
    return locals_


def _open(local: _Local, settings: Settings) -> Group:
    """Open the group of one address."""
    try:
        first = _open_first(local, settings)
    except OSError as error:
        raise with_context(error, "bind", local.address) from None
    group = Group(Address(local.address.host, first.getsockname()[1]), settings.name, [first])
    _complete(group, settings, ipv6_only=local.ipv6_only)
    return group


def _open_first(local: _Local, settings: Settings) -> socket.socket:
    if not isinstance(local.sockaddr, tuple) or local.sockaddr[1]:
        return _bind(local.family, local.sockaddr, settings, ipv6_only=local.ipv6_only)
    for remaining in reversed(range(_PORT_TRIES)):  # pragma: no branch -- the last try returns or raises
        # Linux frees a port that it chose itself when a connection is dissolved: the port is chosen, freed and named.
        with _bind(local.family, local.sockaddr, settings, ipv6_only=local.ipv6_only) as chosen:
            port = chosen.getsockname()[1]
        sockaddr = (local.sockaddr[0], port, *local.sockaddr[2:])
        try:
            return _bind(local.family, sockaddr, settings, ipv6_only=local.ipv6_only)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not remaining:
                raise
    raise AssertionError


def _complete(group: Group, settings: Settings, *, ipv6_only: bool) -> None:
    """Add sockets that share the port until there is one for each worker."""
    first = group.sockets[0]
    try:
        if settings.processes > 1:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(group.sockets) < settings.processes:
            group.sockets.append(_bind(first.family, first.getsockname(), settings, ipv6_only=ipv6_only, shared=True))
        if settings.processes > 1:
            attach(first, settings.steer)
    except OSError as error:
        group.close()
        raise with_context(error, "bind", group.address) from None
    _check_buffer(group, settings.receive_buffer_size)


def _bind(
    family: int, sockaddr: SocketAddress, settings: Settings, *, ipv6_only: bool, shared: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        _configure(sock, settings)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _configure(sock: socket.socket, settings: Settings) -> None:
    if settings.receive_buffer_size is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.receive_buffer_size)
    if settings.gro and capabilities().receive_offload:
        # Before bind, so that no batch is queued for a reader that asked too early whether there are batches.
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)


def _check_buffer(group: Group, requested: int | None) -> None:
    # Linux doubles the requested size (socket(7)).
    granted = min(each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for each in group.sockets)
    if requested is not None and granted < requested:
        _log.warning(
            "the receive buffer of %s has %d bytes instead of %d: raise net.core.rmem_max",
            format_address(group.address),
            granted,
            requested,
        )


def _by_address(passed: Sequence[Passed]) -> list[list[Passed]]:
    groups: dict[tuple[int, Address], list[Passed]] = {}
    for each in passed:
        groups.setdefault((each.family.family, each.address), []).append(each)
    return list(groups.values())


def _adopt(passed: list[Passed], settings: Settings) -> Group:
    """Return the group of one address that systemd opened."""
    first = passed[0]
    group = Group(first.address, first.name, [])
    for each in passed[: settings.processes]:
        each.taken = True
        group.sockets.append(socket.socket(fileno=os.dup(each.descriptor)))
    missing = settings.processes - len(group.sockets)
    if not missing or (
        first.family.is_internet and group.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    ):
        _complete(group, settings, ipv6_only=bool(first.ipv6_only))
    else:
        _log.warning(
            "%d workers share one socket on %s, which balances nothing: set ReusePort=yes in its socket unit",
            settings.processes,
            format_address(first.address),
        )
        group.sockets += [group.sockets[0].dup() for _ in range(missing)]
    return group


def _moved(sock: socket.socket, lowest: int) -> socket.socket:
    """Return the socket on a descriptor of at least ``lowest``."""
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest))


def memory_of(sockets: Iterable[socket.socket]) -> tuple[int, int]:
    """Return how many datagrams the kernel has dropped and how many bytes are queued, 0 where it does not report it."""
    dropped = queued = 0
    if capabilities().drop_counter:
        for each in sockets:
            words = _MEMINFO.unpack(each.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
            dropped += words[SO_MEMINFO_DROPS]
            queued += words[0]
    return dropped, queued
