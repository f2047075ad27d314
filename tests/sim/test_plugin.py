"""The pytest plugin, on test files run by a pytest of their own."""

from __future__ import annotations

import re
import sys

import pytest

from trio_dgram import sim

from .conftest import LOAD, Run

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim


def test_a_test_has_a_network_in_virtual_time(run: Run) -> None:
    result = run("""
    async def test_it(sim_network, autojump_clock):
        assert time.gmtime(time.time())[:4] == (2026, 1, 1, 0)
        client, server = sim_network.host("client"), sim_network.host("server")
        sim_network.path(client, server, delay=1000)
        with server.active():
            async with trio_dgram.open_socket("udp4", port=9) as receiver:
                with client.active():
                    async with trio_dgram.open_socket("udp4") as sender:
                        await sender.send(b"x", (server.ipv4, 9))
                await receiver.receive()
        assert trio.current_time() == 1000
    """)
    result.assert_outcomes(passed=1)


def test_without_a_virtual_clock_time_is_real(run: Run) -> None:
    result = run("""
    async def test_it(sim_network):
        assert time.time() > 1_767_225_600 + 86_400
    """)
    result.assert_outcomes(passed=1)


def test_a_pair_is_connected(run: Run) -> None:
    result = run("""
    async def test_it(udp_pair, autojump_clock):
        one, other = udp_pair
        await one.send(b"there")
        assert (await other.receive()).data == b"there"
        await other.send(b"back")
        assert (await one.receive()).data == b"back"
    """)
    result.assert_outcomes(passed=1)


LOSING = """
    @pytest.mark.seeds(50)
    async def test_it(sim_network, autojump_clock, capsys):
        client, server = sim_network.host("client"), sim_network.host("server")
        sim_network.path(client, server, loss=0.2)
        with server.active():
            async with trio_dgram.open_socket("udp4", port=9) as receiver:
                with client.active():
                    async with trio_dgram.open_socket("udp4") as sender:
                        await sender.send(b"x", (server.ipv4, 9))
                with trio.fail_after(1):
                    await receiver.receive()

    def test_another(): pass
"""


def test_the_smallest_seed_that_fails_is_reported_with_its_story(run: Run, pytester: pytest.Pytester) -> None:
    result = run(LOSING, "--sim-artifacts=shown")
    result.assert_outcomes(failed=1, passed=1)
    text = result.stdout.str()
    assert "1 datagrams" in text
    (again,) = [line for line in text.splitlines() if line.startswith("Run just this again: ")]
    seed = int(again.rpartition("=")[2])
    assert re.match(
        "Run just this again: (python -m )?pytest --sim-artifacts=shown test_the_smallest_seed_that_fails_is_reported",
        again,
    )
    shown = sorted(path.name for path in pytester.path.joinpath("shown").iterdir())
    assert [name.rpartition("-seed-")[2] for name in shown] == [f"{seed}-0.pcapng", f"{seed}-0.svg"]
    for other in range(seed):
        run(LOSING, f"--sim-seed={other}").assert_outcomes(passed=2)
    run(LOSING, f"--sim-seed={seed}").assert_outcomes(failed=1, passed=1)


def test_fewer_or_more_seeds_can_be_requested(run: Run) -> None:
    program = """
    seen = []

    @pytest.mark.seeds(3)
    def test_it():
        async def scenario(network):
            return network.seed
        seen.append(sim.run(scenario))

    def test_how_many():
        assert seen == list(range({count}))
    """
    run(program.format(count=3)).assert_outcomes(passed=2)
    run(program.format(count=5), "--sim-seeds=5").assert_outcomes(passed=2)


def test_fixtures_are_made_anew_for_each_seed_but_those_of_wider_scope(run: Run) -> None:
    result = run("""
    made = []

    @pytest.fixture
    def each():
        made.append("each")
        yield
        made.append("ended")

    @pytest.fixture(scope="module")
    def once():
        made.append("once")

    @pytest.mark.seeds(2)
    def test_it(once, each): pass

    def test_what_was_made(once):
        assert made == ["once", "each", "ended", "each", "ended"]
    """)
    result.assert_outcomes(passed=2)


def test_a_test_that_will_never_end_fails(run: Run) -> None:
    result = run("""
    async def test_it(sim_network, autojump_clock):
        async with trio_dgram.open_socket("udp4", port=9) as sock:
            await sock.receive()
    """)
    result.assert_outcomes(failed=1)
    assert "no deadline left" in result.stdout.str()
    assert "Nothing was sent." in result.stdout.str()


def test_a_test_is_cancelled_everywhere(run: Run) -> None:
    result = run("""
    times = []

    @pytest.mark.cancel_everywhere
    async def test_it(sim_network, autojump_clock):
        times.append(1)
        async with trio_dgram.open_socket("udp4", port=9) as sock:
            await sock.send(b"x", ("127.0.0.1", 9))
            await sock.receive()

    @pytest.mark.cancel_everywhere
    async def test_that_leaves_a_socket(sim_network, autojump_clock):
        sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        await trio.sleep(1)
        sock.close()

    def test_how_often():
        assert len(times) > 4
    """)
    result.assert_outcomes(passed=2, failed=1)
    assert "sockets were left: <simulated UDP socket on here, not bound>" in result.stdout.str()


def test_a_test_without_the_plugin_runs_unchanged(run: Run) -> None:
    result = run(
        """
    def test_it(): assert False
    """,
        "-p",
        "no:cacheprovider",
    )
    result.assert_outcomes(failed=1)
    assert "simulated network" not in result.stdout.str()


def test_without_a_cache_nothing_is_written_unless_requested(run: Run, pytester: pytest.Pytester) -> None:
    run(LOSING, "-p", "no:cacheprovider")
    assert not list(pytester.path.rglob("*.svg"))


def test_a_capture_that_cannot_be_written_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcapng", None)
    assert "No capture: " in run(LOSING).stdout.str()


@pytest.mark.long
def test_the_plugin_alone_imports_nothing_of_the_simulated_network(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
    import sys

    def test_it():
        assert not any(name.startswith("trio_dgram.sim") for name in sys.modules)
    """)
    pytester.runpytest_subprocess(*LOAD, "-p", "no:cacheprovider").assert_outcomes(passed=1)
