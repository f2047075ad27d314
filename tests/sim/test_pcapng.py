"""The capture, as read by tshark."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dgram.sim import Record
from trio_dgram.sim._trace.pcapng import write_pcapng
from trio_dgram.sim._values.encoding import encode
from trio_dgram.sim._values.records import Note

from ..support.programs import find_program
from ..support.records import ADDRESSES, CLIENT, SERVER, make_complaint, make_record

pytestmark = pytest.mark.programs

OPENED_AT = 1_767_225_600.25
NOTHING = "-"


def tshark(path: Path, *arguments: str) -> str:
    checks = [f"{protocol}.check_checksum:TRUE" for protocol in ("ip", "udp")]
    options = [word for check in checks for word in ("-o", check)]
    command = [find_program("tshark"), "-r", str(path), *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "Running as user" not in line] == []
    return done.stdout


def fields(path: Path, *names: str) -> list[list[str]]:
    """Return fields of each packet: the outermost where there are several, as with a packet that ICMP quotes."""
    words = [word for name in names for word in ("-e", name)]
    lines = tshark(path, "-T", "fields", "-E", "occurrence=f", "-E", "separator=|", *words).splitlines()
    return [[cell or NOTHING for cell in line.split("|")] for line in lines]


def written(path: Path, records: Iterable[Record]) -> Path:
    write_pcapng(path / "capture.pcapng", records, OPENED_AT)
    return path / "capture.pcapng"


def with_everything(type: str) -> list[Record]:
    """Return records of every kind: delivered, duplicated, lost, corrupted, and each ICMP message of the network."""
    unreachable, hop_limit, too_big = {
        "udp4": ((3, 3), (11, 0), (3, 4)),
        "udp6": ((1, 4), (3, 0), (2, 0)),
    }[type]
    large = make_record(4, bytes(1400), at=0.3, type=type, reason="too big for the path")
    empty = make_record(5, b"", at=0.4, type=type, reason="no socket on the port")
    asked = make_record(1, at=0.0, type=type)
    return [
        make_record(2, at=0.1, took=0.05, type=type, ends=(SERVER, CLIENT)),
        asked,
        Record(asked.packet, 0.06, "delivered", "", SERVER),
        make_record(3, at=0.2, type=type, reason="lost"),
        large,
        empty,
        make_complaint(large.packet, 6, at=0.5, kind=too_big, mtu=1280),
        make_complaint(empty.packet, 7, at=0.6, kind=unreachable),
        make_complaint(empty.packet, 8, at=0.7, kind=hop_limit),
    ]


@pytest.mark.parametrize("type", ["udp4", "udp6"])
def test_tshark_reports_only_the_comments(tmp_path: Path, type: str) -> None:
    output = tshark(written(tmp_path, with_everything(type)), "-q", "-z", "expert")
    assert set(re.findall(r"^(\w+) \(\d+\)$", output, re.MULTILINE)) == {"Comments"}


@pytest.mark.parametrize("type", ["udp4", "udp6"])
def test_every_packet_is_captured_at_its_host_and_time(tmp_path: Path, type: str) -> None:
    rows = fields(
        written(tmp_path, with_everything(type)),
        "frame.interface_name",
        "frame.time_epoch",
        "udp.payload",
        "frame.comment",
    )
    hello = b"hello".hex()
    # ICMPv6 quotes some of the payload, which is not its own payload.
    seen = [
        (host, time[8:], NOTHING if host == "the network" or n > 8 else load[:10], comment)
        for n, (host, time, load, comment) in enumerate(rows)
    ]
    assert seen == [
        ("client", "00.250000000", hello, "#1"),
        ("server", "00.300000000", hello, "#1"),
        ("server", "00.310000000", hello, "#1"),
        ("server", "00.350000000", hello, "#2"),
        ("client", "00.400000000", hello, "#2"),
        ("client", "00.450000000", hello, "#3, dropped: lost"),
        ("client", "00.550000000", "0000000000", "#4, dropped: too big for the path"),
        ("client", "00.650000000", NOTHING, "#5, dropped: no socket on the port"),
        ("the network", "00.750000000", NOTHING, "#6"),
        ("client", "00.800000000", NOTHING, "#6"),
        ("the network", "00.850000000", NOTHING, "#7"),
        ("client", "00.900000000", NOTHING, "#7"),
        ("the network", "00.950000000", NOTHING, "#8"),
        ("client", "01.000000000", NOTHING, "#8"),
    ]


def test_a_time_keeps_its_nanoseconds(tmp_path: Path) -> None:
    record = make_record(at=0.123456789, took=0.000000001)
    assert [time for (time,) in fields(written(tmp_path, [record]), "frame.time_epoch")] == [
        "1767225600.373456789",
        "1767225600.373456790",
    ]


@pytest.mark.parametrize("type", ["udp4", "udp6"])
def test_headers_have_the_values_of_the_packet(tmp_path: Path, type: str) -> None:
    record = make_record(7, type=type, hop_limit=9, traffic_class=0xB9, dont_fragment=type == "udp4", reason="lost")
    names, wanted = {
        "udp4": (
            ["ip.src", "ip.dst", "ip.ttl", "ip.dsfield", "ip.id", "ip.checksum.status"],
            [*(ADDRESSES["udp4"][host] for host in (CLIENT, SERVER)), "9", "0xb9", "0x0007", "1"],
        ),
        "udp6": (
            ["ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.tclass", "ipv6.plen", "ipv6.version"],
            [*(ADDRESSES["udp6"][host] for host in (CLIENT, SERVER)), "9", "0x000000b9", "13", "6"],
        ),
    }[type]
    ports = ["udp.srcport", "udp.dstport", "udp.checksum.status"]
    (row,) = fields(written(tmp_path, [record]), *names, *ports)
    # An older tshark writes the traffic class with fewer digits.
    row[3] = f"{int(row[3], 16):#0{len(wanted[3])}x}"
    assert row == [*wanted, "40000", "5005", "1"]


def test_a_copy_lost_by_one_receiver_is_named_in_the_comment(tmp_path: Path) -> None:
    receivers = {"bravo": "", "charlie": "no room in the receive buffer", "delta": "lost"}
    records = [make_record(ends=("alpha", host), reason=reason) for host, reason in receivers.items()]
    rows = fields(written(tmp_path, records), "frame.interface_name", "frame.comment")
    assert rows == [
        ["alpha", "#1, one to charlie dropped: no room in the receive buffer, one to delta dropped: lost"],
        ["bravo", "#1"],
    ]


def test_a_packet_with_a_corrupted_copy_leaves_intact(tmp_path: Path) -> None:
    records = [make_record(reason="wrong checksum", broken=True), make_record(took=0.06)]
    rows = fields(written(tmp_path, records), "frame.interface_name", "udp.checksum.status", "frame.comment")
    assert rows == [["client", "1", "#1, one to server dropped: wrong checksum"], ["server", "1", "#1"]]


def test_a_datagram_of_a_host_to_itself_is_captured_once(tmp_path: Path) -> None:
    assert len(fields(written(tmp_path, [make_record(ends=(CLIENT, CLIENT))]), "frame.number")) == 1


def test_any_name_is_an_interface_and_records_may_have_any_order(tmp_path: Path) -> None:
    records = [make_record(n, at=-n, ends=("\ud800\n\x00", "日本")) for n in range(-3, 0)]
    rows = fields(written(tmp_path, reversed(records)), "frame.interface_name", "frame.time_epoch")
    assert {name for name, _ in rows} == {r"\ud800\n\x00", "日本"}
    assert [time for _, time in rows] == sorted(time for _, time in rows)


def test_without_python_pcapng_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcapng", None)
    with pytest.raises(ImportError, match=r"pip install trio_dgram\[capture\]"):
        written(tmp_path, [])
    assert not list(tmp_path.iterdir())


# The bytes on the wire, without a program that reads them


def folded(data: bytes) -> int:
    """Return the sum of ones' complement of all 16 bit words (RFC 1071): 0xFFFF where the checksum is right."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(wire: bytes) -> bytes:
    if wire[0] >> 4 == 4:
        return wire[12:20] + struct.pack("!HH", wire[9], len(wire) - 20)
    return wire[8:40] + struct.pack("!II", len(wire) - 40, wire[6])


@given(payload=st.binary(max_size=64), type=st.sampled_from(["udp4", "udp6"]), port=st.integers(0, 65535))
def test_checksums_are_right_except_those_of_corrupted_packets(payload: bytes, type: str, port: int) -> None:
    record = make_record(payload=payload, type=type)
    source = record.packet.source._replace(port=port)
    for broken in (False, True):
        wire = encode(make_record(payload=payload, type=type, broken=broken, source=source).packet)
        header = 20 if type == "udp4" else 40
        assert wire[header + 8 :] == payload
        assert type == "udp6" or folded(wire[:20]) == 0xFFFF
        assert (folded(pseudo_header(wire) + wire[header:]) == 0xFFFF) is not broken


@pytest.mark.long
@pytest.mark.parametrize("type", ["udp4", "udp6"])
def test_a_checksum_is_never_zero(type: str) -> None:
    """Over IPv4 a zero checksum means none, which would hide corruption."""
    header = 20 if type == "udp4" else 40
    for broken in (False, True):
        checksums = {
            encode(make_record(payload=struct.pack("!H", number), type=type, broken=broken).packet)[header + 6 :][:2]
            for number in range(65536)
        }
        assert b"\0\0" not in checksums


@pytest.mark.parametrize(("type", "kind", "most"), [("udp4", (3, 3), 36), ("udp6", (1, 4), 1240)])
def test_an_icmp_message_quotes_its_packet(type: str, kind: tuple[int, int], most: int) -> None:
    about = make_record(payload=bytes(range(250)) * 8, type=type).packet
    wire = encode(make_complaint(about, kind=kind).packet)
    header = 20 if type == "udp4" else 40
    message = wire[header:]
    assert (message[0], message[1]) == kind
    assert encode(about).startswith(message[8:])
    assert len(message) == most
    assert folded((pseudo_header(wire) if type == "udp6" else b"") + message) == 0xFFFF
    # RFC 4443, 2.4: not more than the least MTU of IPv6.
    assert len(wire) <= 1280


def test_notes_are_in_the_comments_of_the_packets_before_them(tmp_path: Path) -> None:
    records = [
        make_record(1, at=0.1),
        make_record(2, at=0.2, ends=("server", "client")),
        make_record(3, at=0.3)._replace(fate="in flight"),
    ]
    notes = [
        Note(0.05, "client", "begins"),
        Note(0.2, "server", "becomes leader"),
        Note(0.22, "client", "waits"),
        Note(9.0, "", "partition", "fault"),
        Note(9.5, "silent", "crashes", "crash"),
    ]
    write_pcapng(tmp_path / "capture", records, notes=notes)
    comments = [
        comment.replace("\\n", "\n").splitlines() for (comment,) in fields(tmp_path / "capture", "frame.comment")
    ]
    assert comments == [
        ["#1", "* client: begins (0.050000 s, after #0)", "* client: waits (0.220000 s, after #0)"],
        ["#1"],
        ["#2", "* server: becomes leader (0.200000 s, after #0)"],
        ["#2"],
        ["#3, in flight", "! partition (9.000000 s, after #0)", "! silent: crashes (9.500000 s, after #0)"],
    ]
    write_pcapng(tmp_path / "empty", [], notes=notes)
    assert fields(tmp_path / "empty", "frame.number") == []
