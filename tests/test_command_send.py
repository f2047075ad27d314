"""``trio-dgram send`` against nc, socat and Node."""

from __future__ import annotations

import json
import os

import pytest
import trio

import trio_dgram
from trio_dgram import DatagramSocket, sim

from .support.commands import not_portable, run_command, running
from .support.families import Family
from .support.programs import printed, started, unused_port, url_host
from .test_command_listen import SOCAT, hosts

pytestmark = pytest.mark.programs


def receiver(udp: Family, program: str, port: int) -> list[str]:
    """Return the arguments of a program that prints what it receives."""
    version = {"udp4": "-4", "udp6": "-6"}[udp.type]
    return {
        "nc": [version, "-u", "-l", "-v", udp.loopback, str(port)],
        "socat": ["-d", "-d", "-u", f"{SOCAT[udp.type]}-RECV:{port},bind={url_host(udp.loopback)}", "-"],
    }[program]


@pytest.mark.parametrize("name", ["nc", "socat"])
async def test_arguments_arrive_at(udp: Family, name: str) -> None:
    port = unused_port(udp)
    async with started(name, *receiver(udp, name, port)) as program:
        await printed(program, {"nc": b"Bound on", "socat": b"starting data transfer loop"}[name])
        async with running("send", f"{url_host(udp.loopback)}:{port}", "hello ", "grüß\n") as send:
            assert await send.wait() == 0
        assert b"hello " in await printed(program, "grüß\n".encode())
    assert send.out.text == "2 sent, 0 received\n"


async def received(sock: DatagramSocket, count: int) -> list[bytes]:
    return [(await sock.receive()).data for _ in range(count)]


@pytest.mark.parametrize(
    ("stdin", "payloads"),
    [
        (b"one\ntwo\r\n\nthree", [b"one", b"two\r", b"", b"three"]),
        (b"", []),
        (b"\n", [b""]),
        (b"\xff" * 60000 + b"\n" + b"y" * 60000, [b"\xff" * 60000, b"y" * 60000]),
    ],
)
async def test_lines_of_standard_input_are_datagrams(udp: Family, stdin: bytes, payloads: list[bytes]) -> None:
    read, write = os.pipe()
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, write_all, write, stdin)
            async with running("send", str(sock.address), stdin=read) as send:
                assert await send.wait() == 0
        assert await received(sock, len(payloads)) == payloads
    os.close(read)


def write_all(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(data)


async def test_hexadecimal_arguments_and_a_count(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        async with running("send", str(sock.address), "00 ff", "7F", "--hex", "--count", "5") as send:
            await send.wait()
        assert await received(sock, 5) == [b"\0\xff", b"\x7f"] * 2 + [b"\0\xff"]


def test_lines_are_counted_and_decoded() -> None:
    outcome = run_command("send", "127.0.0.1:9", "--count", "2", "--hex", "--json", stdin=b"00\nff\nzz\n")
    assert json.loads(outcome.out) == {"event": "summary", "sent": 2, "received": 0}
    outcome = run_command("send", "127.0.0.1:9", "--hex", stdin=b"00\nzz\n")
    assert (outcome.code, outcome.out) == (1, "1 sent, 0 received\n")
    assert outcome.err == "trio-dgram send: line 2 of standard input must be pairs of hexadecimal digits, not 'zz'\n"


def test_a_line_without_an_end_is_an_error() -> None:
    outcome = run_command("send", "127.0.0.1:9", stdin=b"\n" + b"x" * 10_000_000)
    assert (outcome.code, outcome.out) == (1, "1 sent, 0 received\n")
    assert outcome.err == "trio-dgram send: line 2 of standard input is too long for a datagram\n"


def test_the_rate_spaces_datagrams() -> None:
    async def scenario(network: sim.Network) -> list[float]:
        server, client = network.host("server"), network.host("client")
        with server.active():
            async with trio_dgram.open_socket("udp4", port=5000) as sock:
                with client.active():
                    async with running("send", "server:5000", "-4", "x", "--count", "3", "--rate", "4") as send:
                        await send.wait()
                await received(sock, 3)
        return [round(record.packet.sent_at, 3) for record in network.trace.records]

    assert sim.run(scenario) == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("option", [[], ["--text"], ["--raw"], ["--json"]])
async def test_answers_of_socat_are_printed(udp: Family, option: list[str]) -> None:
    port = unused_port(udp)
    address = f"{SOCAT[udp.type]}-RECVFROM:{port},bind={url_host(udp.loopback)},fork"
    async with started("socat", "-d", "-d", address, "SYSTEM:tr a-z A-Z") as socat:
        await printed(socat, b"receiving on")
        async with running("send", f"{url_host(udp.loopback)}:{port}", "hello", "--wait", "0.5", *option) as send:
            assert await send.wait() == 0
    assert send.err.text == ("1 sent, 1 received\n" if option == ["--raw"] else "")
    if option == ["--raw"]:
        assert send.out.data == b"HELLO"
    elif option == ["--json"]:
        answer, summary = map(json.loads, send.out.text.splitlines())
        assert bytes.fromhex(answer["data"]) == b"HELLO"
        assert summary == {"event": "summary", "sent": 1, "received": 1}
    else:
        assert "HELLO" in send.out.text
        assert send.out.text.endswith("\n1 sent, 1 received\n")


@not_portable
async def test_a_refusal_is_named_and_ends_the_wait(udp: Family) -> None:
    address = f"{url_host(udp.loopback)}:{unused_port(udp)}"
    async with running("send", address, "x", "--wait", "100", "--count", "3") as send:
        assert await send.wait() == 1
    assert send.out.text == "3 sent, 0 received\n"
    assert send.err.text == (
        f"trio-dgram send: {address}: connection refused by {udp.loopback} (port unreachable)\n"
        f"trio-dgram send: no answer from {address}\n"
    )


def test_silence_is_an_error_after_the_wait() -> None:
    async def scenario(network: sim.Network) -> tuple[int | None, str, float]:
        server, client = network.host("server"), network.host("client")
        with server.active():
            async with trio_dgram.open_socket("udp6", port=5000):
                with client.active():
                    async with running("send", "server:5000", "x", "--wait", "3", "-6") as send:
                        code = await send.wait()
        return code, send.err.text, round(network.time, 3)

    code, text, time = sim.run(scenario)
    assert (code, time) == (1, 3.0)
    assert text.startswith("trio-dgram send: no answer from [fd00::")


async def test_a_name_without_an_address_of_the_family_is_an_error() -> None:
    with hosts("127.0.0.1"):
        async with running("send", "name:9", "-6", "x") as send:
            assert await send.wait() == 1
    assert send.err.text == "trio-dgram send: 'name' has no IPv6 address\n"


async def test_an_address_without_a_route_is_an_error(namespace: int) -> None:
    async with running("send", "198.18.0.1:9", "x") as send:
        assert await send.wait() == 1
    assert send.err.text == "trio-dgram send: connect 198.18.0.1:9: Network is unreachable\n"
