"""The cases and the peers, as data; what is measured is in ``measuring``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

import attrs

from benchmarks.programs import HERE

OURS: Final = "trio_dgram"


@attrs.frozen
class Peer:
    """A program that does the same work in another way."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()


def _python(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / "peers" / f"{name}.py"), *arguments)


PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(OURS, _python("ours")),
        Peer("trio.socket", _python("raw_trio")),
        Peer("anyio on Trio", _python("anyio_trio"), ("python:anyio",)),
        Peer("asyncio", _python("asyncio_protocol")),
        Peer("uvloop", _python("asyncio_protocol", "uvloop"), ("python:uvloop",)),
        Peer("Node", ("node", str(HERE / "peers" / "node.js")), ("node",)),
        Peer("blocking Python", _python("blocking")),
        Peer("blocking C", ("{c}/echo", "blocking"), ("cc",)),
        Peer("C with offloads", ("{c}/echo", "offload"), ("cc",)),
    )
}


@attrs.frozen(kw_only=True)
class Case:
    """One kind of work."""

    name: str
    unit: str
    peers: Mapping[str, float | None]
    """The peers by name, each with the ratio ours/theirs that we want to reach, if there is one."""
    arguments: tuple[str, ...]
    """What the programs are called with."""
    ours: tuple[str, ...] | None = None
    """What ours is called with, if that is something else."""
    higher_is_better: bool = True
    seconds: float = 1.0
    """How long one measurement takes."""


LOAD: Final = {"echo": (16, 4, 64, 1), "ping-pong": (1, 1, 64, 1), "many peers": (16, 4, 64, 10_000)}
"""Sockets, datagrams under way on each, bytes, source addresses."""

CASES: Final = {
    case.name: case
    for case in (
        Case(
            name="echo",
            unit="echoes/s",
            arguments=("echo",),
            peers={
                "trio.socket": 2.8,
                "anyio on Trio": None,
                "asyncio": 4.0,
                "uvloop": 0.8,
                "Node": 1.1,
                "blocking Python": None,
                "blocking C": 0.5,
                "C with offloads": None,
            },
        ),
        Case(
            name="batched echo",
            unit="echoes/s",
            arguments=("echo",),
            ours=("batched",),
            peers={"uvloop": 1.0, "blocking Python": 1.0},
        ),
        Case(
            name="ping-pong",
            unit="us",
            arguments=("echo",),
            peers={"trio.socket": 1.05, "asyncio": None, "uvloop": None, "Node": None},
            higher_is_better=False,
        ),
        Case(
            name="receive flood",
            unit="datagrams/s",
            arguments=("flood", "{seconds}"),
            peers={"asyncio": 15.0, "uvloop": 1.5, "Node": 2.5, "trio.socket": None},
        ),
        Case(
            name="receive flood, sender without offload",
            unit="datagrams/s",
            arguments=("flood", "{seconds}"),
            peers={"asyncio": 5.0, "uvloop": 0.9, "Node": None, "trio.socket": None},
        ),
        Case(
            name="bulk send",
            unit="datagrams/s",
            arguments=("bulk", "{port}", "{seconds}"),
            peers={"blocking Python": 8.0, "Node": 4.0},
        ),
        Case(name="many peers", unit="echoes/s", arguments=("echo",), peers={"our echo": 0.9}),
        Case(name="idle sockets", unit="bytes each", arguments=("idle", "1000"), peers={}, higher_is_better=False),
        Case(name="scaling", unit="us per datagram", arguments=(), peers={}, higher_is_better=False),
    )
}

IDLE_LIMIT: Final = 4096
"""Bytes of Python heap that an idle socket may cost."""
