"""Measuring one program at one kind of work: the program alone on its core, the load on the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.cases import PEERS, Attack, Bulk, Echo, Flood, Row
from benchmarks.programs import HERE, ProgramError, cores, running

LONGEST_ALONE: Final = 240.0
"""The time limit, in seconds, of a program that does a fixed amount of work."""
STARTING: Final = 10.0
"""The time limit, in seconds, for the start of a program whose partner is running."""


@attrs.frozen
class Figure:
    """The result of one measurement."""

    value: float
    lost: float = 0.0
    """The share of the datagrams that did not arrive, or of the requests that were not answered."""
    note: str = ""
    """A remark for the table."""
    cpu: float | None = None
    """The CPU time of each datagram, user and system, in us: a machine's noise changes it less than the rate."""


@attrs.frozen
class Measuring:
    """The durations of a measurement, and the folder of the C programs."""

    c: Path | None
    warm_up: float
    seconds: float
    forged: int = 1_000_000
    """How many datagrams an attack consists of."""
    connections: int = 1_000
    """How many QUIC connections are idle."""
    sources: int = 10_000
    """How many source addresses a load has at most."""

    def measure(self, row: Row) -> Figure:
        """Measure one row of a case once."""
        match row.work:
            case Echo() as work:
                return self._echo(row, work)
            case Flood(sender):
                return self._flood(row, sender)
            case Bulk():
                return self._bulk(row)
            case Attack():
                return self._attack(row)
            case _:
                return self._alone(row)

    def _command(self, command: Sequence[str], *arguments: object) -> list[str]:
        return [*(part.format(c=self.c) for part in command), *map(str, arguments)]

    def _alone(self, row: Row) -> Figure:
        arguments = (argument.format(seconds=self.seconds, connections=self.connections) for argument in row.arguments)
        lasts = self.seconds + LONGEST_ALONE
        with running(self._command(row.peer.command, *arguments), cores(row.work.cores)[0], lasts) as program:
            (value,) = program.numbers()
            return Figure(value)

    def _echo(self, row: Row, work: Echo) -> Figure:
        server_core, load_core = cores(work.cores - 1)
        sources = min(work.sources, self.sources)
        warm_up = max(self.warm_up, work.settling * sources / work.sources)
        lasts = warm_up + self.seconds
        command = self._command(row.peer.command, *row.arguments)
        with running(command, server_core, lasts, row.peer.environment) as server:
            load = (work.sockets, work.outstanding, work.size, sources)
            command = self._command(("{c}/load", server.line()), warm_up, self.seconds, *load)
            before = server.cpu_seconds()
            with running(command, load_core, lasts) as generator:
                answers, seconds, lost, median, _ = generator.numbers()
            cpu = _each(before, server.cpu_seconds(), lasts, answers / seconds)
        if not answers:
            raise ProgramError("the server answered nothing")
        figures = {
            "answers a second": answers / seconds,
            "us of a round trip": median,
            "us for each": 1e6 * seconds / answers,
        }
        return Figure(figures[work.figure], lost / (answers + lost), cpu=cpu)

    def _flood(self, row: Row, sender: str) -> Figure:
        server_core, load_core = cores()
        lasts = self.warm_up + self.seconds
        command = self._command(row.peer.command, *row.arguments, self.warm_up, self.seconds)
        with running(command, server_core, lasts, row.peer.environment) as server:
            port = server.line()
            before = server.cpu_seconds()
            # It ends when the server has ended.
            command = self._command(("{c}/peer", sender, "bulk", port), 0, lasts + STARTING)
            with running(command, load_core, lasts + STARTING) as flood:
                count, seconds = server.numbers()
                cpu = _each(before, server.cpu_seconds(), lasts, count / seconds)
                sent, sending = flood.numbers()
        received, offered = count / seconds, sent / sending
        return Figure(received, max(0.0, 1 - received / offered), cpu=cpu)

    def _attack(self, row: Row) -> Figure:
        server_core, load_core = cores()
        with running(self._command(row.peer.command, *row.arguments), server_core, LONGEST_ALONE) as server:
            honest = (sys.executable, str(HERE / "peers" / "honest.py"), server.line())
            command = self._command((*honest, "{c}/attack"), self.forged)
            with running(command, load_core, LONGEST_ALONE) as others:
                forged, seconds, asked, answered, at_once, joined, sent = others.numbers()
            growth, astray, received, dropped, accepted, evicted = server.numbers()
        unseen = forged + sent - received - dropped
        if astray or unseen:
            raise ProgramError(
                f"{unseen:.0f} datagrams were not counted, and {astray:.0f} datagrams or peers counted wrongly"
            )
        return Figure(
            growth,
            1 - answered / asked,
            f"{forged:,.0f} forged datagrams in {seconds:.1f} s, of which {received / (forged + sent):.0%} were read;"
            f" {at_once / asked:.0%} of {asked:,.0f} requests answered at the first attempt, {answered / asked:.1%}"
            f" in all; {joined:.0f} of 100 joined during it; {accepted:,.0f} peers admitted, {evicted:,.0f} evicted",
        )

    def _bulk(self, row: Row) -> Figure:
        server_core, load_core = cores()
        lasts = self.warm_up + self.seconds
        sink = ("{c}/peer", "offload") if self.c else PEERS["blocking Python"].command
        command = self._command(sink, "flood", 0, lasts + STARTING)
        with running(command, load_core, lasts + STARTING) as receiver:
            command = self._command(row.peer.command, *row.arguments, receiver.line(), self.warm_up, self.seconds)
            with running(command, server_core, lasts, row.peer.environment) as sender:
                count, seconds = sender.numbers()
        return Figure(count / seconds)


def _each(before: float | None, after: float | None, seconds: float, rate: float) -> float | None:
    """Return the CPU time of each of the datagrams of ``seconds``, in us."""
    if before is None or after is None or not rate:
        return None
    return 1e6 * (after - before) / (seconds * rate)
