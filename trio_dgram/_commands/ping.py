"""``trio-dgram ping``: measure round trips to an echo server, or to a DNS server."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Final

import attrs
import trio

from .._nursery import open_socket
from .._socket.datagram_socket import DatagramSocket
from .._values.addresses import Address
from .._values.events import Failure
from .arguments import add_families, duration, hexadecimal, peer_address, positive
from .command import FAILURE, Command, UsageError
from .console import Console
from .peers import ErrorReports, peer_options, route_to
from .probes import DNSProbe, EchoProbe, FixedProbe, Probe
from .round_trips import RoundTrips, milliseconds


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``ping``."""
    parser.add_argument("peer", metavar="HOST:PORT", type=peer_address, help="the server")
    parser.add_argument("--count", metavar="N", type=positive, help="end after N requests")
    parser.add_argument(
        "--interval", metavar="SECONDS", type=duration, default=1.0, help="time between requests (default: 1)"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=duration, default=2.0, help="a later reply is lost (default: 2)"
    )
    requests = parser.add_mutually_exclusive_group()
    requests.add_argument("--payload", metavar="TEXT", help="send TEXT instead of numbered requests")
    requests.add_argument("--dns", metavar="NAME", help="send DNS queries for the IPv4 address of NAME")
    parser.add_argument("--hex", action="store_true", help="the payload is hexadecimal digits")
    add_families(parser)


def make_probe(arguments: Namespace) -> Probe:
    """Return the kind of request that the arguments select.

    Raises:
      UsageError: if they are wrong.
    """
    option = "--dns" if arguments.payload is None else "--payload"
    try:
        if arguments.dns is not None:
            return DNSProbe.create(arguments.dns)
        if arguments.payload is not None:
            return FixedProbe(hexadecimal(arguments.payload) if arguments.hex else os.fsencode(arguments.payload))
    except ValueError as error:
        raise UsageError(f"argument {option}: {error}") from None
    if arguments.hex:
        raise UsageError("argument --hex: needs --payload")
    return EchoProbe()


@attrs.define
class _Pinger:
    arguments: Namespace
    console: Console
    probe: Probe
    sock: DatagramSocket
    reports: ErrorReports
    trips: RoundTrips
    complete: bool = False  # all requests were sent
    answered: trio.Event = attrs.field(factory=trio.Event)

    async def send(self, peer: Address) -> None:
        started = trio.current_time()
        while self.trips.sent != self.arguments.count:
            await trio.sleep_until(started + self.trips.sent * self.arguments.interval)
            self.report_losses()
            payload = self.probe.request(self.trips.sent + 1)
            self.trips.request(trio.current_time())
            try:
                await self.sock.send(payload, peer)
            except OSError as error:
                self.reports.report(error)
        self.complete = True
        self._notice_end()
        with trio.move_on_after(self.arguments.timeout):
            await self.answered.wait()
        self.report_losses()

    async def receive(self) -> None:
        async for datagram in self.sock:
            number = self.probe.match_untrusted(datagram.data, self.trips.sent)
            self.report_losses()
            if number is not None:
                self._show(number or self.trips.oldest(), datagram.address)
            self._notice_end()

    def _notice_end(self) -> None:
        if self.complete and not self.trips.in_flight:
            self.answered.set()

    def _show(self, number: int, source: Address) -> None:
        reply = self.trips.reply(number, trio.current_time())
        if reply is None:
            return
        remark = "" if reply.kind == "in order" else f" ({reply.kind})"
        text = f"reply {number} from {source}: {milliseconds(reply.rtt)} ms{remark}"
        if reply.kind != "duplicate":
            self.console.emit({"event": "reply", "sequence": number, "rtt": reply.rtt}, text)
        elif not self.console.json:
            self.console.print(text)

    def report_losses(self) -> None:
        lost = self.trips.expire(trio.current_time())
        if not self.console.json:
            for number in lost:
                self.console.print(f"no reply {number} within {self.arguments.timeout:g} s")

    def summarize(self) -> None:
        counts = self.trips.summary()
        share = 100 * (counts["lost"] or 0) / (self.trips.sent or 1)
        text = "{sent} sent, {received} received, {lost} lost ({share:.3g} %), ".format(share=share, **counts)
        text += "{duplicates} duplicates, {reordered} reordered".format(**counts)
        if self.trips.received:
            times = [milliseconds(counts[name]) for name in ("rtt_min", "rtt_avg", "rtt_max", "jitter")]
            text += f"\nround trip min/avg/max/jitter {'/'.join(times)} ms"
        self.console.emit({"event": "summary", **counts}, text)


async def run(arguments: Namespace, console: Console) -> int:
    """Send requests and print replies until ``--count``, then the summary."""
    probe = make_probe(arguments)
    type_, peer = await route_to(arguments.peer, arguments.family)
    async with open_socket(type_, port=0, **peer_options()) as sock:
        pinger = _Pinger(arguments, console, probe, sock, ErrorReports(console), RoundTrips(arguments.timeout))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pinger.reports.watch, sock.events(Failure))
                nursery.start_soon(pinger.receive)
                await pinger.send(peer)
                nursery.cancel_scope.cancel()
        finally:
            pinger.summarize()
    if pinger.trips.received:
        return 0
    console.complain(f"no answer from {peer}")
    return FAILURE


COMMAND: Final = Command("ping", "Measure round trips to an echo server, or to a DNS server", add_arguments, run)
