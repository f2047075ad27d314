"""Relay the media of many calls: each call has two ports, and what one party sends to its port leaves by the other.

Try it: run this with `--calls 1`, send to one of its ports with `nc -u 127.0.0.1 PORT` and to the other one likewise:
each of the two shows what the other sends from then on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import attrs
import trio

import trio_dgram


@attrs.define(eq=False)
class Leg:
    """One side of a call: its socket, and the party that sends to it."""

    socket: trio_dgram.DatagramSocket
    party: trio_dgram.Address | None = None
    """The source of the first datagram: a party behind a NAT does not know its own address. Others are ignored."""


@attrs.define
class Relay:
    """The legs of all calls, and what became of their datagrams."""

    legs: dict[trio_dgram.DatagramSocket, tuple[Leg, Leg]] = attrs.field(factory=dict)
    """For each socket its own leg and the opposite one."""
    forwarded: int = 0
    ignored: int = 0

    def add(self, first: Leg, second: Leg) -> None:
        """Add a call."""
        self.legs[first.socket] = first, second
        self.legs[second.socket] = second, first

    async def forward(self, socket: trio_dgram.DatagramSocket, datagram: trio_dgram.Datagram) -> None:
        """Send a datagram on to the opposite party, unless that is unknown or the source is not the party."""
        leg, opposite = self.legs[socket]
        if leg.party is None:
            leg.party = datagram.address
        if opposite.party is None or datagram.address != leg.party:
            self.ignored += 1
        else:
            await opposite.socket.send(datagram.data, opposite.party)
            self.forwarded += 1


async def serve(host: str, calls: int, report: Callable[[str], object]) -> None:
    """Relay ``calls`` calls on ports of ``host`` for ever, and report the two ports of each."""
    relay = Relay()
    async with trio_dgram.open_nursery() as nursery, trio_dgram.SocketGroup() as group:
        for number in range(1, calls + 1):
            legs = [Leg(nursery.create_socket("udp4")) for _ in range(2)]
            for leg in legs:
                await leg.socket.bind(0, host)
                group.add(leg.socket)
            relay.add(*legs)
            report(f"call {number}: ports {legs[0].socket.address.port} and {legs[1].socket.address.port}")
        try:
            async for socket, datagram in group:
                await relay.forward(socket, datagram)
        finally:
            report(f"forwarded {relay.forwarded}, ignored {relay.ignored}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay the media of many calls.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to receive on (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=100, help="how many calls (default: %(default)s)")
    arguments = parser.parse_args()
    failure = None
    try:
        trio.run(serve, arguments.host, arguments.calls, partial(print, flush=True))
    except* KeyboardInterrupt:
        pass
    except* OSError as errors:
        failure = errors.exceptions[0]
    if failure is not None:
        parser.exit(1, f"{parser.prog}: {failure}\n")


if __name__ == "__main__":
    main()
