"""A chat room, encrypted with DTLS: each line of a member is sent to all others.

It needs the extra `dtls`: `pip install trio_dgram[dtls]`. Try it: `python chat_dtls.py serve` prints its address
and its certificate. With those, in other terminals:

    python chat_dtls.py join localhost 4433 --name Ada --trust /tmp/chat-.../certificate.pem
    openssl s_client -quiet -dtls1_2 -connect localhost:4433 -CAfile /tmp/chat-.../certificate.pem

A member that joins by openssl is a guest until it sends `/name Grace`, leaves with `/quit`, and must press Enter at
least every two minutes: UDP cannot detect that a peer has ended.

The room is independent of encryption and network: `Room.attend` serves any channel of bytes. With `--plain` on both
sides it serves ordinary datagrams, and `nc -u localhost 4433` is a client. Those can be forged, so use it for trials
only.
"""

from __future__ import annotations

import argparse
import datetime as dt
import ipaddress
import itertools
import logging
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

import trio_dgram
from trio_dgram import dtls

MOST_MEMBERS: Final = 256
MOST_WAITING: Final = 64
"""How many lines are queued for one member."""
LONGEST_LINE: Final = 256
"""In characters, so that each line fits a packet on any path."""
NAME: Final = re.compile(r"[\w.-]{1,16}")
HANDSHAKE_TIMEOUT: Final = 10.0
SIGN_OF_LIFE: Final = 30.0
"""The period, in seconds, of the empty lines from our client, which the room answers."""
FAREWELL: Final = "* you have left the room"

log = logging.getLogger("chat")


def readable(data: bytes) -> str:
    """Return the data as one line of text without terminal control sequences."""
    text = data.decode(errors="backslashreplace").strip()
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


async def say(peer: trio.abc.Channel[bytes], line: str) -> None:
    await peer.send(f"{line}\n".encode())


# The room


@attrs.define(eq=False)
class Member:
    """A member of the room, and its queue of lines."""

    name: str
    lines: trio.MemorySendChannel[str]
    missed: int = 0

    def queue(self, line: str) -> None:
        """Queue a line for the member. This never waits: a slow member must not delay the others."""
        try:
            self.lines.send_nowait(line)
        except trio.WouldBlock:
            self.missed += 1


class Room:
    """The members, and the lines between them."""

    def __init__(self, idle_timeout: float) -> None:
        self._idle_timeout = idle_timeout
        self._members: dict[str, Member] = {}
        self._guests = itertools.count(1)

    async def attend(self, peer: trio.abc.Channel[bytes]) -> None:
        """Serve one peer until it quits, disconnects or times out: the handler for `serve`."""
        try:
            await say(peer, "* welcome: /name NAME sets your name, /quit leaves")
            if len(self._members) >= MOST_MEMBERS:
                log.info("%s was refused: the room is full", whereabouts(peer))
                await say(peer, "* the room is full")
            else:
                await self._admit(peer)
        except* (trio.BrokenResourceError, OSError) as errors:
            log.info("%s is unreachable: %s", whereabouts(peer), errors.exceptions[0])

    async def _admit(self, peer: trio.abc.Channel[bytes]) -> None:
        lines, waiting = trio.open_memory_channel[str](MOST_WAITING)
        name = next(name for name in map("guest-{}".format, self._guests) if name not in self._members)
        member = self._members[name] = Member(name, lines)
        log.info("%s has joined from %s", name, whereabouts(peer))
        self._broadcast(member, f"* {name} has joined")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deliver, member, waiting, peer)
                await self._listen(member, peer)
                nursery.cancel_scope.cancel()
        finally:
            del self._members[member.name]
            log.info("%s has left", member.name)
            self._broadcast(member, f"* {member.name} has left")
            with suppress(trio.BrokenResourceError, OSError), shielded(1):
                await say(peer, FAREWELL)

    async def _listen(self, member: Member, peer: trio.abc.Channel[bytes]) -> None:
        """Handle the lines of a member until it quits, disconnects or times out."""
        while True:
            try:
                with trio.fail_after(self._idle_timeout):
                    line = readable(await peer.receive())[:LONGEST_LINE]
            except trio.EndOfChannel:
                return
            except trio.TooSlowError:
                log.info("nothing was received from %s for %g s", member.name, self._idle_timeout)
                return
            match line.split():
                case []:
                    member.queue("")
                case ["/quit"]:
                    return
                case ["/name", name]:
                    self._rename(member, name)
                case _:
                    self._broadcast(member, f"{member.name}: {line}")

    def _rename(self, member: Member, name: str) -> None:
        if not NAME.fullmatch(name):
            member.queue("* a name has up to 16 letters, digits, dots, dashes and underscores")
        elif self._members.setdefault(name, member) is not member:
            member.queue(f"* the name is taken: {name}")
        else:
            if name != member.name:
                del self._members[member.name]
                log.info("%s is %s from now on", member.name, name)
                self._broadcast(member, f"* {member.name} is {name} from now on")
                member.name = name
            member.queue(f"* you are {name}")

    def _broadcast(self, member: Member, line: str) -> None:
        for other in self._members.values():
            if other is not member:
                other.queue(line)


async def deliver(member: Member, waiting: trio.MemoryReceiveChannel[str], peer: trio.abc.Channel[bytes]) -> None:
    """Send a member its queued lines."""
    async for line in waiting:
        await say(peer, line)
        if member.missed:
            missed, member.missed = member.missed, 0
            log.info("%s was too slow for %d lines", member.name, missed)
            await say(peer, f"* you were too slow for {missed} lines, which were dropped")


def whereabouts(peer: trio.abc.Channel[bytes]) -> object:
    """Return the address of a peer; channels of other kinds may have none."""
    return getattr(peer, "address", "somewhere")


@contextmanager
def shielded(seconds: float) -> Generator[None]:
    """Shield the block from cancellation for so many seconds."""
    with trio.CancelScope(deadline=trio.current_time() + seconds, shield=True):
        yield


async def serve(arguments: argparse.Namespace) -> None:
    room = Room(arguments.idle_timeout)
    with tempfile.TemporaryDirectory(prefix="chat-") as folder:
        if arguments.plain:
            serving = partial(trio_dgram.serve, room.attend)
        else:
            if arguments.certificate is None:
                arguments.certificate, arguments.key = make_certificate(Path(folder))
                log.info("clients need --trust %s", arguments.certificate)
            context = server_context(arguments)
            serving = partial(dtls.serve, room.attend, ssl_context=context, handshake_timeout=HANDSHAKE_TIMEOUT)
        # The room has an idle timeout of its own, which it logs.
        serving = partial(serving, port=arguments.port, host=arguments.host, idle_timeout=None)
        async with trio.open_nursery() as nursery:
            await nursery.start(cancel_at_signal, nursery.cancel_scope)
            for listener in await nursery.start(serving):
                log.info("listening on %s", listener.address)
    log.info("closed")


def server_context(arguments: argparse.Namespace) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    try:
        context.use_certificate_chain_file(arguments.certificate)
        context.use_privatekey_file(arguments.key or arguments.certificate)
        context.check_privatekey()
    except SSL.Error as error:
        raise ValueError(f"{arguments.certificate} holds no certificate with the key, or cannot be read") from error
    return context


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for this machine, and its key; return their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chat room")])
    addresses = {each.partition("%")[0] for interface in trio_dgram.interfaces() for each in interface.addresses}
    names = [
        *map(x509.DNSName, sorted({"localhost", socket.gethostname()})),
        *map(x509.IPAddress, map(ipaddress.ip_address, sorted(addresses))),
    ]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


# A member


async def join(arguments: argparse.Namespace) -> None:
    async with connect(arguments) as peer, trio.open_nursery() as nursery:
        typing = trio.CancelScope()
        await nursery.start(cancel_at_signal, typing)
        named = trio.Event()
        nursery.start_soon(hear, peer, arguments.name, named, nursery.cancel_scope)
        async for attempt in trio_dgram.retry():
            with attempt:
                await say(peer, f"/name {arguments.name}")
                await named.wait()
        nursery.start_soon(show_life, peer)
        with typing:
            await speak(peer)
        async for attempt in trio_dgram.retry(timeout=0.25, attempts=3):
            with attempt:
                await say(peer, "/quit")
                await trio.sleep_forever()


def connect(arguments: argparse.Namespace) -> AbstractAsyncContextManager[trio.abc.Channel[bytes]]:
    if arguments.plain:
        return trio_dgram.open_connection(arguments.host, arguments.port)
    context = SSL.Context(SSL.DTLS_METHOD)
    try:
        context.load_verify_locations(arguments.trust)
    except SSL.Error as error:
        raise ValueError(f"{arguments.trust} holds no certificate, or cannot be read") from error
    return dtls.open_connection(arguments.host, arguments.port, context, handshake_timeout=HANDSHAKE_TIMEOUT)


async def hear(peer: trio.abc.Channel[bytes], name: str, named: trio.Event, membership: trio.CancelScope) -> None:
    """Print the lines of others until the room sends its farewell."""
    line = ""
    while line != FAREWELL:
        with trio.fail_after(3 * SIGN_OF_LIFE):
            line = readable(await peer.receive())
        if line:
            print(line, flush=True)
        if line == f"* you are {name}":
            named.set()
        elif line == f"* the name is taken: {name}":
            raise ValueError(f"the name is taken: {name}")
    membership.cancel()


async def speak(peer: trio.abc.Channel[bytes]) -> None:
    """Send each typed line, until the end of the input."""
    rest = b""
    # The thread that waits for input does not delay the end of the program, unless it holds the lock of sys.stdin.
    while typed := await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        *lines, rest = (rest + typed).split(b"\n")
        for line in lines:
            await peer.send(line + b"\n")
    if rest:
        await peer.send(rest + b"\n")


async def show_life(peer: trio.abc.Channel[bytes]) -> None:
    while True:
        await trio.sleep(SIGN_OF_LIFE)
        await say(peer, "")


async def cancel_at_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


def name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("up to 16 letters, digits, dots, dashes and underscores")
    return text


def seconds(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError("seconds are more than 0")
    return number


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A chat room, encrypted with DTLS.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serving = commands.add_parser("serve", help="serve a room", description="Serve a room.")
    serving.set_defaults(run=serve)
    serving.add_argument("--port", type=int, default=4433, help="0 for any free port (default: %(default)s)")
    serving.add_argument("--host", help="an address of this machine, or its name (default: all of them)")
    serving.add_argument("--certificate", metavar="FILE", help="in PEM (default: a new self-signed one)")
    serving.add_argument("--key", metavar="FILE", help="its private key (default: in the certificate's file)")
    serving.add_argument(
        "--idle-timeout",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="remove members after so long without a line (default: %(default)g)",
    )

    joining = commands.add_parser("join", help="join a room", description="Join a room.")
    joining.set_defaults(run=join)
    joining.add_argument("host")
    joining.add_argument("port", type=int)
    joining.add_argument("--name", type=name, required=True, help="your name in the room")
    joining.add_argument("--trust", metavar="CERTIFICATE", help="the room's certificate, or that of its CA, in PEM")

    for command in (serving, joining):
        command.add_argument("--plain", action="store_true", help="do not encrypt: for trying")
    arguments = parser.parse_args()
    if arguments.run is join and not (arguments.trust or arguments.plain):
        joining.error("--trust is required: the certificate that serve prints")
    if arguments.run is serve and arguments.key and not arguments.certificate:
        serving.error("--key needs --certificate")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failure: Exception | None = None
    try:
        trio.run(arguments.run, arguments)
    except* KeyboardInterrupt:
        pass
    except* (OSError, ValueError, dtls.CertificateError, trio.TooSlowError) as errors:
        failure = errors
    # Nurseries wrap what is raised in them.
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    if failure is not None:
        sys.exit(f"chat: {failure}")


if __name__ == "__main__":
    main()
