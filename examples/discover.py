"""Announce a service to the local network, or browse for services: Multicast DNS (RFC 6762, RFC 6763).

It uses every interface, over IPv4 and IPv6, and shares the port with other responders of this machine. It does not
probe whether the name is taken (RFC 6762, 8.1).

Try it: run `discover.py announce "My server" --port 8000`, and elsewhere on the network

    discover.py browse
    avahi-browse --resolve _http._tcp
    dns-sd -B _http._tcp
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import random
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from signal import SIGINT, SIGTERM
from typing import Any, NoReturn

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdata
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.rrset
import trio
from dns.message import Message
from dns.name import Name
from dns.rdataclass import IN, RdataClass
from dns.rdatatype import AAAA, ANY, PTR, SRV, TXT, A, RdataType
from dns.rrset import RRset

import trio_dgram
from trio_dgram import Address, Datagram, DatagramNursery, DatagramSocket, PacketInfo

PORT = 5353
GROUPS: dict[trio_dgram.SocketType, str] = {"udp4": "224.0.0.251", "udp6": "ff02::fb"}
LONGEST = 9000  # bytes in a message (RFC 6762, 17)
LONG, SHORT = 4500, 120  # the TTL of records in seconds; SHORT for those with the name of a host (RFC 6762, 10)
UNIQUE = RdataClass.make(IN | 0x8000)  # the class of records that replace earlier ones (cache flush, RFC 6762, 10.2)
MANY, SOME = 1000, 20  # the most records a browser remembers, and the most it queries at once
QUERY, RESPONSE = dns.flags.Flag(0), dns.flags.QR | dns.flags.AA

log = logging.getLogger("discover")
for module, rdtype in ((dns.rdtypes.IN.A, A), (dns.rdtypes.IN.AAAA, AAAA), (dns.rdtypes.IN.SRV, SRV)):
    dns.rdata.register_type(module, rdtype, rdtype.name, rdclass=UNIQUE)


def make_message(flags: int, question: Iterable[RRset] = (), answer: Iterable[RRset] = (), number: int = 0) -> Message:
    message = dns.message.QueryMessage(id=number)
    message.flags, message.question, message.answer = dns.flags.Flag(flags), list(question), list(answer)
    return message


def limited(records: list[RRset], ttl: int) -> list[RRset]:
    """Limit the TTL of records, in seconds."""
    for record in records:
        record.ttl = min(record.ttl, ttl)
    return records


class Node:
    """Sends and receives multicast messages on every interface."""

    def __init__(self, nursery: DatagramNursery, type_: Name) -> None:
        self.nursery = nursery
        self.type = type_
        self.links: dict[int, trio_dgram.Interface] = {}
        self.sockets = [
            nursery.create_socket(
                type_, reuse_address=True, reuse_port=True, ipv6_only=type_ == "udp6", packet_info=True
            )
            for type_ in GROUPS
        ]

    async def listen(self) -> None:
        """Bind the sockets and receive in the background."""
        for sock in self.sockets:
            sock.multicast_ttl = sock.ttl = 255
            await sock.bind(PORT)
            self.nursery.start_soon(self.listen_on, sock)
        self.refresh()

    async def listen_on(self, sock: DatagramSocket) -> None:
        """Handle the multicast messages of a link, and ignore any others (RFC 6762, 11)."""
        async for datagram in sock:
            info = datagram.info
            if info is None or info.interface not in self.links or info.local_address != GROUPS[sock.type]:
                continue
            try:
                # A malformed record is skipped: some responders send a TXT record without text.
                message = dns.message.from_wire(datagram.data[:LONGEST], one_rr_per_rrset=True, continue_on_error=True)
            except dns.exception.DNSException:
                continue
            if message.opcode() != dns.opcode.QUERY:
                continue
            if message.flags & dns.flags.QR:
                self.handle_response(message, info.interface)
            else:
                await self.handle_query(message, info.interface, datagram, sock)

    async def handle_query(self, message: Message, link: int, datagram: Datagram, sock: DatagramSocket) -> None:
        """Handle a query; a browser ignores it."""

    def handle_response(self, message: Message, link: int) -> None:
        """Handle a response; an announcer ignores it."""

    async def multicast(self, message: Message, link: int) -> None:
        """Send a message to the groups on a link."""
        for sock in self.sockets:
            to = Address(GROUPS[sock.type], PORT)
            try:
                await sock.send(Datagram(message.to_wire(), to, PacketInfo(interface=link)))
            except OSError as error:
                log.debug("interface %d: %s", link, error)

    def refresh(self) -> bool:
        """Join the groups on the present interfaces; return whether interfaces or addresses have changed."""
        up = [each for each in trio_dgram.interfaces() if each.up]
        able = [each for each in up if each.multicast and not each.loopback] or [each for each in up if each.loopback]
        links = {each.index: each for each in able}
        if links == self.links:
            return False
        self.links = links
        for sock in self.sockets:
            with suppress(OSError):
                sock.rejoin_memberships()
            for link in links.keys() - {membership.index for membership in sock.memberships}:
                with suppress(OSError):  # An interface may lack one of the families.
                    sock.add_membership(GROUPS[sock.type], link)
        log.info("on %s", ", ".join(each.name for each in able))
        return True

    async def has_changed(self, seconds: float) -> bool:
        """Wait until interfaces or addresses change, at most so many seconds; return whether they did."""
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(1)
                if self.refresh():
                    return True
        return False


class Announcer(Node):
    """Announces a service."""

    def __init__(self, nursery: DatagramNursery, options: argparse.Namespace) -> None:
        super().__init__(nursery, options.type)
        self.instance = Name((options.name.encode(), *self.type.labels))
        self.host = dns.name.from_text(f"{socket.gethostname().partition('.')[0]}.local")
        self.port: int = options.port
        self.last_sent: dict[tuple[int, Name, RdataType], float] = {}  # per record and link

    def records(self, link: int, unique: RdataClass = UNIQUE) -> list[RRset]:
        """Return the records for a link, with the addresses of this machine on it."""
        addresses = [address.partition("%")[0] for address in self.links[link].addresses]
        records = [
            dns.rrset.from_text(self.type, LONG, IN, PTR, str(self.instance)),
            dns.rrset.from_text("_services._dns-sd._udp.local.", LONG, IN, PTR, str(self.type)),
            dns.rrset.from_text(self.instance, SHORT, unique, SRV, f"0 0 {self.port} {self.host}"),
            dns.rrset.from_text(self.instance, LONG, unique, TXT, '""'),
            dns.rrset.from_text(self.host, SHORT, unique, A, *[each for each in addresses if ":" not in each]),
            dns.rrset.from_text(self.host, SHORT, unique, AAAA, *[each for each in addresses if ":" in each]),
        ]
        return [record for record in records if record]

    async def run(self) -> NoReturn:
        """Announce twice, and again when an interface or address changes; send goodbyes at the end."""
        try:
            while True:
                for pause in (1, math.inf):
                    for link in list(self.links):
                        await self.announce(link, self.records(link))
                    if await self.has_changed(pause):
                        break
        finally:
            with trio.move_on_after(1, shield=True):
                for link in self.links:
                    ours = [record for record in self.records(link) if record.name in (self.type, self.instance)]
                    await self.multicast(make_message(RESPONSE, answer=limited(ours, 0)), link)

    async def announce(self, link: int, answers: list[RRset], delay: float = 0) -> None:
        """Multicast records on a link, each at most once a second (RFC 6762, 6)."""
        now = trio.current_time()
        fresh = [each for each in answers if now - self.last_sent.get((link, each.name, each.rdtype), -math.inf) >= 1]
        self.last_sent.update({(link, each.name, each.rdtype): now for each in fresh})
        if fresh:
            await trio.sleep(delay)
            await self.multicast(make_message(RESPONSE, answer=fresh), link)

    async def handle_query(self, message: Message, link: int, datagram: Datagram, sock: DatagramSocket) -> None:
        """Answer a query for the service, unless it lists the answer as known."""
        from_resolver = datagram.address.port != PORT
        records = self.records(link, IN if from_resolver else UNIQUE)
        known = {(each.name, each.rdtype, str(each[0])): each.ttl for each in message.answer}
        answers = [
            record
            for record in records
            if any(each.name == record.name and each.rdtype in (record.rdtype, ANY) for each in message.question)
            and any(known.get((record.name, record.rdtype, str(each)), 0) < record.ttl / 2 for each in record)
        ]
        if not answers:
            return
        # The other records answer the queries that would follow.
        answers += [each for each in records if each not in answers and each.name in (self.instance, self.host)]
        if from_resolver:  # An ordinary resolver receives no multicast (RFC 6762, 6.7).
            answer = make_message(RESPONSE, message.question[:1], limited(answers, 10), message.id)
            await sock.send(datagram.reply(answer.to_wire()))
        else:
            self.nursery.start_soon(self.announce, link, answers, random.uniform(0.02, 0.12))


class Browser(Node):
    """Lists the services of a type."""

    def __init__(self, nursery: DatagramNursery, options: argparse.Namespace) -> None:
        super().__init__(nursery, options.type)
        # The arrival and the expiry of each record, by link and name.
        self.records: dict[tuple[int, Name, Any], tuple[float, float]] = {}
        self.shown: dict[tuple[str, str], str] = {}

    async def run(self) -> NoReturn:
        """Query at growing intervals, and at once when an interface or address changes."""
        while True:
            await trio.sleep(random.uniform(0.02, 0.12))
            for pause in itertools.chain((1, 2, 4, 8, 16, 32), itertools.repeat(SHORT / 3)):
                self.show()
                for link in list(self.links):
                    await self.multicast(self.question(link), link)
                if await self.has_changed(pause):
                    break

    def question(self, link: int) -> Message:
        """Return a query for the services, and for the missing records of known ones."""
        known = self.index()
        services = [each.target for each in known[link, self.type, PTR]]
        hosts = [place.target for service in services for place in known[link, service, SRV]]
        missing = [(each, SRV) for each in services if not known[link, each, SRV]]
        missing += [(each, ANY) for each in hosts if not known[link, each, A] and not known[link, each, AAAA]]
        asked = [(self.type, PTR), *random.sample(missing, min(len(missing), SOME))]
        return make_message(QUERY, [RRset(name, IN, rdtype) for name, rdtype in asked])

    def handle_response(self, message: Message, link: int) -> None:
        """Store the records of services of the type."""
        now = trio.current_time()
        records = [each for each in [*message.answer, *message.additional] if each.rdclass in (IN, UNIQUE)]
        # A machine with two interfaces on a link announces both within a second (RFC 6762, 10.2).
        void = {(link, each.name, each.rdtype) for each in records if each.rdclass == UNIQUE}
        for (at, name, data), (since, until) in list(self.records.items()):
            if until < now or (since < now - 1 and (at, name, data.rdtype) in void):
                del self.records[at, name, data]
        everything = [data for _, _, data in self.records] + [record[0] for record in records]
        hosts = {data.target for data in everything if data.rdtype == SRV}
        for record in records:
            wanted = record.name in hosts if record.rdtype in (A, AAAA) else record.name.is_subdomain(self.type)
            key = link, record.name, record[0]
            if not record.ttl:
                self.records.pop(key, None)
            elif wanted and (key in self.records or len(self.records) < MANY):
                self.records[key] = now, now + min(record.ttl, LONG)
        self.show()

    def index(self) -> defaultdict[tuple[int, Name, RdataType], list[Any]]:
        """Return the data of records that have not expired, by link, name and type."""
        now = trio.current_time()
        found = defaultdict(list)
        for (link, name, data), (_, until) in self.records.items():
            if until > now:
                found[link, name, data.rdtype].append(data)
        return found

    def show(self) -> None:
        """Print services that are new or gone."""
        known = self.index()
        services = {}
        for link, interface in self.links.items():
            for service in known[link, self.type, PTR]:
                for place in known[link, service.target, SRV]:
                    addresses = sorted(each.address for kind in (A, AAAA) for each in known[link, place.target, kind])
                    name = service.target.labels[0].decode(errors="replace")
                    host = place.target.to_text(omit_final_dot=True)
                    if addresses:
                        services[name, interface.name] = f"{host}:{place.port} ({', '.join(addresses)})"
        for name, where in self.shown.keys() - services.keys():
            print(f"gone {name!r} on {where}", flush=True)
        for (name, where), place in services.items() - self.shown.items():
            print(f"found {name!r} on {where} at {place}", flush=True)
        self.shown = services


async def run(options: argparse.Namespace) -> None:
    with trio.open_signal_receiver(SIGINT, SIGTERM) as signals:
        async with trio_dgram.open_nursery() as nursery:
            node = options.node(nursery, options)
            await node.listen()
            nursery.start_soon(node.run)
            await anext(signals)
            nursery.cancel_scope.cancel()


def service_type(text: str) -> Name:
    if not re.fullmatch(r"_[A-Za-z0-9-]{1,15}\._(tcp|udp)(\.local)?", text):
        raise ValueError
    return dns.name.from_text(f"{text.removesuffix('.local')}.local.")


def label(text: str) -> str:
    if not 0 < len(text.encode()) < 64:
        raise ValueError
    return text


def port(text: str) -> int:
    if not 0 < int(text) < 65536:
        raise ValueError
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="announce|browse")
    announce = commands.add_parser("announce", help="announce a service until interrupted")
    announce.set_defaults(node=Announcer)
    announce.add_argument("name", type=label, help="the name of the service")
    announce.add_argument("--port", type=port, default=80, help="its port (default: %(default)s)")
    browse = commands.add_parser("browse", help="list services until interrupted")
    browse.set_defaults(node=Browser)
    for command in (announce, browse):
        command.add_argument("--type", type=service_type, default="_http._tcp.local", help="default: %(default)s")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    failures: list[BaseException] = []
    try:
        trio.run(run, options)
    except* OSError as group:
        failures.extend(group.exceptions)
    for failure in failures:
        log.error("%s", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
