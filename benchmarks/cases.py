"""The cases and the peers, as data; how they are measured is in ``measuring``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import ClassVar, Final, Literal

import attrs

from benchmarks.programs import HERE

OURS: Final = "trio_dgram"
SIMULATED: Final = "trio_dgram.sim"
PURE: Final = "trio_dgram, pure"
OWN: Final = frozenset({OURS, PURE, SIMULATED})
"""The programs of this project, which the others are compared with; always measured."""


@attrs.frozen
class Peer:
    """A program that does the same work with another library."""

    name: str
    command: tuple[str, ...]
    """``{c}`` is replaced by the folder of the C programs."""
    needs: tuple[str, ...] = ()
    """Its requirements, as arguments of ``missing``."""
    in_c: bool = False
    environment: Mapping[str, str] = attrs.field(factory=dict)


def _python(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / "peers" / f"{name}.py"), *arguments)


PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(OURS, _python("ours")),
        Peer(PURE, _python("ours"), ("the compiled layer",), environment={"TRIO_DGRAM_PURE": "1"}),
        Peer("trio.socket", _python("raw_trio")),
        Peer(SIMULATED, _python("simulated")),
        Peer("anyio on Trio", _python("anyio_trio"), ("python:anyio",)),
        Peer("asyncio", _python("asyncio_protocol")),
        Peer("uvloop", _python("asyncio_protocol", "uvloop"), ("python:uvloop",)),
        Peer("Node", ("node", str(HERE / "peers" / "node.js")), ("node",)),
        Peer("blocking Python", _python("blocking")),
        Peer("blocking C", ("{c}/peer", "blocking"), in_c=True),
        Peer("C with offloads", ("{c}/peer", "offload"), in_c=True),
    )
}


IMPORTING: Final = Peer(OURS, _python("importing"))
SEEDS: Final = Peer(SIMULATED, _python("seeds"), ("python:pytest",))
_FOR_QUIC: Final = ("python:aioquic", "python:trustme")
QUIC: Final = Peer(OURS, _python("quic"), _FOR_QUIC)
AIOQUIC: Final = Peer("aioquic", _python("quic"), _FOR_QUIC)


@attrs.frozen
class Echo:
    """A server echoes the datagrams of ``sockets`` clients, each with ``outstanding`` datagrams in flight."""

    sockets: int = 16
    outstanding: int = 4
    size: int = 64
    sources: int = 1
    """The number of source addresses, used round robin."""
    figure: Literal["answers a second", "us of a round trip", "us for each"] = "answers a second"
    settling: float = 0.0
    """The least warm-up in seconds, so that every source is known."""
    cores: int = 2
    """The number of cores it needs, one of them for the load."""


@attrs.frozen
class Flood:
    """A server counts the 1200 byte datagrams that it receives from a flood."""

    cores: ClassVar = 2
    sender: str = "offload"
    """The sending mode of the C program."""


@attrs.frozen
class Bulk:
    """A client sends 1200 byte datagrams to one address as fast as it can."""

    cores: ClassVar = 2


@attrs.frozen
class Alone:
    """A program without a load generator, which prints its own figure."""

    cores: int = 1


@attrs.frozen
class Attack:
    """A listener receives a flood from forged addresses while honest peers use it, and others join."""

    cores: ClassVar = 2


Work = Echo | Flood | Bulk | Alone | Attack


@attrs.frozen
class Row:
    """One line of a case's table: a peer, its arguments, and its load."""

    name: str
    peer: Peer
    arguments: tuple[str, ...]
    """``{seconds}`` is replaced by the duration of a measurement."""
    work: Work
    bar: float | None = None
    """The required ratio of the first row's figure to this one's, if any."""
    pure_bar: float | None = None
    """The same for our row in pure Python."""

    @property
    def needs_c(self) -> bool:
        """Whether the C programs are required."""
        return self.peer.in_c or not isinstance(self.work, Bulk | Alone)


@attrs.frozen(kw_only=True)
class Case:
    """One kind of work."""

    name: str
    unit: str
    rows: tuple[Row, ...]
    """The others are compared with the first."""
    higher_is_better: bool = True
    growth: bool = False
    """The rows are steps of growth: show the ratio of each to the first, not the inverse."""
    at_most: float | None = None
    """The limit of the first row's figure."""
    once: bool = False
    """One round is enough: it takes long and is reproducible."""

    @property
    def cores(self) -> int:
        """How many cores it needs to be judged."""
        return max(row.work.cores for row in self.rows)


Bars = tuple[float | None, float | None]
"""The required ratios of our figure to a peer's, with the compiled layer and in pure Python, if any."""
NO_BARS: Final[Bars] = (None, None)


def _beside(work: Work, command: str, bars: Mapping[str, Bars], *, ours: str = "") -> tuple[Row, ...]:
    """Return our rows and those of the peers in ``bars``, all with the argument ``command``, or ours with ``ours``."""
    own = (Row(name, PEERS[name], (ours or command,), work) for name in (OURS, PURE))
    return (*own, *(Row(name, PEERS[name], (command,), work, *bars[name]) for name in bars))


COST: Final = "us for each"
MOST_HELD: Final = 64 * 1024 + 1024 * 2
"""The memory of a listener at its default limits: the queued bytes and the peers, in KiB."""


def _channels(work: Echo) -> tuple[Row, ...]:
    return (
        Row("a handler's task each", PEERS[OURS], ("channels", str(work.sources + work.sockets), "127.0.0.1"), work),
        Row("the bare socket", PEERS[OURS], ("echo",), work, bar=1.8),
    )


def _many_sockets(count: int) -> Case:
    work, arguments = Echo(figure=COST), ("group", str(count))
    return Case(
        name=f"many sockets, {count:,}",
        unit="us per datagram",
        rows=(
            Row(OURS, PEERS[OURS], arguments, work),
            Row(PURE, PEERS[PURE], arguments, work),
            Row("one socket", PEERS[OURS], ("echo",), work, 2.0),
            Row("one socket, pure", PEERS[PURE], ("echo",), work, None, 3.0),
            Row("uvloop", PEERS["uvloop"], ("sockets", str(count)), work, 1.0),
        ),
        higher_is_better=False,
    )


_CASES: Final = (
    Case(
        name="echo",
        unit="echoes/s",
        rows=_beside(
            Echo(),
            "echo",
            {
                "trio.socket": (4.5, 2.8),
                "anyio on Trio": NO_BARS,
                "asyncio": (5.0, 3.6),
                "uvloop": (1.0, None),
                "Node": (1.6, 1.1),
                "blocking Python": NO_BARS,
                "blocking C": (0.5, None),
                "C with offloads": NO_BARS,
            },
        ),
    ),
    Case(
        name="batched echo",
        unit="echoes/s",
        rows=_beside(
            Echo(),
            "echo",
            {"uvloop": (1.25, 0.95), "blocking Python": (1.2, None), "C with offloads": NO_BARS},
            ours="batched",
        ),
    ),
    Case(
        name="ping-pong",
        unit="us, median",
        rows=_beside(
            Echo(sockets=1, outstanding=1, figure="us of a round trip"),
            "echo",
            {
                "trio.socket": (0.9, 1.05),
                "anyio on Trio": NO_BARS,
                "asyncio": NO_BARS,
                "uvloop": NO_BARS,
                "Node": NO_BARS,
                "blocking Python": NO_BARS,
                "blocking C": NO_BARS,
            },
        ),
        higher_is_better=False,
    ),
    Case(
        name="receive flood",
        unit="datagrams/s",
        rows=_beside(
            Flood(),
            "flood",
            {
                "trio.socket": NO_BARS,
                "anyio on Trio": NO_BARS,
                "asyncio": (25.0, 15.0),
                "uvloop": (2.5, 1.5),
                "Node": (None, 2.5),
                "blocking Python": NO_BARS,
                "C with offloads": NO_BARS,
            },
        ),
    ),
    Case(
        name="receive flood, sender without offload",
        unit="datagrams/s",
        rows=_beside(
            Flood(sender="blocking"),
            "flood",
            {
                "trio.socket": NO_BARS,
                "anyio on Trio": NO_BARS,
                "asyncio": (None, 5.0),
                "uvloop": (1.6, 0.9),
                "Node": NO_BARS,
                "blocking Python": NO_BARS,
                "blocking C": NO_BARS,
            },
        ),
    ),
    Case(
        name="bulk send",
        unit="datagrams/s",
        rows=_beside(
            Bulk(),
            "bulk",
            {"blocking Python": (8.0, 8.0), "Node": (4.0, 4.0), "blocking C": NO_BARS, "C with offloads": NO_BARS},
        ),
    ),
    Case(
        name="many peers",
        unit="echoes/s",
        rows=(
            Row("from 10,000 addresses", PEERS[OURS], ("echo",), Echo(sources=10_000)),
            Row("our own echo", PEERS[OURS], ("echo",), Echo(), bar=0.9),
        ),
    ),
    Case(
        name="workers",
        unit="echoes/s",
        rows=(
            Row("2 workers", PEERS[OURS], ("workers", "2"), Echo(cores=3)),
            Row("1 worker", PEERS[OURS], ("workers", "1"), Echo(), bar=1.7),
        ),
    ),
    Case(
        name="a channel per peer",
        unit="us per datagram",
        rows=_channels(Echo(sockets=1, outstanding=64, sources=10_000, figure=COST, settling=5.0)),
        higher_is_better=False,
    ),
    Case(
        name="a channel per peer, 16 peers",
        unit="us per datagram",
        rows=_channels(Echo(figure=COST)),
        higher_is_better=False,
    ),
    Case(
        name="a channel per peer, wildcard address",
        unit="us per datagram",
        rows=tuple(
            Row(name, PEERS[OURS], ("channels", "16", host), Echo(figure=COST), bar)
            for name, host, bar in (("on the wildcard address", "0.0.0.0", None), ("on one address", "127.0.0.1", 1.1))
        ),
        higher_is_better=False,
    ),
    _many_sockets(100),
    _many_sockets(1_000),
    Case(
        name="idle peers",
        unit="bytes of Python heap each, besides their tasks",
        rows=(Row("10,000 of one listener", PEERS[OURS], ("idle peers", "10000"), Alone()),),
        higher_is_better=False,
        at_most=2048,
    ),
    Case(
        name="under attack",
        unit="KiB of growth",
        rows=(Row("1,024 peers at most", PEERS[OURS], ("guarded",), Attack()),),
        higher_is_better=False,
        at_most=MOST_HELD,
        once=True,
    ),
    Case(
        name="idle sockets",
        unit="bytes of Python heap each",
        rows=(Row("1,000 in one nursery", PEERS[OURS], ("idle", "1000"), Alone()),),
        higher_is_better=False,
        at_most=4096,
    ),
    Case(
        name="import",
        unit="ms of CPU time",
        rows=(
            Row("import trio_dgram", IMPORTING, ("import trio_dgram", "{seconds}"), Alone()),
            Row("import trio", IMPORTING, ("import trio", "{seconds}"), Alone(), bar=1.15),
            Row("with a socket", IMPORTING, ("from trio_dgram import open_socket", "{seconds}"), Alone()),
            Row("with listeners", IMPORTING, ("from trio_dgram import serve", "{seconds}"), Alone()),
        ),
        higher_is_better=False,
    ),
    Case(
        name="QUIC transfer",
        unit="MB/s, both ends on one core",
        rows=(
            Row(OURS, QUIC, ("trio", "0", "{seconds}"), Alone()),
            Row("aioquic on asyncio", AIOQUIC, ("asyncio", "{seconds}"), Alone(), bar=1.3),
        ),
    ),
    Case(
        name="QUIC transfer beside an unread stream",
        unit="MB/s, both ends on one core",
        rows=(
            Row("beside an unread stream", QUIC, ("trio", "600000", "{seconds}"), Alone()),
            Row("alone", QUIC, ("trio", "0", "{seconds}"), Alone(), bar=0.8),
        ),
    ),
    Case(
        name="idle QUIC connections",
        unit="KiB of Python heap, each end",
        rows=(Row("1,000 of one server", QUIC, ("idle", "{connections}"), Alone()),),
        higher_is_better=False,
        at_most=120,
        once=True,
    ),
    Case(
        name="peers, growing",
        unit="us per datagram",
        rows=(
            Row("1 peer", PEERS[OURS], ("echo",), Echo(sockets=1, outstanding=64, figure=COST)),
            Row("100 peers", PEERS[OURS], ("echo",), Echo(sources=100, figure=COST)),
            Row("10,000 peers", PEERS[OURS], ("echo",), Echo(sources=10_000, figure=COST)),
        ),
        higher_is_better=False,
        growth=True,
    ),
    Case(
        name="sockets, growing",
        unit="us per datagram",
        rows=tuple(
            Row(f"{count:,} socket{'s'[: count - 1]}", PEERS[OURS], ("sockets", str(count)), Echo(figure=COST))
            for count in (1, 100, 1_000)
        ),
        higher_is_better=False,
        growth=True,
    ),
    Case(
        name="simulated network",
        unit="datagrams in a second of CPU time",
        rows=(
            Row("between two hosts", PEERS[SIMULATED], ("hosts", "2", "{seconds}"), Alone()),
            Row("trio.socket on loopback", PEERS["trio.socket"], ("loopback", "{seconds}"), Alone(), bar=0.5),
        ),
    ),
    Case(
        name="simulated ping-pong",
        unit="round trips in a second of CPU time",
        rows=(
            Row("between two hosts", PEERS[SIMULATED], ("ping-pong", "{seconds}"), Alone()),
            Row("trio.socket on loopback", PEERS["trio.socket"], ("ping-pong", "{seconds}"), Alone(), bar=0.5),
        ),
    ),
    Case(
        name="simulated seeds",
        unit="seeds/s",
        rows=(
            Row("2 processes", SEEDS, ("2", "{seconds}"), Alone(cores=2)),
            Row("1 process", SEEDS, ("1", "{seconds}"), Alone(), bar=1.6),
        ),
    ),
    Case(
        name="1,000 simulated hosts, all to all",
        unit="s of CPU time to set up",
        rows=(Row("paths and sockets", PEERS[SIMULATED], ("set up", "1000"), Alone()),),
        higher_is_better=False,
        at_most=2.0,
    ),
    Case(
        name="recording a simulated run",
        unit="times the CPU time of one that is not recorded",
        rows=(Row("with a tape", PEERS[SIMULATED], ("recording", "{seconds}"), Alone()),),
        higher_is_better=False,
        at_most=1.05,
    ),
    Case(
        name="simulated hosts, growing",
        unit="us per datagram",
        rows=tuple(
            Row(f"{count:,} hosts", PEERS[SIMULATED], ("cost", str(count), "{seconds}"), Alone())
            for count in (2, 100, 1_000)
        ),
        higher_is_better=False,
        growth=True,
    ),
    Case(
        name="a million simulated datagrams",
        unit="bytes of growth",
        rows=(Row("1,000 remembered", PEERS[SIMULATED], ("growth", "{seconds}"), Alone()),),
        higher_is_better=False,
        at_most=2**20,
        once=True,
    ),
)
CASES: Final = {case.name: case for case in _CASES}
