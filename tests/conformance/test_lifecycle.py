"""The life cycle: what the suites of other implementations check."""

from __future__ import annotations

import gc
import sys
from contextlib import AsyncExitStack
from contextvars import ContextVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Closed, DatagramNursery, DatagramSocket, Listening

from ..support.descriptors import same_descriptors
from ..support.families import FAMILIES, Family
from .conftest import HeldLookup


async def test_a_thousand_sockets_in_a_loop_leak_neither_descriptors_nor_tasks(udp: Family) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    with same_descriptors():
        for _ in range(1_000):
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback):
                pass
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_nursery_closes_its_open_sockets_when_it_ends(udp: Family) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    with same_descriptors():
        for _ in range(50):
            async with trio_dgram.open_nursery() as nursery:
                nursery.create_socket(udp.type).events()
                await nursery.create_socket(udp.type).unref().bind(0, udp.loopback)
        # An unclosed socket raises a ResourceWarning when it is collected.
        gc.collect()
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.usefixtures("namespace")
async def test_a_port_is_free_again_when_aclose_returns(udp: Family) -> None:
    for _ in range(20):
        async with trio_dgram.open_socket(udp.type, port=4242, host=udp.loopback) as sock:
            events = sock.events()
            await sock.aclose()
        async with trio_dgram.open_socket(udp.type, port=4242, host=udp.loopback) as again:
            assert again.address == (udp.loopback, 4242)
        assert [type(event) async for event in events] == [Listening, Closed]


async def test_closing_is_idempotent_and_releases_address_and_descriptor(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for _ in range(2):
            await sock.aclose()
            sock.close()
            assert sock.fileno() == -1
            with pytest.raises(trio.ClosedResourceError):
                _ = sock.address
            assert sock.unref() is sock.ref() is sock


async def test_closing_ends_a_send_that_resolves_a_name(udp: Family, lookup: HeldLookup) -> None:
    with same_descriptors():
        async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock, trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await sock.send(bytes(1024), ("a.name", 9))

            events = sock.events()
            nursery.start_soon(send)
            await lookup.asked.wait()
            sock.close()
            lookup.allowed.set()
        assert sock.statistics().sent == 0
        assert [event async for event in events] == [Closed()]


async def test_sockets_can_close_each_other_while_all_of_them_receive(udp: Family, nursery: DatagramNursery) -> None:
    socks = [nursery.create_socket(udp.type, reuse_address=True) for _ in range(200)]
    ended = []

    async def receive(sock: DatagramSocket) -> None:
        try:
            await sock.receive()
        except trio.ClosedResourceError:
            ended.append("closed")
        else:
            ended.append("received")
            for each in socks:
                each.close()

    port = 0
    async with trio.open_nursery() as tasks:
        for sock in socks:
            port = (await sock.bind(port, udp.loopback)).port
            tasks.start_soon(receive, sock)
        await wait_all_tasks_blocked()
        async with trio_dgram.open_socket(udp.type) as sender:
            await sender.send(b"to the last one that bound", (udp.loopback, port))
    assert sorted(ended) == ["closed"] * 199 + ["received"]


async def test_context_variables_of_the_caller_are_seen_by_its_lookup_and_its_tasks(
    udp: Family, nursery: DatagramNursery
) -> None:
    variable = ContextVar("variable", default="default")
    seen = []

    async def lookup(host: str, port: int, _: object) -> tuple[str, int]:
        seen.append((host, variable.get()))
        await trio.lowlevel.checkpoint()
        return udp.loopback, port

    sock = nursery.create_socket(udp.type, lookup=lookup)

    async def call() -> None:
        variable.set("the task's")
        await sock.bind(0, "bind")
        await sock.send(b"x", ("send", sock.address.port))
        await sock.connect(("connect", sock.address.port))

    variable.set("the starter's")
    await nursery.start(record_in_a_child, seen, variable)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(call)
    assert seen == [("child", "the starter's"), *((name, "the task's") for name in ("bind", "send", "connect"))]
    assert variable.get() == "the starter's"


async def record_in_a_child(
    seen: list[tuple[str, str]], variable: ContextVar[str], *, task_status: trio.TaskStatus[None]
) -> None:
    seen.append(("child", variable.get()))
    task_status.started()


async def test_a_socket_can_be_closed_on_its_listening_event(udp: Family) -> None:
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


async def test_cancelling_after_close_raises_nothing(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.bind()
        events = sock.events()
        sock.close()
        nursery.cancel_scope.cancel()
    assert [type(event) async for event in events] == [Listening, Closed]


@pytest.mark.parametrize("already", [False, True])
async def test_a_cancelled_nursery_closes_also_sockets_created_later(udp: Family, already: bool) -> None:
    with same_descriptors(), trio.CancelScope() as scope:
        if already:
            scope.cancel()
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(udp.type)
            events = sock.events(Closed)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sock.closed
    assert [event async for event in events] == [Closed()]


async def test_a_channel_receives_one_closed_event(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        events = sock.events(Closed)
        sock.close()
        sock.close()
        await sock.aclose()
    assert [event async for event in events] == [Closed()]


BIND = """
import sys, trio, trio_dgram
async def main():
    for type, host, port in zip(*[iter(sys.argv[1:])] * 3):
        async with trio_dgram.open_socket(type, port=int(port), host=host, reuse_port=True) as sock:
            assert sock.address == (host, int(port))
trio.run(main)
"""


@pytest.mark.not_simulated("another process has no part in the simulated network")
@pytest.mark.needs("reuse_port")
async def test_two_processes_bind_to_the_parents_port_with_reuse_port() -> None:
    async with AsyncExitStack() as stack:
        arguments: list[str] = []
        for family in FAMILIES:
            opened = trio_dgram.open_socket(family.type, port=0, host=family.loopback, reuse_port=True)
            sock = await stack.enter_async_context(opened)
            arguments += [family.type, family.loopback, str(sock.address.port)]
        async with trio.open_nursery() as children:
            for _ in range(2):
                # run_process() raises if the exit status is not 0.
                children.start_soon(trio.run_process, [sys.executable, "-W", "error", "-c", BIND, *arguments])


async def test_an_unbound_socket_does_not_keep_its_nursery_open(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.ref().aclose()
        nursery.create_socket(udp.type).ref()


async def test_an_unrefd_socket_does_not_keep_its_nursery_open(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.bind()
        sock.unref()
    assert sock.closed
