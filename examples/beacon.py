"""Find services on the local network: each announces itself to a multicast group, and watchers keep a list.

Try it: run `python beacon.py watch`, and in other terminals `python beacon.py announce printer 631`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import trio

import trio_dgram

GROUP = "239.255.41.23"
"""A group of the local scope (RFC 2365): routers do not forward it beyond the site."""
PORT = 41230
INTERVAL = 1.0
"""The seconds between two announcements of a service."""
LIFETIME = 3.5
"""The seconds without an announcement after which a service is gone: three in a row may be lost."""


class Service(NamedTuple):
    """A service that announces itself."""

    name: str
    host: str
    port: int


async def announce(name: str, port: int) -> None:
    """Announce a service for ever, on every interface."""
    async with trio_dgram.open_nursery() as nursery:
        sockets = [
            nursery.create_socket("udp4", multicast_interface=interface.index)
            for interface in trio_dgram.interfaces()
            if interface.up and (interface.multicast or interface.loopback)
        ]
        while True:
            for socket in sockets:
                try:
                    await socket.send(f"{port} {name}", (GROUP, PORT))
                except OSError as error:
                    # An interface without an IPv4 address, or one that is gone: the others still work.
                    print(f"not announced: {error}")
            await trio.sleep(INTERVAL)


async def watch(report: Callable[[str, Service], object]) -> None:
    """Call ``report`` with "up" or "down" and the service whenever one comes or goes."""
    deadlines: dict[Service, float] = {}
    async with trio_dgram.open_socket("udp4", port=PORT, reuse_address=True) as socket:
        socket.add_membership(GROUP)
        while True:
            with trio.move_on_at(min(deadlines.values(), default=math.inf)):
                datagram = await socket.receive()
                # Anyone can send to the group, so check what came.
                port, _, name = datagram.data.decode(errors="replace").partition(" ")
                if port.isdecimal() and name.isprintable():
                    service = Service(name, datagram.address.host, int(port))
                    if service not in deadlines:
                        report("up", service)
                    deadlines[service] = trio.current_time() + LIFETIME
            for service in [each for each, deadline in deadlines.items() if deadline <= trio.current_time()]:
                del deadlines[service]
                report("down", service)


def show(change: str, service: Service) -> None:
    print(f"{change:4} {service.name} {service.host}:{service.port}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Announce services to a multicast group, and watch for them.")
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("watch", help="print the services that come and go")
    announcer = commands.add_parser("announce", help="announce a service")
    announcer.add_argument("name")
    announcer.add_argument("port", type=int)
    arguments = parser.parse_args()
    failure = None
    try:
        if arguments.command == "watch":
            trio.run(watch, show)
        else:
            trio.run(announce, arguments.name, arguments.port)
    except* KeyboardInterrupt:
        pass
    except* (OSError, ValueError) as errors:
        failure = errors.exceptions[0]
    if failure is not None:
        parser.exit(1, f"{parser.prog}: {failure}\n")


if __name__ == "__main__":
    main()
