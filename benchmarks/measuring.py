"""Measuring one program at one case: the server alone on its core, the load on the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks.cases import CASES, LOAD, OURS, PEERS, Case, Peer
from benchmarks.programs import cores, first_line, running

WARM_UP = 0.1
SEGMENTS = 54


@attrs.frozen
class Figure:
    """What one measurement gave."""

    value: float
    lost: float = 0.0
    """The share of the datagrams that did not arrive."""


@attrs.frozen
class Measuring:
    """How long, and with which C programs."""

    c: Path
    seconds: float

    def measure(self, case: Case, peer: Peer) -> Figure:
        """Measure ``peer`` at ``case`` once."""
        arguments = case.ours if case.ours is not None and peer.name == OURS else case.arguments
        match case.name:
            case "bulk send":
                return self._bulk_send(peer, arguments)
            case "receive flood":
                return self._flood(peer, arguments, SEGMENTS)
            case "receive flood, sender without offload":
                return self._flood(peer, arguments, 1)
            case "ping-pong":
                return self._load(peer, arguments, LOAD["ping-pong"], latency=True)
            case name:
                return self._load(peer, arguments, LOAD.get(name, LOAD["echo"]))

    def scale(self, kind: str, count: int) -> Figure:
        """Measure what a datagram costs us, in microseconds, with ``count`` peers or sockets."""
        arguments = ("sockets", str(count)) if kind == "sockets" else ("echo",)
        figure = self._load(PEERS[OURS], arguments, (16, 4, 64, count))
        return Figure(1e6 / figure.value, figure.lost)

    def idle(self) -> Figure:
        """Measure what an idle socket costs, in bytes of Python heap."""
        with running(self._command(PEERS[OURS], CASES["idle sockets"].arguments), cores()[0]) as server:
            return Figure(float(first_line(server)))

    def _command(self, peer: Peer, arguments: Sequence[str], **values: object) -> list[str]:
        filled = [argument.format(seconds=self.seconds, **values) for argument in arguments]
        parts = [part.format(c=self.c) for part in peer.command]
        # The C server's echo has its own names for how it is done.
        return parts if arguments == ("echo",) and "cc" in peer.needs else [*parts, *filled]

    def _load(
        self, peer: Peer, arguments: Sequence[str], load: tuple[int, int, int, int], *, latency: bool = False
    ) -> Figure:
        server_core, load_core = cores()
        with running(self._command(peer, arguments), server_core) as server:
            command = [str(self.c / "load"), first_line(server), str(WARM_UP), str(self.seconds), *map(str, load)]
            with running(command, load_core) as generator:
                answers, seconds, lost, median, _ = map(float, first_line(generator).split())
        return Figure(median if latency else answers / seconds, lost / max(1.0, answers + lost))

    def _flood(self, peer: Peer, arguments: Sequence[str], segments: int) -> Figure:
        server_core, load_core = cores()
        with running(self._command(peer, arguments), server_core) as server:
            # Long enough for the server to begin, and to end its own count under load.
            command = [str(self.c / "flood"), first_line(server), str(self.seconds + 10), "1200", str(segments)]
            with running(command, load_core):
                count, seconds = map(float, first_line(server).split())
        return Figure(count / seconds)

    def _bulk_send(self, peer: Peer, arguments: Sequence[str]) -> Figure:
        server_core, load_core = cores()
        with running([str(self.c / "echo"), "flood", str(self.seconds + 10)], load_core) as sink:
            command = self._command(peer, arguments, port=first_line(sink))
            with running(command, server_core) as sender:
                count, seconds = map(float, first_line(sender).split())
        return Figure(count / seconds)
