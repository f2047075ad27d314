"""A demonstration: an echo service and its clients, a multicast group, an event channel, a flood, the fate of every
datagram, and the same service on a simulated network that loses a third of them.

The real sockets use the loopback interface only. On a quiet machine it takes about a second.
"""

from __future__ import annotations

import os
import statistics
import sys
from time import perf_counter

import trio
import trio.testing

import trio_dgram
from trio_dgram import Closed, Connected, Datagram, DatagramSocket, Failure, Listening, SocketStatistics, sim

GROUP = "239.41.23.4"
ROUND_TRIPS = 2_000
FLOOD = 20_000

SEEDS = (5, 6, 7, 8)

LEGEND = """
sent, received          datagrams. Each client sends 2,000 and waits for each answer.
dropped by the kernel   the receive buffer was full: the flood is faster than its receiver.
dropped by the library  forged sources, and what was unread at the end: here none.
errors                  no socket is bound to the port that "watched" sends to. ICMP
                        reported that, and the library reported it to that socket, once.
round trip              from send to answer, in microseconds; lower is better. Clients and
                        servers share one process, so each waits for the others.
"""

COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def coloured(code: int, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOURED else text


def show(what: str, text: str) -> None:
    print(f"  {coloured(36, f'{what:>10}')}  {text}")


async def echo(server: DatagramSocket) -> None:
    """The whole service: send every datagram back."""
    async for datagram in server:
        await server.send(datagram.data, datagram.address)


async def client(name: str, type_: trio_dgram.SocketType, to: tuple[str, int], report: Report) -> None:
    """Send requests one after the other, and record the time until each answer."""
    times = []
    async with trio_dgram.open_socket(type_) as socket:
        for number in range(ROUND_TRIPS):
            start = perf_counter()
            await socket.send(str(number), to)
            with trio.fail_after(5):
                answer = await socket.receive()
            times.append(perf_counter() - start)
            if answer.data != str(number).encode():
                raise RuntimeError(f"{name} sent {number} and was answered {answer}")
    report.add(name, socket.statistics(), times)


async def multicast(report: Report) -> None:
    """Send to a multicast group with two members on one port; each receives a copy."""
    async with trio_dgram.open_nursery() as nursery:
        members = [nursery.create_socket("udp4", reuse_address=True) for _ in range(2)]
        port = 0
        for member in members:
            port = (await member.bind(port)).port
            member.add_membership(GROUP, "127.0.0.1")
        speaker = nursery.create_socket("udp4", multicast_interface="127.0.0.1")
        await speaker.send("hello, members", (GROUP, port))
        for number, member in enumerate(members, 1):
            datagram = await member.receive()
            show("multicast", f"member {number} of {GROUP} received {datagram.data.decode()!r}")
            report.add(f"group member {number}", member.statistics())
        nursery.cancel_scope.cancel()


async def watch(socket: DatagramSocket) -> None:
    """Print the events of a socket."""
    async with socket.events(Listening, Connected, Failure, Closed) as events:
        async for event in events:
            match event:
                case Listening(address):
                    show("event", f"listening on {address}")
                case Connected(address):
                    show("event", f"connected to {address}")
                case Failure(error, operation):
                    show("event", f"{operation} failed: {error.strerror}")
                case Closed():
                    show("event", "closed")


async def watched(report: Report) -> None:
    """Send to a port on which no socket listens, and receive the error through an event channel."""
    async with trio.open_nursery() as nursery, trio_dgram.open_socket("udp4") as closed:
        address = await closed.bind(0, "127.0.0.1")
        await closed.aclose()
        async with trio_dgram.open_socket("udp4") as socket:
            nursery.start_soon(watch, socket)
            await trio.testing.wait_all_tasks_blocked()
            await socket.connect(address)
            await socket.send("hello?")
            await socket.send("hello?")
            await trio.testing.wait_all_tasks_blocked()
        report.add("watched", socket.statistics())


async def flood(report: Report) -> None:
    """Send more than a tiny receive buffer holds; every dropped datagram is counted."""
    async with (
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1", receive_buffer_size=8192, offload=False) as drain,
        trio_dgram.open_socket("udp4") as source,
    ):
        wave = [Datagram(b"x" * 100, drain.address)] * 100
        for _ in range(FLOOD // len(wave)):
            await source.send_many(wave)
            await drain.receive_many()
        sent, counted = source.statistics().sent, drain.statistics()
        dropped = counted.dropped_by_kernel
        if dropped is not None:
            show("flood", f"{sent:,} sent = {counted.received:,} received + {dropped:,} dropped by the kernel")
        report.add("flood, sender", source.statistics())
        report.add("flood, receiver", counted)


class Report:
    """The table of statistics."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def add(self, name: str, counts: SocketStatistics, times: list[float] | None = None) -> None:
        """Add a socket's row."""

        def number(value: int | None) -> str:
            return "?" if value is None else f"{value:,}" if value else "."

        microseconds = [""] * 3
        if times:
            # The inclusive method interpolates only between these times, so no percentile exceeds the slowest.
            percentiles = statistics.quantiles(times, n=100, method="inclusive")
            microseconds = [f"{time * 1e6:,.0f}" for time in (percentiles[49], percentiles[98], max(times))]

        self.rows.append(
            (
                name,
                number(counts.sent),
                number(counts.received),
                number(counts.dropped_by_kernel),
                number(counts.filtered + counts.discarded_at_close),
                number(counts.send_errors + counts.receive_errors),
                *microseconds,
            )
        )

    def show(self) -> None:
        """Print it."""
        head = ("", "sent", "received", "dropped by", "dropped by", "errors", "median", "99 %", "slowest")
        unit = ("socket", "", "", "the kernel", "the library", "", "round trip", "in us", "")
        widths = [max(map(len, column)) for column in zip(head, unit, *self.rows, strict=True)]

        def line(cells: tuple[str, ...]) -> str:
            first, *others = (
                f"{cell:<{width}}" if number == 0 else f"{cell:>{width}}"
                for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return "  ".join([first, *others])

        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        print(f"\n{coloured(1, line(head))}\n{coloured(1, line(unit))}\n{rule}")
        for row in self.rows:
            print(line(row))
        print(rule)


async def main() -> None:
    report = Report()
    start = perf_counter()
    print(coloured(1, "trio_dgram, on the loopback interface:\n"))
    async with trio_dgram.open_nursery() as nursery:
        servers = {}
        services = []
        loopback: dict[trio_dgram.SocketType, str] = {"udp4": "127.0.0.1", "udp6": "::1"}
        for type_, host in loopback.items():
            try:
                server = nursery.create_socket(type_)
                servers[type_] = await server.bind(0, host)
            except OSError as error:
                show("echo", f"{host} is left out: {error.strerror}")
                continue
            show("echo", f"serves on {server.address}")
            services.append(server.unref())
            nursery.start_soon(echo, server)
        port = servers["udp4"].port
        resolved = await trio_dgram.resolve("localhost", port, "udp4")
        show("name", f"localhost is {resolved.host}")
        async with trio.open_nursery() as clients:
            clients.start_soon(client, "client by name", "udp4", ("localhost", port), report)
            clients.start_soon(client, "client by address", "udp4", resolved, report)
            if "udp6" in servers:
                clients.start_soon(client, "client on IPv6", "udp6", servers["udp6"], report)
        for server in services:
            report.add(f"echo on {server.address.host}", server.statistics())
        await multicast(report)
        await watched(report)
        await flood(report)
        nursery.cancel_scope.cancel()
    report.show()
    print(f"in {perf_counter() - start:.1f} s\n{LEGEND}", end="")


async def lossy(network: sim.Network) -> tuple[int, float]:
    """Send requests to the echo service over a lossy path until one is answered; return the attempts and the virtual
    seconds."""

    async def serve() -> None:
        async with trio_dgram.open_socket("udp4", port=7) as socket:
            await echo(socket)

    async def ask() -> int:
        attempts = 0
        async with trio_dgram.open_socket("udp4", connect=("server", 7)) as socket:
            async for attempt in trio_dgram.retry(timeout=1.0, attempts=10):
                with attempt:
                    attempts += 1
                    await socket.send("hello?")
                    await socket.receive()
        return attempts

    here, there = network.host("client"), network.host("server")
    network.path(here, there, symmetric=True, delay=0.050, jitter=0.010, loss=0.33)
    there.start_soon(serve)
    return await here.run(ask), network.time


def simulated() -> None:
    """Show that a seed repeats its run."""
    print(coloured(1, "\nOn a simulated network: 50 ms each way, a third of all datagrams lost, virtual time:\n"))
    for seed in SEEDS:
        results = [sim.run(lossy, seed=seed) for _ in range(2)]
        attempts, seconds = results[0]
        again = "the same" if results[0] == results[1] else "something else"
        show(f"seed {seed}", f"answered at attempt {attempts}, after {seconds:.6f} s; run again: {again}")


if __name__ == "__main__":
    trio.run(main)
    simulated()
