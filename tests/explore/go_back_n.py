"""Go-back-N: a stream of messages, each with a number modulo 4, and acknowledgements that cover all before them.

The planted bug: a window of 4 messages, as many as there are numbers. Then the last acknowledgement of one window, sent
again, cannot be distinguished from that of a whole next window, nor a repeated window from the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from trio_dgram import open_socket, sim

PORT: Final = 4001
MODULUS: Final = 4
TIMEOUT: Final = 0.2
"""The time without an acknowledgement after which the sender repeats its window, in seconds."""


async def send_all(messages: Sequence[str], receiver: str, window: int) -> None:
    """Send messages to a receiver, at most ``window`` of them ahead of its acknowledgements."""
    async with open_socket("udp4") as sock:
        await sock.connect((receiver, PORT))
        base = following = 0
        while base < len(messages):
            while following < min(base + window, len(messages)):
                await sock.send(f"{following % MODULUS} {messages[following]}")
                following += 1
            with trio.move_on_after(TIMEOUT) as waiting:
                acknowledged = int((await sock.receive()).data.split()[1])
                # The number of messages up to the acknowledged one, if that is in the window.
                count = (acknowledged - base) % MODULUS + 1
                base += count if count <= following - base else 0
            if waiting.cancelled_caught:
                following = base


async def receive_all(received: list[str]) -> None:
    """Receive the messages of one sender, in order, and acknowledge each."""
    async with open_socket("udp4", port=PORT) as sock:
        async for datagram in sock:
            number, message = datagram.data.decode().split()
            if int(number) == len(received) % MODULUS:
                received.append(message)
            await sock.send(f"ACK {(len(received) - 1) % MODULUS}", datagram.address)


async def transfer(network: sim.Network, *, window: int) -> None:
    """Transfer twelve messages over a path that loses datagrams."""
    messages = [f"message-{index}" for index in range(12)]
    received: list[str] = []
    sender, receiver = network.host("sender"), network.host("receiver")
    network.path(sender, receiver, symmetric=True, delay=0.02, loss=0.2)
    network.always(lambda: received == messages[: len(received)], "messages arrive in order")
    receiver.start_soon(receive_all, received)
    await trio.testing.wait_all_tasks_blocked()
    await sender.run(send_all, messages, "receiver", window)
