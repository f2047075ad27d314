"""Reading captures of the simulated network (pcapng): from sightings of packets to records."""

from __future__ import annotations

import re
import socket
import struct
import warnings
from collections.abc import Container, Iterable, Iterator
from typing import Any, BinaryIO, Final

import attrs

from .._values.addresses import Address
from ..sim._trace.excerpt import excerpt
from ..sim._trace.ladder import ROWS, ROWS_OF_RECORD, ladder
from ..sim._trace.text import shown, story
from ..sim._values.records import IPV4_HEADER, IPV6_HEADER, UDP_HEADER, Note, NoteKind, Packet, Record, Report
from .command import CommandError
from .console import escape

_APPLICATION: Final = "trio_dgram.sim"
_NANOSECONDS: Final = 1_000_000_000
_COMMENT: Final = re.compile(r"#(\d{1,18})(?:, (.*))?", re.DOTALL)
_DROPS: Final = re.compile(r"(?:one to (.+?) )?dropped: (.+?)(?:, (?=(?:one to .+? )?dropped: )|$)", re.DOTALL)
_OPENED: Final = re.compile(r"opened at (\d{1,20}) ns")
_NOTE: Final = re.compile(r"(\*|!!?) (.*) \((\d{1,12}\.\d{6}) s, after #(\d{1,18})\)")
_KINDS: Final[dict[str, NoteKind]] = {"*": "note", "!": "fault", "!!": "violation"}
_NOBODY: Final = "the network"
"""The name of a host without a name, in a capture."""


@attrs.frozen
class Sighting:
    """A packet when it left a host, or when it arrived at one."""

    host: str
    nanoseconds: int
    data: bytes
    number: int
    remark: str
    notes: tuple[str, ...] = ()


@attrs.frozen
class Capture:
    """The contents of a capture.

    Attributes:
      records: the fate of each packet, in the order of sending; times are seconds since the network was opened.
      started: the time at which it was opened, in nanoseconds since 1970.
      notes: the other events.
    """

    records: list[Record]
    started: int
    notes: list[Note]

    def datagrams(self) -> Iterator[Packet]:
        """Yield each datagram once, without ICMP messages."""
        seen = set()
        for packet, *_ in self.records:
            if packet.report is None and packet.number not in seen:
                seen.add(packet.number)
                yield packet

    def sent_by(self, host: str | None) -> list[Packet]:
        """Return the datagrams of one host, by default of the first sender.

        Raises:
          CommandError: if the host sent none.
        """
        datagrams = list(self.datagrams())
        if not datagrams:
            raise CommandError("the capture has no datagrams")
        sender = datagrams[0].sender if host is None else host
        found = [packet for packet in datagrams if packet.sender == sender]
        if not found:
            hosts = ", ".join(dict.fromkeys(shown(packet.sender) for packet in datagrams))
            raise CommandError(f"host {sender!r} sent no datagrams, but {hosts} did")
        return found

    def to_text(self) -> str:
        """Return a line for each packet, with its fate."""
        return story(excerpt(self.records, self.notes))

    def to_svg(self) -> str:
        """Return the ladder as an SVG document."""
        return ladder(excerpt(self.records, self.notes, rows=ROWS, rows_of_record=ROWS_OF_RECORD)).rstrip("\n")


def read_capture(path: str) -> Capture:
    """Read a capture written by the simulated network.

    Raises:
      CommandError: if the file is not such a capture, or python-pcapng is not installed.
      OSError: if the file cannot be read.
    """
    try:
        import pcapng  # noqa: PLC0415 -- an extra
        from pcapng.exceptions import PcapngException  # noqa: PLC0415
    except ImportError:
        raise CommandError("captures are read with python-pcapng: pip install trio_dgram[capture]") from None
    try:
        with open(path, "rb") as file, warnings.catch_warnings():  # noqa: PTH123 -- the error names the path as given
            # python-pcapng warns about its own declarations.
            warnings.simplefilter("ignore")
            opened: list[int] = []
            sightings = list(_sightings_untrusted(pcapng, file, opened))
            return _assemble(sightings, opened[0] if opened else 0)
    # python-pcapng raises nearly any error for a file that is no capture; the code below raises some for other
    # captures.
    except (PcapngException, struct.error, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        reason = f" ({error})" if str(error) else ""
        raise CommandError(f"{path}: not a capture of trio_dgram.sim{reason}") from None


def _sightings_untrusted(pcapng: Any, file: BinaryIO, opened: list[int]) -> Iterator[Sighting]:
    for block in pcapng.FileScanner(file):
        if isinstance(block, pcapng.blocks.SectionHeader):
            if block.options.get("shb_userappl") != _APPLICATION:
                raise ValueError("another program has written it")
            found = _OPENED.fullmatch(block.options["opt_comment"])
            if found is None:
                raise ValueError("it lacks the time at which the network was opened")
            opened.append(int(found[1]))
        elif isinstance(block, pcapng.blocks.EnhancedPacket):
            name = block.interface.options["if_name"]
            words, *notes = block.options["opt_comment"].split("\n")
            comment = _COMMENT.fullmatch(words)
            if comment is None:
                raise ValueError("a packet has no number")
            yield Sighting(
                "" if name == _NOBODY else name,
                block.timestamp_high << 32 | block.timestamp_low,
                block.packet_data,
                int(comment[1]),
                comment[2] or "",
                tuple(notes),
            )


def _assemble(sightings: list[Sighting], started: int) -> Capture:
    groups: dict[int, list[Sighting]] = {}
    for each in sorted(sightings, key=lambda sighting: sighting.nanoseconds):
        groups.setdefault(each.number, []).append(each)
    packets: dict[int, Packet] = {}
    for number, (first, *_) in groups.items():
        packets[number] = decode_untrusted(first, packets.values(), started)
    # The destination host of a dropped packet is not recorded: use that of other packets to its address.
    hosts = {packets[number].destination.host: group[-1].host for number, group in groups.items() if len(group) == 2}
    hosts |= {packet.source.host: packet.sender for packet in packets.values() if packet.sender}
    records = [record for number, group in groups.items() for record in _fates(packets[number], group, hosts, started)]
    names = {each.host for each in sightings}
    notes = [_note_untrusted(line, names) for each in sightings for line in each.notes]
    return Capture(records, started, sorted(notes, key=lambda note: note.at))


def _note_untrusted(line: str, hosts: Container[str]) -> Note:
    found = _NOTE.fullmatch(line)
    if found is None:
        raise ValueError("a comment is no note")
    sign, text, at, after = found.groups()
    host, colon, rest = text.partition(": ")
    is_of_host = bool(colon) and host in hosts
    return Note(float(at), host if is_of_host else "", rest if is_of_host else text, _KINDS[sign], int(after))


def _fates(packet: Packet, group: list[Sighting], hosts: dict[str, str], started: int) -> Iterator[Record]:
    """Yield the fate of a packet: its arrivals at other hosts, or a drop with its reason."""
    first, *arrivals = group
    likely = hosts.get(packet.destination.host, "")
    drops = list(_DROPS.finditer(first.remark))
    for drop in drops:
        yield Record(packet, packet.sent_at, "dropped", escape(drop[2]), drop[1] or likely)
    if first.remark == "in flight":
        yield Record(packet, packet.sent_at, "in flight", "", likely)
        return
    for each in arrivals:
        yield Record(packet, _seconds(each.nanoseconds - started), "delivered", "", each.host)
    if not drops and not arrivals:
        # A datagram that a host sends to itself is captured only once.
        yield Record(packet, packet.sent_at, "delivered", "", packet.sender)


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / _NANOSECONDS


def decode_untrusted(seen: Sighting, earlier: Iterable[Packet], started: int) -> Packet:
    """Return a packet from its bytes, as ``sim._trace.pcapng.encode`` writes them.

    Args:
      seen: its capture when it left its sender.
      earlier: the packets that an ICMP message may be about.
      started: the time that counts as 0, in nanoseconds.

    Raises:
      ValueError, struct.error, IndexError: if the bytes are not such a packet.
    """
    source, destination, protocol, body = _split_ip(seen.data)
    packet = Packet(seen.number, source, destination, b"", seen.host, _seconds(seen.nanoseconds - started))
    if protocol == socket.IPPROTO_UDP:
        packet.source, packet.destination, packet.payload = _split_udp(source, destination, body)
    else:
        type_, code, _, mtu = struct.unpack_from("!BBHI", body)
        quoted = _split_ip(body[8:])
        ends = _split_udp(*quoted[:2], quoted[3])[:2]
        about = [each for each in earlier if (each.source, each.destination) == ends]
        packet.report = Report(type_, code, mtu, about[-1] if about else Packet(0, *ends, b"", "", 0.0))
    return packet


def _split_ip(data: bytes) -> tuple[Address, Address, int, bytes]:
    """Return source, destination, protocol and payload of an IP packet (RFC 791, RFC 8200)."""
    if data[0] >> 4 == 4:
        family, ends, protocol, header = socket.AF_INET, data[12:20], data[9], IPV4_HEADER
    else:
        family, ends, protocol, header = socket.AF_INET6, data[8:40], data[6], IPV6_HEADER
    half = len(ends) // 2
    source, destination = (socket.inet_ntop(family, end) for end in (ends[:half], ends[half:]))
    return Address(source, 0), Address(destination, 0), protocol, data[header:]


def _split_udp(source: Address, destination: Address, body: bytes) -> tuple[Address, Address, bytes]:
    ports = struct.unpack_from("!HH", body)
    return source._replace(port=ports[0]), destination._replace(port=ports[1]), body[UDP_HEADER:]
