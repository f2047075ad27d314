"""Seeds a second of a small scenario, by the pytest plugin: ``seeds.py JOBS SECONDS``, in so many processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trio_dgram
from trio_dgram import sim

PORT = 9
ROUNDS = 5


async def answer() -> None:
    async with trio_dgram.open_socket("udp4", port=PORT) as server:
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


async def ask() -> None:
    async with trio_dgram.open_socket("udp4", connect=("server", PORT)) as client:
        for _ in range(ROUNDS):
            await client.send(b"anybody there?")
            await client.receive()


async def scenario(network: sim.Network) -> None:
    network.defaults(delay=0.01, jitter=0.005)
    network.host("server").start_soon(answer)
    await network.host("client").run(ask)


@pytest.mark.seeds(1)
def test_small() -> None:
    sim.run(scenario)


def seeds(jobs: int, seconds: float) -> int:
    """Return the number of seeds that this test runs under."""
    options = (f"--sim-for={seconds}s", f"--sim-jobs={jobs}", "-p", "no:cacheprovider", "-c", os.devnull)
    command = [sys.executable, "-m", "pytest", "-q", *options, f"{Path(__file__).resolve()}::test_small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = re.findall(r"test_small: (\d+) seeds?$", done.stdout, re.MULTILINE)
    return int(found)


if __name__ == "__main__":
    jobs, seconds = sys.argv[1:]
    print(seeds(int(jobs), float(seconds)) / float(seconds), flush=True)
