"""The life of a socket: creation, use, and closing without leaks."""

from __future__ import annotations

import contextvars
import errno
import gc
import socket as stdlib_socket
import sys
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Datagram, DatagramSocket
from trio_dgram._kernel import source_cache as _source_cache
from trio_dgram._kernel.recvmmsg import Batch
from trio_dgram.sim._explore.descriptors import open_descriptors

from .support.descriptors import same_descriptors
from .support.families import FAMILIES, Family
from .support.faults import FaultySocket, faulty_kernel


@pytest.mark.long
async def test_20000_sockets_leak_neither_descriptors_nor_memory() -> None:
    before = open_descriptors()
    async with trio_dgram.open_nursery() as nursery:

        async def use(count: int) -> None:
            for udp in FAMILIES * (count // len(FAMILIES)):
                sock = nursery.create_socket(udp.type)
                await sock.bind(0, udp.loopback)
                sock.close()

        await use(10_000)
        gc.collect()
        tracemalloc.start()
        try:
            await use(10_000)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 64 * 1024
        finally:
            tracemalloc.stop()
    assert open_descriptors() == before


class _Forged(FaultySocket):  # pragma: no cover -- long tests run it
    """Always returns a datagram, each from another source."""

    sources = 0

    def recvfrom(self, *_: object) -> tuple[bytes, tuple[str, int]]:  # pragma: no cover -- long tests run it
        self.sources += 1
        return b"x", (f"10.{self.sources >> 16}.{self.sources >> 8 & 255}.{self.sources & 255}", 9)

    def recvmmsg(
        self,
        most: int,
        source_size: int,  # noqa: ARG002 -- the kernel's
        *,
        ancillary: bool,  # noqa: ARG002
    ) -> Batch:
        self.sources += most
        sources = range(self.sources, self.sources + most)
        packed = [b"\2\0\0\7\12" + source.to_bytes(3, "big") + bytes(8) for source in sources]
        return [b"x"] * most, b"".join(packed), None, None


@pytest.mark.long
@pytest.mark.varied
async def test_a_million_datagrams_from_a_million_addresses_leak_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.faults.FaultySocket", _Forged)
    with faulty_kernel():
        async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1", offload=False) as sock:
            for _ in range(1000):
                await sock.receive()
            _source_cache._cached.clear()
            gc.collect()
            before = sys.getallocatedblocks()
            received = 0
            while received < 1_000_000:
                received += len(await sock.receive_many(1000))
                assert len(_source_cache._cached) <= 4096
            _source_cache._cached.clear()
            gc.collect()
            assert sock.statistics().received >= 1_000_000
            assert sys.getallocatedblocks() - before < 1000


async def test_a_dropped_socket_is_no_garbage_to_be_collected(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:

        async def use() -> None:
            sock = nursery.create_socket(udp.type)
            async with sock.events():
                await sock.bind(0, udp.loopback)
            sock.close()
            gone.append(weakref.ref(sock))

        gone: list[weakref.ref[DatagramSocket]] = []
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await use()
            assert [reference() for reference in gone] == [None] * 3
        finally:
            gc.enable()


async def test_closing_twice_does_nothing(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        sock.close()
        await sock.aclose()
        await sock.aclose()
        sock.close()
        assert sock.closed
        assert sock.fileno() == -1


async def test_the_port_is_free_when_aclose_returns(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        address = sock.address
        await sock.aclose()
        with stdlib_socket.socket(udp.family, stdlib_socket.SOCK_DGRAM) as again:
            again.bind(tuple(address))


async def test_aclose_closes_when_it_is_cancelled_too(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.aclose()
        assert scope.cancelled_caught
        assert sock.closed


Operation = Callable[[DatagramSocket], Awaitable[object]]


async def slow_lookup(*_: object) -> tuple[str, int]:
    await trio.sleep_forever()
    raise AssertionError


WAITS: dict[str, Operation] = {
    "receive": lambda sock: sock.receive(),
    "receive_many": lambda sock: sock.receive_many(),
    "iteration": anext,
    "send to a name": lambda sock: sock.send(b"x", ("slow", 9)),
    "send_many to a name": lambda sock: sock.send_many([Datagram(b"x", trio_dgram.Address("slow", 9))]),
    "connect to a name": lambda sock: sock.connect(("slow", 9)),
}


@pytest.mark.parametrize("operation", WAITS.values(), ids=WAITS)
async def test_tasks_that_wait_for_a_socket_raise_when_another_task_closes_it(
    udp: Family, operation: Operation
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, lookup=slow_lookup) as sock, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await operation(sock)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        sock.close()


async def test_a_bind_that_waits_for_a_name_learns_of_the_close_and_so_does_a_send_behind_it(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, lookup=slow_lookup) as sock, trio.open_nursery() as nursery:
        learnt = 0

        async def wait(operation: Awaitable[object]) -> None:
            nonlocal learnt
            with pytest.raises(trio.ClosedResourceError):
                await operation
            learnt += 1

        nursery.start_soon(wait, sock.bind(0, "slow"))
        await wait_all_tasks_blocked()
        with pytest.raises(trio_dgram.AlreadyBoundError):
            await sock.bind(0)
        with pytest.raises(trio.WouldBlock):
            sock.send_nowait(b"x", (udp.loopback, 9))
        nursery.start_soon(wait, sock.send(b"x", (udp.loopback, 9)))
        nursery.start_soon(wait, sock.connect((udp.loopback, 9)))
        await wait_all_tasks_blocked()
        sock.close()
        await wait_all_tasks_blocked()
        assert learnt == 3


async def test_a_send_waits_for_a_bind_in_progress_and_binds_itself_if_that_fails(udp: Family) -> None:
    async def failing_lookup(*_: object) -> tuple[str, int]:
        await wait_all_tasks_blocked()
        raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "no such name")

    async with trio_dgram.open_socket(udp.type, lookup=failing_lookup) as sock, trio.open_nursery() as nursery:

        async def bind() -> None:
            with pytest.raises(stdlib_socket.gaierror, match="no such name"):
                await sock.bind(0, "nowhere")

        nursery.start_soon(bind)
        await wait_all_tasks_blocked(cushion=0)
        await sock.send(b"x", (udp.loopback, 9))
        assert sock.address.host == udp.wildcard


@pytest.mark.parametrize("fault", [errno.EAGAIN, errno.ENOBUFS])
async def test_all_sends_in_backpressure_raise_when_the_socket_is_closed(udp: Family, fault: int) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            to = sock.address
            # The kernel's buffer is full before the close, and cannot be queried after it.
            faults.set("sendto", *[fault] * 10_000)
            learnt = 0

            async def wait() -> None:
                nonlocal learnt
                with pytest.raises(trio.ClosedResourceError):
                    await sock.send(b"x", to)
                learnt += 1

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait)
                while faults.calls["sendto"] < 4:
                    await trio.lowlevel.checkpoint()
                sock.close()
            assert learnt == 3
            assert sock.statistics().sent == 0


async def test_every_operation_on_a_closed_socket_raises_closed_resource_error(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        address = sock.address
    asynchronous: list[Operation] = [
        *WAITS.values(),
        lambda sock: sock.bind(0),
        lambda sock: sock.connect(address),
        lambda sock: sock.send(b"x", address),
        lambda sock: sock.send_many([]),
    ]
    for operation in asynchronous:
        with pytest.raises(trio.ClosedResourceError):
            await operation(sock)
    synchronous: list[Callable[[], object]] = [
        sock.receive_nowait,
        lambda: sock.send_nowait(b"x", address),
        sock.disconnect,
        sock.events,
        lambda: sock.address,
        lambda: sock.remote_address,
        lambda: sock.ttl,
        lambda: setattr(sock, "ttl", 3),
        lambda: sock.add_membership(udp.group),
        lambda: sock.drop_membership(udp.group),
        lambda: sock.setsockopt(1, 2, 3),
        lambda: sock.getsockopt(1, 2),
    ]
    for call in synchronous:
        with pytest.raises(trio.ClosedResourceError):
            call()
    assert repr(sock) == f"<trio_dgram.DatagramSocket {udp.type}, closed>"


async def test_callbacks_see_the_context_variables_of_the_caller(udp: Family) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def lookup(_host: str, port: int, _family: stdlib_socket.AddressFamily) -> tuple[str, int]:
        assert variable.get() == "the caller's"
        return udp.loopback, port

    variable.set("the caller's")
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
        await sock.send(b"x", ("a.name", 9))
        await sock.connect(("a.name", 9))
        assert sock.remote_address == (udp.loopback, 9)


async def test_many_sends_at_once_bind_the_socket_once(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sock,
        trio.open_nursery() as nursery,
    ):
        events = sock.events(trio_dgram.Listening)
        for _ in range(10):
            nursery.start_soon(sock.send, b"x", receiver.address)
        senders = {(await receiver.receive()).address.port for _ in range(10)}
        assert senders == {sock.address.port}
        await events.receive()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


def test_creating_and_dropping_sockets_leaves_no_warning(udp: Family, recwarn: pytest.WarningsRecorder) -> None:
    async def main() -> None:
        async with trio_dgram.open_nursery() as nursery:
            for _ in range(3):
                nursery.create_socket(udp.type)

    with same_descriptors():
        trio.run(main)
    gc.collect()
    assert not recwarn.list
