"""``check=True`` finds differences between runs, including one with another hash seed."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_dgram
from trio_dgram import sim
from trio_dgram.sim._run import comparison, elsewhere
from trio_dgram.sim._run.running import Settings

from .programs import echo

runs = itertools.count()

SCRIPT = """
import trio
import trio_dgram
from trio_dgram import sim

# So many that no two hash seeds iterate over a set of them in the same order.
NAMES = [f"host{number}" for number in range(20)]


async def scenario(network):
    for name in NAMES:
        network.host(name)
    async with trio_dgram.open_socket("udp4") as sock:
        for name in set(NAMES):
            await sock.send(b"x", (name, 7))
    await trio.sleep(1)


try:
    print(sim.run(scenario, check=True))
except sim.NotDeterministicError as error:
    print(error)
"""


async def send(network: sim.Network, kind: str) -> int:
    run = next(runs)
    server = network.host("server")
    server.start_soon(echo, "udp4")
    await trio.testing.wait_all_tasks_blocked()
    async with trio_dgram.open_socket("udp4") as sock:
        for number in range(3):
            if kind == "time":
                await trio.sleep(0.1 + run % 2 * 1e-8)
            differs = run % 2 and number == 0
            await sock.send({"payload": b"b", "size": b"aa"}.get(kind, b"a") if differs else b"a", ("server", 7))
            await sock.receive()
    return run if kind == "result" else 0


@pytest.mark.parametrize(
    ("kind", "options"), [("payload", {"payload": True}), ("time", {}), ("size", {"trace_limit": 1}), ("result", {})]
)
def test_runs_that_differ_are_found(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(sim.NotDeterministicError, match="the first run and one in the same process"):
        sim.run(send, kind, check=True, **options)


class Opaque:
    """Compares by identity."""

    def __init__(self, *, pickled: bool) -> None:
        self.part = None if pickled else (lambda: None)


@pytest.mark.parametrize("pickled", [False, True])
def test_results_that_compare_by_identity_are_the_same(pickled: bool) -> None:
    first, second = (comparison.Outcome(Opaque(pickled=pickled), "", ()) for _ in range(2))
    comparison.compare(first, second, "here")
    with pytest.raises(sim.NotDeterministicError, match="return"):
        comparison.compare(first, comparison.Outcome(1, "", ()), "here")


def test_digests_cover_records_that_are_not_kept() -> None:
    with pytest.raises(sim.NotDeterministicError, match="have the digests a and b"):
        comparison.compare(comparison.Outcome(1, "a", ()), comparison.Outcome(1, "b", ()), "here")


def answered(scenario: object, *args: object, main: str | None = None) -> Any:
    """Return the answer of the other process, computed in this one."""
    settings = Settings(seed=0)
    answer = elsewhere._run(main, pickle.dumps((scenario, args, settings)))
    return pickle.loads(answer)  # noqa: S301 -- from this process


async def same(_: sim.Network, result: object = 1) -> object:
    return result


async def fails(_: sim.Network) -> None:
    raise ZeroDivisionError


async def cannot_be_pickled(_: sim.Network) -> object:
    return lambda: None


def test_the_other_process_answers_with_an_outcome_or_an_error() -> None:
    assert answered(same).result == 1
    assert "ZeroDivisionError" in answered(fails)
    assert answered(cannot_be_pickled).result == comparison.NOT_PICKLED
    assert answered(same, main="no such file.py") is None
    assert answered(same, main="no module") is None


def test_a_script_is_loaded_as_far_as_its_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("from trio_dgram import sim\nbefore = 1\nsim.run(None)\nafter = 1\n")
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    assert answered(same, main=str(script)).result == 1
    assert vars(sys.modules["__main__"]).keys() & {"before", "after"} == {"before"}
    script.write_text("after = 2\n")
    assert answered(same, main=str(script)).result == 1
    assert sys.modules["__main__"].after == 2


@pytest.mark.parametrize(
    ("status", "answer", "error", "message"),
    [
        (0, comparison.Outcome(1, "digest", ()), sim.NotDeterministicError, "have the digests"),
        (0, "Traceback", sim.NotDeterministicError, "fails in a process with another PYTHONHASHSEED"),
        (3, None, RuntimeError, "ended with status 3"),
    ],
)
def test_the_answer_of_the_other_process_is_compared(
    status: int, answer: object, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_args: object, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[bytes]:
        assert env["PYTHONHASHSEED"] == "1"
        return subprocess.CompletedProcess([], status, pickle.dumps(answer))

    monkeypatch.setenv("PYTHONHASHSEED", "2")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(error, match=message):
        sim.run(same, check=True)


def test_a_scenario_that_cannot_be_imported_runs_here_alone() -> None:
    async def scenario(_: sim.Network) -> int:
        return 1

    assert comparison.outcome_elsewhere(scenario, (), None) is None
    assert sim.run(scenario, check=True) == 1


@pytest.mark.programs
@pytest.mark.long
def test_a_run_with_another_hash_seed_is_compared(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    output = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert "one in a process with another PYTHONHASHSEED differ first here" in output


@pytest.mark.programs
@pytest.mark.long
def test_a_scenario_that_fails_in_the_other_process_alone_is_not_deterministic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sim.run(same, check=True) == 1
    with pytest.raises(sim.NotDeterministicError, match="ZeroDivisionError"):
        comparison.outcome_elsewhere(fails, (), sim._run.running.Settings(seed=0))
    monkeypatch.setattr(comparison, "_COMMAND", "import sys; sys.exit(3)")
    with pytest.raises(RuntimeError, match="ended with status 3"):
        sim.run(same, check=True)
