"""The honest peers of a server under attack: some that have joined before, some that join meanwhile.

usage: honest.py PORT ATTACK COUNT: ``ATTACK`` is the program that attacks, ``COUNT`` how many datagrams it sends.
Prints: datagrams that the attack sent, in how many seconds, how many requests were made meanwhile, how many of them
were answered, how many at the first attempt, how many peers joined that were to, and how many datagrams were sent.
"""

from __future__ import annotations

import sys

import attrs
import trio

import trio_dgram

PEERS = 100
"""There are as many before the attack, and as many join in it."""
PAUSE = 0.01
"""Between an answer and the next request, in seconds."""
AGAIN = 0.025
"""After how long a request is made again, in seconds: all the time the same, for what gets lost tells of no congestion
that these few could relieve."""
ATTEMPTS = 4000


@attrs.define
class Counts:
    """What became of the requests that were made during the attack, and what it took."""

    asked: int = 0
    answered: int = 0
    at_once: int = 0
    joined: int = 0
    sent: int = 0


async def ask(peer: trio_dgram.DatagramChannel, request: bytes, answer: bytes, counts: Counts) -> tuple[bytes, int]:
    """Ask until an answer comes that begins as it should; return it and how many attempts it took."""
    data, attempts = b"", 0
    async for attempt in trio_dgram.retry(timeout=AGAIN, factor=1, attempts=ATTEMPTS):
        with attempt:
            attempts += 1
            await peer.send(request)
            counts.sent += 1
            # What answers an earlier attempt is passed over.
            while not (data := await peer.receive()).startswith(answer):
                pass
    return data, attempts


async def join(peer: trio_dgram.DatagramChannel, counts: Counts) -> None:
    """Prove the address: what the server sends there is sent back."""
    cookie, _ = await ask(peer, b"hello", b"cookie", counts)
    await ask(peer, cookie, b"welcome", counts)


async def talk(peer: trio_dgram.DatagramChannel, counts: Counts, over: trio.Event) -> None:
    number = 0
    while not over.is_set():
        number += 1
        request = b"request %d." % number
        counts.asked += 1
        try:
            _, attempts = await ask(peer, request, request, counts)
        except trio.TooSlowError:
            continue
        counts.answered += 1
        counts.at_once += attempts == 1
        await trio.sleep(PAUSE)


async def main(port: int, attack: str, count: int) -> None:
    counts, over = Counts(), trio.Event()

    async def be_there(joined: trio.Event) -> None:
        async with trio_dgram.open_connection("127.0.0.1", port) as peer:
            await join(peer, counts)
            joined.set()
            await attacked.wait()
            await talk(peer, counts, over)

    async def come() -> None:
        async with trio_dgram.open_connection("127.0.0.1", port) as peer:
            await join(peer, counts)
            counts.joined += not over.is_set()
            await talk(peer, counts, over)

    attacked = trio.Event()
    async with trio_dgram.open_connection("127.0.0.1", port) as last:
        await join(last, counts)
        async with trio.open_nursery() as nursery:
            there = [trio.Event() for _ in range(PEERS)]
            for event in there:
                nursery.start_soon(be_there, event)
            for event in there:
                await event.wait()
            attacked.set()
            for _ in range(PEERS):
                nursery.start_soon(come)
            done = await trio.run_process([attack, str(port), str(count)], capture_stdout=True)
            over.set()
        await ask(last, b"enough", b"enough", counts)
    sent, seconds = done.stdout.split()
    told = (counts.asked, counts.answered, counts.at_once, counts.joined, counts.sent)
    print(int(sent), float(seconds), *told, flush=True)


trio.run(main, int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
