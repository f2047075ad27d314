"""``trio-dgram show`` with captures of the simulated network, tshark and socat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import sim
from trio_dgram._commands.captures import Capture, read_capture
from trio_dgram._commands.command import CommandError
from trio_dgram.sim._trace.excerpt import excerpt
from trio_dgram.sim._trace.pcapng import write_pcapng
from trio_dgram.sim._trace.text import story
from trio_dgram.sim._values.records import Note, Record

from .support.commands import run_command, running
from .support.families import Family
from .support.programs import find_program, printed, started, unused_port, url_host
from .support.records import CLIENT, SERVER, make_complaint, make_conversation, make_record
from .test_command_listen import SOCAT

pytestmark = pytest.mark.programs

OPENED_AT = 1_767_225_600.25


def written(folder: Path, records: list[Record]) -> str:
    path = folder / "capture.pcapng"
    write_pcapng(path, records, OPENED_AT)
    return str(path)


async def conversation(network: sim.Network, path: Path, type: trio_dgram.SocketType) -> str:
    """Send from a client to a server, itself, and a closed port; write the capture, and return its text."""
    server, client = network.host("server"), network.host("client")
    network.path(client, server, delay=0.01, loss=0.3)
    with server.active():
        async with trio_dgram.open_socket(type, port=5000):
            with client.active():
                async with trio_dgram.open_socket(type, port=4000) as sock:
                    for number in range(10):
                        await sock.send(b"x" * number, ("server", 5000))
                        await trio.sleep(0.1)
                    network.path(client, server, delay=0.01)
                    await sock.send(b"closed", ("server", 9))
                    await sock.send(b"self", ("client", 4000))
                    await trio.sleep(1)
    network.trace.to_pcapng(path)
    return network.trace.to_text()


@pytest.mark.parametrize("type", ["udp4", "udp6"])
def test_the_text_lists_the_packets_in_order(type: trio_dgram.SocketType, tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    expected = sim.run(conversation, path, type, seed=3)
    outcome = run_command("show", str(path))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{expected}\n"
    assert "port unreachable, about #11" in expected
    assert "dropped: lost" in expected


@pytest.mark.parametrize("type", ["udp4", "udp6"])
def test_records_survive_a_capture(type: str, tmp_path: Path) -> None:
    large = make_record(3, bytes(1400), at=0.3, type=type, reason="too big for the path")
    records = [
        make_record(1, at=0.0, type=type),
        make_record(2, at=0.1, type=type, ends=(SERVER, CLIENT)),
        large,
        make_complaint(large.packet, 4, at=0.4, kind={"udp4": (3, 4), "udp6": (2, 0)}[type], mtu=1280),
    ]
    assert read_capture(written(tmp_path, records)).to_text() == story(excerpt(records))


def test_packets_in_flight_and_notes_survive_a_capture(tmp_path: Path) -> None:
    records = [make_record(1, at=0.1), make_record(2, at=0.2)._replace(fate="in flight", at=0.2)]
    notes = [
        Note(0.1, "", "path client -> server: loss=0", "fault"),
        Note(0.1, "client", "becomes leader (1.5 s, after #3), dropped: by another: none", after=1),
        Note(0.3, "server", "small: does not hold", "violation", 2),
    ]
    write_pcapng(tmp_path / "capture", records, notes=notes)
    capture = read_capture(str(tmp_path / "capture"))
    assert (capture.notes, capture.to_text()) == (notes, story(excerpt(records, notes)))


def test_a_packet_for_several_receivers_has_a_fate_for_each(tmp_path: Path) -> None:
    first = make_record(1, at=0.0)
    others = [
        Record(first.packet, 0.0, "dropped", "lost, as it were", "one"),
        Record(first.packet, 0.0, "dropped", "lost", "two"),
    ]
    capture = read_capture(written(tmp_path, [first, *others]))
    assert [(each.fate, each.reason, each.receiver) for each in capture.records] == [
        ("dropped", "lost, as it were", "one"),
        ("dropped", "lost", "two"),
        ("delivered", "", "server"),
    ]
    assert len(list(capture.datagrams())) == 1


def test_a_report_about_a_packet_that_is_not_in_the_capture_is_shown(tmp_path: Path) -> None:
    complaint = make_complaint(make_record(1).packet, 2, kind=(3, 3))
    assert "port unreachable, about #0" in run_command("show", written(tmp_path, [complaint])).out


def test_the_picture_is_that_of_the_records(tmp_path: Path) -> None:
    records = make_conversation(20, "client", "server", "other")
    outcome = run_command("show", written(tmp_path, records), "--svg")
    assert outcome.code == 0
    assert ET.fromstring(outcome.out).tag.endswith("svg")  # noqa: S314 -- our own picture
    assert outcome.out.count('<g class="datagram">') == len(records)


def test_json_has_each_datagram_once_as_tshark_reads_it(tmp_path: Path) -> None:
    records = make_conversation(20, "client", "server")
    path = written(tmp_path, records)
    found = [json.loads(line) for line in run_command("show", path, "--json").out.splitlines()]
    fields = ["frame.time_epoch", "ip.src", "udp.srcport", "ip.dst", "udp.dstport", "udp.payload", "frame.comment"]
    words = [word for field in fields for word in ("-e", field)]
    command = [find_program("tshark"), "-r", path, "-T", "fields", "-E", "separator=|", *words]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    seen: dict[str, list[str]] = {}
    for line in lines:
        *cells, comment = line.split("|")
        seen.setdefault(comment.partition(",")[0], cells)
    assert [
        [f"{each['time']:.6f}", each["from"], each["to"], each["data"]] for each in found
    ] == [[f"{float(t):.6f}", f"{a}:{b}", f"{c}:{d}", data] for t, a, b, c, d, data in seen.values()]  # fmt: skip
    assert all(each["event"] == "datagram" and each["size"] * 2 == len(each["data"]) for each in found)


# Sending again


@pytest.mark.parametrize("option", [[], ["--from", "client"], ["--json"]])
async def test_socat_receives_the_datagrams_of_the_first_host_once_each(
    udp: Family, option: list[str], tmp_path: Path
) -> None:
    records = [
        make_record(1, b"one ", at=0.0),
        make_record(2, b"answer", at=0.01, ends=(SERVER, CLIENT)),
        make_record(3, b"two ", at=0.02, reason="lost"),
        make_record(4, b"three\n", at=0.03),
    ]
    port = unused_port(udp)
    address = f"{url_host(udp.loopback)}:{port}"
    async with started(
        "socat", "-u", "-d", "-d", f"{SOCAT[udp.type]}-RECV:{port}", "CREATE:" + str(tmp_path / "out")
    ) as socat:
        await printed(socat, b"starting data transfer loop")
        async with running("show", written(tmp_path, records), "--to", address, *option) as show:
            assert await show.wait() == 0
        await printed(socat, b"received packet with", 2)
    if option == ["--json"]:
        assert [bytes.fromhex(json.loads(line)["data"]) for line in show.out.text.splitlines()] == [
            b"one ",
            b"two ",
            b"three\n",
        ]
    else:
        assert (
            show.out.text == f"#1 to {address}, 4 bytes\n#3 to {address}, 4 bytes\n#4 to {address}, 6 bytes\n3 sent\n"
        )


def test_datagrams_are_sent_again_with_their_delays(tmp_path: Path) -> None:
    path = written(tmp_path, [make_record(n, b"x", at=at, ends=(SERVER, CLIENT)) for n, at in ((1, 0.5), (2, 3.5))])

    async def scenario(network: sim.Network) -> tuple[int | None, list[float]]:
        server, client = network.host("server"), network.host("client")
        with server.active():
            async with trio_dgram.open_socket("udp4", port=5000):
                with client.active():
                    async with running("show", path, "--to", "server:5000", "-4", "--from", "server") as show:
                        code = await show.wait()
                await trio.sleep(1)
        return code, [record.packet.sent_at for record in network.trace.records]

    assert sim.run(scenario) == (0, [0.0, pytest.approx(3.0, abs=1e-5)])


def test_an_unknown_host_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, [make_record(), make_record(2, ends=("\x1b", CLIENT))])
    outcome = run_command("show", path, "--to", "127.0.0.1:9", "--from", "third")
    assert outcome.code == 1
    assert outcome.err == "trio-dgram show: host 'third' sent no datagrams, but client, \\\\x1b did\n"


# Files that are something else


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    large = make_record(3, bytes(100), at=0.3, reason="too big for the path")
    records = [make_record(1), large, make_complaint(large.packet, 4, at=0.4, kind=(3, 4), mtu=1280)]
    return Path(written(tmp_path_factory.mktemp("captures"), records))


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_raises_anything_but_one_error(capture: Path, tmp_path: Path, data: st.DataObject) -> None:
    contents = bytearray(capture.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.pcapng"
    broken.write_bytes(contents[: data.draw(st.integers(0, len(contents)))])
    try:
        found = read_capture(str(broken))
    except CommandError as error:
        assert "not a capture of trio_dgram.sim" in str(error)
    else:
        assert isinstance(found, Capture)
        found.to_text()
        found.to_svg()


@pytest.mark.parametrize("contents", [b"", b"text", b"\x0a\x0d\x0d\x0a" * 7])
def test_another_file_is_one_line(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(contents)
    outcome = run_command("show", str(tmp_path / "file"))
    if contents:
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert "not a capture of trio_dgram.sim" in outcome.err
    else:
        assert outcome.code == 0


def test_a_capture_of_another_program_is_refused(capture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pcapng"
    other.write_bytes(capture.read_bytes().replace(b"trio_dgram.sim", b"another.progra"))
    outcome = run_command("show", str(other))
    assert (
        outcome.err == f"trio-dgram show: {other}: not a capture of trio_dgram.sim (another program has written it)\n"
    )


def test_a_packet_without_a_number_is_refused(capture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pcapng"
    other.write_bytes(capture.read_bytes().replace(b"#1", b"No"))
    assert run_command("show", str(other)).err.endswith("(a packet has no number)\n")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (b"opened at", b"opened in", "it lacks the time at which the network was opened"),
        (b"* client: noted (", b"? client: noted (", "a comment is no note"),
    ],
)
def test_a_changed_comment_is_refused(before: bytes, after: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "capture"
    write_pcapng(path, [make_record(1)], notes=[Note(0.0, "client", "noted")])
    path.write_bytes(path.read_bytes().replace(before, after))
    assert run_command("show", str(path)).err.endswith(f"({reason})\n")


def test_a_capture_without_datagrams_cannot_be_sent(tmp_path: Path) -> None:
    outcome = run_command("show", written(tmp_path, []), "--to", "127.0.0.1:9")
    assert (outcome.code, outcome.err) == (1, "trio-dgram show: the capture has no datagrams\n")


def test_without_the_extra_one_line_names_it(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcapng", None)
    outcome = run_command("show", str(capture))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "trio-dgram show: captures are read with python-pcapng: pip install trio_dgram[capture]\n"
