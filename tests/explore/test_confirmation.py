"""The confirmation of a cause on the real kernel: what can be replayed there, and what the report says."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from trio_dgram import sim
from trio_dgram.sim._explore.confirmation import centred, confirmed, not_confirmed, obstacles
from trio_dgram.sim._explore.shrink import Cause, Choices, Interval
from trio_dgram.sim._values.tape import Choice, Value

from ..sim.conftest import COUNTER, Run

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
LOSS = Choice("n1 -> n2: loss", 5, value=True)
CRASH = Choice("nemesis: crash n2", 1, 0.2)
RESTART = Choice("nemesis: crash n2: end", 1, 0.4)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("n1 -> n2: loss", True, ""),
        ("n1 -> n2 (copy): delay", 0.1, ""),
        ("nemesis: crash n2: end", 0.1, ""),
        ("nemesis: partition n1 | n2", 0.1, ""),
        ("nemesis: path n1 -> n2: loss", 0.1, ""),
        ("nemesis: clock n1", 0.1, "a wrong clock"),
        ("nemesis: freeze n1", 0.1, "a host that is frozen"),
        ("nemesis: pause n1", 0.1, "a host that is paused"),
        ("n1 -> n2: tie", 1, ""),
        ("n1: run of serve", 1, "the order of tasks"),
        ("n1: port", 1, "an ephemeral port"),
        ("random", 7, "the program's randomness"),
        ("n1: buggify main.py:5", 1, "the choice 'n1: buggify main.py:5'"),
        ("run 2: n1 -> n2: loss", True, "more networks than one"),
    ],
)
def test_what_the_kernel_cannot_replay_is_named(place: str, value: Value, words: str) -> None:
    assert obstacles((LOSS, Choice(place, 1, value))) == words


def test_an_obstacle_is_named_once() -> None:
    assert obstacles((Choice("run of a", 1, 1), Choice("run of b", 1, 1))) == "the order of tasks"


def test_the_result_counts_a_fault_with_its_end_once() -> None:
    assert confirmed((LOSS, CRASH, RESTART), 3) == (
        "confirmed on the kernel: fails there too (3 namespaces, same two faults)"
    )
    assert confirmed((), 1) == "confirmed on the kernel: fails there too (1 namespace, without faults)"
    order = Choice("n1 -> n2: tie", 1, 1)
    assert confirmed((LOSS, order), 3).endswith("(3 namespaces, same fault and order of arrivals)")
    assert confirmed((order,), 3).endswith("(3 namespaces, same order of arrivals)")
    many = tuple(Choice("n1 -> n2: loss", number, value=True) for number in range(1, 8))
    assert not_confirmed(many, 2, 3, "") == (
        "not confirmed on the kernel: passes there in 3 runs (2 namespaces, same 7 faults)"
    )
    assert not_confirmed((LOSS,), 2, 1, "TypeError: no") == (
        "not confirmed on the kernel: fails there in another way: TypeError: no (2 namespaces, same fault)"
    )


def test_numbers_are_moved_to_the_middle_of_their_intervals() -> None:
    early = Choice("n1 -> n2: delay", 2, -0.2)
    late = Choice("n1 -> n2: delay", 3, 0.2)
    unbounded = Choice("n1 -> n2: delay", 4, 0.2)
    causes = [
        Cause(LOSS, "passes", None),
        Cause(early, "passes", Interval(0.1, 0.4, 0.09, 0.41)),
        Cause(late, "passes", Interval(0.1, 0.4, 0.09, 0.41)),
        Cause(unbounded, "passes", Interval(0.1, 90.0, 0.09, None)),
    ]

    def fails(choices: Choices) -> bool:
        # The third depends on the second.
        return choices[2].value == late.value

    assert [choice.value for choice in centred(causes, fails)] == [True, -0.25, 0.2, pytest.approx(0.3)]


# pytest --sim-confirm

COUNTING = f"""
{COUNTER}
    async def test_it(sim_network, autojump_clock):
        sim_network.defaults(delay=0.02, loss=0.4)
        totals = []
        sim_network.host("server").start_soon(count, totals)
        await trio.testing.wait_all_tasks_blocked()
        await sim_network.host("client").run(add)
        assert totals == [5], f"the total is {{totals[-1]}}"
"""
ONLY_SIMULATED = """
    async def test_it(sim_network, autojump_clock):
        assert not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
"""
RACE = """
    @pytest.mark.seeds(10)
    async def test_it(sim_network, autojump_clock):
        order = []

        async def append(name):
            order.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, "first")
            nursery.start_soon(append, "second")
        assert order == ["first", "second"]
"""
ORDER = """
    @pytest.mark.seeds(10)
    async def test_it(sim_network, autojump_clock):
        sim_network.defaults(delay=0.01)
        server = sim_network.host("server")
        to = trio_dgram.Address(server.ipv4, 5)
        first_has_sent = trio.Event()

        async def send_first():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.send("first", to)
                first_has_sent.set()

        async def send_second():
            async with trio_dgram.open_socket("udp4") as sock:
                await first_has_sent.wait()
                await sock.send("second", to)

        sim_network.host("n1").start_soon(send_first)
        sim_network.host("n2").start_soon(send_second)

        async def receive():
            async with trio_dgram.open_socket("udp4", port=5) as sock:
                return (await sock.receive()).data

        assert await server.run(receive) == b"first"
"""
STUCK = """
    async def test_it(sim_network, autojump_clock):
        await trio.sleep_forever()
"""
LONG = """
    async def test_it(sim_network, autojump_clock):
        with sim_network.host("client").active():
            async with trio_dgram.open_socket("udp4") as sock:
                await trio.sleep(61)
                await sock.send("late", trio_dgram.Address(sim_network.host("server").ipv4, 5))
                await trio.sleep(1)
        raise AssertionError
"""
VIRTUAL = """
    def test_it():
        async def scenario(network):
            raise AssertionError
        sim.run(scenario)
"""


@pytest.fixture
def confirm(run: Run, namespace: int) -> Run:  # pragma: no cover -- long tests run it
    """Runs pytest with ``--sim-confirm`` where there are namespaces."""
    if shutil.which("ip") is None or not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("kernel: no TUN interfaces")
    return lambda program, *options: run(program, "--sim-shrink=100", "--sim-confirm", *options)


@pytest.mark.programs
@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "line"),
    [
        (COUNTING, "confirmed on the kernel: fails there too (2 namespaces, same fault)"),
        (ONLY_SIMULATED, "not confirmed on the kernel: passes there in 3 runs (0 namespaces, without faults)"),
        (ORDER, "confirmed on the kernel: fails there too (3 namespaces, same order of arrivals)"),
        (RACE, "not tried on the kernel: it cannot replay the order of tasks"),
        (STUCK, "not tried on the kernel: a run that waits for ever does not fail in real time"),
        (LONG, "not tried on the kernel: the run takes longer than 60 s"),
        (VIRTUAL, "not tried on the kernel: time is virtual by other means than the fixture autojump_clock"),
    ],
    ids=["loss", "simulator only", "order of arrivals", "race", "stuck", "long", "sim.run"],
)
def test_a_shrunk_failure_is_replayed_on_the_kernel(confirm: Run, program: str, line: str) -> None:
    text = confirm(program).stdout.str()
    assert line in text.splitlines(), text
    report = re.search(r"^Report: (.*)$", text, re.MULTILINE)
    assert report is not None
    assert line.partition("(")[0] in Path(report[1]).read_text(encoding="utf-8")


@pytest.mark.programs
@pytest.mark.long
def test_a_tape_is_shrunk_and_replayed_on_the_kernel(confirm: Run, run: Run) -> None:
    run(COUNTING)
    (tape,) = Path(".trio_dgram").glob("*.tape")
    result = run("", "--sim-shrink=100", "--sim-confirm", f"--sim-tape={tape}")
    result.stdout.fnmatch_lines("confirmed on the kernel: fails there too (2 namespaces, same fault)")


def test_confirmation_needs_shrinking(run: Run) -> None:
    result = run("def test_it(): pass", "--sim-confirm")
    result.stderr.fnmatch_lines("*--sim-confirm needs a failure that was shrunk, so --sim-shrink must not be 0*")
