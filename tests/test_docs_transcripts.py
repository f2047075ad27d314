"""The transcripts of the command line in the documentation show what the commands print, except for figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import trio

import trio_dgram
from trio_dgram import sim

from .support.commands import Running, not_portable, run_command, running

PAGES: Final = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text(encoding="utf-8")
TRANSCRIPT: Final = re.compile(
    r"^```console\n\$ trio-dgram (?P<words>[^\n]*)\n(?P<lines>.*?)^```", re.DOTALL | re.MULTILINE
)
TRANSCRIPTS: Final = {found["words"].split()[0]: found for found in TRANSCRIPT.finditer(PAGES)}


def lines(name: str) -> list[str]:
    """Return what a transcript shows."""
    # Ctrl-C, which a terminal shows before the last line.
    return TRANSCRIPTS[name]["lines"].replace("^C", "").removesuffix("\n").split("\n")


def without_figures(text: str) -> list[str]:
    """Return the lines of a text with a mark in place of each number, a space for each run of them, and one loopback
    address."""
    text = re.sub(r" +", " ", text.replace("[::1]", "127.0.0.1"))
    return re.sub(r"\d[\d.]*", "#", text).removesuffix("\n").split("\n")


def assert_shown(name: str, text: str) -> None:
    assert without_figures(text) == without_figures("\n".join(lines(name)))


def start(name: str) -> list[str]:
    return TRANSCRIPTS[name]["words"].split()


def output(command: Running) -> str:
    return command.err.text + command.out.text


async def test_the_transcript_of_listen(sim_network: sim.Network, autojump_clock: object) -> None:
    with sim_network.host("server").active():
        async with running(*start("listen")) as listen:
            await listen.err.until("\n")
            async with trio_dgram.open_socket("udp4", port=41234, host="127.0.0.1") as sender:
                await sender.send("hello\n", ("127.0.0.1", 5000))
                await listen.out.until("hello")
    assert_shown("listen", output(listen))


@not_portable
async def test_the_transcript_of_send(sim_network: sim.Network, autojump_clock: object) -> None:
    sim_network.host("server", addresses=["192.0.2.1"])
    with sim_network.host("client").active():
        async with running(*start("send")) as send:
            assert await send.wait() == 1
    assert sorted(without_figures(output(send))) == sorted(without_figures("\n".join(lines("send"))))


async def test_the_transcript_of_ping(sim_network: sim.Network, autojump_clock: object) -> None:
    async def echo() -> None:
        async with trio_dgram.open_socket("udp6", port=7) as server:
            async for datagram in server:
                await server.send(datagram.data, datagram.address)

    host = sim_network.host("client")
    host.start_soon(echo)
    await trio.testing.wait_all_tasks_blocked()
    with host.active():
        async with running(*start("ping")) as ping:
            assert await ping.wait() == 0
    assert_shown("ping", output(ping))


def test_the_transcript_of_doctor() -> None:
    printed = run_command("doctor", "--json").out
    for line in lines("doctor"):
        state, name, _ = re.split(r"  +", line, maxsplit=2)
        assert state in {"ok", "slow", "missing"}
        assert f'"{name}"' in printed, "doctor has no such line"


def test_the_transcript_of_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, delay=0.01, loss=sim.DropList({2}))
        with client.active():
            async with trio_dgram.open_socket("udp4", port=4000) as sock:
                with server.active():
                    async with trio_dgram.open_socket("udp4", port=5000):
                        for _ in range(2):
                            await sock.send("x", ("server", 5000))
                            await trio.sleep(0.1)
        network.trace.to_pcapng(tmp_path / "capture.pcapng")

    sim.run(scenario)
    monkeypatch.chdir(tmp_path)
    assert_shown("show", run_command(*start("show")).out)
