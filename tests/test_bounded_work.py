"""Promise 2: no call works without a bound of its own, in time as well as in count.

Rule 1: counts decide wherever they can. A kernel whose queue never runs empty makes work without a bound the same in
every run, and one whose every call takes half a millisecond shows whether the time is minded.
Rule 2: CPU time decides where nothing but work is done. The smallest of several attempts is judged, without garbage
collection, against one batch that was measured in this process.
Rule 3: floods by other processes show that the counts hold with the real kernel, too. CPU time would not do there: the
processes share the caches and the cores with the reader.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Datagram, DatagramSocket, Failure, NotConnectedError, SendManyError

from .support.families import Family
from .support.floods import SIZE, TRAIN, EndlessSource, endless_kernel, flood, one_batch
from .support.namespaces import ip, network_namespace
from .support.refusing import refusing_port
from .support.slices import Slice, assert_bounded, limit, slices

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("coalescing"),
    pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the floods are Linux's"),
]

KINDS: Final[tuple[trio_dgram.SocketType, ...]] = ("udp4", "udp6", "unix")
TURNS: Final = 20
UNLIMITED: Final = 2**31 - 1
MANY: Final = 100_000
LARGE_BUFFER: Final = 4 << 20

MOST_DATAGRAMS: Final = 2048
"""How many datagrams one slice may take from a kernel that never runs empty."""
MOST_COALESCED: Final = 16384
"""The same where each receive brings a train: four batches."""
MOST_SLOW_CALLS: Final = 136
"""How many calls one slice may make that take half a millisecond each: 128, the largest batch of single calls, and
some until the time is minded."""
MOST_SLOW_BATCHES: Final = 6
"""The same where each call brings or sends a batch."""
MOST_BETWEEN_TURNS: Final = 192
"""How many datagrams pass between two turns of another task: 64 operations and what a batch reads ahead."""
SLOW: Final = 0.0005


@asynccontextmanager
async def flooded(
    kind: trio_dgram.SocketType, tmp_path: Path, source: EndlessSource, *, segments: int = 1, **options: Any
) -> AsyncGenerator[DatagramSocket]:
    """Open a socket that ``source`` refills; one of kind "unix" is connected to the sender."""
    if kind == "unix":
        ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.bind(theirs)
            async with trio_dgram.open_socket("unix", path=ours, **options) as sock:
                sender.connect(ours)
                await sock.connect(theirs)
                source.start(sender)
                yield sock
        Path(theirs).unlink()
        return
    host = "127.0.0.1" if kind == "udp4" else "::1"
    options = {"offload": segments > 1, "receive_buffer_size": LARGE_BUFFER} | options
    with socket.socket(socket.AF_INET if kind == "udp4" else socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        async with trio_dgram.open_socket(kind, port=0, host=host, **options) as sock:
            sender.connect(tuple(sock.address))
            # Coalescing starts with the first large batch, as in a program.
            source.start(sender, segments)
            yield sock


# What a program does with a flooded socket, again and again.


async def receive(sock: DatagramSocket) -> None:
    while True:
        await sock.receive()


async def receive_nowait(sock: DatagramSocket) -> None:
    while True:
        sock.receive_nowait()
        await trio.lowlevel.checkpoint()


async def iterate(sock: DatagramSocket) -> None:
    async for _ in sock:
        pass


async def receive_many(sock: DatagramSocket, *, max_count: int) -> None:
    while True:
        await sock.receive_many(max_count)


async def echo(sock: DatagramSocket) -> None:
    async for datagram in sock:
        await sock.send(datagram.data, None if sock.type == "unix" else datagram.address)


async def read_events(sock: DatagramSocket, **options: Any) -> None:
    async for _ in sock.events(Datagram, **options):
        pass


async def leave_events_unread(sock: DatagramSocket, **options: Any) -> None:
    async with sock.events(Datagram, **options):
        await trio.sleep_forever()


Program = Callable[[DatagramSocket], Awaitable[object]]
ONE_BY_ONE: Final[dict[str, Program]] = {
    "receive": receive,
    "async for": iterate,
    "receive_many(1)": partial(receive_many, max_count=1),
    "events": read_events,
    "events, drop-oldest": partial(leave_events_unread, overflow="drop-oldest", max_buffer_size=16),
    "events, drop-newest": partial(leave_events_unread, overflow="drop-newest", max_buffer_size=16),
}
PROGRAMS: Final = ONE_BY_ONE | {
    "receive_nowait": receive_nowait,
    "receive_many()": partial(receive_many, max_count=1024),
    "receive_many(2**31 - 1)": partial(receive_many, max_count=UNLIMITED),
}
each_program: Final = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
each_kind: Final = pytest.mark.parametrize("kind", KINDS)


async def turns(count: int) -> None:
    """Yield to other tasks ``count`` times."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def largest_slice(
    program: Program, sock: DatagramSocket, meter: Callable[[], float], *, count: int = TURNS
) -> Slice:
    """Return the largest slice while ``program`` runs for ``count`` turns."""
    async with trio.open_nursery() as nursery:
        with slices(meter) as measured:
            nursery.start_soon(program, sock)
            await turns(count)
        nursery.cancel_scope.cancel()
    return measured.largest


def receives(source: EndlessSource) -> int:
    return sum(count for name, count in source.calls.items() if name.startswith("recv"))


# The measuring itself


async def test_a_long_slice_is_measured_with_the_name_of_its_task() -> None:
    async def hog() -> None:
        await trio.lowlevel.checkpoint()
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass

    async with trio.open_nursery() as nursery:
        with slices() as measured:
            nursery.start_soon(hog)
            await turns(3)
    assert measured.largest.amount >= 0.01
    assert measured.largest.task.endswith("hog")
    assert measured.count >= 4


async def test_work_without_a_bound_fails_and_one_quiet_attempt_passes() -> None:
    amounts: Iterator[float] = iter([30.0, 2.0, 1.0])

    async def attempt() -> Slice:
        return Slice(next(amounts), "a task")

    await assert_bounded(attempt, lambda: 1.5)
    amounts = itertools.repeat(2.0)
    with pytest.raises(AssertionError, match=r"a task kept the scheduler for 2000\.00 ms of CPU time"):
        await assert_bounded(attempt, lambda: 1.5)


@each_kind
async def test_an_unbounded_reader_is_detected(kind: trio_dgram.SocketType, tmp_path: Path) -> None:
    with endless_kernel(cap=4096) as source:
        async with flooded(kind, tmp_path, source) as sock:

            async def drain(sock: DatagramSocket) -> None:
                with suppress(trio.WouldBlock):
                    while True:
                        sock.receive_nowait()

            most = await largest_slice(drain, sock, lambda: sock.statistics().received, count=3)
    assert most.amount > MOST_DATAGRAMS


# Receiving, by count


@each_program
@each_kind
async def test_one_slice_takes_a_bounded_number_of_datagrams(
    kind: trio_dgram.SocketType, program: Program, tmp_path: Path
) -> None:
    with endless_kernel() as source:
        async with flooded(kind, tmp_path, source) as sock:
            most = await largest_slice(program, sock, lambda: sock.statistics().received)
            assert sock.statistics().received >= TURNS // 2
    assert most.amount <= MOST_DATAGRAMS, most


@each_program
async def test_one_slice_takes_a_bounded_number_of_coalesced_datagrams(
    udp: Family, program: Program, tmp_path: Path
) -> None:
    with endless_kernel(cap=4 * MOST_COALESCED) as source:
        async with flooded(udp.type, tmp_path, source, segments=TRAIN) as sock:
            most = await largest_slice(program, sock, lambda: sock.statistics().received)
    assert most.amount <= MOST_COALESCED, most


@each_program
async def test_one_slice_takes_a_bounded_number_of_datagrams_that_are_all_filtered(
    udp: Family, program: Program, tmp_path: Path
) -> None:
    with endless_kernel() as source:
        async with flooded(udp.type, tmp_path, source, receive_block_list=[udp.loopback]) as sock:
            async with trio.open_nursery() as nursery:
                with slices(lambda: sock.statistics().received) as measured:

                    async def run() -> None:
                        with suppress(trio.WouldBlock):
                            await program(sock)

                    nursery.start_soon(run)
                    await turns(TURNS)
                nursery.cancel_scope.cancel()
            assert sock.statistics().filtered == sock.statistics().received > 0
    assert measured.largest.amount <= MOST_DATAGRAMS, measured.largest


@pytest.mark.parametrize("packet_info", [False, True])
@each_program
@each_kind
async def test_a_slice_ends_early_if_each_receive_is_slow(
    kind: trio_dgram.SocketType, program: Program, packet_info: bool, tmp_path: Path
) -> None:
    with endless_kernel(cap=1024) as source:
        async with flooded(kind, tmp_path, source, packet_info=packet_info) as sock:
            for _ in range(2):
                await sock.receive_many(64)
            before, source.seconds = source.calls.copy(), SLOW
            most = await largest_slice(program, sock, lambda: receives(source), count=5)
            made = +(source.calls - before)
    in_batches = not any(name in made for name in ("recvfrom", "recvmsg", "recv"))
    assert most.amount <= (MOST_SLOW_BATCHES if in_batches else MOST_SLOW_CALLS), (most, made)


@pytest.mark.parametrize("program", [*ONE_BY_ONE.values(), echo], ids=[*ONE_BY_ONE, "echo"])
@each_kind
async def test_a_flood_never_starves_another_task(
    kind: trio_dgram.SocketType, program: Program, tmp_path: Path
) -> None:
    with endless_kernel() as source:
        async with flooded(kind, tmp_path, source) as sock, trio.open_nursery() as nursery:
            nursery.start_soon(program, sock)
            passed = []
            for _ in range(TURNS):
                before = sock.statistics()
                await trio.lowlevel.checkpoint()
                after = sock.statistics()
                passed.append(max(after.received - before.received, after.sent - before.sent))
            nursery.cancel_scope.cancel()
    assert 0 < max(passed) <= MOST_BETWEEN_TURNS


# What empties a queue that is refilled meanwhile


@pytest.mark.parametrize("seconds", [0, SLOW])
@each_kind
async def test_disconnecting_reads_a_bounded_number_of_datagrams(
    kind: trio_dgram.SocketType, seconds: float, tmp_path: Path
) -> None:
    with endless_kernel(cap=1024 if seconds else 16384) as source:
        async with flooded(kind, tmp_path, source) as sock:
            if kind != "unix":
                assert source.sender is not None
                await sock.connect(source.sender.getsockname()[:2])
            source.seconds = seconds
            with slices(lambda: receives(source)) as measured:
                sock.disconnect()
    assert measured.largest.amount <= (MOST_SLOW_CALLS if seconds else MOST_DATAGRAMS), measured.largest


@pytest.mark.parametrize("listening", [False, True])
@each_kind
async def test_closing_reads_a_bounded_number_of_datagrams(
    kind: trio_dgram.SocketType, listening: bool, tmp_path: Path
) -> None:
    with endless_kernel() as source:
        async with flooded(kind, tmp_path, source) as sock:
            if listening:
                sock.events(Datagram)
                await turns(3)
            source.seconds = SLOW
            with slices(lambda: receives(source)) as measured:
                sock.close()
                source.stop()
    assert measured.largest.amount <= MOST_SLOW_CALLS, measured.largest


@each_kind
async def test_closing_the_last_channel_reads_a_bounded_number_of_datagrams(
    kind: trio_dgram.SocketType, tmp_path: Path
) -> None:
    with endless_kernel() as source:
        async with flooded(kind, tmp_path, source) as sock:
            channel = sock.events(Datagram)
            await turns(3)
            source.seconds = SLOW
            with slices(lambda: receives(source)) as measured:
                channel.close()
    assert measured.largest.amount <= MOST_SLOW_CALLS, measured.largest


# Errors


@contextmanager
def endless_errors(udp: Family, sock: DatagramSocket, source: EndlessSource) -> Generator[Callable[[int], None]]:
    """Fill the error queue of ``sock`` again before each call that reads it; yields what adds errors."""
    # The same socket of the kernel's: its error queue is theirs, too.
    with refusing_port(udp.loopback) as port, socket.socket(fileno=os.dup(sock.fileno())) as sender:
        refusing = (udp.loopback, port)

        def fail(count: int = 1) -> None:
            for _ in range(count):
                with suppress(OSError):
                    sender.sendto(b"", refusing)

        fail(200)
        source.fails = fail
        yield fail
        source.fails = None


async def send(sock: DatagramSocket) -> None:
    to: trio_dgram.Address | None = sock.address
    with suppress(NotConnectedError):
        to = sock.remote_address and None
    while True:
        await sock.send(b"x", to)


async def read_failures(sock: DatagramSocket) -> None:
    async for _ in sock.events(Failure):
        pass


ERROR_READERS: Final[dict[str, Program]] = {
    "receive": receive,
    "receive_many(2**31 - 1)": partial(receive_many, max_count=UNLIMITED),
    "send": send,
    "events(Failure)": read_failures,
    "events(Datagram)": read_events,
}


@pytest.mark.parametrize("program", ERROR_READERS.values(), ids=ERROR_READERS)
async def test_one_slice_reads_a_bounded_number_of_errors(udp: Family, program: Program) -> None:
    with endless_kernel(cap=4096) as source:
        async with trio_dgram.open_socket(
            udp.type, port=0, host=udp.loopback, icmp_errors=True, receive_buffer_size=LARGE_BUFFER
        ) as sock:
            with endless_errors(udp, sock, source):
                most = await largest_slice(program, sock, lambda: source.calls["read error"])
    assert most.amount <= MOST_SLOW_CALLS, most


async def test_disconnecting_reads_a_bounded_number_of_errors(udp: Family) -> None:
    with endless_kernel(cap=4096) as source:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
            await sock.connect(sock.address)
            with endless_errors(udp, sock, source), slices(lambda: source.calls["read error"]) as measured:
                sock.disconnect()
    assert measured.largest.amount <= MOST_SLOW_CALLS, measured.largest


@pytest.mark.parametrize("program", ERROR_READERS.values(), ids=ERROR_READERS)
async def test_a_full_error_queue_takes_bounded_time(udp: Family, program: Program) -> None:
    async def attempt() -> Slice:
        with endless_kernel() as source:
            async with trio_dgram.open_socket(
                udp.type, port=0, host=udp.loopback, icmp_errors=True, receive_buffer_size=LARGE_BUFFER
            ) as sock:
                with endless_errors(udp, sock, source) as fail:
                    source.fails = None
                    fail(1000)
                    return await largest_slice(program, sock, time.thread_time)

    await assert_bounded(attempt, limit)


# Sending, by count


def of_different_sizes(to: trio_dgram.Address) -> Iterable[Datagram]:
    # No two of them can be segments of one send.
    return [Datagram(bytes(1 + index % 2 * 100), to) for index in range(1, 1001)]


def equal_ones(to: trio_dgram.Address) -> Iterable[Datagram]:
    return [Datagram(bytes(SIZE), to)] * 10_000


@pytest.mark.parametrize(
    ("make", "offload", "most"),
    [
        (of_different_sizes, False, MOST_SLOW_CALLS),
        (equal_ones, True, MOST_SLOW_BATCHES),
    ],
    ids=["single sends", "segments"],
)
async def test_send_many_yields_early_if_each_send_is_slow(
    udp: Family, make: Callable[[trio_dgram.Address], Iterable[Datagram]], offload: bool, most: int
) -> None:
    with endless_kernel(seconds=SLOW) as source:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=offload) as sock:
            datagrams = make(sock.address)
            with slices(lambda: sum(source.calls.values())) as measured:
                await sock.send_many(datagrams)
    assert 0 < measured.largest.amount <= most, measured.largest


async def test_sending_in_a_loop_yields_early_if_each_send_is_slow(udp: Family) -> None:
    with endless_kernel(seconds=SLOW) as source:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            most = await largest_slice(send, sock, lambda: sum(source.calls.values()))
    assert 0 < most.amount <= MOST_SLOW_CALLS, most


async def test_send_many_yields_while_it_takes_datagrams_from_a_slow_iterable(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        taken = 0

        def slow() -> Generator[Datagram]:
            nonlocal taken
            for _ in range(600):
                taken += 1
                end = time.perf_counter() + SLOW
                while time.perf_counter() < end:
                    pass
                yield Datagram(b"x", sock.address)

        with slices(lambda: taken) as measured:
            await sock.send_many(slow())
        assert taken == 600
    assert measured.largest.amount <= MOST_SLOW_CALLS, measured.largest


# By CPU time

Address = trio_dgram.Address
BATCHES: Final[dict[str, Callable[[Address], Iterable[Datagram]]]] = {
    "one object": lambda to: [Datagram(bytes(SIZE), to)] * MANY,
    "bytes": lambda to: [Datagram(bytes(SIZE), to) for _ in range(MANY)],
    "bytearray": lambda to: [Datagram(bytearray(SIZE), to) for _ in range(MANY)],  # type: ignore[arg-type]
    "generator": lambda to: (Datagram(bytes(SIZE), to) for _ in range(MANY)),
    "plain tuples": lambda to: [Datagram(bytes(SIZE), (to.host, to.port)) for _ in range(MANY)],  # type: ignore[arg-type]
    "wrong last one": lambda to: [*[Datagram(bytes(SIZE), to)] * MANY, "x"],  # type: ignore[list-item]
}


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
async def test_send_many_of_100000_datagrams_takes_bounded_time_at_a_stretch(
    udp: Family, make: Callable[[Address], Iterable[Datagram]]
) -> None:
    async def attempt() -> Slice:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            datagrams = make(sock.address)
            with slices() as measured, suppress(TypeError):
                await sock.send_many(datagrams)
            return measured.largest

    # A run of segments is sent by one call.
    await assert_bounded(attempt, partial(limit, TRAIN))


HUGE: Final = 64 << 20
PAYLOADS: Final[dict[str, Callable[[], Any]]] = {
    "bytes": lambda: bytes(HUGE),
    "bytearray": lambda: bytearray(HUGE),
    "str": lambda: "x" * HUGE,
    "memoryview with strides": lambda: memoryview(bytearray(HUGE))[::2],
    "memoryview of another format": lambda: memoryview(bytearray(HUGE)).cast("Q"),
    "list of large parts": lambda: [bytes(65000)] * 1000,
    "list of many parts": lambda: [b"x"] * 1_000_000,
    "list of many empty parts": lambda: [b""] * 1_000_000,
    "list of one huge part": lambda: [bytearray(HUGE)],
    "Datagram": lambda: Datagram(bytearray(HUGE), Address("127.0.0.1", 9)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("method", ["send", "send_nowait", "send_many"])
@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_huge_payload_is_refused_or_sent_in_bounded_time(name: str, method: str) -> None:
    value = PAYLOADS[name]()

    async def attempt() -> Slice:
        async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
            to = sock.address
            with slices() as measured:
                try:
                    if method == "send_many":
                        await sock.send_many([value if isinstance(value, Datagram) else Datagram(value, to)])
                    elif method == "send":
                        await sock.send(value, None if isinstance(value, Datagram) else to)
                    else:
                        sock.send_nowait(value, None if isinstance(value, Datagram) else to)
                except SendManyError as error:
                    refusal: OSError | None = error.__cause__ if isinstance(error.__cause__, OSError) else None
                except OSError as error:
                    refusal = error
                except ValueError:
                    # Many parts may be refused before they are counted up.
                    assert "many" in name
                    return measured.largest
                else:
                    refusal = None
            if name != "list of many empty parts":
                assert refusal is not None
                assert "too long" in str(refusal)
            return measured.largest

    await assert_bounded(attempt, limit)


@asynccontextmanager
async def with_queued_datagrams(
    tmp_path: Path, **options: Any
) -> AsyncGenerator[tuple[DatagramSocket, trio_dgram.EventChannel[Datagram]]]:
    """Open a socket with a channel in which 100,000 datagrams wait."""
    with endless_kernel() as source:
        async with flooded("udp4", tmp_path, source, segments=TRAIN) as sock:
            channel = sock.events(Datagram, max_buffer_size=math.inf, **options)
            with trio.fail_after(60):
                while channel.statistics().queued < MANY:
                    await trio.lowlevel.checkpoint()
            source.stop()
            yield sock, channel


@attrs.frozen
class Giver:
    """A step that frees the queued datagrams, after steps that are not measured."""

    before: Callable[[DatagramSocket, trio_dgram.EventChannel[Datagram]], object]
    measured: Callable[[DatagramSocket, trio_dgram.EventChannel[Datagram]], object]


def _nothing(*_: object) -> None:
    pass


GIVERS: Final[dict[str, Giver]] = {
    "close the channel": Giver(_nothing, lambda _, channel: channel.close()),
    "close the socket": Giver(_nothing, lambda sock, _: sock.close()),
    "close the channel, then the socket": Giver(lambda _, channel: channel.close(), lambda sock, _: sock.close()),
    "close the channel, then receive all": Giver(
        lambda _, channel: channel.close(), lambda sock, _: sock.receive_many(UNLIMITED)
    ),
    "close the channel, then connect": Giver(lambda _, channel: channel.close(), lambda sock, _: sock.connect(("", 9))),
    "close the channel, then open another": Giver(
        lambda _, channel: channel.close(), lambda sock, _: sock.events(Datagram, max_buffer_size=math.inf)
    ),
}


@pytest.mark.parametrize("overflow", ["block", "drop-oldest"])
@pytest.mark.parametrize("giver", GIVERS.values(), ids=GIVERS)
async def test_100000_queued_datagrams_are_given_back_in_bounded_time(
    giver: Giver, overflow: str, tmp_path: Path
) -> None:
    async def attempt() -> Slice:
        async with with_queued_datagrams(tmp_path, overflow=overflow) as (sock, channel):
            giver.before(sock, channel)
            kept: object = None
            with slices() as measured:
                result = giver.measured(sock, channel)
                if isinstance(result, Awaitable):
                    kept = await result
                # Large queues are freed in parts by other tasks.
                await turns(TURNS)
            del kept
            return measured.largest

    await assert_bounded(attempt, partial(limit, TRAIN))


JOIN: Final = 0.0003
"""The CPU time for one interface, in seconds: to list it and to join a group there."""


@pytest.mark.parametrize("count", [10, 100])
async def test_joining_a_group_on_every_interface_takes_bounded_time(count: int) -> None:
    async def attempt() -> Slice:
        async with trio_dgram.open_socket("udp6", port=0) as sock:
            with slices() as measured:
                joined = sock.add_membership("ff15::1234")
            assert len(joined) >= count
            return measured.largest

    with network_namespace():
        ip(*[f"link add a{number} type veth peer name b{number}" for number in range(count // 2)])
        ip(*[f"link set {end}{number} up" for number in range(count // 2) for end in "ab"])
        # The first listing imports psutil; each join is a system call by which the kernel sends a report.
        trio_dgram.interfaces()
        await assert_bounded(attempt, lambda: limit() + count * JOIN)


# With the real kernel and other processes

FLOOD_SECONDS: Final = 1
"""How long a flood lasts: what would follow it to its end takes no longer, and not all memory."""


@pytest.mark.parametrize(("segments", "offload"), [(1, True), (TRAIN, False), (TRAIN, True)])
@each_program
async def test_a_flood_by_other_processes_is_received_in_bounded_slices(
    program: Program, segments: int, offload: bool
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        async with trio_dgram.open_socket(
            "udp4", port=0, host="127.0.0.1", offload=offload, receive_buffer_size=LARGE_BUFFER
        ) as sock:
            sender.connect(tuple(sock.address))
            with flood(sender, segments=segments, senders=2, seconds=FLOOD_SECONDS):
                await sock.receive()

                async def run(sock: DatagramSocket) -> None:
                    # The flood may pause.
                    with suppress(trio.WouldBlock):
                        await program(sock)

                most = await largest_slice(run, sock, lambda: sock.statistics().received, count=50)
    # A pause of the flood ends receive_nowait, so that the largest slice may be empty.
    assert most.amount <= (MOST_COALESCED if segments > 1 and offload else MOST_DATAGRAMS), most


@pytest.mark.parametrize("size", [SIZE, 20000])
async def test_disconnecting_from_a_peer_that_floods_takes_bounded_time(size: int, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")

    async def attempt() -> Slice:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # A larger send buffer would measure the kernel, which frees what is queued in its connect(2).
            sender.bind(theirs)
            async with trio_dgram.open_socket("unix", path=ours) as sock:
                sender.connect(ours)
                await sock.connect(theirs)
                with flood(sender, size=size, senders=3, seconds=FLOOD_SECONDS):
                    for _ in range(1000):
                        await sock.receive()
                    with slices() as measured:
                        sock.disconnect()
        Path(theirs).unlink()
        return measured.largest

    await assert_bounded(attempt, limit)


@pytest.mark.parametrize("program", ERROR_READERS.values(), ids=ERROR_READERS)
async def test_one_slice_reads_a_bounded_number_of_a_flood_of_icmp_errors(program: Program) -> None:
    async def survive(sock: DatagramSocket) -> None:
        # On a connected socket each error is raised once.
        while True:
            with suppress(OSError):
                await program(sock)

    # The source counts the calls and refills nothing.
    with endless_kernel() as source, refusing_port("127.0.0.1") as port:
        async with trio_dgram.open_socket("udp4", icmp_errors=True, receive_buffer_size=LARGE_BUFFER) as sock:
            await sock.bind(0, "127.0.0.1")
            await sock.connect(("127.0.0.1", port))
            # Processes that share the socket send by it, and their errors are queued on it.
            with socket.socket(fileno=os.dup(sock.fileno())) as sender, flood(sender, senders=2), trio.fail_after(20):
                with suppress(OSError):
                    await sock.receive()
                most = Slice(0, "no task")
                while not most.amount:
                    # On a busy machine the other processes may not run meanwhile.
                    most = await largest_slice(survive, sock, lambda: source.calls["read error"], count=50)
    assert 0 < most.amount <= MOST_SLOW_CALLS, most


def test_a_batch_takes_time() -> None:
    assert 0 < one_batch() < limit()
    assert one_batch() < one_batch(TRAIN)
