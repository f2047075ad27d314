"""``trio-dgram show``: a capture of the simulated network as a ladder; or send its datagrams again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Final

import trio

from .._nursery import open_socket
from .._values.words import plural
from .arguments import add_families, peer_address
from .command import Command, UsageError
from .console import Console
from .datagrams import datagram_event
from .peers import peer_options, route_to

if TYPE_CHECKING:
    from ..sim._values.records import Packet
    from .captures import Capture


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``show``."""
    parser.add_argument("file", metavar="FILE.pcapng", help="a capture that trio_dgram.sim has written")
    parser.add_argument("--svg", action="store_true", help="print a picture (SVG) instead of text")
    parser.add_argument(
        "--to",
        metavar="HOST:PORT",
        type=peer_address,
        help="send the datagrams of one host there, once each, with the delays of the capture",
    )
    parser.add_argument("--from", dest="sender", metavar="NAME", help="the host (default: the one that sent first)")
    add_families(parser)


def check(arguments: Namespace) -> None:
    """Refuse options that do not go together."""
    if arguments.svg and (arguments.json or arguments.to is not None):
        raise UsageError(f"argument --svg: not allowed with argument {'--json' if arguments.json else '--to'}")
    if arguments.to is None and arguments.sender is not None:
        raise UsageError("argument --from: needs --to")


async def run(arguments: Namespace, console: Console) -> int:
    """Print the capture, or send its datagrams."""
    # Importing the simulated network takes as long as everything else, so the other commands do without.
    from .captures import read_capture  # noqa: PLC0415

    check(arguments)
    await trio.lowlevel.checkpoint()
    capture = read_capture(arguments.file)
    if arguments.to is not None:
        await _send(arguments, console, capture, capture.sent_by(arguments.sender))
    elif arguments.svg:
        console.print(capture.to_svg())
    elif console.json:
        for packet in capture.datagrams():
            _emit(console, capture, packet, "")
    else:
        console.print(capture.to_text())
    return 0


async def _send(arguments: Namespace, console: Console, capture: Capture, packets: list[Packet]) -> None:
    type_, peer = await route_to(arguments.to, arguments.family)
    sent = 0
    async with open_socket(type_, port=0, **peer_options()) as sock:
        offset = trio.current_time() - packets[0].sent_at
        try:
            for packet in packets:
                await trio.sleep_until(offset + packet.sent_at)
                await sock.send(packet.payload, peer)
                sent += 1
                size = len(packet.payload)
                text = f"#{packet.number} to {peer}, {size} {plural(size, 'byte')}"
                _emit(console, capture, packet, text)
        finally:
            if not console.json:
                console.print(f"{sent} sent")


def _emit(console: Console, capture: Capture, packet: Packet, text: str) -> None:
    stamp = capture.started + round(packet.sent_at * 1e9)
    console.emit(datagram_event(stamp, packet.source, packet.destination, packet.payload), text)


COMMAND: Final = Command("show", "Show a capture of the simulated network, or send it again", add_arguments, run)
