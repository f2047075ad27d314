"""The report of a failed test on a simulated network, and the command that repeats it."""

from __future__ import annotations

import re
import shlex

import pytest

from trio_dgram import sim

from .conftest import LOAD, Run

pytestmark = pytest.mark.programs

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
AGAIN = re.compile(r"Run just this again: (?:python -m )?pytest (.*? --sim-seed=\d+)(?:$|  \()", re.MULTILINE)
DIGEST = re.compile(r"seed (\d+), digest (\w{32})\.")

COMMON = """
    from hypothesis import given, settings, strategies

    async def send(network, payload):
        with network.host("client").active():
            async with trio_dgram.open_socket("udp4") as sock:
                await sock.send(payload, (network.host("server").ipv4, 9))

    def fail(): raise ValueError("failed")

    async def fail_soon(): await trio.sleep(0.5); fail()
"""
FAILING = {
    "fixture": """
    async def test_it(sim_network, autojump_clock):
        await send(sim_network, b"x"); fail()
    """,
    "fixture in real time": """
    async def test_it(sim_network):
        await send(sim_network, b"x"); await trio.testing.wait_all_tasks_blocked(); fail()
    """,
    "run": """
    def test_it():
        async def scenario(network): await send(network, b"x"); fail()
        sim.run(scenario)
    """,
    "run that succeeds": """
    def test_it():
        async def scenario(network): await send(network, b"x"); await trio.sleep(1)
        sim.run(scenario); fail()
    """,
    "run that fails by pytest": """
    def test_it():
        async def scenario(network): await send(network, b"x"); await trio.sleep(1); pytest.fail("failed")
        sim.run(scenario)
    """,
    "open_network": """
    async def test_it(autojump_clock):
        async with sim.open_network(seed=0) as network: await send(network, b"x"); fail()
    """,
    "task of a host": """
    def test_it():
        async def scenario(network):
            network.host("server").start_soon(fail_soon)
            await send(network, b"x"); await trio.sleep(1)
        sim.run(scenario)
    """,
    "task of a host and fixture": """
    async def test_it(sim_network, autojump_clock):
        sim_network.host("server").start_soon(fail_soon)
        await send(sim_network, b"x"); await trio.sleep(1)
    """,
    "at": """
    def test_it():
        async def scenario(network):
            network.at(0.5, fail)
            await send(network, b"x"); await trio.sleep(1)
        sim.run(scenario)
    """,
    "at and fixture": """
    async def test_it(sim_network, autojump_clock):
        sim_network.at(0.5, fail)
        await send(sim_network, b"x"); await trio.sleep(1)
    """,
    "never ends": """
    async def test_it(sim_network, autojump_clock):
        await send(sim_network, b"x"); await trio.sleep_forever()
    """,
    "Hypothesis": """
    @settings(max_examples=50, derandomize=False)
    @given(strategies.integers(0, 100))
    def test_it(size):
        async def scenario(network): await send(network, bytes(size)); assert size < 7
        sim.run(scenario)
    """,
    "set-up": """
    @pytest.fixture
    def prepared():
        async def scenario(network): await send(network, b"x"); fail()
        sim.run(scenario)

    def test_it(prepared): pass
    """,
    "parameters": """
    @pytest.mark.parametrize("name", ["it's a name"])
    async def test_it(sim_network, autojump_clock, name):
        await send(sim_network, b"x"); fail()
    """,
}


SHORT = {"fixture", "run that succeeds", "task of a host", "at and fixture", "Hypothesis", "set-up"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SHORT else pytest.mark.long) for kind in FAILING]
)
def test_a_failed_test_shows_seed_digest_story_pictures_and_the_command_that_repeats_it(
    run: Run, pytester: pytest.Pytester, kind: str
) -> None:
    text = run(COMMON + FAILING[kind], "--sim-artifacts=shown").stdout.str()
    ((seed, digest),) = set(DIGEST.findall(text))
    assert len(DIGEST.findall(text)) == 1
    assert seed == "0"
    story = [line for line in text.splitlines() if re.search(r"\d  #\d+  client 10\.", line)]
    assert len(story) == 1
    (command,) = AGAIN.findall(text)
    for name in re.findall(r"(?:Picture|Capture): (.*)", text):
        pytester.path.joinpath(name).unlink()
    assert list(pytester.path.joinpath("shown").iterdir()) == []
    again = run("", *shlex.split(command))
    again.assert_outcomes(**{("errors" if kind == "set-up" else "failed"): 1})
    if kind != "fixture in real time":  # pragma: no branch -- a long test has that kind
        assert DIGEST.findall(again.stdout.str()) == [("0", digest)]
    if kind == "Hypothesis":
        assert "  7 bytes  " in story[0]
        assert "Hypothesis tries the example that failed first" in text


def test_the_story_ends_with_the_failure(run: Run) -> None:
    text = run("""
    async def send_goodbye(address):
        async with trio_dgram.open_socket("udp4") as sock:
            await sock.send(b"hello", address)
            try:
                await trio.sleep_forever()
            finally:
                sock.send_nowait(b"goodbye", address)

    async def test_it(sim_network, autojump_clock):
        client, server = sim_network.host("client"), sim_network.host("server")
        client.start_soon(send_goodbye, (server.ipv4, 9))
        sim_network.path(client, server, loss=1)
        await trio.sleep(1)
        assert len(sim_network.trace) == 9
    """).stdout.str()
    assert "The last 1 of 1 datagrams:" in text
    assert "udp4  0.0.0.0:" in text
    assert "(closed)" not in text


def test_the_command_keeps_the_options_that_were_given(run: Run, pytester: pytest.Pytester) -> None:
    other = "from trio_dgram import sim\nasync def scenario(network): assert 0\ndef test_it(): sim.run(scenario)\n"
    pytester.makepyfile(test_one="def test_it(): assert 0", test_other=other)
    options = ["-q", "--sim-seeds", "9", "-k", "test_it", "--sim-seed=7", "--tb=short", "test_one.py", "test_other.py"]
    text = run("", *options).stdout.str()
    words = " ".join([*LOAD, "-q", "-k", "test_it", "--tb=short", "test_other.py::test_it", "--sim-seed=7"])
    assert f"pytest {words}\n" in text + "\n"


def test_the_command_is_for_the_folder_that_pytest_was_started_in(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.mkdir("inner")
    pytester.path.joinpath("inner", "test_inner.py").write_text(
        "from trio_dgram import sim\nasync def scenario(network): assert 0\ndef test_it(): sim.run(scenario)\n"
    )
    monkeypatch.chdir("inner")
    monkeypatch.setattr("sys.argv", ["/somewhere/pytest/__main__.py"])
    text = run("", "test_inner.py").stdout.str()
    assert f"python -m pytest {''.join(f'{word} ' for word in LOAD)}test_inner.py::test_it --sim-seed=0" in text


@pytest.mark.programs
def test_the_first_simulated_test_of_a_process_shows_its_story(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On CI the summary repeats the whole exception, with the report.
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\ntrio_mode = true\n")
    pytester.makepyfile("""
    import pytest

    @pytest.mark.seeds(3)
    def test_it():
        from trio_dgram import sim

        async def scenario(network):
            assert network.seed < 2

        sim.run(scenario)
    """)
    text = pytester.runpytest_subprocess(*LOAD).stdout.str()
    assert [seed for seed, _ in DIGEST.findall(text)] == ["2"]
    assert AGAIN.findall(text)[0].endswith("test_it --sim-seed=2")
