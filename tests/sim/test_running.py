"""A scenario is deterministic, runs in virtual time, and ends."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

import trio_dgram
from trio_dgram import sim
from trio_dgram.sim._network import trio_internals

from ..support.many_hosts import scenario as many_hosts
from .programs import ask, echo

MANY_HOSTS = Path(__file__).parents[1] / "support" / "many_hosts.py"


def digest_elsewhere(
    seed: int, hosts: int, silent: int = 0, *, hash_seed: int
) -> str:  # pragma: no cover -- long tests run it
    """Return the digest of a run in another process."""
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, str(MANY_HOSTS), *map(str, (seed, hosts, silent))]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_run_passes_arguments_and_returns_the_result() -> None:
    async def scenario(network: sim.Network, first: int, second: str) -> tuple[int, str, object]:
        return first, second, network.seed

    assert sim.run(scenario, 1, "two", seed="three") == (1, "two", "three")


def test_time_is_virtual_and_begins_with_the_year() -> None:
    async def scenario(network: sim.Network) -> None:
        assert (network.time, time.monotonic(), time.monotonic_ns()) == (0, 0, 0)
        assert time.gmtime(time.time())[:6] == (2026, 1, 1, 0, 0, 0)
        await trio.sleep(3600.5)
        assert (network.time, time.monotonic(), time.monotonic_ns()) == (3600.500001, 3600.500001, 3_600_500_001_000)
        assert time.gmtime(time.time())[:6] == (2026, 1, 1, 1, 0, 0)
        assert time.time_ns() / 1_000_000_000 == time.time()

    began = time.perf_counter()
    sim.run(scenario)
    assert time.perf_counter() - began < 3600
    assert time.time() > 1_700_000_000


def test_another_thread_has_its_own_time() -> None:
    async def scenario(_: sim.Network) -> float:
        thread = threading.Thread(target=lambda: found.append(time.time()))
        thread.start()
        thread.join()
        return time.time()

    found: list[float] = []
    assert sim.run(scenario) == 1_767_225_600 != found[0]


def test_randomness_derives_from_the_seed() -> None:
    async def scenario(_: sim.Network) -> list[Any]:
        numbers = [
            random.random(),
            os.urandom(8),
            os.getrandom(8),
            secrets.token_hex(4),
            random.SystemRandom().random(),
        ]
        return [*numbers, uuid.uuid4(), uuid.uuid1(), uuid.uuid1()]

    assert sim.run(scenario, seed=1) == sim.run(scenario, seed=1)
    one, other = sim.run(scenario, seed=1), sim.run(scenario, seed=2)
    assert not set(one) & set(other)


def test_time_and_randomness_can_stay_real() -> None:
    async def scenario(_: sim.Network) -> tuple[float, bytes]:
        return time.time(), os.urandom(16)

    first = sim.run(scenario, fake_time=False, fake_randomness=False)
    second = sim.run(scenario, fake_time=False, fake_randomness=False)
    assert second[0] >= first[0] > 1_767_225_600
    assert first[1] != second[1]


def test_everything_is_restored_after_any_run() -> None:
    before = time.time, time.monotonic, os.urandom, random.getstate(), uuid.getnode

    async def scenario(_: sim.Network) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sim.run(scenario)
    assert (time.time, time.monotonic, os.urandom, random.getstate(), uuid.getnode) == before


@pytest.mark.parametrize("missing", ["_ALLOW_DETERMINISTIC_SCHEDULING", "_r", "start_thread_soon"])
def test_a_release_of_trio_without_the_private_names_is_reported(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    names = {"_ALLOW_DETERMINISTIC_SCHEDULING": "_ALLOW", "_r": "_ORDER", "start_thread_soon": "_START"}
    monkeypatch.setattr(trio_internals, names[missing], "gone")
    with pytest.raises(RuntimeError, match=rf"trio {trio.__version__} no longer has"):
        sim.run(many_hosts, 1, 0)


def test_the_same_seed_has_the_same_digest_and_another_seed_another() -> None:
    digests = [sim.run(many_hosts, 20, 0, seed=seed) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.long
def test_the_digest_does_not_depend_on_the_hash_seed() -> None:
    wanted = sim.run(many_hosts, 50, 0, seed=7)
    assert {digest_elsewhere(7, 50, hash_seed=hash_seed) for hash_seed in (0, 1, 2)} == {wanted}


def test_hosts_that_send_nothing_have_no_effect() -> None:
    assert sim.run(many_hosts, 20, 0, seed=7) == sim.run(many_hosts, 20, 9, seed=7)


def test_a_run_is_the_same_on_every_python() -> None:
    assert sim.run(many_hosts, 10, 0, seed=1) == "f06b91b0c809bf861d0a503601fe31c9"


def test_the_digest_includes_payloads_on_request() -> None:
    async def scenario(network: sim.Network, payload: bytes) -> str:
        network.host("server").start_soon(echo, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        await network.host("client").run(ask, "udp4", payload)
        return network.digest

    assert sim.run(scenario, b"one") == sim.run(scenario, b"two")
    assert sim.run(scenario, b"one", payload=True) != sim.run(scenario, b"two", payload=True)


def test_checking_finds_the_first_difference() -> None:
    runs = iter([b"same", b"longer"])

    async def scenario(network: sim.Network) -> None:
        async with trio_dgram.open_socket("udp4") as sock:
            await sock.send(b"first", ("127.0.0.1", 9))
            await sock.send(next(runs), ("127.0.0.1", 9))

    with pytest.raises(sim.NotDeterministicError, match=r"(?s)#\d+.*4 bytes.*\n.*6 bytes"):
        sim.run(scenario, check=True)


def test_checking_finds_additional_records_of_one_run() -> None:
    runs = iter([1, 2])

    async def scenario(_: sim.Network) -> None:
        async with trio_dgram.open_socket("udp4") as sock:
            for _number in range(next(runs)):
                await sock.send(b"x", ("127.0.0.1", 9))

    with pytest.raises(sim.NotDeterministicError, match="nothing"):
        sim.run(scenario, check=True)


def test_checking_accepts_equal_runs() -> None:
    assert sim.run(many_hosts, 5, 0, check=True)


# The end of a run


def test_a_scenario_without_events_is_stuck_and_lists_the_waiting_tasks() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("server").start_soon(echo, "udp4")
        async with trio_dgram.open_socket("udp4", port=9) as sock:
            await sock.receive()

    with pytest.raises(sim.StuckError, match=r"no deadline left") as caught:
        sim.run(scenario)
    text = str(caught.value)
    assert "server: tests.sim.programs.echo waits in echo (" in text
    assert f"scenario ({__file__}:" in text
    assert "0.0.0.0:7" in text


def test_a_busy_loop_is_stuck() -> None:
    async def scenario(_: sim.Network) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(sim.StuckError, match=r"time stands still at 0\.000000 s"):
        sim.run(scenario, passes=1000)


def test_a_scenario_that_swallows_cancellation_is_stuck() -> None:
    async def scenario(_: sim.Network) -> None:
        try:
            await trio.sleep_forever()
        except BaseException as error:
            raise ValueError("hidden") from error

    with pytest.raises(sim.StuckError):
        sim.run(scenario)


def test_a_scenario_that_waits_for_a_real_event_is_not_stuck_at_once() -> None:
    async def scenario(_: sim.Network) -> bytes:
        command = [sys.executable, "-c", "print('here')"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
            assert process.stdout is not None
            await trio.lowlevel.wait_readable(process.stdout)
            return process.stdout.read()

    assert sim.run(scenario) == b"here\n"


@pytest.mark.parametrize("limited", [False, True])
def test_a_thread_is_refused_with_any_limiter(limited: bool) -> None:
    async def scenario(_: sim.Network) -> None:
        await trio.to_thread.run_sync(int, limiter=trio.CapacityLimiter(1) if limited else None)

    with pytest.raises(sim.ThreadStartedError, match="virtual time would not wait"):
        sim.run(scenario, threads="refuse")


def test_a_thread_that_anyio_starts_is_refused_too() -> None:
    async def scenario(_: sim.Network) -> None:
        await anyio.to_thread.run_sync(int)

    with pytest.raises(sim.ThreadStartedError):
        sim.run(scenario, threads="refuse")


def test_a_thread_runs_inline_with_its_result_or_error() -> None:
    async def scenario(_: sim.Network) -> tuple[str, int, float]:
        with pytest.raises(ZeroDivisionError):
            await trio.to_thread.run_sync(lambda: 1 // 0)
        text = await trio.Path(MANY_HOSTS).read_text(encoding="utf-8")
        return text[:3], await anyio.to_thread.run_sync(int, "5"), trio.current_time()

    assert sim.run(scenario, check=True) == ('"""', 5, 0.0)


def test_a_second_thread_that_runs_a_scenario_is_refused() -> None:
    def run_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another thread runs a simulated network"):
            sim.run(trio.sleep)
        refused.append(True)

    async def scenario(_: sim.Network) -> None:
        thread = threading.Thread(target=run_elsewhere)
        thread.start()
        thread.join()

    refused: list[bool] = []
    sim.run(scenario)
    assert refused == [True]


def test_limiters_and_runs_in_real_time_are_unaffected() -> None:
    async def elsewhere() -> int:
        return await trio.to_thread.run_sync(int)

    async def scenario(_: sim.Network) -> None:
        async with trio.CapacityLimiter(1):
            thread = threading.Thread(target=lambda: results.append(trio.run(elsewhere)))
            thread.start()
            thread.join()

    results: list[int] = []
    sim.run(scenario)
    assert results == [0]


def test_a_scenario_that_takes_too_long_ends() -> None:
    async def scenario(_: sim.Network) -> None:
        for _second in range(100):
            await trio.sleep(1)

    async def shielded(_: sim.Network) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    with pytest.raises(trio.TooSlowError, match=r"longer than 50 s\nTasks:\n.*waits in .*shielded"):
        sim.run(shielded, time_limit=50)
    sim.run(scenario, time_limit=101)
    with pytest.raises(trio.TooSlowError, match="longer than 50 s"):
        sim.run(scenario, time_limit=50)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"time_limit": -1}, ValueError, "time_limit must be at least 0"),
        ({"time_limit": "1"}, TypeError, "time_limit must be a number"),
        ({"passes": 0}, ValueError, "passes"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, a string or bytes"),
        ({"trace_limit": -1}, ValueError, "trace_limit"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        sim.run(many_hosts, 1, 0, **options)


# Reports


def test_a_failure_has_the_story_as_a_note() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("server").start_soon(echo, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        await network.host("client").run(ask, "udp4", b"why")
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason") as caught:
        sim.run(scenario, seed=5)
    (note,) = caught.value.__notes__
    assert "seed 5, digest " in note
    assert "The last 2 of 2 datagrams:" in note
    assert "client" in note
    assert "3 bytes" in note
    assert "(closed)" in note


def test_a_failure_without_datagrams_has_a_note() -> None:
    async def scenario(_: sim.Network) -> None:
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason") as caught:
        sim.run(scenario)
    assert "Nothing was sent." in caught.value.__notes__[0]


def test_an_exception_of_a_task_on_a_host_ends_the_run() -> None:
    async def fail() -> None:
        raise ValueError("on a host")

    async def scenario(network: sim.Network) -> None:
        network.host("server").start_soon(fail)
        await trio.sleep_forever()

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="on a host")):
        sim.run(scenario)


def test_the_core_imports_nothing_of_it() -> None:
    program = "import sys, trio_dgram; sys.exit(any(name.startswith('trio_dgram.sim') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
