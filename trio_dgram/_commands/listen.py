"""``trio-dgram listen``: print the datagrams that arrive at a port."""

from __future__ import annotations

import os
import socket
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import attrs
import trio

from .._kernel.capabilities import capabilities
from .._services.binding import bind_sockets
from .._socket.config import SocketOptions
from .._socket.datagram_socket import DatagramSocket
from .._values.addresses import Address
from .arguments import Group, add_formats, group, local_address, positive
from .command import Command, CommandError, UsageError, unresolved
from .console import Console
from .datagrams import check_format, show_datagram, summarize

_TYPES: Final = {4: "udp4", 6: "udp6"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``listen``."""
    # argparse cannot wrap a usage with brackets or percent signs in it.
    parser.add_argument(
        "address", metavar="PORT", type=local_address, help="the port, on all interfaces; or HOST:PORT, [HOST]:PORT"
    )
    add_formats(parser)
    parser.add_argument(
        "--group", metavar="GROUP", type=group, help="join a multicast group: an address, perhaps with %%INTERFACE"
    )
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--reply", metavar="TEXT", help="answer each datagram with TEXT")
    answers.add_argument("--echo", action="store_true", help="answer each datagram with its own payload")
    parser.add_argument("--count", metavar="N", type=positive, help="end after N datagrams")


async def run(arguments: Namespace, console: Console) -> int:
    """Print datagrams until ``--count`` of them were received; then print the summary."""
    check_format(arguments)
    check_group(arguments.address, arguments.group)
    sockets = await _bind(arguments.address, reuse_address=arguments.group is not None)
    try:
        if arguments.group is not None:
            join(sockets, arguments.group)
        console.note(f"listening on {' and '.join(str(sock.address) for sock in sockets)}")
        listener = _Listener(arguments, console)
        try:
            async with trio.open_nursery() as nursery:
                for sock in sockets:
                    nursery.start_soon(listener.print_datagrams, sock, nursery.cancel_scope)
        finally:
            _summarize(arguments, console, sockets, listener.received)
    finally:
        for sock in sockets:
            sock.close()
    return 0


def check_group(address: Address, joined: Group | None) -> None:
    """Refuse a group of another family than the address that is listened on."""
    with suppress(ValueError):
        version = 4 if address.family == socket.AF_INET else 6
        if joined is not None and joined.version != version:
            raise UsageError(f"argument --group: {joined.host} is no IPv{version} group, but {address} is an "
                             f"IPv{version} address")  # fmt: skip


async def _bind(address: Address, *, reuse_address: bool) -> list[DatagramSocket]:
    # Without offload the count of drops is exact. Other programs of this machine may listen to the same group.
    options: SocketOptions = {
        "packet_info": capabilities().packet_info,
        "offload": False,
        "reuse_address": reuse_address,
    }
    try:
        return await bind_sockets(address.port, address.host, None, options)
    except socket.gaierror as error:
        raise unresolved(address.host, error) from None


def join(sockets: Sequence[DatagramSocket], joined: Group) -> None:
    """Join a group by the socket of its family.

    Raises:
      CommandError: if there is none.
      OSError: the kernel's error, such as ENODEV.
    """
    for sock in sockets:
        if sock.type == _TYPES[joined.version]:
            sock.add_membership(joined.host, joined.interface)
            return
    raise CommandError(f"cannot join {joined.host}: not listening on an IPv{joined.version} address")


@attrs.define
class _Listener:
    arguments: Namespace
    console: Console
    received: int = 0

    async def print_datagrams(self, sock: DatagramSocket, scope: trio.CancelScope) -> None:
        reply = None if self.arguments.reply is None else os.fsencode(self.arguments.reply)
        async for datagram in sock:
            self.received += 1
            show_datagram(self.console, self.arguments, datagram, sock)
            if reply is not None or self.arguments.echo:
                await sock.send(datagram.reply(datagram.data if reply is None else reply))
            if self.received == self.arguments.count:
                scope.cancel()
                return


def _summarize(arguments: Namespace, console: Console, sockets: Sequence[DatagramSocket], received: int) -> None:
    statistics = [sock.statistics() for sock in sockets]
    filtered = sum(each.filtered for each in statistics)
    drops = [each.dropped_by_kernel for each in statistics if each.dropped_by_kernel is not None]
    dropped = sum(drops) if drops else None
    words = "drops of the kernel unknown" if dropped is None else f"{dropped} dropped by the kernel"
    event = {"received": received, "dropped_by_kernel": dropped, "filtered": filtered}
    summarize(console, arguments, event, f"{received} received, {words}, {filtered} filtered")


COMMAND: Final = Command("listen", "Print the datagrams that arrive at a port", add_arguments, run)
