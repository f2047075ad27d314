"""Fixtures of the tests of the simulated network."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final, TypeAlias

import pytest

PROGRAM: Final = """
    import pytest
    import time
    import trio
    import trio_dgram
    from trio_dgram import pytest_plugin, sim
"""
COUNTER: Final = """
    async def count(totals):
        async with trio_dgram.open_socket("udp4", port=5005) as sock:
            async for datagram in sock:
                totals.append(sum(totals[-1:]) + int(datagram.data))
                await sock.send(f"total {totals[-1]}", datagram.address)

    async def add():
        async with trio_dgram.open_socket("udp4") as sock:
            await sock.connect(("server", 5005))
            while True:
                await sock.send("5")
                with trio.move_on_after(0.2):
                    return await sock.receive()
"""
"""A server that counts a request again when its answer was lost, and a client."""
LOAD: Final = (
    ()
    if any(point.name == "trio_dgram" for point in entry_points(group="pytest11"))
    else ("-p", "trio_dgram.pytest_plugin")
)
"""pytest loads the plugin of an installed package automatically."""

Run: TypeAlias = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest on a file of tests, or on the files that exist already; failures are not shrunk by default."""
    # On CI the summary repeats the whole exception, with the report.
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\ntrio_mode = true\n")

    def run(program: str, *options: str) -> pytest.RunResult:
        if program:
            pytester.makepyfile(PROGRAM + program)
        return pytester.runpytest_inprocess(*LOAD, "--sim-shrink=0", *options)

    return run
