"""``trio-dgram send``: send arguments or lines as datagrams, and print the answers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

import attrs
import trio

from .._nursery import open_socket
from .._socket.datagram_socket import DatagramSocket
from .._values.addresses import Address
from .._values.events import Failure
from .arguments import add_families, add_formats, duration, peer_address, positive
from .command import FAILURE, Command
from .console import Console
from .datagrams import check_format, show_datagram, summarize
from .payloads import Payloads, payloads
from .peers import ErrorReports, peer_options, route_to


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``send``."""
    parser.add_argument("peer", metavar="HOST:PORT", type=peer_address, help="the destination")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="*",
        # Without a default argparse takes it for required.
        default=[],
        help="a payload each; without any, each line of standard input is one",
    )
    parser.add_argument("--hex", action="store_true", help="payloads are hexadecimal digits")
    parser.add_argument("--rate", metavar="N", type=duration, help="send N datagrams per second")
    parser.add_argument(
        "--count", metavar="N", type=positive, help="send N datagrams in all; arguments are repeated if they are fewer"
    )
    parser.add_argument(
        "--wait", metavar="SECONDS", type=duration, help="print answers until SECONDS after the last datagram"
    )
    add_formats(parser)
    add_families(parser)


@attrs.define
class _Sender:
    arguments: Namespace
    console: Console
    sock: DatagramSocket
    sent: int = 0
    received: int = 0

    async def send(self, source: Payloads, peer: Address) -> None:
        started = trio.current_time()
        while (payload := await source.read()) is not None:
            if self.arguments.rate is not None:
                await trio.sleep_until(started + self.sent / self.arguments.rate)
            await self.sock.send(payload, peer)
            self.sent += 1

    async def print_answers(self) -> None:
        async for datagram in self.sock:
            self.received += 1
            show_datagram(self.console, self.arguments, datagram, self.sock)

    def summarize(self) -> None:
        text = f"{self.sent} sent, {self.received} received"
        summarize(self.console, self.arguments, {"sent": self.sent, "received": self.received}, text)


async def run(arguments: Namespace, console: Console) -> int:
    """Send the payloads, print answers for ``--wait`` seconds, then the summary."""
    check_format(arguments)
    source = payloads(arguments, console)
    type_, peer = await route_to(arguments.peer, arguments.family)
    async with open_socket(type_, port=0, **peer_options()) as sock:
        sender = _Sender(arguments, console, sock)
        try:
            if arguments.wait is None:
                await sender.send(source, peer)
                return 0
            reports = ErrorReports(console)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reports.watch, sock.events(Failure))
                nursery.start_soon(sender.print_answers)
                await sender.send(source, peer)
                with trio.move_on_after(arguments.wait):
                    await reports.unreachable.wait()
                nursery.cancel_scope.cancel()
        finally:
            sender.summarize()
    if not sender.received:
        console.complain(f"no answer from {peer}")
        return FAILURE
    return 0


COMMAND: Final = Command("send", "Send arguments or the lines of standard input as datagrams", add_arguments, run)
