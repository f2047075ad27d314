"""Nursery and scope: where sockets live, and how both end."""

from __future__ import annotations

import socket as stdlib_socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import DatagramNursery, DatagramSocket, Event, EventChannel

from .support.descriptors import same_descriptors
from .support.families import Family


async def test_it_wraps_a_trio_nursery() -> None:
    async with trio_dgram.open_nursery() as nursery:
        assert nursery.parent_task is trio.lowlevel.current_task()
        assert isinstance(nursery.trio_nursery, trio.Nursery)
        assert nursery.cancel_scope is nursery.trio_nursery.cancel_scope

        async def child(task_status: trio.TaskStatus[str]) -> None:
            task_status.started("ready")
            await trio.sleep_forever()

        assert await nursery.start(child, name="a name") == "ready"
        nursery.start_soon(trio.sleep_forever, name="another")
        assert {task.name for task in nursery.child_tasks} == {"a name", "another"}
        assert "DatagramNursery" in repr(nursery)
        nursery.cancel_scope.cancel()


async def test_no_socket_outlives_its_nursery(udp: Family) -> None:
    with same_descriptors():
        async with trio_dgram.open_nursery() as nursery:
            sockets = [nursery.create_socket(udp.type) for _ in range(3)]
            await sockets[0].bind(0, udp.loopback)
            sockets[0].unref()
        assert all(sock.closed for sock in sockets)
    with pytest.raises(RuntimeError, match="has ended"):
        nursery.create_socket(udp.type)


async def test_a_bound_socket_keeps_its_nursery_open_until_it_is_closed(udp: Family) -> None:
    async with trio.open_nursery() as outside:
        sockets: list[DatagramSocket] = []

        async def owner(task_status: trio.TaskStatus[DatagramNursery]) -> None:
            async with trio_dgram.open_nursery() as nursery:
                for _ in range(2):
                    sockets.append(nursery.create_socket(udp.type))
                await sockets[0].bind(0, udp.loopback)
                await sockets[1].send(b"binds implicitly", sockets[0].address)
                task_status.started(nursery)

        nursery = await outside.start(owner)
        await wait_all_tasks_blocked()
        assert [task.name for task in nursery.child_tasks] == [f"keeping nursery open: {sockets[0]!r}, {sockets[1]!r}"]
        sockets[0].close()
        await wait_all_tasks_blocked()
        assert [task.name for task in nursery.child_tasks] == [f"keeping nursery open: {sockets[1]!r}"]
        sockets[1].close()
        await wait_all_tasks_blocked()
        assert not outside.child_tasks


async def test_the_keeper_names_a_few_of_many_sockets(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        for _ in range(9):
            await nursery.create_socket(udp.type).bind(0, udp.loopback)
        await wait_all_tasks_blocked()
        (keeper,) = nursery.child_tasks
        assert keeper.name.endswith(" and 6 more")
        nursery.cancel_scope.cancel()


async def test_ref_and_unref_may_be_called_at_any_time_and_return_the_socket(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        assert sock.unref().unref() is sock
        await sock.bind(0, udp.loopback)
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert sock.ref().ref() is sock
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        sock.unref()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        # Taken back before the keeper has begun.
        sock.ref().unref().ref().unref()
    assert sock.closed
    assert sock.ref() is sock.unref() is sock


async def test_children_end_before_the_sockets_close_so_that_a_shielded_goodbye_is_sent(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        to = peer.address

        async def child(sock: DatagramSocket) -> None:
            try:
                await sock.receive()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                    await sock.send(b"goodbye", to)

        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(udp.type)
            await sock.bind(0, udp.loopback)
            events = sock.events(trio_dgram.Closed)
            nursery.start_soon(child, sock)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (await peer.receive()).data == b"goodbye"
        assert await events.receive() == trio_dgram.Closed()


async def test_a_shielded_child_still_receives_from_its_channel_when_the_nursery_is_cancelled(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        await sock.bind(0, udp.loopback)
        heard: list[Event] = []

        async def child(channel: EventChannel[Event]) -> None:
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                await sock.send(b"last words", sock.address)
                while not any(isinstance(event, trio_dgram.Datagram) for event in heard):
                    heard.append(await channel.receive())

        nursery.start_soon(child, sock.events())
        nursery.cancel_scope.cancel()
    assert any(isinstance(event, trio_dgram.Datagram) for event in heard)


async def test_a_background_reader_keeps_no_nursery_open(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type).unref()
        await sock.bind(0, udp.loopback)
        events = sock.events()
        await wait_all_tasks_blocked()
    assert [type(event) async for event in events] == [trio_dgram.Listening, trio_dgram.Closed]


async def test_errors_leave_in_one_group_as_from_trio(udp: Family) -> None:
    async def fail() -> None:
        raise KeyError("child")

    with pytest.raises(ExceptionGroup) as caught:
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(udp.type)
            await sock.bind(0, udp.loopback)
            sock.events()
            nursery.start_soon(fail)
            await wait_all_tasks_blocked()
            raise AssertionError
    (error,) = caught.value.exceptions
    assert isinstance(error, KeyError)


async def test_the_bodys_exception_leaves_open_socket_as_the_same_object(udp: Family) -> None:
    for error in (ValueError("bare"), ExceptionGroup("its own", [ValueError("x")]), StopIteration()):
        with pytest.raises(type(error)) as caught:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                sock.events()
                raise error
        assert caught.value is error
        assert sock.closed


async def test_so_it_does_when_an_outer_cancellation_arrives_at_the_same_time(udp: Family) -> None:
    error = ValueError("bare")
    with trio.CancelScope() as scope, pytest.raises(ValueError, match="bare") as caught:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            sock.events()
            scope.cancel()
            raise error
    assert caught.value is error


async def test_open_socket_closes_its_socket_regardless_of_ref(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        sock.ref()
    assert sock.closed


async def test_open_socket_binds_and_connects_as_asked(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as unbound:
        with pytest.raises(trio_dgram.NotBoundError):
            _ = unbound.address
    async with trio_dgram.open_socket(udp.type, host=udp.loopback) as by_host:
        assert by_host.address.host == udp.loopback
    async with trio_dgram.open_socket(udp.type, port=0) as by_port:
        assert by_port.address.host == udp.wildcard
        async with trio_dgram.open_socket(udp.type, connect=("", by_port.address.port)) as connected:
            assert connected.remote_address == (udp.loopback, by_port.address.port)


async def test_a_socket_bound_when_its_nursery_has_just_ended_is_closed_with_it(udp: Family) -> None:
    class BindAtTheEnd(trio.abc.Instrument):
        """Binds after the last task has ended and before the nursery resumes."""

        def task_exited(self, task: trio.lowlevel.Task) -> None:
            if task.name == "last":
                sock.send_nowait(b"x", (udp.loopback, 9))

    instrument = BindAtTheEnd()
    trio.lowlevel.add_instrument(instrument)
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type)
        nursery.start_soon(trio.lowlevel.checkpoint, name="first")
        nursery.start_soon(wait_all_tasks_blocked, name="last")
    trio.lowlevel.remove_instrument(instrument)
    assert sock.closed
    assert sock.statistics().sent == 1


async def test_an_interrupted_reader_ends_the_block_as_any_child_would(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            async with sock.events(trio_dgram.Datagram) as events:

                def interrupt(*_: object) -> None:
                    raise KeyboardInterrupt

                monkeypatch.setattr(type(sock._inbox), "pull", interrupt)
                await events.receive()
    assert caught.group_contains(KeyboardInterrupt)
    assert sock.closed


def test_an_address_is_free_again_when_the_nursery_has_ended(udp: Family) -> None:
    async def main() -> trio_dgram.Address:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            return sock.address

    address = trio.run(main)
    with stdlib_socket.socket(udp.family, stdlib_socket.SOCK_DGRAM) as again:
        again.bind(tuple(address))
