"""``trio-dgram listen`` against nc, socat, dig, xxd and Node."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram._commands.datagrams import hexdump
from trio_dgram._kernel import capabilities as _capabilities

from .support.commands import PROGRAM, not_portable, running
from .support.families import Family
from .support.namespaces import Link, Machine, program, run
from .support.programs import find_program, printed, started, type_in, url_host

pytestmark = pytest.mark.programs

SOCAT: Final = {"udp4": "UDP4", "udp6": "UDP6"}
RAW: Final = [*PROGRAM, "listen", "127.0.0.1:0", "--raw", "--count", "1"]


def where(udp: Family, port: int = 0) -> str:
    return f"{url_host(udp.loopback)}:{port}"


def send(udp: Family, port: int, *payloads: bytes) -> None:
    with socket.socket(udp.family, socket.SOCK_DGRAM) as sock:
        for payload in payloads:
            sock.sendto(payload, (udp.loopback, port))


async def test_a_datagram_of_nc_is_printed_with_its_hexdump(udp: Family) -> None:
    async with running("listen", where(udp)) as listen:
        port = await listen.port()
        async with started("nc", "-u", udp.loopback, str(port)) as nc:
            await type_in(nc, b"hello from nc\n")
            output = await listen.out.until("\n", 2)
    heading, dump = output.splitlines()
    assert f"-> {where(udp, port)}, 14 bytes" in heading
    assert dump == "00000000: 6865 6c6c 6f20 6672 6f6d 206e 630a       hello from nc."


@given(st.binary(max_size=100))
def test_a_hexdump_has_the_layout_of_xxd(data: bytes) -> None:
    lines = list(hexdump(data))
    assert len(lines) == (len(data) + 15) // 16
    assert b"".join(bytes.fromhex(line[10:50]) for line in lines) == data


def test_a_hexdump_is_that_of_xxd() -> None:
    data = bytes(range(256)) + b"tail"
    xxd = subprocess.run([find_program("xxd")], input=data, stdout=subprocess.PIPE, check=True)
    assert "\n".join([*hexdump(data), ""]) == xxd.stdout.decode()


@not_portable
async def test_a_port_alone_listens_in_both_families() -> None:
    async with running("listen", "0", "--text", "--count", "2") as listen:
        port = await listen.port()
        assert (await listen.err.until("\n")) == f"listening on [::]:{port} and 0.0.0.0:{port}\n"
        for address, text in (f"UDP4:127.0.0.1:{port}", b"four"), (f"UDP6:[::1]:{port}", b"six"):
            async with started("socat", "-", address) as socat:
                await type_in(socat, text)
                await listen.out.until(f": {text.decode()}\n")
        assert await listen.wait() == 0
    assert f"-> 127.0.0.1:{port}, 4 bytes: four\n" in listen.out.text
    assert f"-> [::1]:{port}, 3 bytes: six\n" in listen.out.text


async def test_text_of_the_network_is_escaped(udp: Family) -> None:
    async with running("listen", where(udp), "--text", "--count", "1") as listen:
        send(udp, await listen.port(), b"\x1b[2J\xff grue\xc3\x9f\n")
        await listen.wait()
    assert listen.out.text.splitlines()[0].endswith(r": \x1b[2J\xff grueß\n")


@not_portable
async def test_raw_writes_payloads_alone_and_the_summary_to_standard_error(udp: Family) -> None:
    async with running("listen", where(udp), "--raw", "--count", "3") as listen:
        send(udp, await listen.port(), b"\x1b\xff", b"", b"end")
        await listen.wait()
    assert listen.out.data == b"\x1b\xffend"
    assert listen.err.text.endswith("\n3 received, 0 dropped by the kernel, 0 filtered\n")


@not_portable
async def test_json_lines_have_the_documented_fields(udp: Family) -> None:
    before = time.time()
    async with running("listen", where(udp), "--json", "--count", "1") as listen:
        port = await listen.port()
        async with started("node", "-e", NODE, udp.loopback, str(port)) as node:
            source = int(await printed(node, b"\n"))
            await listen.wait()
    datagram, summary = map(json.loads, listen.out.text.splitlines())
    assert before - 1 <= datagram.pop("time") <= time.time() + 1
    assert datagram == {
        "event": "datagram",
        "from": where(udp, source),
        "to": where(udp, port),
        "size": 5,
        "data": b"hello".hex(),
    }
    assert summary == {"event": "summary", "received": 1, "dropped_by_kernel": 0, "filtered": 0}


NODE: Final = """
const [host, port] = process.argv.slice(1);
const socket = require("dgram").createSocket(host.includes(":") ? "udp6" : "udp4");
socket.bind(0, host, () => {
    console.log(socket.address().port);
    socket.send("hello", Number(port), host);
});
"""


@pytest.mark.parametrize(("option", "answer"), [(["--echo"], b"ping"), (["--reply", "grüß"], "grüß".encode())])
async def test_socat_is_answered(udp: Family, option: list[str], answer: bytes) -> None:
    async with running("listen", "0", *option) as listen:
        port = await listen.port()
        async with started("socat", "-", f"{SOCAT[udp.type]}:{url_host(udp.loopback)}:{port}") as socat:
            await type_in(socat, b"ping")
            assert await printed(socat, answer) == answer


@not_portable
async def test_the_answer_leaves_from_the_address_that_was_asked() -> None:
    async with running("listen", "0", "--echo") as listen:
        port = await listen.port()
        async with started("socat", "-", f"UDP4:127.0.0.2:{port}") as socat:
            await type_in(socat, b"ping")
            await printed(socat, b"ping")
    assert f"-> 127.0.0.2:{port}" in listen.out.text


async def test_a_query_of_dig_is_printed(udp: Family) -> None:
    async with running("listen", where(udp), "--text", "--count", "1") as listen:
        port = await listen.port()
        async with started("dig", f"@{udp.loopback}", "-p", str(port), "+tries=1", "+timeout=1", "name.example"):
            await listen.wait()
    assert r"\x04name\x07example\x00" in listen.out.text


@not_portable
async def test_a_group_on_one_interface_is_joined() -> None:
    async with running("listen", "0.0.0.0:0", "--group", "239.1.2.3%lo", "--text", "--count", "1") as listen:
        port = await listen.port()
        async with started("socat", "-", f"UDP4-DATAGRAM:239.1.2.3:{port},ip-multicast-if=127.0.0.1") as socat:
            await type_in(socat, b"to all")
            await listen.wait()
    assert f"-> 239.1.2.3:{port}, 6 bytes: to all\n" in listen.out.text


async def test_an_ipv6_group_is_joined_on_a_link(veth: Link, machine: Machine) -> None:
    async with running("listen", "0", "--group", f"ff02::1234%{veth.name}", "--text", "--count", "1") as listen:
        port = await listen.port()
        with machine.active():
            run("socat", "-u", "-", f"UDP6-SENDTO:[ff02::1234%{veth.peer_name}]:{port}", text="to all")
        await listen.wait()
    assert "6 bytes: to all\n" in listen.out.text


async def test_two_programs_listen_to_one_group() -> None:
    async with running("listen", "0.0.0.0:0", "--group", "239.1.2.4%lo", "--text") as one:
        port = await one.port()
        async with running("listen", f"0.0.0.0:{port}", "--group", "239.1.2.4%lo", "--text") as other:
            await other.port()
            async with started("socat", "-", f"UDP4-DATAGRAM:239.1.2.4:{port},ip-multicast-if=127.0.0.1") as socat:
                await type_in(socat, b"to all")
                for each in (one, other):
                    await each.out.until("to all")


async def test_a_group_without_a_socket_of_its_family_is_an_error() -> None:
    with hosts("127.0.0.1"):
        async with running("listen", "name:0", "--group", "ff02::1234%lo") as listen:
            assert await listen.wait() == 1
    assert listen.err.text == "trio-dgram listen: cannot join ff02::1234: not listening on an IPv6 address\n"


@contextmanager
def hosts(address: str) -> Generator[None]:
    """Resolve every name to ``address``."""

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, _: Any, port: Any, *__: Any, **___: Any) -> Any:  # type: ignore[override]
            await trio.lowlevel.checkpoint()
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, port or 0))]

        async def getnameinfo(self, *_: Any) -> Any:
            raise AssertionError

    previous = trio.socket.set_custom_hostname_resolver(Resolver())
    try:
        yield
    finally:
        trio.socket.set_custom_hostname_resolver(previous)


async def test_a_busy_port_is_an_error(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as taken:
        taken_address = taken.address
        async with running("listen", str(taken.address)) as listen:
            assert await listen.wait() == 1
    assert listen.err.text == f"trio-dgram listen: bind {taken_address}: Address already in use\n"


async def test_drops_of_the_kernel_are_counted(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("listen", where(udp), "--json", "--count", "10") as listen:
        port = await listen.port()
        # The command does not run in the meantime.
        send(udp, port, *[b"x"] * 20_000)
        await listen.wait()
    *_, last = listen.out.text.splitlines()
    summary = json.loads(last)
    assert summary["received"] == 10
    if _capabilities.capabilities().drop_counter:  # pragma: no branch -- the portable path has none
        assert 0 < summary["dropped_by_kernel"] < 20_000


async def test_drops_are_unknown_where_the_system_does_not_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    async with running("listen", "127.0.0.1:0", "--text", "--count", "1") as listen:
        port = await listen.port()
        async with started("nc", "-u", "127.0.0.1", str(port)) as nc:
            await type_in(nc, b"x")
            await listen.wait()
    heading, summary = listen.out.text.splitlines()
    assert f"-> 127.0.0.1:{port}, 1 byte: x" in heading
    assert summary == "1 received, drops of the kernel unknown, 0 filtered"


def test_a_recording_equals_the_bytes_that_socat_sent(tmp_path: Path) -> None:
    with program("sh", "-c", 'exec "$@" 2>&1 >"$0"', str(tmp_path / "raw"), *RAW) as listen:
        port = listen.read_line().decode().strip().rpartition(":")[2]
        data = bytes(range(256))
        subprocess.run([find_program("socat"), "-u", "-", f"UDP4-SENDTO:127.0.0.1:{port}"], input=data, check=True)
        assert b"1 received" in listen.read_line()
        assert listen.process.wait() == 0
    assert (tmp_path / "raw").read_bytes() == data
