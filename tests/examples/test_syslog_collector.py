"""The syslog collector with logger(1) and with hostile peers."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from trio_dgram import Address

from ..support.examples import Example, example, offending_runs
from ..support.families import Family
from ..support.namespaces import run

pytestmark = pytest.mark.programs

COUNTS: Final = re.compile(r"received (\d+) \(malformed (\d+), .*\), dropped by the kernel (\d+)")
FORMATS: Final = ("--rfc3164", "--rfc5424")
SENT: Final = 30_000
"""More datagrams than the receive buffer holds."""
ATTEMPTS: Final = 1000
"""The most requests for the counts until all those datagrams are included."""
HOSTILE: Final = {
    b"<13>\x1b]0;title\x07\x1b[2J": r"user.notice \x1b]0;title\x07\x1b[2J",
    b"<13>one\n127.0.0.1 kern.emerg forged\n": r"user.notice one\n127.0.0.1 kern.emerg forged",
    b"<13>one\rtwo\xc2\x85three\xe2\x80\xa8four": r"user.notice one\rtwo\x85three\u2028four",
    "<13>\u202eright to left".encode(): r"user.notice \u202eright to left",
    b"<13>\xff\xfe": r"user.notice \xff\xfe",
    b"<191>1 - - - - - -": "local7.debug - - - - - -",
    b"<0>\n\0": "kern.emerg ",
    b"": "malformed ",
    b"no priority": "malformed no priority",
    b"<192>too high": "malformed <192>too high",
    b"<013>a leading zero": "malformed <013>a leading zero",
    b"<>": "malformed <>",
    "<\u0661>".encode(): "malformed <\u0661>",
}
"""Datagrams of peers, and the lines that they yield after the address."""


@attrs.frozen
class Collector:
    """The example, listening on a loopback address."""

    running: Example
    family: Family
    port: int

    def log(self, *arguments: str) -> None:
        """Send a message with logger(1)."""
        run("logger", "--server", self.family.loopback, "--port", str(self.port), "--udp", *arguments)

    def send(self, *datagrams: bytes) -> None:
        """Send a datagram that logger(1) cannot send."""
        with socket.socket(self.family.family, socket.SOCK_DGRAM) as sock:
            for data in datagrams:
                sock.sendto(data, (self.family.loopback, self.port))

    def counts(self) -> tuple[int, int, int]:
        """Request the counts, and return the received, the malformed and the dropped datagrams."""
        self.running.program.process.send_signal(signal.SIGUSR1)
        return read_counts(self.running.line_with("dropped by the kernel"))


def read_counts(line: str) -> tuple[int, int, int]:
    found = COUNTS.search(line)
    assert found is not None, line
    received, malformed, dropped = map(int, found.groups())
    return received, malformed, dropped


@contextmanager
def collecting(family: Family, *arguments: str, output: Path | None = None) -> Generator[Collector]:
    with example("syslog_collector.py", "--host", family.loopback, "--port", "0", *arguments, output=output) as running:
        port = Address.parse(running.line_with("listening on").split()[-1]).port
        yield Collector(running, family, port)


@pytest.fixture
def collector(udp: Family) -> Generator[Collector]:
    with collecting(udp) as listening:
        yield listening


@pytest.mark.parametrize("format_", FORMATS)
def test_each_message_of_logger_is_a_line(collector: Collector, format_: str) -> None:
    for priority in ("mail.warning", "local7.debug", "kern.emerg", "user.notice"):
        collector.log(format_, "--priority", priority, "--tag", "postman", f"grüß dich, {priority}")
        line = collector.running.line()
        # logger(1) does not send the facility of the kernel.
        named = priority.replace("kern", "user")
        assert line.startswith(f"{collector.family.loopback} {named} ")
        assert "postman" in line
        assert line.endswith(f"grüß dich, {priority}")
    assert collector.counts() == (4, 0, 0)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_local_program_is_identified_by_its_process(tmp_path: Path, udp: Family, format_: str) -> None:
    path = tmp_path / "log"
    with collecting(udp, "--unix", str(path)) as collector:
        collector.running.line_with(f"listening on {path}")
        run("logger", "--socket", str(path), format_, "--priority", "auth.alert", "who is this?")
        assert re.fullmatch(rf"pid=\d+,uid={os.getuid()} auth\.alert .* who is this\?", collector.running.line())
        status, output = collector.running.end()
        assert status == 0
        assert f"{path}: received 1 " in output
        assert not path.exists()


def test_every_datagram_of_a_flood_is_accounted_for(udp: Family, tmp_path: Path) -> None:
    flood = tmp_path / "flood"
    flood.write_text("".join(f"message {number}\n" for number in range(SENT)))
    output = tmp_path / "output"
    with collecting(udp, output=output) as collector:
        process = collector.running.program.process
        # While the collector cannot read, the kernel queues datagrams until the buffer is full.
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        collector.log("--file", str(flood))
        process.send_signal(signal.SIGCONT)

        counted = (collector.counts() for _ in range(ATTEMPTS))
        received, dropped = next((got, lost) for got, _, lost in counted if got + lost == SENT)
        assert dropped > 0
        assert collector.running.end()[0] == 0
        assert len(output.read_text().splitlines()) == received


def test_control_characters_and_newlines_of_a_peer_are_escaped(collector: Collector) -> None:
    for datagram, line in HOSTILE.items():
        collector.send(datagram)
        assert collector.running.line() == f"{collector.family.loopback} {line}"
    malformed = [line for line in HOSTILE.values() if line.startswith("malformed")]
    assert collector.counts() == (len(HOSTILE), len(malformed), 0)


def test_random_bytes_are_one_printable_line_each(collector: Collector) -> None:
    datagrams = [random.randbytes(random.randrange(100)) for _ in range(200)]
    collector.send(*datagrams, b"<13>done")
    for _ in datagrams:
        line = collector.running.line()
        assert line.isprintable()
        assert line.startswith(f"{collector.family.loopback} ")
    assert collector.running.line() == f"{collector.family.loopback} user.notice done"


def test_two_clients_are_distinguished(udp: Family) -> None:
    # All of 127.0.0.0/8 is local; of IPv6 only one address is.
    hosts = {"udp4": ["127.0.0.2", "127.0.0.3"], "udp6": ["::1"]}[udp.type]
    with collecting(udp) as collector:
        for host in hosts * 2:
            with socket.socket(udp.family, socket.SOCK_DGRAM) as sock:
                sock.bind((host, 0))
                sock.sendto(b"<13>it is me", (udp.loopback, collector.port))
            assert collector.running.line() == f"{host} user.notice it is me"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_counts_are_logged_at_the_end(collector: Collector, number: signal.Signals) -> None:
    collector.send(b"<13>one", b"two")
    collector.running.line_with("malformed two")
    status, output = collector.running.end(number)
    assert status == 0
    assert read_counts(output) == (2, 1, 0)
    assert len(output.splitlines()) == 1


def test_the_counts_are_logged_periodically(udp: Family) -> None:
    with collecting(udp, "--report", "0.01") as collector:
        assert read_counts(collector.running.line()) == (0, 0, 0)
        collector.send(b"<13>one")
        collector.running.line_with("received 1 ")


def test_both_families_are_listened_on_by_default() -> None:
    with example("syslog_collector.py", "--port", "0") as running:
        assert "listening on 0.0.0.0:" in running.line()
        assert "listening on [::]:" in running.line()


REFUSED: Final[list[tuple[list[str], int, str]]] = [
    (["--port", "65536"], 2, "invalid port value: '65536'"),
    (["--port", "syslog"], 2, "invalid port value: 'syslog'"),
    (["--report", "0"], 2, "invalid seconds value: '0'"),
    (["--host", "nowhere..example"], 2, "invalid ip_address value"),
    (["--host", "1.1.1.1"], 1, "bind 1.1.1.1:5514: Cannot assign requested address"),
    (["--port", "0", "--unix", "/nowhere/log"], 1, "bind /nowhere/log: No such file or directory"),
]


def test_wrong_arguments_are_refused_without_a_traceback() -> None:
    assert offending_runs("syslog_collector.py", REFUSED) == []


def test_the_collector_ends_when_its_output_fails(udp: Family) -> None:
    with collecting(udp, output=Path("/dev/full")) as collector:
        collector.send(b"<13>one")
        status, output = collector.running.wait()
    assert status == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
