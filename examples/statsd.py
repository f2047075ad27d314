"""Aggregate StatsD metrics, and print them every few seconds with the number of datagrams that were lost.

Try it: run this, and in another terminal `echo 'page.views:1|c' | nc -u -w1 127.0.0.1 8125`.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial

import attrs
import trio

import trio_dgram

BUFFER_SIZE = 4 << 20
"""The receive buffer in bytes: it holds what arrives while a report is printed. net.core.rmem_max limits it."""


@attrs.define
class Metrics:
    """The metrics since the last report."""

    counters: Counter[str] = attrs.field(factory=Counter)
    gauges: dict[str, float] = attrs.field(factory=dict)
    timers: dict[str, list[float]] = attrs.field(factory=lambda: defaultdict(list))
    malformed: int = 0

    def add(self, line: str) -> None:
        """Add one metric, such as ``page.views:1|c|@0.1``, ``load:0.7|g`` or ``query:12|ms``; count what is none."""
        try:
            name, value = line.split(":")
            amount, kind, *sampled = value.split("|")
            number = float(amount) / float(sampled[0].removeprefix("@") if sampled else 1)
        except (ValueError, ZeroDivisionError):
            name, kind, number = "", "", 0.0
        if not (name.isprintable() and math.isfinite(number)):
            kind = ""
        match kind:
            case "c":
                self.counters[name] += round(number)
            case "g":
                self.gauges[name] = number
            case "ms":
                self.timers[name].append(number)
            case _:
                self.malformed += 1

    def report(self) -> list[str]:
        """Return a line for each metric, and begin anew; gauges keep their values."""
        lines = [f"{name} {count}" for name, count in sorted(self.counters.items())]
        lines += [f"{name} {value:g}" for name, value in sorted(self.gauges.items())]
        lines += [
            f"{name} {statistics.median(times):g} ms of {len(times)}" for name, times in sorted(self.timers.items())
        ]
        self.counters.clear()
        self.timers.clear()
        return lines


async def aggregate(port: int, interval: float, report: Callable[[str], object]) -> None:
    """Receive metrics for ever and report them every ``interval`` seconds."""
    metrics = Metrics()

    async def report_regularly() -> None:
        while True:
            await trio.sleep(interval)
            counts = socket.statistics()
            for line in metrics.report():
                report(line)
            report(f"received {counts.received}, lost {counts.dropped_by_kernel}, malformed {metrics.malformed}")

    # Without offload the number of lost datagrams is exact.
    async with (
        trio_dgram.open_socket("udp4", port=port, receive_buffer_size=BUFFER_SIZE, offload=False) as socket,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(report_regularly)
        while True:
            for datagram in await socket.receive_many():
                for line in datagram.data.decode(errors="replace").splitlines():
                    metrics.add(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Aggregate StatsD metrics and print them.")
    parser.add_argument("--port", type=int, default=8125, help="the port to receive on (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=10, help="seconds between reports (default: %(default)s)")
    arguments = parser.parse_args()
    failure = None
    try:
        trio.run(aggregate, arguments.port, arguments.interval, partial(print, flush=True))
    except* KeyboardInterrupt:
        pass
    except* (OSError, ValueError) as errors:
        failure = errors.exceptions[0]
    if failure is not None:
        parser.exit(1, f"{parser.prog}: {failure}\n")


if __name__ == "__main__":
    main()
