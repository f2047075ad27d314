"""Promise 5: what an interrupt leaves, wherever it arises."""

from __future__ import annotations

import functools
import importlib.util
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import pytest

import trio_dgram

from .support import interrupted, interrupts
from .support.interrupted import CORE, PEERS
from .support.interrupted_dtls import ENCRYPTED
from .support.interrupted_quic import CONNECTED
from .support.interrupted_workers import SUPERVISED
from .support.interrupts import (
    Granularity,
    Place,
    frozen,
    interrupt_after,
    interrupt_everywhere,
    reached,
    report,
    run_once,
)

PACKAGE: Final = Path(trio_dgram.__file__).parent
OTHERS: Final = {"__init__.py", "__init__.pyi", "__pycache__", "__main__.py", "_commands", "_plugin"}
"""The files that no program here reaches. The command line receives SIGINT as a signal, and pytest runs the plugin."""
LAYERS: Final = [path for path in sorted(PACKAGE.glob("_*")) if path.name not in OTHERS]
"""Every private module and folder; the simulator is a public one."""
FILES: Final = {
    str(path.relative_to(PACKAGE)): str(path)
    for layer in LAYERS
    for path in (sorted(layer.rglob("*.py")) if layer.is_dir() else [layer])
    if path.name != "__init__.py"
}
PROGRAMS: Final = {**CORE, **PEERS, **ENCRYPTED, **CONNECTED, **SUPERVISED}
SAMPLED: Final = {"_quic": 8, "_workers": 4}
"""Layers whose programs take long: an interrupt arises at one in so many of their places. Empty it for all of them."""
CHECKED: Final = 8
"""An interrupt arises at one in so many places within a line, besides at every line. Set it to 1 for all of them."""
RANDOM_HITS: Final = 200
SUBPROCESS_RUNS: Final = 5

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        "config.getoption('--portable')",
        reason="kernel: the programs compare their counts with the kernel's drop counter",
    ),
]


@functools.cache
def counts(granularity: Granularity) -> dict[str, Counter[Place]]:
    """How often each program reaches each place."""
    with frozen():
        return {name: reached(make, FILES.values(), granularity) for name, make in PROGRAMS.items()}


# The library


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_is_not_interrupted_ends_well(name: str) -> None:
    with frozen():
        assert run_once(PROGRAMS[name], interrupted=False) == []


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_the_programs_reach_every_layer(layer: Path) -> None:
    found = {place for counted in counts("line").values() for place in counted}
    assert any(Path(place.filename).is_relative_to(layer) for place in found)


@pytest.mark.parametrize("granularity", ["line", "signal check"])
@pytest.mark.parametrize("file", FILES)
def test_an_interrupt_leaves_everything_in_order(file: str, granularity: Granularity) -> None:
    layer = Path(file).parts[0]
    programs = {
        "_peers": PEERS,
        "_services": {**PEERS, **ENCRYPTED},
        "_dtls": ENCRYPTED,
        "_quic": CONNECTED,
        "_workers": SUPERVISED,
    }.get(layer, CORE)
    one_in = SAMPLED.get(layer, 1) * (1 if granularity == "line" else CHECKED)
    found = interrupt_everywhere(
        programs, [FILES[file]], granularity=granularity, counts=counts(granularity), one_in=one_in
    )
    assert not found, report(found)


@pytest.mark.parametrize("name", ["Pulled udp4", "Waiting udp4", "Listened udp4", "Served udp4"])
def test_a_signal_at_a_random_moment_leaves_everything_in_order(name: str) -> None:
    moments = random.Random(name)
    hits = runs = 0
    longest = 0.01
    found = []
    with frozen():
        while hits < RANDOM_HITS:
            hit, complaints = interrupt_after(PROGRAMS[name], moments.uniform(0, longest), [interrupted.__file__])
            runs += 1
            hits += hit
            # On any machine, few interrupts may be left after the end.
            longest *= 1.01 if hit else 0.9
            if complaints:
                found.append(f"run {runs}: {'; '.join(complaints)}")
    assert not found, "\n".join([f"{len(found)} of {hits} interrupted runs", *found])


SERVER: Final = """
import functools, sys, trio, trio_dgram

async def handler(peer):
    async for data in peer:
        await peer.send(data)

async def listener():
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio_dgram.serve, handler, 0, host="127.0.0.1", max_peers=2000)
        (listener,) = await nursery.start(serve)
        print(listener.address.port, flush=True)

async def socket():
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        print(sock.address.port, flush=True)
        async for datagram in sock:
            await sock.send(datagram.data, datagram.address)

try:
    trio.run(globals()[sys.argv[1]])
except* KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("kind", ["listener", "socket"])
def test_a_busy_echo_server_ends_by_an_interrupt(kind: str) -> None:
    moments = random.Random(kind)
    for _ in range(SUBPROCESS_RUNS):
        command = [sys.executable, "-W", "error", "-c", SERVER, kind]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(150)]
            for client in clients:
                client.connect(("127.0.0.1", port))
                client.settimeout(5)
            # Without the first echo the server may not be in its loop yet.
            clients[0].send(b"hello")
            assert clients[0].recv(100) == b"hello"
            for number in range(moments.randrange(5000)):
                clients[number % len(clients)].send(b"hello")
            server.send_signal(signal.SIGINT)
            try:
                _, errors = server.communicate(timeout=20)
            finally:
                server.kill()
                for client in clients:
                    client.close()
        assert server.returncode == 7, errors
        assert not errors


# The harness


HEADER: Final = """
import contextlib, os, trio
from trio.lowlevel import enable_ki_protection

queue = []
taken = counted = 0

async def fine():
    await trio.lowlevel.checkpoint()

class Exit:
    def __enter__(self):
        return self
    @enable_ki_protection
    def __exit__(self, *_):
        queue.pop()

"""
EXAMPLES: Final = {
    "protected": (
        """
@enable_ki_protection
def take():
    global taken, counted
    taken += 1
    counted += 1

async def run():
    take()
    await trio.lowlevel.checkpoint()
""",
        {},
    ),
    "not protected": (
        """
def take():
    global taken, counted
    taken += 1
    counted += 1

async def run():
    take()
    await trio.lowlevel.checkpoint()
""",
        {"counted += 1": "1 taken, 0 counted"},
    ),
    "a descriptor": (
        """
async def run():
    one, other = os.pipe()
    await trio.lowlevel.checkpoint()
    os.close(one)
    os.close(other)
""",
        {
            "await trio.lowlevel.checkpoint()": "left open",
            "os.close(one)": "left open",
            "os.close(other)": "left open",
        },
    ),
    "a hang": (
        """
async def run():
    event = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(event.wait)
        try:
            event.set()
        except KeyboardInterrupt:
            event = trio.Event()
            await event.wait()
""",
        {"event.set()": "hung"},
    ),
    "a busy hang": (
        """
async def run():
    try:
        await trio.lowlevel.checkpoint()
        queue.append(1)
        queue.pop()
    except KeyboardInterrupt:
        while True:
            await trio.lowlevel.checkpoint()
""",
        {
            "await trio.lowlevel.checkpoint()": "hung",
            "queue.append(1)": "hung",
            "queue.pop()": "hung",
        },
    ),
    "an endless loop": (
        """
async def run():
    try:
        queue.append(1)
    except KeyboardInterrupt:
        while True:
            pass
""",
        {"queue.append(1)": "Stuck"},
    ),
    "a swallowed interrupt": (
        """
async def run():
    with contextlib.suppress(KeyboardInterrupt):
        queue.append(1)
""",
        {"queue.append(1)": "no KeyboardInterrupt"},
    ),
    "another error": (
        """
async def run():
    try:
        queue.append(1)
    except KeyboardInterrupt:
        raise KeyError("mine")
""",
        {"queue.append(1)": "KeyError: 'mine'"},
    ),
    "corruption": (
        """
@enable_ki_protection
def corrupt():
    trio.lowlevel.reschedule(trio.lowlevel.current_task())

async def run():
    try:
        queue.append(1)
    except KeyboardInterrupt:
        corrupt()
""",
        {"queue.append(1)": "TrioInternalError"},
    ),
    "a coroutine": (
        """
async def run():
    waiting = fine()
    queue.append(1)
    await waiting
""",
        {"queue.append(1)": "never awaited", "await waiting": "never awaited"},
    ),
    "an exit": (
        """
async def run():
    queue.append(1)
    with Exit():
        taken = 1
        taken = 2
""",
        {},
    ),
    "a finally clause": (
        """
async def run():
    global taken, counted
    taken += 1
    try:
        queue.append(1)
    finally:
        counted += 1
""",
        {"counted += 1": "1 taken, 0 counted"},
    ),
    "a block within a block": (
        """
async def run():
    queue.append(1)
    with Exit():
        try:
            taken = 1
        finally:
            taken = 2
""",
        {},
    ),
}


class Example:
    """A program in a file of its own, which counts what it takes."""

    def __init__(self, module: Any) -> None:
        self._module = module
        module.queue.clear()
        module.taken = module.counted = 0
        self.interrupted = False
        """Whether the interrupt arose in the file itself."""

    async def run(self) -> None:
        await self._module.run()

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        self.interrupted = interrupted_program
        if self._module.taken != self._module.counted:
            yield f"{self._module.taken} taken, {self._module.counted} counted"


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def harm(path: Path, source: str, granularity: Granularity) -> dict[str, str]:
    """Return what an interrupt does, by the source of the line at which it arises."""
    path.write_text(HEADER + source)
    module = load(path)
    found = interrupt_everywhere(
        {"example": lambda: nullcontext(Example(module))}, [str(path)], granularity=granularity
    )
    return {str(place).partition(": ")[2]: complaints for place, complaints in found.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_harm_is_found_at_its_line_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source, expected = EXAMPLES[name]
    if name == "an endless loop":
        monkeypatch.setattr(interrupts, "_ALARM", 0.3)
    found = harm(tmp_path / "example.py", source, "line")
    assert found.keys() == expected.keys(), found
    for line, complaint in expected.items():
        assert complaint in found[line]


def test_harm_within_a_line_is_detected_at_the_points_that_handle_signals(tmp_path: Path) -> None:
    source = """
async def run():
    globals().update(taken=1), globals().update(counted=1)
    await trio.lowlevel.checkpoint()
"""
    assert harm(tmp_path / "lines.py", source, "line") == {}
    found = harm(tmp_path / "checks.py", source, "signal check")
    assert found.keys() == {"globals().update(taken=1), globals().update(counted=1)"}


def test_a_deferred_interrupt_arises_at_the_next_checkpoint(tmp_path: Path) -> None:
    assert harm(tmp_path / "example.py", EXAMPLES["protected"][0], "signal check") == {}


@pytest.mark.parametrize("delay", [0.0, 1000.0])
def test_a_thread_interrupts_a_program_that_has_not_ended(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "example.py"
    path.write_text(HEADER + "async def run():\n    for _ in range(3 if late else 10**9): await fine()\n")
    module = load(path)
    module.late = delay > 0
    hit, complaints = interrupt_after(lambda: nullcontext(Example(module)), delay, [str(path)])
    assert hit == (delay == 0)
    # The endless program makes too many steps where the thread is late.
    assert not set(complaints) - {"hung"}


def raise_elsewhere(number: int) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("raise_signal", [signal.raise_signal, raise_elsewhere])
def test_an_interrupt_is_attributed_to_the_file_in_which_it_arises(
    tmp_path: Path, raise_signal: Callable[[int], None]
) -> None:
    path = tmp_path / "example.py"
    path.write_text(HEADER + "async def run():\n    raise_signal(2)\n")
    module = load(path)
    module.raise_signal = raise_signal
    example = Example(module)
    assert run_once(lambda: nullcontext(example), program_files=[str(path)]) == []
    assert example.interrupted == (raise_signal is signal.raise_signal)
