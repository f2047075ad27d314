"""The honest peers of a server under attack: some join before the attack, some during it.

usage: honest.py PORT ATTACK COUNT: ``ATTACK`` is the attacking program, ``COUNT`` the number of its datagrams.
Prints: the datagrams of the attack, its seconds, the requests made during it, those answered, those answered at the
first attempt, the peers that joined, and the datagrams that the honest peers sent.
"""

from __future__ import annotations

import sys

import attrs
import trio

import trio_dgram

PEERS = 100
"""So many join before the attack, and as many during it."""
PAUSE = 0.01
"""The pause between an answer and the next request, in seconds."""
AGAIN = 0.025
"""The time of each attempt, in seconds. It is constant: backing off would not relieve the congestion of the attack."""
ATTEMPTS = 4000


@attrs.define
class Counts:
    """The counts of the requests made during the attack."""

    asked: int = 0
    answered: int = 0
    at_once: int = 0
    joined: int = 0
    sent: int = 0


async def ask(peer: trio_dgram.DatagramChannel, request: bytes, answer: bytes, counts: Counts) -> tuple[bytes, int]:
    """Repeat a request until a reply with the prefix ``answer`` arrives; return that and the number of attempts."""
    data, attempts = b"", 0
    async for attempt in trio_dgram.retry(timeout=AGAIN, factor=1, attempts=ATTEMPTS):
        with attempt:
            attempts += 1
            await peer.send(request)
            counts.sent += 1
            # A reply to an earlier attempt is skipped.
            while not (data := await peer.receive()).startswith(answer):
                pass
    return data, attempts


async def join(peer: trio_dgram.DatagramChannel, counts: Counts) -> None:
    """Prove the address by returning the server's cookie."""
    cookie, _ = await ask(peer, b"hello", b"cookie", counts)
    await ask(peer, cookie, b"welcome", counts)


async def use(peer: trio_dgram.DatagramChannel, counts: Counts, over: trio.Event) -> None:
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

    async def stay(joined: trio.Event) -> None:
        async with trio_dgram.open_connection("127.0.0.1", port) as peer:
            await join(peer, counts)
            joined.set()
            await attacked.wait()
            await use(peer, counts, over)

    async def arrive() -> None:
        async with trio_dgram.open_connection("127.0.0.1", port) as peer:
            await join(peer, counts)
            counts.joined += not over.is_set()
            await use(peer, counts, over)

    attacked = trio.Event()
    async with trio_dgram.open_connection("127.0.0.1", port) as last:
        await join(last, counts)
        async with trio.open_nursery() as nursery:
            joined = [trio.Event() for _ in range(PEERS)]
            for event in joined:
                nursery.start_soon(stay, event)
            for event in joined:
                await event.wait()
            attacked.set()
            for _ in range(PEERS):
                nursery.start_soon(arrive)
            done = await trio.run_process([attack, str(port), str(count)], capture_stdout=True)
            over.set()
        await ask(last, b"enough", b"enough", counts)
    sent, seconds = done.stdout.split()
    results = (counts.asked, counts.answered, counts.at_once, counts.joined, counts.sent)
    print(int(sent), float(seconds), *results, flush=True)


trio.run(main, int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
