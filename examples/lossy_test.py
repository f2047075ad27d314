"""Test a client on a network that loses, duplicates and reorders datagrams: a template to copy.

It needs pytest-trio, and runs in virtual time, so that a wait of a minute takes milliseconds:

    pytest examples/lossy_test.py                      # 50 seeds for each test, the same every time
    pytest examples/lossy_test.py --sim-seeds=1000     # more of them
    pytest examples/lossy_test.py --runxfail           # the report of a failing test

The last reports the expected failure of the naive client: the smallest failing seed, the trace of the last datagrams,
the path of their diagram, and the command that repeats that seed.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from typing import Final

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import sim

PORT: Final = 5005

# The service and its client: in your file, an import of your program.


async def serve_squares(peer: trio.abc.Channel[bytes]) -> None:
    """Answer a request's number and an integer with the same number and the integer's square."""
    async for request in peer:
        number, _, integer = request.partition(b" ")
        if integer.isdigit():
            await peer.send(b"%s %d" % (number, int(integer) ** 2))


class Client:
    """Repeats a request until its reply arrives, and matches replies by their number."""

    def __init__(self, peer: trio.abc.Channel[bytes]) -> None:
        self._peer = peer
        self._numbers = itertools.count(1)

    async def square(self, integer: int) -> int:
        """Return the square of an integer, or raise trio.TooSlowError."""
        number = b"%d" % next(self._numbers)
        async for attempt in trio_dgram.retry(timeout=0.5, factor=1.5, attempts=10):
            with attempt:
                await self._peer.send(b"%s %d" % (number, integer))
                while True:
                    answered, _, square = (await self._peer.receive()).partition(b" ")
                    if answered == number:
                        return int(square)
        raise AssertionError("unreachable: after its last attempt, retry has raised trio.TooSlowError")


class NaiveClient(Client):
    """Takes the next datagram as the reply, which is correct on a perfect network only."""

    async def square(self, integer: int) -> int:
        """Return the square of an integer, or of an earlier one."""
        async for attempt in trio_dgram.retry(timeout=0.5, factor=1.5, attempts=10):
            with attempt:
                await self._peer.send(b"%d %d" % (next(self._numbers), integer))
                return int((await self._peer.receive()).partition(b" ")[2])
        raise AssertionError("unreachable: after its last attempt, retry has raised trio.TooSlowError")


# The tests: with the fixture autojump_clock time is virtual.

pytestmark = pytest.mark.trio  # not needed if pytest is configured with trio_mode

BAD: Final = sim.Knobs(delay=0.05, jitter=0.05, keep_order=False, loss=0.1, duplicate=0.1)


@pytest.fixture
def conditions() -> sim.Knobs:
    """The conditions between the two hosts, unless a test is parametrised with others."""
    return BAD


@pytest.fixture
async def peer(sim_network: sim.Network, conditions: sim.Knobs) -> AsyncGenerator[trio.abc.Channel[bytes]]:
    """A channel from one host to the service on another."""
    server, client = sim_network.host("server"), sim_network.host("client")
    sim_network.path(client, server, symmetric=True, **conditions)
    server.start_soon(trio_dgram.serve, serve_squares, PORT)
    await trio.testing.wait_all_tasks_blocked()
    with client.active():
        async with trio_dgram.open_connection("server", PORT) as channel:
            yield channel


@pytest.mark.seeds(50)
@pytest.mark.parametrize(
    "conditions",
    [
        pytest.param({}, id="perfect"),
        pytest.param({"delay": 0.3, "loss": 0.1}, id="lossy"),
        pytest.param({"delay": 0.3, "jitter": 0.3, "keep_order": False}, id="reordered"),
        pytest.param({"delay": 0.3, "duplicate": 0.5}, id="doubled"),
        pytest.param(BAD, id="bad"),
    ],
)
async def test_each_answer_is_that_of_its_request(peer: trio.abc.Channel[bytes], autojump_clock: object) -> None:
    client = Client(peer)
    for integer in range(10):
        assert await client.square(integer) == integer**2


@pytest.mark.seeds(50)
@pytest.mark.xfail(reason="it takes the late reply to one request as the reply to the next", strict=True)
async def test_the_naive_client(peer: trio.abc.Channel[bytes], autojump_clock: object) -> None:
    client = NaiveClient(peer)
    for integer in range(100):
        assert await client.square(integer) == integer**2


async def test_a_partition_times_the_client_out(
    peer: trio.abc.Channel[bytes], sim_network: sim.Network, autojump_clock: object
) -> None:
    with sim_network.partition(["client"], ["server"]), pytest.raises(trio.TooSlowError, match="10 attempts"):
        await Client(peer).square(3)
    assert 56 < sim_network.time < 63
