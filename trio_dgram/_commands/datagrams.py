"""Datagrams as commands print them."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Final

from .._socket.datagram_socket import DatagramSocket
from .._values.addresses import Address
from .._values.datagrams import Datagram
from .._values.words import plural
from .command import UsageError
from .console import Console, escape

_NANOSECONDS: Final = 1_000_000_000
_PER_LINE: Final = 16


def check_format(arguments: Namespace) -> None:
    """Refuse ``--raw`` together with ``--json``."""
    if arguments.raw and arguments.json:
        raise UsageError("argument --raw: not allowed with argument --json")


def hexdump(data: bytes) -> Iterator[str]:
    """Yield the lines of a hexdump, as ``xxd`` prints them."""
    for start in range(0, len(data), _PER_LINE):
        line = data[start : start + _PER_LINE]
        digits = line.hex(" ", -2)
        text = "".join(chr(byte) if 0x20 <= byte <= 0x7E else "." for byte in line)
        yield f"{start:08x}: {digits:<39}  {text}"


def show_datagram(console: Console, arguments: Namespace, datagram: Datagram, sock: DatagramSocket) -> None:
    """Print a received datagram as the arguments select: as JSON, a hexdump, text, or its payload alone."""
    data, source, info = datagram
    if arguments.raw:
        console.write(data)
        return
    stamp = None if info is None else info.timestamp_ns
    stamp = time.time_ns() if stamp is None else stamp
    local = sock.address
    if info is not None and info.local_address is not None:
        local = Address(info.local_address, local.port)
    heading = f"{clock(stamp)} {source} -> {local}, {len(data)} {plural(len(data), 'byte')}"
    if arguments.text:
        text = f"{console.paint(heading, 'faint')}: {escape(data)}"
    else:
        text = "\n".join([console.paint(heading, "faint"), *hexdump(data)])
    console.emit(datagram_event(stamp, source, local, data), text)


def datagram_event(stamp: int, source: Address, destination: Address, data: bytes) -> dict[str, object]:
    """Return the JSON object of a datagram that was seen ``stamp`` nanoseconds after 1970."""
    return {
        "event": "datagram",
        "time": stamp / _NANOSECONDS,
        "from": str(source),
        "to": str(destination),
        "size": len(data),
        "data": data.hex(),
    }


def clock(stamp: int) -> str:
    """Return the local time of day of ``stamp``, with microseconds."""
    seconds, rest = divmod(stamp, _NANOSECONDS)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{rest // 1000:06d}"


def summarize(console: Console, arguments: Namespace, event: Mapping[str, object], text: str) -> None:
    """Print the summary, to standard error where standard output has payloads alone."""
    if arguments.raw:
        console.note(text)
    else:
        console.emit({"event": "summary", **event}, text)
