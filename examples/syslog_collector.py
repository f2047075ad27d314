"""Collect syslog messages (RFC 3164, RFC 5424), and account for every datagram.

Each message becomes a line on standard output: its sender, facility and severity, and its text. The counts are logged
at the end, on SIGUSR1, and periodically with `--report SECONDS`.

Try it: run this with `--unix /tmp/log.socket`, and in another terminal

    logger --server 127.0.0.1 --port 5514 --udp --priority mail.warning "the queue is long"
    logger --server ::1 --port 5514 --udp --rfc3164 hello
    logger --socket /tmp/log.socket "from a program of this machine"
    pkill -USR1 -f syslog_collector.py
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
from ipaddress import ip_address
from signal import SIGINT, SIGTERM, SIGUSR1
from typing import BinaryIO

import attrs
import trio

import trio_dgram
from trio_dgram import Datagram, DatagramNursery, DatagramSocket

RECEIVE_BUFFER = 4 << 20
"""The requested receive buffer of each socket, in bytes; the kernel limits it to net.core.rmem_max."""
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock", *(f"local{number}" for number in range(8))),
)
SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
PRIORITY = re.compile(rb"<(\d|[1-9]\d|1[0-8]\d|19[01])>(?:1 )?")
"""The prefix of a message: eight times the facility plus the severity, and the version of RFC 5424."""

log = logging.getLogger("syslog_collector")


@attrs.define
class Collector:
    """A socket, and the file to write its messages to."""

    socket: DatagramSocket
    name: str
    output: BinaryIO
    malformed: int = 0

    async def collect(self) -> None:
        """Write the messages in batches: the higher the load, the less each costs."""
        while True:
            batch = await self.socket.receive_many()
            lines = "".join(map(self.line, batch)).encode()
            # A batch that was received is written even if the program is being cancelled.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.output.write, lines)
                await trio.to_thread.run_sync(self.output.flush)

    def line(self, datagram: Datagram) -> str:
        """Return the output line of a datagram."""
        kind, data = "malformed", datagram.data.rstrip(b"\r\n\0")
        if priority := PRIORITY.match(data):
            facility, severity = divmod(int(priority[1]), 8)
            kind, data = f"{FACILITIES[facility]}.{SEVERITIES[severity]}", data[priority.end() :]
        else:
            self.malformed += 1
        return f"{sender(datagram)} {kind} {printable(data)}\n"


def sender(datagram: Datagram) -> str:
    """Return the peer's address or, on a path, the process that sent it, as the kernel attests."""
    credentials = datagram.info and datagram.info.credentials
    if credentials:
        return f"pid={credentials.pid},uid={credentials.uid}"
    return printable(os.fsencode(datagram.address.host)) or "-"


def printable(data: bytes) -> str:
    """Return the data as text without line breaks and terminal control sequences."""
    text = data.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


async def open_collectors(nursery: DatagramNursery, options: argparse.Namespace, output: BinaryIO) -> list[Collector]:
    collectors = []
    for host in options.host or map(ip_address, ("0.0.0.0", "::")):
        ipv6 = host.version == 6
        # Without offload the kernel counts single datagrams that it drops.
        socket = nursery.create_socket(
            "udp6" if ipv6 else "udp4", ipv6_only=ipv6, receive_buffer_size=RECEIVE_BUFFER, offload=False
        )
        address = await socket.bind(options.port, str(host))
        collectors.append(Collector(socket, str(address), output))
    for path in options.unix:
        socket = nursery.create_socket("unix", packet_info=True)
        await socket.bind(path)
        collectors.append(Collector(socket, path, output))
    return collectors


def report(collectors: list[Collector]) -> None:
    for collector in collectors:
        counts = collector.socket.statistics()
        log.info(
            "%s: received %d (malformed %d, filtered %d, left unwritten %d), dropped by the kernel %s",
            *(collector.name, counts.received, collector.malformed, counts.filtered, counts.discarded_at_close),
            "?" if counts.dropped_by_kernel is None else counts.dropped_by_kernel,
        )


async def report_every(seconds: float, collectors: list[Collector]) -> None:
    while True:
        await trio.sleep(seconds)
        report(collectors)


async def collect(options: argparse.Namespace, output: BinaryIO) -> None:
    collectors = []
    try:
        with trio.open_signal_receiver(SIGINT, SIGTERM, SIGUSR1) as signals:
            async with trio_dgram.open_nursery() as nursery:
                collectors = await open_collectors(nursery, options, output)
                for collector in collectors:
                    nursery.start_soon(collector.collect)
                    log.info("listening on %s", collector.name)
                nursery.start_soon(report_every, options.report, collectors)
                async for number in signals:
                    if number != SIGUSR1:
                        break
                    report(collectors)
                nursery.cancel_scope.cancel()
    finally:
        report(collectors)


def port(text: str) -> int:
    if not 0 <= int(text) <= 65535:
        raise ValueError
    return int(text)


def seconds(text: str) -> float:
    if not float(text) > 0:
        raise ValueError
    return float(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--host", action="append", type=ip_address, help="a local address, again for more (default: 0.0.0.0 and ::)"
    )
    parser.add_argument("--port", type=port, default=5514, help="UDP port; 0 for any (default: %(default)s)")
    parser.add_argument("--unix", action="append", default=[], metavar="PATH", help="listen on a path, too")
    parser.add_argument(
        "--report", type=seconds, default=math.inf, metavar="SECONDS", help="the period of logging the counts"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    failures: list[BaseException] = []
    try:
        with open(1, "wb", closefd=False) as output:
            trio.run(collect, options, output)
    except* OSError as group:
        failures.extend(group.exceptions)
    for failure in failures:
        log.error("%s", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
