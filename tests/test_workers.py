"""The supervisor: the sockets of its workers, their starts, ends and replacements, steering and reports."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Address, workers
from trio_dgram._kernel.capabilities import capabilities, portable
from trio_dgram._kernel.passed_sockets import registry
from trio_dgram._workers import sockets, spawning, supervision
from trio_dgram._workers.settings import check_settings, next_pause
from trio_dgram._workers.steering import steering_program
from trio_dgram._workers.supervisor import run_supervisor
from trio_dgram.workers import Backoff, Supervisor, WorkerEvent, WorkersFailedError

from .support.examples import EXAMPLES
from .support.families import FAMILIES
from .support.passing import Pass, bound
from .support.programs import find_program, printed, started, unused_port
from .support.supervised import ROOT, ask, children, descriptors, happens, light, logged, supervised, unix_receiver

UDP4: Final = FAMILIES[0]
UDP6: Final = FAMILIES[1]
AT_ONCE: Final = Backoff(0)

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(
        not hasattr(os, "pidfd_open") or not capabilities().packet_info,
        reason="kernel: no pidfd, or no credentials of the sender",
    ),
]


async def both_answer(supervisor: Supervisor) -> dict[int, int]:
    """Ask until both workers have answered; return their pids by index."""
    pids: dict[int, int] = {}
    while len(pids) < 2:
        index, pid = await ask(supervisor.addresses[0])
        pids[index] = pid
    return pids


# Running


@pytest.mark.parametrize("setpriv", [True, False])
async def test_each_worker_has_a_socket_of_its_own_for_the_port(setpriv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not setpriv:
        monkeypatch.setattr(shutil, "which", lambda name: None if name == "setpriv" else name)
    async with supervised([sys.executable, *light()[1:]]) as supervisor:
        pids = await both_answer(supervisor)
        assert {worker.index: worker.pid for worker in supervisor.workers} == pids
        assert {worker.state for worker in supervisor.workers} == {"ready"}
        assert repr(supervisor) == "<trio_dgram.workers.Supervisor, 2 of 2 workers ready>"
    assert children() == []


async def test_a_killed_worker_is_replaced_and_its_queued_datagrams_are_answered() -> None:
    async with supervised(light(), processes=1, restart=AT_ONCE) as supervisor:
        events = supervisor.events()
        _, pid = await ask(supervisor.addresses[0])
        os.kill(pid, signal.SIGSTOP)
        # Until it has stopped, it may read what is to stay in the queue.
        os.waitid(os.P_PID, pid, os.WSTOPPED)  # noqa: ASYNC222 -- it stops at once
        async with trio_dgram.open_connection(*supervisor.addresses[0]) as peer:
            await peer.send(b"queued")
            assert supervisor.workers[0].queued_bytes > 0 or not capabilities().drop_counter
            os.kill(pid, signal.SIGKILL)
            answer = await peer.receive()
        successor = await happens(events, "ready")
        assert answer == b"0 %d queued" % successor
        assert supervisor.workers[0].restarts == 1


async def test_all_workers_get_one_secret_by_a_descriptor() -> None:
    reveal = (
        "secret = os.read(int(os.environ['TRIO_DGRAM_QUIC_SECRET_FD']), 100).hex().encode()\n"
        "notify('READY=1')\n"
        "while True:\n"
        "    data, address = passed.recvfrom(100)\n"
        "    passed.sendto(os.environ['TRIO_DGRAM_WORKER'].encode() + secret, address)\n"
    )
    async with supervised(light(reveal)) as supervisor:
        answers: set[bytes] = set()
        while len(answers) < 2:
            async with trio_dgram.open_connection(*supervisor.addresses[0]) as peer:
                await peer.send(b"?")
                answers.add(await peer.receive())
    assert {answer[:1] for answer in answers} == {b"0", b"1"}
    (secret,) = {answer[1:] for answer in answers}
    assert len(secret) == 64


async def test_events_report_each_change_and_end_with_the_supervisor() -> None:
    async with supervised(light(), processes=1, restart=AT_ONCE) as supervisor:
        events, closed = supervisor.events(), supervisor.events()
        await closed.aclose()
        first = supervisor.workers[0].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        seen = [await events.receive() for _ in range(3)]
        second = supervisor.workers[0].pid
        assert second is not None
        assert seen == [
            WorkerEvent("exited", 0, first, -signal.SIGKILL),
            WorkerEvent("started", 0, second),
            WorkerEvent("ready", 0, second),
        ]
        supervisor.stop()
        assert [event.exit_code async for event in events] == [-signal.SIGTERM]
        assert [event async for event in supervisor.events()] == []
        assert not await supervisor.reload()


async def test_events_beyond_the_limit_are_dropped_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_MOST_EVENTS", 1)
    async with supervised(light(), processes=1, restart=AT_ONCE) as supervisor:
        full, events = supervisor.events(), supervisor.events()
        _, pid = await ask(supervisor.addresses[0])
        os.kill(pid, signal.SIGKILL)
        await logged("an event of worker 0 is dropped")
        assert (await full.receive()).event == "exited"
        assert (await events.receive()).event == "exited"


async def test_a_worker_that_exits_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    ends_when_asked = 'notify("READY=1")\npassed.recv(100)\nsys.exit(0)'
    async with supervised(light(ends_when_asked), processes=1, restart=AT_ONCE) as supervisor:
        events = supervisor.events()
        async with trio_dgram.open_connection(*supervisor.addresses[0]) as peer:
            await peer.send(b"end")
            await happens(events, "exited")
            await happens(events, "ready")
    assert "worker 0 exited with code 0: it is started again in 0 s; the kernel has dropped 0 datagrams" in caplog.text


async def assert_restarts_leave_nothing(supervisor: Supervisor, times: int) -> None:
    """Kill the only worker so often, and check that neither descriptors nor zombies are left."""
    events, before = supervisor.events(), descriptors()
    for _ in range(times):
        pid = supervisor.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await happens(events, "ready")
    assert len(children()) == 1
    assert descriptors() == before


async def test_restarts_leave_no_descriptor_and_no_zombie() -> None:
    async with supervised(light(), processes=1, restart=AT_ONCE) as supervisor:
        await assert_restarts_leave_nothing(supervisor, 10)


async def test_stderr_is_passed_through_by_lines(capfd: pytest.CaptureFixture[str]) -> None:
    writes = "os.write(2, b'one\\ntwo\\npart'); os.write(2, b'ial' + bytes(70000)); notify('READY=1'); answer()"
    async with supervised(light(writes), processes=1) as supervisor:
        await ask(supervisor.addresses[0])
    output = capfd.readouterr().err
    assert output.startswith("one\ntwo\npartial")


# Ending


async def test_a_worker_that_ignores_the_request_to_end_is_killed_after_the_drain_timeout() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); notify('READY=1'); answer()"
    async with supervised(light(stubborn), processes=1, drain_timeout=0.05) as supervisor:
        events = supervisor.events()
        supervisor.stop()
        assert [event.event async for event in events] == ["exited"]
    assert children() == []


async def test_a_second_stop_kills_at_once() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); notify('READY=1'); answer()"
    async with supervised(light(stubborn), processes=1, drain_timeout=1000) as supervisor:
        supervisor.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert supervisor.workers[0].state == "draining"
        supervisor.stop()
    assert children() == []


PARENT: Final = """
import os, sys, trio
from functools import partial
from trio_dgram import workers
from trio_dgram._workers import spawning
if sys.argv[1] == "python":
    spawning.shutil.which = lambda name: None if name == "setpriv" else name

async def main():
    async with trio.open_nursery() as nursery:
        command = sys.argv[2:]
        supervisor = await nursery.start(partial(workers.supervise, command, listen=["127.0.0.1:0"], processes=2))
        print(*[worker.pid for worker in supervisor.workers], flush=True)

trio.run(main)
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Remove what a killed supervisor leaves. The path is short, as that of an AF_UNIX socket has to be."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # pragma: no cover -- only long tests outlive a process
        return False


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("shim", ["setpriv", "python"])
async def test_workers_end_with_a_killed_supervisor(shim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with started(sys.executable, "-c", PARENT, shim, *light()) as parent:
        pids = list(map(int, (await printed(parent, b"\n")).split()))
        handles = [os.pidfd_open(pid) for pid in pids]
        assert len(pids) == 2
        parent.kill()
        with trio.fail_after(20):
            for handle in handles:
                await trio.lowlevel.wait_readable(handle)
                os.close(handle)
        assert not any(map(running, pids))


# Replacing


async def test_a_reload_replaces_every_worker(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(light()) as supervisor:
        before = await both_answer(supervisor)
        results: list[bool] = []

        async def reload() -> None:
            results.append(await supervisor.reload())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            nursery.start_soon(reload)
        assert sorted(results) == [False, True]
        after = await both_answer(supervisor)
        assert not set(before.values()) & set(after.values())
        assert [worker.restarts for worker in supervisor.workers] == [1, 1]
    assert caplog.text == ""


async def test_a_reload_stops_at_a_worker_that_does_not_become_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "program"
    program.write_text('notify("READY=1")\nanswer()')
    command = light(f"exec(open({str(program)!r}).read())")
    async with supervised(command, restart=Backoff(1000, maximum=1000)) as supervisor:
        before = await both_answer(supervisor)
        program.write_text("sys.exit(3)")
        assert not await supervisor.reload()
        assert "worker 0 does not become ready: the workers after it stay as they are" in caplog.text
        assert [worker.state for worker in supervisor.workers] == ["waiting", "ready"]
        assert [worker.pid for worker in supervisor.workers] == [None, before[1]]
        # The next round does not wait until the pause is over.
        program.write_text('notify("READY=1")\nanswer()')
        assert await supervisor.reload()
        assert len(await both_answer(supervisor)) == 2


@pytest.mark.long
async def test_two_reloads_of_serving_workers_lose_and_duplicate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    answers: Counter[bytes] = Counter()
    sent, replaced = 0, trio.Event()
    async with supervised(SERVING, processes=4, receive_buffer_size=8 << 20) as supervisor:
        async with trio_dgram.open_nursery() as nursery:
            clients = [nursery.create_socket("udp4").unref() for _ in range(16)]

            async def receive(client: trio_dgram.DatagramSocket) -> None:
                async for datagram in client:
                    answers[datagram.data] += 1

            async def flood() -> None:
                nonlocal sent
                while not replaced.is_set():
                    await clients[sent % 16].send(b"%d" % sent, supervisor.addresses[0])
                    sent += 1
                    await trio.sleep(0.0005)

            for client in clients:
                await client.bind(0, "127.0.0.1")
                nursery.start_soon(receive, client)
            nursery.start_soon(flood)
            for _ in range(2):
                assert await supervisor.reload()
            replaced.set()
            await sockets_are_empty(supervisor)
            await trio.testing.wait_all_tasks_blocked(0.1)
            nursery.cancel_scope.cancel()
        # On a busy machine a worker may start so slowly that the buffer of its predecessor overflows.
        assert len(answers) == sent - sum(worker.dropped_by_kernel for worker in supervisor.workers)
        assert set(answers.values()) == {1}


@pytest.mark.long
async def test_a_kill_under_load_loses_no_more_than_the_dead_worker_had_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    total, answers = 4000, set[bytes]()
    async with supervised(SERVING, processes=4, receive_buffer_size=8 << 20, restart=AT_ONCE) as supervisor:
        events = supervisor.events()
        async with trio_dgram.open_nursery() as nursery:
            clients = [nursery.create_socket("udp4").unref() for _ in range(16)]

            async def receive(client: trio_dgram.DatagramSocket) -> None:
                async for datagram in client:
                    answers.add(datagram.data)

            for client in clients:
                await client.bind(0, "127.0.0.1")
                nursery.start_soon(receive, client)
            victim = supervisor.workers[0].pid
            assert victim is not None
            for number in range(total):
                await clients[number % 16].send(b"%d" % number, supervisor.addresses[0])
                await trio.sleep(0.00025)
                if number == total // 2:
                    os.kill(victim, signal.SIGKILL)
            await happens(events, "ready", 0)
            # Answered after everything else in the queues of the workers.
            await sockets_are_empty(supervisor)
            await trio.testing.wait_all_tasks_blocked(0.1)
            nursery.cancel_scope.cancel()
        dropped = sum(worker.dropped_by_kernel for worker in supervisor.workers)
        assert 0 <= total - len(answers) - dropped <= 128


async def sockets_are_empty(supervisor: Supervisor) -> None:  # pragma: no cover -- only a long test calls it
    while any(worker.queued_bytes for worker in supervisor.workers):  # noqa: ASYNC110 -- the kernel reports no event
        await trio.sleep(0.01)


@pytest.mark.long
async def test_hundreds_of_restarts_leave_no_descriptor_and_no_zombie() -> None:
    async with supervised(light(), processes=1, restart=AT_ONCE) as supervisor:
        await assert_restarts_leave_nothing(supervisor, 200)


@pytest.mark.long
@pytest.mark.usefixtures("temporary")
async def test_workers_outlive_the_threads_of_trio_and_not_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with started(sys.executable, "-c", PARENT, "setpriv", *light()) as parent:
        pids = list(map(int, (await printed(parent, b"\n")).split()))
        # Trio ends an idle thread after 10 s, and PR_SET_PDEATHSIG belongs to a thread.
        await trio.sleep(15)
        assert all(map(running, pids))
        handles = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
        with trio.fail_after(20):
            for handle in handles:
                await trio.lowlevel.wait_readable(handle)
                os.close(handle)


SERVING: Final = [
    sys.executable,
    "-c",
    """
import trio, trio_dgram
from trio_dgram import workers

async def handler(peer):
    async for data in peer:
        await peer.send(data)

trio.run(trio_dgram.serve, handler, workers.passed_sockets()[0][1].port)
""",
]


# Crashes


async def test_workers_that_all_end_at_once_are_given_up_with_the_end_of_their_stderr() -> None:
    crashing = light("sys.stderr.write('the reason\\n'); sys.exit(7)")
    with pytest.raises(WorkersFailedError, match=r"exited with code 7\n  the reason$"):
        await workers.supervise(crashing, listen=["127.0.0.1:0"], processes=2, restart=AT_ONCE)
    assert children() == []


async def test_a_worker_that_crashes_beside_ready_ones_is_retried_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    once = "notify('READY=1') if os.environ['TRIO_DGRAM_WORKER'] == '0' else sys.exit(1)\nanswer()"
    async with trio.open_nursery() as nursery:
        events: list[WorkerEvent] = []

        async def watch(supervisor: Supervisor) -> None:
            async for event in supervisor.events():
                events.append(event)
                if sum(each.event == "exited" for each in events) == 8:
                    supervisor.stop()

        async def run() -> None:
            settings = sockets_settings(light(once), restart=Backoff(0.2, factor=1))
            await run_supervisor(settings, created=lambda supervisor: nursery.start_soon(watch, supervisor))

        nursery.start_soon(run)
    assert "worker 1 exited with code 1: it is started again in 0.2 s" in caplog.text


def sockets_settings(command: list[str], **options: Any) -> Any:
    given = {
        "processes": 2,
        "name": "udp",
        "receive_buffer_size": None,
        "steer": "hash",
        "ready": "bound",
        "gro": True,
        "restart": AT_ONCE,
        "start_timeout": 30,
        "drain_timeout": 30,
    }
    return check_settings(command, ["127.0.0.1:0"], {**given, **options})


@pytest.mark.parametrize("reported", [False, True])
async def test_a_worker_that_does_not_become_ready_is_killed_and_its_sockets_are_named(
    reported: bool, caplog: pytest.LogCaptureFixture
) -> None:
    body = "notify('X=1'); notify('STATUS=not bound yet: 192.0.2.1:5')\n" if reported else ""
    address = "192.0.2.1:5" if reported else "127.0.0.1:"
    with trio.move_on_after(60) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    workers.supervise, light(body + "answer()"), listen=["127.0.0.1:0"], processes=1, start_timeout=0.5
                )
            )
            await logged("is not ready after 0.5 s")
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert f"and is killed: it has not bound {address}" in caplog.text
    assert children() == []


async def test_a_message_of_another_process_than_the_worker_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    forking = "if os.fork() == 0:\n    notify('READY=1'); os._exit(0)\nos.wait(); answer()"
    with pytest.raises(WorkersFailedError, match="was killed by SIGKILL"):
        await workers.supervise(light(forking), listen=["127.0.0.1:0"], processes=1, start_timeout=0.3, restart=AT_ONCE)
    assert "is not ready after 0.3 s" in caplog.text


async def test_a_worker_that_cannot_be_started_is_retried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = iter([errno.EAGAIN, 0, 0])
    spawn, pidfd_open = spawning.spawn, os.pidfd_open
    opened = iter([errno.EMFILE, 0])

    def failing_spawn(*arguments: Any) -> int:
        if number := next(attempts):
            raise OSError(number, os.strerror(number))
        return spawn(*arguments)

    def failing_open(pid: int) -> int:
        if number := next(opened):
            raise OSError(number, os.strerror(number))
        return pidfd_open(pid)

    monkeypatch.setattr(supervision, "spawn", failing_spawn)
    monkeypatch.setattr(os, "pidfd_open", failing_open)
    async with supervised(light(), processes=1, restart=AT_ONCE) as supervisor:
        await ask(supervisor.addresses[0])
        assert len(children()) == 1
    assert caplog.text.count("worker 0 cannot be started: it is started again in 0 s") == 2


def test_pauses_grow_to_a_maximum() -> None:
    backoff = Backoff(0.5, factor=3, maximum=4)
    pauses = [next_pause(backoff, None)]
    while len(pauses) < 4:
        pauses.append(next_pause(backoff, pauses[-1]))
    assert pauses == [0.5, 1.5, 4, 4]


async def test_pauses_begin_anew_after_a_healthy_time(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(light(), processes=1, restart=Backoff(0.01, factor=10, healthy_after=0)) as supervisor:
        events = supervisor.events()
        for _ in range(2):
            pid = supervisor.workers[0].pid
            assert pid is not None
            os.kill(pid, 40)
            await happens(events, "ready")
    assert caplog.text.count("was killed by signal 40: it is started again in 0.01 s") == 2


# Sockets


async def test_a_busy_port_is_an_error_and_no_worker_is_started() -> None:
    async with supervised(light(), processes=1) as supervisor:
        busy = supervisor.addresses[0]
        before = children()
        for address in (busy,):
            with pytest.raises(OSError, match=f"bind {address}") as refused:
                await workers.supervise(light(), listen=["127.0.0.1:0", str(address)], processes=2)
            assert refused.value.errno == errno.EADDRINUSE
        assert children() == before


async def test_a_port_that_another_supervisor_shares_is_busy() -> None:
    async with supervised(light()) as supervisor:
        with pytest.raises(OSError, match="bind") as refused:
            await workers.supervise(light(), listen=[str(supervisor.addresses[0])], processes=2)
        assert refused.value.errno == errno.EADDRINUSE


async def test_a_port_of_the_kernels_choice_is_tried_again_if_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bind, busy = sockets._bind, iter([False, True, False, False, False])

    def failing(*arguments: Any, **options: Any) -> socket.socket:
        if next(busy):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return bind(*arguments, **options)

    monkeypatch.setattr(sockets, "_bind", failing)
    async with supervised(light(), processes=1) as supervisor:
        assert supervisor.addresses[0].port


async def test_other_errors_of_binding_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    bind, refused = sockets._bind, iter([False, True, False, True])

    def failing(*arguments: Any, **options: Any) -> socket.socket:
        if next(refused):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return bind(*arguments, **options)

    monkeypatch.setattr(sockets, "_bind", failing)
    for address in ("127.0.0.1:0", f"127.0.0.1:{unused_port(UDP4)}"):
        with pytest.raises(PermissionError, match="bind"):
            await workers.supervise(light(), listen=[address], processes=2)


async def test_an_address_that_is_not_local_is_an_error() -> None:
    with pytest.raises(OSError, match=r"bind 192\.0\.2\.1:5") as refused:
        await workers.supervise(light(), listen=["192.0.2.1:5"], processes=1)
    assert refused.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("both", [False, True], ids=["[::] alone", "with 0.0.0.0"])
async def test_an_ipv6_socket_serves_ipv4_unless_an_ipv4_address_is_listed(both: bool) -> None:
    port = unused_port(UDP6)
    answering = "import threading\nthreading.Thread(target=answer, daemon=True).start() if 0 else None\n"
    second = "passed = socket.socket(fileno=4); " if both else ""
    body = answering + second + "notify('READY=1'); answer()"
    async with supervised(light(body), listen=[f"[::]:{port}", *[f"0.0.0.0:{port}"] * both]) as supervisor:
        assert supervisor.addresses == [("::", port), ("0.0.0.0", port)][: 1 + both]
        await ask(Address("127.0.0.1", port))


async def test_sockets_get_the_requested_buffer_and_a_smaller_one_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    async with supervised(light(), processes=1, receive_buffer_size=limit + 1, gro=False) as supervisor:
        await ask(supervisor.addresses[0])
        assert f"has {limit} bytes instead of {limit + 1}: raise net.core.rmem_max" in caplog.text


def test_the_smallest_buffer_of_a_group_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with bound(UDP4) as passed, bound(UDP4) as added:
        passed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        added.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        sockets._check_buffer(sockets.Group(Address("127.0.0.1", 1), "udp", [passed, added]), 20_000)
    assert "the receive buffer of 127.0.0.1:1 has 10000 bytes instead of 20000" in caplog.text


@pytest.mark.parametrize("reuse_port", [0, 1])
async def test_sockets_that_systemd_passed_to_the_supervisor_are_used(
    reuse_port: int, pass_sockets: Pass, caplog: pytest.LogCaptureFixture
) -> None:
    with bound(UDP4, reuse_port=reuse_port) as passed:
        pass_sockets(passed, LISTEN_FDNAMES="name")
        async with supervised(light(), listen=[]) as supervisor:
            assert supervisor.addresses == [passed.getsockname()]
            if reuse_port:
                await both_answer(supervisor)
            else:
                await ask(supervisor.addresses[0])
            assert ("2 workers share one socket on" in caplog.text) == (not reuse_port)
        assert registry.untaken()


# Steering


async def test_a_byte_of_the_payload_selects_the_worker() -> None:
    async with supervised(light(), steer=(2, 0x0F)) as supervisor:
        for wanted in (0, 1, 1, 0):
            assert (await ask(supervisor.addresses[0], b"ab%c" % (0x40 | wanted)))[0] == wanted
        # Neither a byte beyond the workers nor one that is missing selects one.
        for data in (b"ab\x0f", b"ab"):
            assert {(await ask(supervisor.addresses[0], data))[0] for _ in range(20)} == {0, 1}


async def test_the_first_byte_of_a_quic_connection_id_selects_the_worker() -> None:
    async with supervised(light(), steer="quic") as supervisor:
        for wanted in (0, 1, 1, 0):
            assert (await ask(supervisor.addresses[0], b"\x40%cid" % wanted))[0] == wanted
        assert {(await ask(supervisor.addresses[0], b"\xc0\x00\x00\x00\x01"))[0] for _ in range(20)} == {0, 1}


def test_the_hash_needs_no_program() -> None:
    assert steering_program("hash") == []


# Readiness


async def test_programs_without_this_library_are_ready_after_a_second() -> None:
    async with supervised(light("answer()"), processes=1, ready="start") as supervisor:
        await ask(supervisor.addresses[0])
    with pytest.raises(WorkersFailedError):
        await workers.supervise(
            light("sys.exit()"), listen=["127.0.0.1:0"], processes=1, ready="start", restart=AT_ONCE
        )


async def test_systemd_notify_reports_readiness() -> None:
    script = [find_program("sh"), "-c", f"{find_program('systemd-notify')} --ready && exec sleep 1000"]
    async with supervised(script, processes=1) as supervisor:
        assert supervisor.workers[0].state == "ready"


async def test_the_supervisor_reports_to_its_own_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unix_receiver(tmp_path / "manager") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager"))
        async with supervised(light()) as supervisor:
            await ask(supervisor.addresses[0])
        messages: list[str] = []
        manager.settimeout(0)
        while not messages or not messages[-1].startswith("STOPPING=1"):
            messages.append(manager.recv(1000).decode())
    assert "READY=1\nSTATUS=2 of 2 workers" in messages


async def test_an_unchanged_example_runs_under_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    port = unused_port(UDP4)
    echo = [sys.executable, str(EXAMPLES / "echo.py"), "--port", str(port), "--host", "127.0.0.1"]
    async with supervised(echo, listen=[f"127.0.0.1:{port}"], processes=1) as supervisor:
        async with trio_dgram.open_connection(*supervisor.addresses[0]) as peer:
            await peer.send(b"hello")
            assert await peer.receive() == b"hello"


@pytest.mark.long
@pytest.mark.parametrize("hosts", [["0.0.0.0"], ["[::]"], ["0.0.0.0", "[::]"]], ids="+".join)
async def test_serve_without_a_host_answers_in_every_worker(hosts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    port = unused_port(UDP6)
    serving = SERVING[2].replace("await peer.send(data)", "await peer.send(b'%d' % workers.index())")
    async with supervised([sys.executable, "-c", serving], listen=[f"{host}:{port}" for host in hosts]):
        clients = (["127.0.0.1"] if "0.0.0.0" in hosts else []) + (["::1"] if "[::]" in hosts else [])
        for host in clients:
            seen: set[bytes] = set()
            while len(seen) < 2:
                async with trio_dgram.open_connection(host, port) as peer:
                    await peer.send(b"hello")
                    seen.add(await peer.receive())


# Arguments

WRONG: Final[list[tuple[Any, dict[str, Any], type[Exception], str]]] = [
    ("python server.py", {}, TypeError, "command must be a sequence of strings"),
    ([], {}, ValueError, "command must name a program"),
    ([""], {}, ValueError, "command must name a program"),
    ([1], {}, TypeError, "command must contain only strings"),
    (["no-such-program"], {}, FileNotFoundError, "not found"),
    (["true"], {"listen": "127.0.0.1:1"}, TypeError, "listen must be a sequence of strings"),
    (["true"], {"listen": 5}, TypeError, "listen must be a sequence of strings"),
    (["true"], {"listen": ["127.0.0.1"]}, ValueError, "listen must contain 'host:port'"),
    (["true"], {"listen": ["127.0.0.1:99999"]}, ValueError, "listen must contain .*, not '127.0.0.1:99999'"),
    (["true"], {"listen": []}, ValueError, "listen must name at least one address"),
    (["true"], {"processes": 0}, ValueError, "processes must be from 1 to 1024"),
    (["true"], {"processes": 257, "steer": "quic"}, ValueError, "processes must be from 1 to 256"),
    (["true"], {"name": "a:b"}, ValueError, "without a colon"),
    (["true"], {"name": ""}, ValueError, "name must be 1 to 255"),
    (["true"], {"name": 1}, TypeError, "name must be a string"),
    (["true"], {"steer": "random"}, ValueError, "steer must be one of"),
    (["true"], {"steer": (1, 2, 3)}, ValueError, "steer must be"),
    (["true"], {"steer": (1, 0)}, ValueError, "the mask of steer must be from 1 to 255"),
    (["true"], {"receive_buffer_size": 0}, ValueError, "receive_buffer_size must be"),
    (["true"], {"ready": "later"}, ValueError, "ready must be one of"),
    (["true"], {"gro": 1}, TypeError, "gro must be a bool"),
    (["true"], {"restart": 1}, TypeError, "restart must be a Backoff"),
    (["true"], {"start_timeout": -1}, ValueError, "start_timeout must be at least 0"),
    (["true"], {"drain_timeout": "x"}, TypeError, "drain_timeout must be a number"),
]


@pytest.mark.parametrize(("command", "options", "kind", "message"), WRONG)
async def test_wrong_arguments_are_refused(
    command: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await workers.supervise(command, **{"listen": ["127.0.0.1:0"], **options})


async def test_a_system_without_the_calls_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_dgram._kernel.capabilities.detected", portable())
    with bound(UDP4) as sock:
        assert sockets.memory_of([sock]) == (0, 0)
    with pytest.raises(OSError, match="cannot supervise worker processes") as unsupported:
        await workers.supervise(light(), listen=["127.0.0.1:0"])
    assert unsupported.value.errno == errno.ENOTSUP


def test_one_process_for_each_cpu_is_the_default() -> None:
    assert sockets_settings(["true"], processes=None).processes == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("field", ["initial", "factor", "maximum", "healthy_after"])
def test_a_backoff_checks_its_fields(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least"):
        Backoff(**{field: -1})
