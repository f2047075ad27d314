"""The DNS forwarder against dig(1), dnsperf(1), dnsdist(1) and invalid datagrams."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import attrs
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import pytest

from ..support.examples import Example, example, load_example, offending_runs
from ..support.families import FAMILIES, Family
from ..support.namespaces import program
from ..support.programs import find_program, unused_port

pytestmark = pytest.mark.programs

ARTEFACTS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "another number": lambda wire: bytes([wire[0] ^ 1]) + wire[1:],
    "another question": lambda wire: wire.replace(b"\x05wrong", b"\x05right"),
    "no DNS": lambda _: b"\xff" * 20,
    "cut short": lambda wire: wire[:-3],
    "a query": lambda wire: wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:],
}
"""Datagrams before the answer to "wrong", none of which is a valid answer."""


class Upstream:
    """A server whose answer depends on the name."""

    def __init__(self, sock: socket.socket) -> None:
        self.asked: Counter[str] = Counter()
        self.sources: set[int] = set()
        """The source ports of the queries."""
        self.ids: set[int] = set()
        self.port: int = sock.getsockname()[1]
        self._sock = sock

    def run(self) -> None:
        """Answer until an empty datagram arrives."""
        while True:
            wire, client = self._sock.recvfrom(65535)
            if not wire:
                return
            query = dns.message.from_wire(wire)
            self.sources.add(client[1])
            self.ids.add(query.id)
            for answer in self._answers(query):
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
        # 200 outstanding queries may fill the default one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
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
        """Return dig's output."""
        return subprocess.run(self.command(host, name, *options), capture_output=True, text=True, check=True).stdout

    def ask(self, wire: bytes) -> bytes:
        """Return the answer to a query that dig cannot send."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.sendto(wire, ("127.0.0.1", self.port))
            return sock.recv(65535)


@contextmanager
def forwarding(upstream: Upstream, *options: str) -> Generator[Forwarder]:
    with example("dns_forwarder.py", f"127.0.0.1:{upstream.port}", "--port", "0", *options) as running:
        ports = {re.findall(r":(\d+)$", running.line_with("listening on"))[0] for _ in range(2)}
        yield Forwarder(running, int(*ports))


@pytest.fixture
def forwarder(upstream: Upstream) -> Generator[Forwarder]:
    """It waits for upstream for as long as a busy machine may need."""
    with forwarding(upstream, "--timeout", "60", "--attempts", "1", "--cache", "2") as running:
        yield running


@pytest.fixture
def impatient_forwarder(upstream: Upstream) -> Generator[Forwarder]:
    """It repeats a query once, after half a second."""
    with forwarding(upstream, "--timeout", "0.5", "--attempts", "2") as running:
        yield running


def test_answers_come_over_both_families_and_from_the_cache(
    forwarder: Forwarder, upstream: Upstream, udp: Family
) -> None:
    for source in ("by upstream", "from the cache"):
        output = forwarder.dig(udp.loopback, "Host.example", "+noall", "+answer", "+comments")
        assert "status: NOERROR" in output
        assert "flags: qr rd ra;" in output
        assert re.search(r"(?i)host.example.\s+(60|5\d)\s+IN\s+A\s+192.0.2.1", output)
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


def test_a_lost_query_is_retried_and_a_silent_upstream_times_out(
    impatient_forwarder: Forwarder, upstream: Upstream
) -> None:
    assert impatient_forwarder.dig("127.0.0.1", "once.example", "+short") == "192.0.2.1\n"
    assert "status: SERVFAIL" in impatient_forwarder.dig("127.0.0.1", "silent.example")
    assert (upstream.asked["once"], upstream.asked["silent"]) == (2, 2)


def test_queries_to_upstream_have_random_ids_and_use_several_random_ports(
    forwarder: Forwarder, upstream: Upstream
) -> None:
    for number in range(60):
        forwarder.ask(dns.message.make_query(f"host{number}.example", "A", id=1).to_wire())
    assert len(upstream.sources) > 8
    assert len(upstream.ids) > 50
    assert max(upstream.ids) - min(upstream.ids) > 30_000


def test_clients_with_the_same_question_share_one_query(impatient_forwarder: Forwarder, upstream: Upstream) -> None:
    query = dns.message.make_query("silent.example", "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        for number in range(10):
            query.id = number
            sock.sendto(query.to_wire(), ("127.0.0.1", impatient_forwarder.port))
        answers = [dns.message.from_wire(sock.recv(65535)) for _ in range(10)]
    assert {(answer.id, answer.rcode()) for answer in answers} == {(n, dns.rcode.SERVFAIL) for n in range(10)}
    assert upstream.asked["silent"] == 2


def test_invalid_answers_are_ignored(forwarder: Forwarder) -> None:
    assert forwarder.dig("127.0.0.1", "wrong.example", "+short") == "192.0.2.1\n"
    malformed, other = "upstream sent a malformed answer", "upstream sent something else than an answer"
    for message in (malformed, malformed, other):
        forwarder.running.line_with(message)


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
    output = forwarder.dig("127.0.0.1", "big.example", "TXT", *options)
    counts = f"QUERY: 1, ANSWER: {answers}, AUTHORITY: 0, ADDITIONAL: {additional}"
    assert f"flags: {flags}; {counts}" in output


def test_twenty_concurrent_clients_each_get_their_answer(forwarder: Forwarder, udp: Family) -> None:
    with ExitStack() as reserved:
        # dig sets SO_REUSEPORT, so two of them may get one port, and one of them the answers of both.
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


def test_an_unanswered_query_blocks_no_other_from_the_same_port(impatient_forwarder: Forwarder) -> None:
    queries = [dns.message.make_query(name, "A") for name in ("silent.example", "host.example")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        for query in queries:
            sock.sendto(query.to_wire(), ("127.0.0.1", impatient_forwarder.port))
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
    unused = unused_port(FAMILIES[0])
    options = ("--port", "0", "--host", "127.0.0.1", "--timeout", "0.05")
    with example("dns_forwarder.py", f"127.0.0.1:{unused}", *options) as running:
        (port,) = re.findall(r":(\d+)$", running.line_with("listening on"))
        assert "status: SERVFAIL" in Forwarder(running, int(port)).dig("127.0.0.1", "host.example")
        assert "Connection refused" in running.line_with("upstream:")
    assert not upstream.asked


# Many queries outstanding


NAMES: Final = 250
"""The number of names that dnsperf requests; each twice, so that the cache answers about half of the queries."""
OUTSTANDING: Final = 200


def dnsperf(host: str, port: int, folder: Path) -> str:
    """Send many queries at a time from one port, and return the statistics of dnsperf."""
    data = folder / "queries"
    data.write_text("".join(f"host{number}.example A\n" for number in range(NAMES)) * 2)
    # On a busy machine an answer may be slow without being lost.
    options = ["-c", "1", "-q", str(OUTSTANDING), "-t", "60", "-b", "1024", "-d", str(data)]
    command = [find_program("dnsperf"), "-s", host, "-p", str(port), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def check_nothing_lost(report: str) -> None:
    assert re.search(rf"Queries completed: +{2 * NAMES} \(100.00%\)", report), report
    assert re.search(r"Queries lost: +0 ", report), report
    assert re.search(rf"Response codes: +NOERROR {2 * NAMES} \(100.00%\)", report), report


@pytest.fixture
def busy_forwarder(upstream: Upstream) -> Generator[int]:
    """Run the forwarder with a large cache and without retries, and read its log; yield its port."""
    with forwarding(upstream, "--timeout", "60", "--attempts", "1") as forwarder:
        # A full pipe would block it: it logs a line for each query.
        reader = threading.Thread(target=forwarder.running.wait)
        reader.start()
        yield forwarder.port
        forwarder.running.program.process.terminate()
        reader.join()


def test_two_hundred_outstanding_queries_of_one_client_lose_nothing(
    busy_forwarder: int, upstream: Upstream, udp: Family, tmp_path: Path
) -> None:
    check_nothing_lost(dnsperf(udp.loopback, busy_forwarder, tmp_path))
    assert upstream.asked == {f"host{number}": 1 for number in range(NAMES)}


DNSDIST: Final = """
setSecurityPollSuffix("")
setLocal("127.0.0.1:{port}")
setUDPTimeout(60)
newServer{{address="127.0.0.1:{server}"}}
getServer(0):setUp()
"""
"""Options that disable the vendor's check for security updates, and the health checks of the server.

On a busy machine an answer may take longer than the two seconds that dnsdist waits for one by default.
"""


def test_two_hundred_outstanding_queries_through_dnsdist_lose_nothing(busy_forwarder: int, tmp_path: Path) -> None:
    with closing(unused_socket("127.0.0.1")) as sock:
        port = sock.getsockname()[1]
    configuration = tmp_path / "dnsdist.conf"
    configuration.write_text(DNSDIST.format(port=port, server=busy_forwarder))
    command = [find_program("dnsdist"), "--supervised", "--disable-syslog", "-C", str(configuration)]
    with program(*command) as running:
        Example(running).line_with("Listening on")
        check_nothing_lost(dnsperf("127.0.0.1", port, tmp_path))


def unused_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


PROXYING_DNSDIST: Final = """
setSecurityPollSuffix("")
setLocal("127.0.0.1:{port}")
addLocal("[::1]:{port}")
newServer{{
    address="127.0.0.1:{server}", useProxyProtocol=true, checkName="health.example.", checkInterval=1,
    maxCheckFailures=1, checkTimeout=500
}}
"""


@pytest.mark.long
def test_clients_behind_dnsdist_are_logged_and_health_checks_answered(upstream: Upstream, tmp_path: Path) -> None:
    # Run both at once, so that the clients have different ports.
    with closing(unused_socket("127.0.0.1")) as one, closing(unused_socket("127.0.0.1")) as other:
        port, server = one.getsockname()[1], other.getsockname()[1]
    configuration = tmp_path / "dnsdist.conf"
    configuration.write_text(PROXYING_DNSDIST.format(port=port, server=server))
    balancing = [find_program("dnsdist"), "--supervised", "--disable-syslog", "-C", str(configuration)]
    options = ("--port", str(server), "--proxy", "127.0.0.1", "--timeout", "0.1")
    with program(*balancing) as running:
        balancer = Example(running)
        with example("dns_forwarder.py", f"127.0.0.1:{upstream.port}", *options) as forwarding:
            for _ in range(2):
                forwarding.line_with("listening on")
            balancer.line_with("as 'up'")
            assert re.search(r"^127.0.0.1:\d+ asked for health", forwarding.line_with("asked for health"))
            forwarder = Forwarder(forwarding, port)
            # The connection of dnsdist to the forwarder is IPv4.
            for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
                with closing(unused_socket(host)) as unused:
                    source = unused.getsockname()[1]
                assert "192.0.2.1" in forwarder.dig(host, "first.example", "-b", f"{host}#{source}")
                assert forwarding.line_with("first.example").startswith(f"{shown}:{source} asked for")
        balancer.line_with("as 'down'")


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
    (["::1", "--proxy", "balancer"], 1, "proxy_protocol must hold addresses and networks"),
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
