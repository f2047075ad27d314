"""The forms of a trace: the story in words, the diagram, the picture, the capture."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import attrs
import pytest
import trio

from trio_dgram import Address, sim
from trio_dgram.sim import Packet, Record, Report
from trio_dgram.sim._trace.pcapng import write_pcapng

from ..support.families import Family
from ..support.programs import find_program
from .packets import make_packet
from .programs import ask, echo

SVG = "{http://www.w3.org/2000/svg}"
ADDRESSES = {"udp4": ("10.0.1.1", "10.0.1.2", "10.0.0.1"), "udp6": ("fd00::1:1", "fd00::1:2", "fd00::1")}


def packet(number: int, payload: bytes = b"", *, at: float = 0.0, type: str = "udp4", back: bool = False) -> Packet:
    client, server, _ = ADDRESSES[type]
    ends = [(Address(client, 40000), "client"), (Address(server, 5005), "server")]
    (source, sender), (destination, _) = reversed(ends) if back else ends
    return Packet(number, source, destination, payload, sender, at)


def report_about(about: Packet, number: int, type: int, code: int, mtu: int = 0) -> Packet:
    router = ADDRESSES["udp6" if about.is_ipv6 else "udp4"][2]
    destination = Address(about.source.host, 0)
    return Packet(number, Address(router, 0), destination, b"", "", 1.0, report=Report(type, code, mtu, about))


def conversation(type: str = "udp4") -> list[Record]:
    """Return a record of every kind: delivered, duplicated, lost, refused, too big."""
    asked, answered = packet(1, b"hello", type=type), packet(2, b"hello!", at=0.1, type=type, back=True)
    lost, large = packet(3, b"x", at=0.2, type=type), packet(4, bytes(1400), at=0.3, type=type)
    too_big = {"udp4": (3, 4), "udp6": (2, 0)}[type]
    return [
        Record(asked, 0.1, "delivered", "", "server"),
        Record(lost, 0.2, "dropped", "lost", "server"),
        Record(answered, 0.15, "delivered", "", "client"),
        Record(answered, 0.16, "delivered", "", "client"),
        Record(large, 0.3, "dropped", "too big for the path", "server"),
        Record(report_about(large, 5, *too_big, 1300), 1.1, "delivered", "", "client"),
        Record(attrs.evolve(lost, number=6, destination=Address("203.0.113.9", 9)), 2.0, "dropped", "no such host", ""),
    ]


# In words


def test_the_story_has_each_datagram_in_order_of_sending() -> None:
    lines = sim_trace(conversation()).to_text().splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        '0.000000 #1 client 10.0.1.1:40000 -> server 10.0.1.2:5005 5 bytes "hello" delivered after 100.000 ms',
        '0.100000 #2 server 10.0.1.2:5005 -> client 10.0.1.1:40000 6 bytes "hello!" delivered after 50.000 ms',
        '0.100000 #2 server 10.0.1.2:5005 -> client 10.0.1.1:40000 6 bytes "hello!" delivered after 60.000 ms',
        '0.200000 #3 client 10.0.1.1:40000 -> server 10.0.1.2:5005 1 byte "x" dropped: lost',
        '0.200000 #6 client 10.0.1.1:40000 -> the network 203.0.113.9:9 1 byte "x" dropped: no such host',
        (
            "0.300000 #4 client 10.0.1.1:40000 -> server 10.0.1.2:5005 1400 bytes 00 00 00 00 00 00 00 00 ..."
            " dropped: too big for the path"
        ),
        (
            "1.000000 #5 the network 10.0.0.1 -> client 10.0.1.1 ICMP: packet too big (at most 1300), about #4"
            " delivered after 100.000 ms"
        ),
    ]
    assert len({line.rindex(" byte") for line in lines if " bytes " in line}) == 1


def test_the_story_can_be_limited_to_its_end() -> None:
    assert len(sim_trace(conversation()).to_text(last=2).splitlines()) == 2
    assert sim_trace(conversation()).to_text(last=0) == ""
    assert len(sim_trace(conversation()).to_text(last=99).splitlines()) == 7


def test_an_empty_trace_has_every_form(tmp_path: Path) -> None:
    trace = sim_trace([])
    assert trace.to_text() == ""
    assert trace.to_mermaid() == "sequenceDiagram\n"
    trace.to_svg(tmp_path / "empty.svg")
    assert ET.parse(tmp_path / "empty.svg").getroot().tag == f"{SVG}svg"  # noqa: S314 -- our own
    trace.to_pcapng(tmp_path / "empty.pcapng")
    assert (tmp_path / "empty.pcapng").stat().st_size > 0


def sim_trace(records: list[Record], limit: int | None = None) -> sim.Trace:
    trace = sim.Trace(limit, payload=False, opened_at=1_767_225_600.0)
    for record in records:
        trace.add(record)
    return trace


def test_a_trace_keeps_a_limited_number_of_records_and_counts_all() -> None:
    trace = sim_trace(conversation(), limit=3)
    assert (len(trace), trace.total) == (3, 7)
    assert list(trace) == list(trace.records) == conversation_like(trace)
    assert trace.digest == sim_trace(conversation()).digest


def conversation_like(trace: sim.Trace) -> list[Record]:
    return list(trace.records)


def test_any_difference_changes_the_digest() -> None:
    (record, *_) = conversation()
    others = [
        record._replace(at=0.2),
        record._replace(fate="dropped", reason="lost"),
        record._replace(receiver="elsewhere"),
        record._replace(packet=attrs.evolve(record.packet, payload=b"hello!")),
        record._replace(packet=attrs.evolve(record.packet, source=Address("10.0.1.1", 40001))),
        record._replace(packet=attrs.evolve(record.packet, destination=Address("10.0.1.3", 5005))),
        record._replace(packet=attrs.evolve(record.packet, sent_at=0.01)),
    ]
    assert len({sim_trace([each]).digest for each in (record, *others)}) == 1 + len(others)


# As a diagram and a picture


def test_the_diagram_is_mermaids() -> None:
    lines = sim_trace(conversation()).to_mermaid().splitlines()
    assert lines[:4] == [
        "sequenceDiagram",
        "    participant host0 as client",
        "    participant host1 as server",
        "    participant host2 as the network",
    ]
    assert lines[4] == "    host0->>host1: #35;1 5 bytes #34;hello#34;, delivered after 100.000 ms"
    assert lines[7] == "    host0-xhost1: #35;3 1 byte #34;x#34;, dropped: lost"
    assert lines[10].startswith("    host2-->>host0: #35;5 ICMP: packet too big")


def test_a_diagram_has_no_unescaped_characters() -> None:
    evil = conversation()[0]._replace(receiver='end; %% "quoted"\nloop')
    text = sim_trace([evil]).to_mermaid()
    assert len(text.splitlines()) == 4
    assert not re.search(r'[;%"]', re.sub(r"#\d+;", "", text))


def drawn(records: list[Record], folder: Path) -> ET.Element:
    sim_trace(records).to_svg(folder / "ladder.svg")
    return ET.parse(folder / "ladder.svg").getroot()  # noqa: S314 -- our own


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_the_picture_has_a_column_for_each_host_and_an_arrow_for_each_record(tmp_path: Path) -> None:
    root = drawn(conversation(), tmp_path)
    assert texts(root)[:6] == ["client", "10.0.1.1", "server", "10.0.1.2", "the network", "10.0.0.1"]
    groups = list(root.iterfind(f"{SVG}g[@class='datagram']"))
    assert len(groups) == 7
    crossed = [group for group in groups if group.find(f"{SVG}path") is not None]
    assert len(crossed) == 3
    assert {"lost", "too big for the path", "no such host"} < set(texts(root))
    assert groups[0].findtext(f"{SVG}title") == '#1 5 bytes "hello", delivered after 100.000 ms'


@pytest.mark.parametrize("hosts", [2, 6])
def test_no_two_labels_of_a_column_cover_each_other(tmp_path: Path, hosts: int) -> None:
    records = []
    for number in range(40):
        sent = attrs.evolve(packet(number), sender=f"host {number % hosts}", sent_at=number // 8 / 10)
        records.append(Record(sent, sent.sent_at + 0.05, "delivered", "", f"host {(number + 1) % hosts}"))
    root = drawn(records, tmp_path)
    places = [(element.get("x"), element.get("y")) for element in root.iter(f"{SVG}text")]
    assert len(set(places)) == len(places)
    for x in {x for x, _ in places}:
        heights = sorted(float(y or 0) for other, y in places if other == x)
        assert all(later - earlier >= 12 for earlier, later in pairwise(heights))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert all(0 < float(x or 0) < width and 0 < float(y or 0) < height for x, y in places)


def test_a_datagram_to_its_sender_is_a_loop(tmp_path: Path) -> None:
    to_itself = Record(packet(1, b"x"), 0.0, "delivered", "", "client")
    dropped = Record(packet(2, b"x"), 0.0, "dropped", "no socket on the port", "client")
    root = drawn([to_itself, dropped], tmp_path)
    assert len(list(root.iterfind(f"{SVG}g[@class='datagram']"))) == 2


def test_a_long_silence_is_marked_and_a_long_label_cut(tmp_path: Path) -> None:
    records = [Record(packet(n, at=n / 10), n / 10 + 0.05, "delivered", "", "server") for n in range(9)]
    records.append(Record(packet(9, at=100), 100, "dropped", "a reason that is so long " * 5, "server"))
    root = drawn(records, tmp_path)
    assert sum(element.get("class") == "silence" for element in root.iter(f"{SVG}line")) == 1
    assert any(text.endswith("…") for text in texts(root))


# As a capture


def tshark(path: Path, *arguments: str) -> list[list[str]]:
    command = [find_program("tshark"), "-r", str(path), "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    errors = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert errors == []
    return [line.split("\t") for line in done.stdout.splitlines()]


def fields(path: Path, *names: str) -> list[list[str]]:
    return tshark(path, "-T", "fields", *(word for name in names for word in ("-e", name)))


@pytest.fixture
def capture(tmp_path: Path, udp: Family) -> Path:
    path = tmp_path / "capture.pcapng"
    write_pcapng(path, [record for record in conversation(udp.type) if record.receiver], 1_767_225_600.25)
    return path


@pytest.mark.programs
def test_tshark_reads_addresses_ports_payloads_times_and_comments(capture: Path, udp: Family) -> None:
    client, server, router = ADDRESSES[udp.type]
    ip = {"udp4": "ip", "udp6": "ipv6"}[udp.type]
    names = ["frame.time_epoch", "frame.interface_name", f"{ip}.src", f"{ip}.dst", "udp.srcport", "udp.dstport"]
    rows = fields(capture, *names, "udp.length", "frame.comment")
    there, back = [client, server, "40000", "5005"], [server, client, "5005", "40000"]
    assert [[row[0][:13], row[1], *[cell.partition(",")[0] for cell in row[2:]]] for row in rows] == [
        ["1767225600.25", "client", *there, "13", "#1"],
        ["1767225600.35", "server", *there, "13", "#1"],
        ["1767225600.35", "server", *back, "14", "#2"],
        ["1767225600.40", "client", *back, "14", "#2"],
        ["1767225600.41", "client", *back, "14", "#2"],
        ["1767225600.45", "client", *there, "9", "#3"],
        ["1767225600.55", "client", *there, "1408", "#4"],
        ["1767225601.25", "the network", router, client, "40000", "5005", "1408", "#5"],
        ["1767225601.35", "client", router, client, "40000", "5005", "1408", "#5"],
    ]


@pytest.mark.programs
def test_tshark_reports_no_errors(capture: Path) -> None:
    found = "\n".join(line for (line, *_) in tshark(capture, "-q", "-z", "expert"))
    assert not re.search(r"Errors|Warns|Malformed", found), found


@pytest.mark.programs
def test_icmp_messages_are_captured_with_their_quotation(capture: Path, udp: Family) -> None:
    names = {"udp4": ("icmp.type", "icmp.code", "icmp.mtu"), "udp6": ("icmpv6.type", "icmpv6.code", "icmpv6.mtu")}
    wanted = {"udp4": ["3", "4", "1300"], "udp6": ["2", "0", "1300"]}[udp.type]
    status = {"udp4": "icmp.checksum.status", "udp6": "icmpv6.checksum.status"}[udp.type]
    assert fields(capture, *names[udp.type], status)[-1] == [*wanted, "1"]


@pytest.mark.programs
def test_the_checksum_is_right_for_every_size(tmp_path: Path, udp: Family) -> None:
    sizes = [0, 1, 2, 63, 65507]
    sent = [packet(number, bytes(n % 251 for n in range(size)), type=udp.type) for number, size in enumerate(sizes, 1)]
    write_pcapng(tmp_path / "capture", [Record(each, 0.1, "delivered", "", "server") for each in sent])
    rows = fields(tmp_path / "capture", "udp.checksum.status", "udp.length")
    assert {status for status, _ in rows} == {"1"}
    assert {int(length) - 8 for _, length in rows} == set(sizes)


@pytest.mark.programs
def test_headers_have_the_values_of_the_packet_and_a_corrupted_one_is_invalid(tmp_path: Path) -> None:
    sent = attrs.evolve(make_packet(), hop_limit=9, traffic_class=0xB9, dont_fragment=True, broken=True, number=7)
    write_pcapng(tmp_path / "capture", [Record(sent, 0.1, "dropped", "wrong checksum", "server")])
    names = ("ip.ttl", "ip.dsfield", "ip.flags.df", "ip.id", "ip.checksum.status", "udp.checksum.status")
    assert fields(tmp_path / "capture", *names) in (
        [["9", "0xb9", "1", "0x0007", "1", "0"]],
        [["9", "0xb9", "True", "0x0007", "1", "0"]],
    )


def test_without_python_pcapng_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcapng", None)
    with pytest.raises(ImportError, match=r"pip install trio_dgram\[capture\]"):
        write_pcapng(tmp_path / "capture", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.programs
def test_a_whole_run_can_be_exported(tmp_path: Path) -> None:
    async def scenario(network: sim.Network) -> sim.Trace:
        client, server = network.host("client"), network.host("server")
        network.path(client, server, symmetric=True, loss=sim.DropList({2}), corrupt=0.2, mtu=576, too_big="icmp")
        server.start_soon(echo, "udp4")
        for payload in (b"one", bytes(1000)):
            with trio.move_on_after(1):
                with suppress(OSError):
                    await client.run(ask, "udp4", payload)
        return network.trace

    trace = sim.run(scenario, seed=1)
    trace.to_pcapng(tmp_path / "run.pcapng")
    trace.to_svg(tmp_path / "run.svg")
    assert len(fields(tmp_path / "run.pcapng", "frame.number")) >= len({record.packet.number for record in trace})
