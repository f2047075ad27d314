"""Announcing and browsing, verified by zeroconf on another machine, over IPv4 and over IPv6."""

from __future__ import annotations

import random
import re
import signal
import socket
import sys
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import trio

import trio_dgram
from trio_dgram import DatagramNursery, DatagramSocket

from ..support.examples import EXAMPLES, Example, example, offending_runs
from ..support.families import Family
from ..support.namespaces import Link, Machine, program

pytestmark = pytest.mark.programs

PORT: Final = 5353
GROUPS: Final = {"udp4": "224.0.0.251", "udp6": "ff02::fb"}
TYPE: Final = "_http._tcp.local."
HOST: Final = f"{socket.gethostname().partition('.')[0]}.local"
ZEROCONF: Final = Path(__file__).parents[1] / "support" / "zeroconf_peer.py"
MANY: Final = 1500
"""More services than a browser's cache holds."""


@contextmanager
def there(machine: Machine, *command: str) -> Generator[Example]:
    """Run a Python program on the other machine for the block."""
    with ExitStack() as stack:
        with machine.active():
            running = stack.enter_context(program(sys.executable, *command))
        yield Example(running)


@contextmanager
def zeroconf_browser(machine: Machine, udp: Family) -> Generator[Example]:
    with there(machine, str(ZEROCONF), udp.type[-1], "browse", TYPE) as running:
        assert running.line() == "browsing"
        yield running


@contextmanager
def zeroconf_service(machine: Machine, udp: Family, link: Link) -> Generator[Example]:
    service = ["printer", "printer.local.", "631", link.there[udp.type]]
    with there(machine, str(ZEROCONF), udp.type[-1], "register", TYPE, *service) as running:
        yield running


@contextmanager
def discover(*arguments: str) -> Generator[Example]:
    """Run the example for the block, once it receives."""
    with example("discover.py", *arguments) as running:
        running.line_with("discover: on ")
        yield running


def other_party(nursery: DatagramNursery, machine: Machine, udp: Family) -> DatagramSocket:
    """Return a socket on the other machine that sends on the first link."""
    with machine.active():
        return nursery.create_socket(udp.type, multicast_interface="peer1").unref()


def records(name: str, ttl: int = 120) -> list[dns.rrset.RRset]:
    """Return the records of a service."""
    instance, host = f"{name}.{TYPE}", f"{name}.local."
    return [
        dns.rrset.from_text(TYPE, ttl, "IN", "PTR", instance),
        dns.rrset.from_text(instance, ttl, "IN", "SRV", f"0 0 80 {host}"),
        dns.rrset.from_text(host, ttl, "IN", "A", "198.18.1.2"),
    ]


def response(answer: Iterable[dns.rrset.RRset]) -> bytes:
    message = dns.message.QueryMessage(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    message.answer = list(answer)
    return message.to_wire()


def question(type_: str, known: Iterable[dns.rrset.RRset] = (), *, number: int = 0) -> bytes:
    message = dns.message.QueryMessage(id=number)
    message.question = [dns.rrset.RRset(dns.name.from_text(TYPE), dns.rdataclass.IN, dns.rdatatype.from_text(type_))]
    message.answer = list(known)
    return message.to_wire()


def hostile_datagrams() -> list[bytes]:
    """Return malformed and hostile datagrams."""
    good = response(records("good"))
    name_that_is_itself = b"\xc0\x0c" + b"\0\x0c\0\1\0\0\0\x78\0\2\xc0\x0c"
    changed = [bytearray(good if number % 2 else question("ANY", records("good"))) for number in range(200)]
    for each in changed:
        for _ in range(3):
            each[random.randrange(2, len(each))] = random.randrange(256)
    return [
        b"",
        good[:11],
        good[:-1],
        good[:4] + b"\xff\xff" * 4 + good[12:],
        b"\0\0\x84\0\0\0\0\1\0\0\0\0" + name_that_is_itself,
        b"\0\0\0\0\0\1\0\1\0\0\0\0" + b"\xc0\x0c\0\x0c\0\1" + name_that_is_itself,
        response([dns.rrset.from_text(f"x.{TYPE}", 120, "CH", "SRV", r"\# 3 000000")]),
        *[random.randbytes(random.randrange(100)) for _ in range(50)],
        *map(bytes, changed),
    ]


def test_zeroconf_finds_an_announced_service(machine: Machine, veth: Link, udp: Family) -> None:
    with zeroconf_browser(machine, udp) as early, discover("announce", "My sérver", "--port", "8000") as announcer:
        found = early.line()
        assert found.startswith(f"added My sérver at {HOST}. 8000 ")
        assert set(veth.here.values()) < set(found.split())
        with zeroconf_browser(machine, udp) as late:
            assert late.line() == found
            assert announcer.end() == (0, "")
            assert early.line() == late.line() == "removed My sérver"


def test_a_service_announced_by_zeroconf_is_found(machine: Machine, veth: Link, udp: Family) -> None:
    service = f"'printer' on {veth.name} at printer.local:631 ({veth.there[udp.type]})"
    with discover("browse") as early, zeroconf_service(machine, udp, veth) as zeroconf:
        assert early.line() == f"found {service}"
        assert zeroconf.line() == "registered"
        with discover("browse") as late:
            assert late.line() == f"found {service}"
            zeroconf.program.write(b"\n")
            for browser in (early, late):
                assert browser.line() == f"gone 'printer' on {veth.name}"
                # An answer that zeroconf has delayed may follow its first goodbye, so that the service is found once
                # more.
                assert browser.end(signal.SIGTERM)[0] == 0


def test_two_responders_share_the_port(machine: Machine, veth: Link, udp: Family, namespace: int) -> None:
    here = Machine(namespace, namespace)
    with zeroconf_service(here, udp, veth) as zeroconf, discover("announce", "ours"):
        assert zeroconf.line() == "registered"
        with zeroconf_browser(machine, udp) as browser:
            assert {browser.line().split()[1] for _ in range(2)} == {"ours", "printer"}


def test_each_link_receives_its_own_addresses(machine: Machine, veth: Link) -> None:
    with there(machine, str(EXAMPLES / "discover.py"), "browse") as browser:
        browser.line_with(f"discover: on {veth.peer_name}")
        with discover("announce", "multihomed") as announcer:
            links = [veth]
            found = [browser.line()]
            # An interface that appears later is used, too.
            links.append(machine.link(2))
            announcer.line_with(f"discover: on {veth.name}, {links[1].name}")
            found.append(browser.line_with("found 'multihomed' on peer2"))
            for link, line in zip(links, found, strict=True):
                described = re.fullmatch(rf"found 'multihomed' on {link.peer_name} at {HOST}:80 \((.*)\)", line)
                assert described is not None
                addresses = described[1].split(", ")
                assert [each for each in addresses if not each.startswith("fe80:")] == list(link.here.values())
                assert len(addresses) == 3
            announcer.end()
            assert {browser.line_with("gone") for _ in links} == {
                f"gone 'multihomed' on {link.peer_name}" for link in links
            }


async def test_a_legacy_resolver_is_answered_by_unicast(machine: Machine, veth: Link, udp: Family) -> None:
    with discover("announce", "ours"):
        async with trio_dgram.open_nursery() as nursery:
            resolver = other_party(nursery, machine, udp)
            known = records("ours")[:1]
            known[0].ttl = 4500
            # A query that lists the answer as known is not answered.
            await resolver.send(question("PTR", known, number=1), (GROUPS[udp.type], PORT))
            await resolver.send(question("PTR", number=2), (GROUPS[udp.type], PORT))
            with trio.fail_after(20):
                datagram = await resolver.receive()
    assert datagram.address.port == PORT
    answer = dns.message.from_wire(datagram.data)
    assert answer.id == 2
    assert [str(asked.name) for asked in answer.question] == [TYPE]
    assert {(record.rdclass, record.ttl) for record in answer.answer} == {(dns.rdataclass.IN, 10)}
    (place,) = [record[0] for record in answer.answer if record.rdtype == dns.rdatatype.SRV]
    assert str(place) == f"0 0 80 {HOST}."
    hosts = {str(data) for record in answer.answer if str(record.name) == f"{HOST}." for data in record}
    assert set(veth.here.values()) < hosts


async def test_hostile_datagrams_are_ignored(machine: Machine, veth: Link, udp: Family) -> None:
    group = GROUPS[udp.type], PORT
    with discover("announce", "ours") as announcer, discover("browse") as browser:
        async with trio_dgram.open_nursery() as nursery:
            peer = other_party(nursery, machine, udp)
            datagrams = hostile_datagrams()
            while datagrams:
                # The number of services is bounded.
                for _ in range(min(len(datagrams), 32)):
                    await peer.send(datagrams.pop(), group)
                decent, number = f"decent{len(datagrams)}", len(datagrams) + 1
                await peer.send(response(records(decent)), group)
                browser.line_with(f"found '{decent}' on {veth.name} at {decent}.local:80")
                await peer.send(question("PTR", number=number), group)
                with trio.fail_after(20):
                    while dns.message.from_wire((await peer.receive()).data).id != number:
                        pass
        assert announcer.end()[0] == browser.end()[0] == 0


@pytest.mark.usefixtures("veth")
async def test_control_characters_in_a_name_are_escaped(machine: Machine, udp: Family) -> None:
    with discover("browse") as browser:
        async with trio_dgram.open_nursery() as nursery:
            peer = other_party(nursery, machine, udp)
            await peer.send(response(records(r"a\010b\027\226\128\174")), (GROUPS[udp.type], PORT))
            assert browser.line().startswith(r"found 'a\nb\x1b\u202e' on veth1 at a\010b\027\226\128\174.local:80")


@pytest.mark.usefixtures("veth")
async def test_a_browsers_cache_is_bounded(machine: Machine, udp: Family) -> None:
    with discover("browse") as browser:
        async with trio_dgram.open_nursery() as nursery:
            peer = other_party(nursery, machine, udp)
            for start in range(0, MANY, 100):
                services = [each for number in range(start, start + 100) for each in records(f"s{number}")]
                await peer.send(response(services), (GROUPS[udp.type], PORT))
            await peer.send(response(records("s0", ttl=0)), (GROUPS[udp.type], PORT))
        found: list[Any] = []
        while not found or not found[-1].startswith("gone 's0'"):
            found.append(browser.line())
        assert 100 <= len(found) <= 500


@pytest.mark.usefixtures("namespace")
def test_loopback_is_used_without_another_interface() -> None:
    with discover("announce", "to myself"), discover("browse") as browser:
        assert browser.line() == f"found 'to myself' on lo at {HOST}:80 (127.0.0.1, ::1)"


@pytest.mark.usefixtures("namespace")
def test_a_port_in_use_is_reported(udp: Family) -> None:
    with socket.socket(udp.family, socket.SOCK_DGRAM) as occupant:
        occupant.bind((udp.wildcard, PORT))
        with example("discover.py", "browse") as running:
            status, output = running.wait()
    assert status == 1
    assert "5353: Address already in use" in output
    assert "Traceback" not in output


REFUSED: Final[list[tuple[list[str], int, str]]] = [
    ([], 2, "the following arguments are required: announce|browse"),
    (["announce"], 2, "the following arguments are required: name"),
    (["announce", ""], 2, "invalid label value: ''"),
    (["announce", "ü" * 32], 2, "invalid label value"),
    (["announce", "ours", "--port", "0"], 2, "invalid port value: '0'"),
    (["browse", "--type", "http"], 2, "invalid service_type value: 'http'"),
    (["browse", "--type", "_http._tcp.example"], 2, "invalid service_type value"),
]


def test_wrong_arguments_are_refused_without_a_traceback() -> None:
    assert offending_runs("discover.py", REFUSED) == []
