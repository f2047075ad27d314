"""Transfer files over UDP, a block at a time, as TFTP does: one session for each client, and only the client retries.

Try it: run `python transfer.py serve .`, and in another terminal `python transfer.py fetch localhost transfer.py`.

The protocol: the client's `GET name` is answered by `OK token size`, its `READ token number` by `DATA number bytes`.
A client that knows the token has received an answer at its address, so the address is not forged.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

import trio

import trio_dgram

PORT = 6969
BLOCK = 1024
"""The bytes of one block; with its header it fits into the packets of every network."""
SHORTEST_GET = 32
"""Requests are padded to this size, so that an answer to a forged address is not larger than the request."""


async def serve_files(files: Mapping[str, bytes], port: int = PORT) -> None:
    """Serve ``files`` for ever."""

    async def session(peer: trio_dgram.DatagramChannel) -> None:
        token = secrets.token_hex(4).encode()
        content = b""
        async for message in peer:
            match message.split():
                case [b"GET", name] if len(message) >= SHORTEST_GET:
                    found = files.get(name.decode(errors="replace"))
                    content = found or b""
                    await peer.send(b"NONE" if found is None else b"OK %s %d" % (token, len(content)))
                case [b"READ", given, digits] if given == token and digits.isdigit():
                    peer.mark_validated()
                    start = int(digits) * BLOCK
                    await peer.send(b"DATA %s " % digits + content[start : start + BLOCK])

    await trio_dgram.serve(session, port, amplification_limit=1, max_peers_per_network=(64, 64))


async def ask(server: trio.abc.Channel[bytes], request: bytes, *expected: bytes) -> bytes:
    """Send a request until an answer that begins with one of the ``expected`` comes, and return it."""
    async for attempt in trio_dgram.retry(timeout=0.5, factor=1.5, attempts=8):
        with attempt:
            await server.send(request)
            # A late answer to an earlier request may come first.
            while not (answer := await server.receive()).startswith(expected):
                pass
            return answer
    raise AssertionError("unreachable: after its last attempt, retry has raised trio.TooSlowError")


async def fetch(host: str, name: str, port: int = PORT) -> bytes:
    """Return the content of a file; raise FileNotFoundError, or trio.TooSlowError if the server does not answer."""
    async with trio_dgram.open_connection(host, port) as server:
        answer = await ask(server, f"GET {name}".encode().ljust(SHORTEST_GET), b"OK ", b"NONE")
        if answer == b"NONE":
            raise FileNotFoundError(f"{host} has no file {name!r}")
        _, token, size = answer.split()
        content = b""
        for number in range(-(-int(size) // BLOCK)):
            header = b"DATA %d " % number
            content += (await ask(server, b"READ %s %d" % (token, number), header)).removeprefix(header)
        return content


def main() -> None:
    parser = argparse.ArgumentParser(description="Transfer files over UDP.")
    commands = parser.add_subparsers(required=True, dest="command")
    server = commands.add_parser("serve", help="serve the files of a folder")
    server.add_argument("folder", type=Path)
    client = commands.add_parser("fetch", help="write a file to standard output")
    client.add_argument("host")
    client.add_argument("name")
    arguments = parser.parse_args()
    failure = None
    try:
        if arguments.command == "serve":
            files = {path.name: path.read_bytes() for path in arguments.folder.iterdir() if path.is_file()}
            trio.run(serve_files, files)
        else:
            sys.stdout.buffer.write(trio.run(fetch, arguments.host, arguments.name))
    except* KeyboardInterrupt:
        pass
    except* (OSError, trio.TooSlowError) as errors:
        failure = errors.exceptions[0]
    if failure is not None:
        parser.exit(1, f"{parser.prog}: {failure}\n")


if __name__ == "__main__":
    main()
