"""The life cycle, as other implementations' suites insist on it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Closed, Listening

from ..support.descriptors import same_descriptors
from ..support.families import Family


async def test_a_thousand_sockets_in_a_loop_leave_nothing(udp: Family) -> None:
    task = trio.lowlevel.current_task()
    with same_descriptors():
        for _ in range(1_000):
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback):
                pass
    assert not task.child_nurseries[1:]


async def test_closing_in_answer_to_listening_is_fine(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        events = sock.events()

        async def close_at_once() -> None:
            async for event in events:
                if isinstance(event, Listening):
                    sock.close()

        nursery.start_soon(close_at_once)
        await sock.bind()
        await wait_all_tasks_blocked()
        assert sock.closed


async def test_cancelling_after_close_is_silent(udp: Family) -> None:
    with trio.CancelScope() as scope:
        async with trio_dgram.open_socket(udp.type, port=0) as sock:
            sock.events()
            sock.close()
            scope.cancel()
    assert not scope.cancelled_caught or sock.closed


async def test_a_channel_tells_of_the_close_once(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        events = sock.events(Closed)
        sock.close()
        sock.close()
        await sock.aclose()
    assert [event async for event in events] == [Closed()]


BIND = """
import sys, trio, trio_dgram
async def main():
    type, host, port = sys.argv[1:]
    async with trio_dgram.open_socket(type, port=int(port), host=host, reuse_port=True) as sock:
        assert sock.address.port == int(port)
trio.run(main)
"""


def run_python(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", *arguments], check=False).returncode


async def test_two_processes_bind_to_the_parents_port_with_reuse_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, reuse_port=True) as sock:
        port = str(sock.address.port)
        codes = []

        async def child() -> None:
            codes.append(await trio.to_thread.run_sync(run_python, BIND, udp.type, udp.loopback, port))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(child)
        assert codes == [0, 0]


async def test_an_unbound_socket_keeps_nothing_open(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.ref().aclose()
        nursery.create_socket(udp.type).ref()


async def test_an_unrefd_socket_lets_its_nursery_end(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.bind()
        sock.unref()
    assert sock.closed


async def test_a_callback_is_no_argument_of_anything(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(TypeError):
            sock.close(print)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            await sock.bind(0, udp.loopback, print)  # type: ignore[misc,arg-type]
