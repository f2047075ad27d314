"""The DNS forwarder, as dig(1) and those who mean it harm see it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from typing import Final

import attrs
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import pytest

from ..support.examples import Example, example, load_example, offending_runs
from ..support.families import Family
from ..support.programs import find_program

ARTEFACTS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "another number": lambda wire: bytes([wire[0] ^ 1]) + wire[1:],
    "another question": lambda wire: wire.replace(b"\x05wrong", b"\x05right"),
    "no DNS": lambda _: b"\xff" * 20,
    "cut short": lambda wire: wire[:-3],
    "a query": lambda wire: wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:],
}
"""What comes before the answer to "wrong", none of which is one."""


class Upstream:
    """A server that answers by what the name says."""

    def __init__(self, sock: socket.socket) -> None:
        self.asked: Counter[str] = Counter()
        self.port: int = sock.getsockname()[1]
        self._sock = sock

    def run(self) -> None:
        """Answer until nothing comes but an empty datagram."""
        while True:
            wire, client = self._sock.recvfrom(65535)
            if not wire:
                return
            for answer in self._answers(dns.message.from_wire(wire)):
                self._sock.sendto(answer, client)

    def _answers(self, query: dns.message.Message) -> Generator[bytes]:
        name = query.question[0].name
        label = name.labels[0].decode()
        self.asked[label] += 1
        if label == "silent" or (label == "once" and self.asked[label] == 1):
            return
        answer = dns.message.make_response(query, recursion_available=True)
        match label:
            case "big":
                texts = [f'"{str(number) * 200}"' for number in range(5)]
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *texts))
            case "none":
                answer.set_rcode(dns.rcode.NXDOMAIN)
                soa = ". . 1 2 3 4 30"
                answer.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", soa))
            case "broken":
                answer.set_rcode(dns.rcode.SERVFAIL)
            case _:
                last = self.asked[label] if label == "brief" else 1
                ttl = 0 if label == "brief" else 60
                answer.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", f"192.0.2.{last}"))
        if label == "wrong":
            yield from (change(answer.to_wire()) for change in ARTEFACTS.values())
        yield answer.to_wire()


@pytest.fixture
def upstream() -> Generator[Upstream]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        upstream = Upstream(sock)
        thread = threading.Thread(target=upstream.run)
        thread.start()
        try:
            yield upstream
        finally:
            sock.sendto(b"", sock.getsockname())
            thread.join()


@attrs.frozen
class Forwarder:
    """The example, listening."""

    running: Example
    port: int

    def command(self, host: str, name: str, *options: str) -> list[str]:
        """Return dig's command."""
        server = [f"@{host}", "-p", str(self.port), "+tries=1", "+time=20", "+ignore"]
        return [find_program("dig"), *server, name, *options]

    def dig(self, host: str, name: str, *options: str) -> str:
        """Return what dig says."""
        return subprocess.run(self.command(host, name, *options), capture_output=True, text=True, check=True).stdout

    def ask(self, wire: bytes) -> bytes:
        """Return the answer to what dig would not ask."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.sendto(wire, ("127.0.0.1", self.port))
            return sock.recv(65535)


@pytest.fixture
def forwarder(upstream: Upstream) -> Generator[Forwarder]:
    options = ("--port", "0", "--timeout", "0.1", "--attempts", "2", "--cache", "2")
    with example("dns_forwarder.py", f"127.0.0.1:{upstream.port}", *options) as running:
        ports = {re.findall(r":(\d+)$", running.line_with("listening on"))[0] for _ in range(2)}
        yield Forwarder(running, int(*ports))


def test_answers_come_over_both_families_and_from_the_cache(
    forwarder: Forwarder, upstream: Upstream, udp: Family
) -> None:
    for source in ("by upstream", "from the cache"):
        said = forwarder.dig(udp.loopback, "Host.example", "+noall", "+answer", "+comments")
        assert "status: NOERROR" in said
        assert "flags: qr rd ra;" in said
        assert re.search(r"(?i)host.example.\s+(60|5\d)\s+IN\s+A\s+192.0.2.1", said)
        assert source in forwarder.running.line_with("asked for Host.example. IN A: NOERROR")
    assert upstream.asked["Host"] == 1


def test_an_uncacheable_answer_is_requested_again(forwarder: Forwarder, upstream: Upstream) -> None:
    for last in (1, 2):
        assert forwarder.dig("127.0.0.1", "brief.example", "+short") == f"192.0.2.{last}\n"
        assert "status: SERVFAIL" in forwarder.dig("127.0.0.1", "broken.example")
    assert upstream.asked["broken"] == 2


def test_a_negative_answer_is_cached_for_the_time_in_its_soa(forwarder: Forwarder, upstream: Upstream) -> None:
    for _ in range(2):
        assert "status: NXDOMAIN" in forwarder.dig("127.0.0.1", "none.example")
    assert upstream.asked["none"] == 1


def test_the_cache_evicts_the_oldest_entry(forwarder: Forwarder, upstream: Upstream) -> None:
    for name in ("one", "two", "three", "two", "one"):
        forwarder.dig("127.0.0.1", name)
    assert upstream.asked == {"one": 2, "two": 1, "three": 1}


def test_a_lost_query_is_retried_and_a_silent_upstream_times_out(forwarder: Forwarder, upstream: Upstream) -> None:
    assert forwarder.dig("127.0.0.1", "once.example", "+short") == "192.0.2.1\n"
    assert "status: SERVFAIL" in forwarder.dig("127.0.0.1", "silent.example")
    assert (upstream.asked["once"], upstream.asked["silent"]) == (2, 2)


def test_invalid_answers_are_ignored(forwarder: Forwarder) -> None:
    assert forwarder.dig("127.0.0.1", "wrong.example", "+short") == "192.0.2.1\n"
    malformed, other = "upstream sent a malformed answer", "upstream sent something else than an answer"
    for said in (malformed, malformed, other):
        forwarder.running.line_with(said)


@pytest.mark.parametrize(
    ("options", "flags", "answers", "additional"),
    [
        (("+bufsize=1232",), "qr rd ra", 5, 1),
        (("+bufsize=512",), "qr tc rd ra", 0, 1),
        (("+noedns",), "qr tc rd ra", 0, 0),
    ],
)
def test_an_answer_too_large_for_the_client_is_truncated_with_the_tc_bit(
    forwarder: Forwarder, options: tuple[str, ...], flags: str, answers: int, additional: int
) -> None:
    said = forwarder.dig("127.0.0.1", "big.example", "TXT", *options)
    counts = f"QUERY: 1, ANSWER: {answers}, AUTHORITY: 0, ADDITIONAL: {additional}"
    assert f"flags: {flags}; {counts}" in said


def test_twenty_concurrent_clients_each_get_their_answer(forwarder: Forwarder, udp: Family) -> None:
    with ExitStack() as reserved:
        # dig sets SO_REUSEPORT, so that two of them may get one port, and then one of them the answers to both.
        sources = []
        for _ in range(20):
            source = reserved.enter_context(socket.socket(udp.family, socket.SOCK_DGRAM))
            source.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            source.bind((udp.loopback, 0))
            sources.append(f"{udp.loopback}#{source.getsockname()[1]}")
        digs = [
            subprocess.Popen(
                forwarder.command(udp.loopback, f"host{number}", "-b", source, "+short"), stdout=subprocess.PIPE
            )
            for number, source in enumerate(sources)
        ]
        assert [dig.communicate()[0] for dig in digs] == [b"192.0.2.1\n"] * 20


def test_an_unanswered_query_blocks_no_other_from_the_same_port(forwarder: Forwarder) -> None:
    queries = [dns.message.make_query(name, "A") for name in ("silent.example", "host.example")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        for query in queries:
            sock.sendto(query.to_wire(), ("127.0.0.1", forwarder.port))
        answers = [dns.message.from_wire(sock.recv(65535)) for _ in queries]
    assert [(answer.id, answer.rcode()) for answer in answers] == [
        (queries[1].id, dns.rcode.NOERROR),
        (queries[0].id, dns.rcode.SERVFAIL),
    ]


def test_invalid_queries_are_refused_or_ignored(forwarder: Forwarder) -> None:
    cut = dns.message.make_query("host.example", "A", id=0x1234).to_wire()[:-1]
    refused = dns.message.from_wire(forwarder.ask(cut))
    assert (refused.id, refused.rcode(), bool(refused.flags & dns.flags.QR)) == (0x1234, dns.rcode.FORMERR, True)
    no_question = dns.message.Message(id=1)
    assert dns.message.from_wire(forwarder.ask(no_question.to_wire())).rcode() == dns.rcode.FORMERR
    notify = dns.message.make_query("host.example", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert dns.message.from_wire(forwarder.ask(notify.to_wire())).rcode() == dns.rcode.NOTIMP
    newer = dns.message.make_query("host.example", "A", use_edns=1)
    assert dns.message.from_wire(forwarder.ask(newer.to_wire())).rcode() == dns.rcode.BADVERS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for junk in (b"", b"\0" * 11, b"\0\0\x80" + bytes(9), dns.message.make_response(notify).to_wire()):
            sock.sendto(junk, ("127.0.0.1", forwarder.port))
            assert "sent no query" in forwarder.running.line_with("sent no query")
    assert forwarder.dig("127.0.0.1", "host.example", "+short") == "192.0.2.1\n"


def test_a_refusing_upstream_is_logged_with_its_error(upstream: Upstream) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        nobody = sock.getsockname()[1]
    options = ("--port", "0", "--host", "127.0.0.1", "--timeout", "0.05")
    with example("dns_forwarder.py", f"127.0.0.1:{nobody}", *options) as running:
        (port,) = re.findall(r":(\d+)$", running.line_with("listening on"))
        assert "status: SERVFAIL" in Forwarder(running, int(port)).dig("127.0.0.1", "host.example")
        assert "Connection refused" in running.line_with("upstream:")
    assert not upstream.asked


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_forwarder(forwarder: Forwarder, number: signal.Signals) -> None:
    assert forwarder.running.end(number) == (0, "stopped\n")


REFUSED: Final[list[tuple[list[str], int, str]]] = [
    ([], 2, "required: upstream"),
    (["[::1"], 2, "HOST, HOST:PORT or"),
    (["[::1]53"], 2, "HOST, HOST:PORT or"),
    (["localhost:0"], 2, "HOST, HOST:PORT or"),
    (["localhost:dns"], 2, "HOST, HOST:PORT or"),
    (["::1", "--timeout", "0"], 2, "a number above 0"),
    (["::1", "--attempts", "0"], 2, "a number from 1"),
    (["::1", "--port", "65536"], 1, "port must be from 0 to 65535"),
    (["::1", "--host", "192.0.2.1"], 1, "192.0.2.1"),
]


def test_wrong_arguments_are_refused_without_a_traceback() -> None:
    assert offending_runs("dns_forwarder.py", REFUSED) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", ("localhost", 53)),
        ("localhost:5353", ("localhost", 5353)),
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_upstream_addresses_are_parsed(monkeypatch: pytest.MonkeyPatch, text: str, address: tuple[str, int]) -> None:
    assert load_example("dns_forwarder", monkeypatch).server(text) == address
