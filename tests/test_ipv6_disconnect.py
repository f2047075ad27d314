"""connect(AF_UNSPEC) of an IPv6 socket resets the peer's port, and on Linux not its address.

The kernel goes on to drop datagrams from other addresses; getsockname(2) and getpeername(2) do not show it.
"""

from __future__ import annotations

import pytest
import trio

import trio_dgram

from .support.namespaces import add_address

PEERS = ("::1", "fd00::2", "::ffff:127.0.0.2")


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("former", PEERS)
@pytest.mark.parametrize("source", PEERS)
async def test_a_disconnected_socket_receives_from_every_address(former: str, source: str) -> None:
    add_address("fd00::2/128", "lo")
    async with trio_dgram.open_socket("udp6", port=0) as sock:
        await sock.connect((former, 9))
        sock.disconnect()
        async with trio_dgram.open_socket("udp6", port=0, host=source) as sender:
            await sender.send(b"x", (source, sock.address.port))
            with trio.fail_after(30):
                assert await sock.receive() == (b"x", sender.address, None)
