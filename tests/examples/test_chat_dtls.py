"""The chat room with clients of OpenSSL and our own, and the room alone in virtual time."""

from __future__ import annotations

import logging
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import trio
import trio.testing
import trustme
from OpenSSL import SSL

import trio_dgram
from trio_dgram import Address, dtls, sim

from ..support.examples import EXAMPLES, Example, load_example, offending_runs
from ..support.families import Family
from ..support.namespaces import Program, program
from ..support.programs import find_program

pytestmark = pytest.mark.programs

AUTHORITY: Final = trustme.CA()
SERVER: Final = AUTHORITY.issue_cert("room.example", "127.0.0.1", "::1")
WELCOME: Final = b"* welcome"


# Real clients


class Talker(Example):
    """A member at a terminal, or a running server."""

    def enter(self, line: str) -> None:
        self.program.write(f"{line}\n".encode())


class Serving(Talker):
    """A room."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        (self.certificate,) = re.findall(r"--trust (.*)\n", self.until("certificate.pem\n"))
        self.port = Address.parse(self.line_with("listening on").split()[-1]).port

    @contextmanager
    def openssl(self, host: str, *options: str) -> Generator[Talker]:
        """Connect a client of OpenSSL."""
        with program(*self.openssl_command(host, self.certificate), *options) as running:
            talker = Talker(running)
            talker.until("* welcome")
            yield talker

    def openssl_command(self, host: str, trusted: str) -> list[str]:
        server = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        trust = ["-CAfile", trusted, "-verify_return_error", "-verify_ip", host]
        return [find_program("openssl"), "s_client", "-dtls1_2", "-connect", server, *trust]

    @contextmanager
    def ours(self, name: str, host: str) -> Generator[Talker]:
        """Connect a client of ours."""
        with program(*chat("join", host, str(self.port), "--name", name, "--trust", self.certificate)) as running:
            talker = Talker(running)
            talker.until(f"* you are {name}\n")
            yield talker


def chat(*arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / "chat_dtls.py"), *arguments]


@contextmanager
def serving(*options: str) -> Generator[Serving]:
    with program(*chat("serve", *options)) as running:
        yield Serving(running)


@pytest.fixture
def room(udp: Family) -> Generator[Serving]:
    """A room on the loopback interface of one family."""
    with serving("--port", "0", "--host", udp.loopback) as running:
        yield running


def test_two_openssl_clients_exchange_messages(room: Serving, udp: Family) -> None:
    with room.openssl(udp.loopback, "-quiet") as one, room.openssl(udp.loopback, "-quiet") as other:
        one.enter("/name Grace")
        one.until("* you are Grace\n")
        other.until("is Grace from now on\n")
        one.enter("hello, other")
        other.until("Grace: hello, other\n")
        other.enter("hello, \x1b[31mGrace\x07")
        one.until(r"guest-2: hello, \x1b[31mGrace\x07" + "\n")
        one.enter("/quit")
        one.until("* you have left the room\n")
        other.until("* Grace has left\n")


def test_an_openssl_client_and_ours_exchange_messages(room: Serving, udp: Family) -> None:
    with room.openssl(udp.loopback, "-quiet") as one, room.ours("Ada", udp.loopback) as other:
        one.until("is Ada from now on\n")
        one.enter("hello, Ada")
        other.until("guest-1: hello, Ada\n")
        other.enter("hello, guest")
        one.until("Ada: hello, guest\n")
        # The end of standard input ends the client.
        assert other.program.process.stdin is not None
        other.program.process.stdin.write(b"no end of line")
        other.program.process.stdin.close()
        one.until("Ada: no end of line\n* Ada has left\n")
        assert other.wait() == (0, "* you have left the room\n")


def test_a_close_notify_of_openssl_is_announced(room: Serving, udp: Family) -> None:
    with room.ours("Ada", udp.loopback) as ours:
        with room.openssl(udp.loopback) as other:
            ours.until("guest-2 has joined\n")
            other.enter("Q")
            ours.until("guest-2 has left\n")
    assert "Traceback" not in room.until("guest-2 has left\n")


def test_a_killed_client_leaves_after_the_idle_timeout(udp: Family) -> None:
    with serving("--port", "0", "--host", udp.loopback, "--idle-timeout", "1") as room:
        with room.openssl(udp.loopback, "-quiet") as killed:
            killed.program.process.kill()
            room.until("nothing was received from guest-1 for 1 s\nguest-1 has left\n")


def test_a_client_that_does_not_trust_the_room_cannot_join(room: Serving, udp: Family, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    AUTHORITY.cert_pem.write_to_path(str(other))
    join = chat("join", udp.loopback, str(room.port), "--name", "Eve")
    with program(*join, "--trust", str(other)) as distrusting:
        status, output = Talker(distrusting).wait()
        assert status == 1
        assert "self-signed and not trusted" in output
        assert "Traceback" not in output
    with program(*room.openssl_command(udp.loopback, str(other))) as distrusting:
        status, output = Talker(distrusting).wait()
        assert status == 1
        assert "certificate verify failed" in output
    # A failed handshake is not announced.
    with room.ours("Ada", udp.loopback):
        assert "guest-2" not in room.until("is Ada from now on\n")


def test_datagrams_that_are_not_dtls_are_ignored(room: Serving, udp: Family) -> None:
    with socket.socket(udp.family, socket.SOCK_DGRAM) as outsider:
        # The last is how a handshake begins, with nothing behind it.
        for junk in (b"", b"\0", b"hello\n", bytes(range(256)) * 100, b"\x16\xfe\xfd" + bytes(60)):
            for _ in range(100):
                outsider.sendto(junk, (udp.loopback, room.port))
    with room.ours("Ada", udp.loopback):
        assert "Traceback" not in room.until("guest-1 is Ada from now on\n")


def test_a_name_in_use_is_refused(room: Serving, udp: Family) -> None:
    join = chat("join", udp.loopback, str(room.port), "--name", "Ada", "--trust", room.certificate)
    with room.ours("Ada", udp.loopback), program(*join) as second:
        status, output = Talker(second).wait()
        assert (status, output.splitlines()[-1]) == (1, "chat: the name is taken: Ada")


def test_both_families_share_a_room_on_the_requested_port(namespace: int) -> None:
    with serving("--port", "4477") as room:
        assert room.port == 4477
        with room.openssl("127.0.0.1", "-quiet") as one, room.ours("Ada", "::1") as other:
            one.until("is Ada from now on\n")
            other.enter("hello from IPv6")
            one.until("Ada: hello from IPv6\n")
            one.enter("hello from IPv4")
            other.until("guest-1: hello from IPv4\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_closing_the_room_is_announced_to_every_member(room: Serving, udp: Family, number: signal.Signals) -> None:
    with room.ours("Ada", udp.loopback) as ours, room.openssl(udp.loopback, "-quiet") as other:
        status, output = room.end(number)
        assert status == 0
        assert output.endswith("closed\n")
        assert "Traceback" not in output
        other.until("* you have left the room\n")
        assert ours.wait()[0] == 0
    assert not Path(room.certificate).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_client_leaves(room: Serving, udp: Family, number: signal.Signals) -> None:
    with room.ours("Ada", udp.loopback) as ours:
        assert ours.end(number) == (0, "* you have left the room\n")
        room.until("Ada has left\n")


def test_the_server_accepts_a_certificate_and_key(udp: Family, tmp_path: Path) -> None:
    authority, certificate, key = (str(tmp_path / name) for name in ("authority.pem", "certificate.pem", "key.pem"))
    AUTHORITY.cert_pem.write_to_path(authority)
    SERVER.cert_chain_pems[0].write_to_path(certificate)
    SERVER.private_key_pem.write_to_path(key)
    options = ["--port", "0", "--host", udp.loopback]
    with program(*chat("serve", *options, "--certificate", certificate, "--key", key)) as running:
        port = Talker(running).line_with("listening on").rpartition(":")[2]
        with program(*chat("join", udp.loopback, port, "--name", "Ada", "--trust", authority)) as joined:
            Talker(joined).until("* you are Ada\n")


def test_netcat_can_join_a_plain_room(udp: Family) -> None:
    with program(*chat("serve", "--plain", "--port", "0", "--host", udp.loopback)) as running:
        port = Talker(running).line_with("listening on").rpartition(":")[2]
        with (
            program(*chat("join", "--plain", udp.loopback, port, "--name", "Ada")) as joined,
            program(find_program("nc"), "-u", udp.loopback, port) as netcat,
        ):
            ada, other = Talker(joined), Talker(netcat)
            ada.until("* you are Ada\n")
            other.enter("/name Grace")
            other.until("* you are Grace\n")
            ada.enter("hello")
            other.until("Ada: hello\n")
            other.enter("hello yourself")
            ada.until("Grace: hello yourself\n")


REFUSED: Final[list[tuple[list[str], int, str]]] = [
    ([], 2, "required: COMMAND"),
    (["join", "localhost", "4433"], 2, "required: --name"),
    (["join", "localhost", "4433", "--name", "Ada"], 2, "--trust is required"),
    (["join", "localhost", "4433", "--name", "A da", "--plain"], 2, "up to 16 letters"),
    (["join", "localhost", "0", "--name", "Ada", "--plain"], 1, "port must be from 1"),
    (["join", "localhost", "4433", "--name", "Ada", "--trust", "/nowhere"], 1, "/nowhere holds no certificate"),
    (["serve", "--port", "70000"], 1, "port must be from 0 to 65535"),
    (["serve", "--host", "192.0.2.77"], 1, "Cannot assign requested address"),
    (["serve", "--certificate", "/nowhere"], 1, "/nowhere holds no certificate"),
    (["serve", "--key", "/nowhere"], 2, "--key needs --certificate"),
    (["serve", "--idle-timeout", "soon"], 2, "invalid seconds value: 'soon'"),
    (["serve", "--idle-timeout", "-1"], 2, "seconds are more than 0"),
]


def test_wrong_arguments_are_refused_without_a_traceback() -> None:
    assert offending_runs("chat_dtls.py", REFUSED) == []


# The room alone


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_example("chat_dtls", monkeypatch)


class Far(trio.abc.Channel[bytes]):
    """A peer in memory, which accepts a datagram only when the test reads it."""

    def __init__(self) -> None:
        self._to_member, self.outgoing = trio.open_memory_channel[bytes](0)
        self.incoming, self._from_member = trio.open_memory_channel[bytes](0)

    async def send(self, value: bytes) -> None:
        await self._to_member.send(value)

    async def receive(self) -> bytes:
        return await self._from_member.receive()

    async def aclose(self) -> None:
        raise AssertionError

    async def expect(self, *lines: str) -> None:
        for line in lines:
            assert (await self.outgoing.receive()).decode() == f"{line}\n"

    async def send_line(self, line: str) -> None:
        await self.incoming.send(f"{line}\n".encode())


@asynccontextmanager
async def open_room(example: ModuleType) -> AsyncGenerator[Callable[[], Awaitable[Far]]]:
    """Open a room for the block, and yield a function that adds a member."""
    room = example.Room(60)
    async with trio.open_nursery() as nursery:

        async def enter() -> Far:
            far = Far()
            nursery.start_soon(room.attend, far)
            assert (await far.outgoing.receive()).startswith(WELCOME)
            return far

        yield enter
        nursery.cancel_scope.cancel()


async def test_a_slow_member_blocks_no_other_and_learns_how_many_messages_were_dropped(
    example: ModuleType, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_room(example) as enter:
        slow, fast, talker = [await enter() for _ in range(3)]
        await fast.expect("* guest-3 has joined")
        total = example.MOST_WAITING + 10
        for number in range(total):
            await talker.send_line(f"line {number}")
            await fast.expect(f"guest-3: line {number}")
        await slow.expect("* guest-2 has joined")
        # The announcement of the first new member was in flight, and that of the second was queued.
        waiting = example.MOST_WAITING - 1
        await slow.expect(
            f"* you were too slow for {total - waiting} lines, which were dropped", "* guest-3 has joined"
        )
        await slow.expect(*[f"guest-3: line {number}" for number in range(waiting)])
        await talker.send_line("the last")
        await slow.expect("guest-3: the last")
    assert f"guest-1 was too slow for {total - waiting} lines" in caplog.text


async def test_an_idle_member_leaves_and_an_active_one_stays(
    example: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_room(example) as enter:
        silent, living = [await enter() for _ in range(2)]
        await silent.expect("* guest-2 has joined")
        await trio.sleep(40)
        await living.send_line("")
        await living.expect("")
        await living.expect("* guest-1 has left")
        assert trio.current_time() == 60
        await silent.expect("* you have left the room")
        await trio.sleep(30)
        await living.send_line("")
        await living.expect("")


async def test_names_are_short_and_unique(example: ModuleType, autojump_clock: trio.testing.MockClock) -> None:
    async with open_room(example) as enter:
        one, other = [await enter() for _ in range(2)]
        await one.expect("* guest-2 has joined")
        await one.send_line("/name Ada")
        await one.expect("* you are Ada")
        await other.expect("* guest-1 is Ada from now on")
        await one.send_line("/name Ada")
        await one.expect("* you are Ada")
        await other.send_line("/name Ada")
        await other.expect("* the name is taken: Ada")
        for name in ("*", "x" * 17, "\x1b[31m"):
            await other.send_line(f"/name {name}")
            await other.expect("* a name has up to 16 letters, digits, dots, dashes and underscores")
        # A guest's number skips a name that is in use.
        await other.send_line("/name guest-3")
        await other.expect("* you are guest-3")
        third = await enter()
        await one.expect("* guest-2 is guest-3 from now on", "* guest-4 has joined")
        await third.send_line("/quit")
        await third.expect("* you have left the room")
        await one.expect("* guest-4 has left")


async def test_a_message_is_one_line_of_bounded_length(
    example: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_room(example) as enter:
        one, other = [await enter() for _ in range(2)]
        await one.expect("* guest-2 has joined")
        for line, expected in [
            (b"two\nlines\r\n", r"two\nlines"),
            (b"\xff\x00\x9b31m", r"\xff\x00\x9b31m"),
            ("right \u202e to left".encode(), r"right \u202e to left"),
            ("grüß dich".encode(), "grüß dich"),
            (b"x" * 60_000, "x" * example.LONGEST_LINE),
        ]:
            await other.incoming.send(line)
            await one.expect(f"guest-2: {expected}")


async def test_a_full_room_refuses_new_members(
    example: ModuleType, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "MOST_MEMBERS", 1)
    async with open_room(example) as enter:
        first = await enter()
        late = await enter()
        await late.expect("* the room is full")
        await first.send_line("/quit")
        await first.expect("* you have left the room")
        await enter()


@pytest.mark.filterwarnings("ignore:unclosed DTLS endpoint:ResourceWarning")
@pytest.mark.parametrize("seed", range(3))
def test_plain_and_encrypted_members_share_a_room_on_a_bad_network(example: ModuleType, seed: int) -> None:
    server_context, client_context = SSL.Context(SSL.DTLS_METHOD), SSL.Context(SSL.DTLS_METHOD)
    SERVER.configure_cert(server_context)
    AUTHORITY.configure_trust(client_context)

    async def speak(peer: trio.abc.Channel[bytes], name: str) -> None:
        while True:
            await peer.send(f"/name {name}\n".encode())
            await peer.send(b"hello\n")
            await trio.sleep(1)

    async def participate(channel: AbstractAsyncContextManager[trio.abc.Channel[bytes]], name: str, other: str) -> None:
        async with channel as peer, trio.open_nursery() as nursery:
            nursery.start_soon(speak, peer, name)
            while await peer.receive() != f"{other}: hello\n".encode():
                pass
            met[name].set()
            await trio.sleep_forever()

    met = {name: trio.Event() for name in ("Ada", "Grace")}

    async def scenario(network: sim.Network) -> None:
        server, ada, grace = (network.host(name) for name in ("room.example", "ada", "grace"))
        for host in (ada, grace):
            network.path(
                host, server, symmetric=True, delay=0.05, jitter=0.04, keep_order=False, loss=0.05, duplicate=0.1
            )
        room = example.Room(600)
        async with trio.open_nursery() as nursery:
            with server.active():
                await nursery.start(trio_dgram.serve, room.attend, 4432)
                await nursery.start(dtls.serve, room.attend, 4433, server_context)
            with ada.active():
                encrypted = dtls.open_connection("room.example", 4433, client_context)
                nursery.start_soon(participate, encrypted, "Ada", "Grace")
            with grace.active():
                plain = trio_dgram.open_connection("room.example", 4432)
                nursery.start_soon(participate, plain, "Grace", "Ada")
            with trio.fail_after(60):
                for each in met.values():
                    await each.wait()
            nursery.cancel_scope.cancel()

    sim.run(scenario, seed=seed)
