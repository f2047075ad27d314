"""Tapes of failed tests, and their replay."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from trio_dgram import sim
from trio_dgram.sim._values.tape import Tape

from .conftest import LOAD, PROGRAM, Run

pytestmark = pytest.mark.programs

# A pytest in this process forgets the modules that it imports, so import the simulator first.
KEPT = sim
TEST = """
    @pytest.mark.seeds(20)
    async def test_it(sim_network, autojump_clock):
        sim_network.path(sim_network.host("client"), sim_network.host("server"), loss=0.2, jitter=0.0005)
        with open("seeds", "a") as file: print(sim_network.seed, file=file)
        with sim_network.host("server").active():
            async with trio_dgram.open_socket("udp4", port=9) as server:
                with sim_network.host("client").active():
                    async with trio_dgram.open_socket("udp4") as client:
                        for _ in range(4):
                            await client.send(b"x", (sim_network.host("server").ipv4, 9))
                for _ in range(4):
                    with trio.fail_after(1):
                        await server.receive()
"""
REPLAY = re.compile(r"Replay: (?:python -m )?pytest (.*--sim-tape=\S+)")
DIGEST = re.compile(r"digest (\w{32})\.")
TAPE = Path(".trio_dgram/test_it-2.tape")


def write(pytester: pytest.Pytester, name: str, *lines: str) -> Path:
    path = pytester.path / name
    path.write_text("".join(f"{line}\n" for line in ('{"trio_dgram tape": 1, "seed": 7, "test": "it"}', *lines)))
    return path


def test_a_failing_seed_is_recorded_and_its_tape_replays_it(run: Run, pytester: pytest.Pytester) -> None:
    first = run(TEST, "-p", "no:cacheprovider")
    first.assert_outcomes(failed=1)
    text = first.stdout.str()
    found = REPLAY.search(text)
    assert found is not None
    assert pytester.path.joinpath(TAPE).read_text().startswith('{"trio_dgram tape": 1, "seed": 2, "test": "')
    again = run("", *shlex.split(found[1]))
    again.assert_outcomes(failed=1)
    assert set(DIGEST.findall(again.stdout.str())) == set(DIGEST.findall(text))
    assert f"--sim-tape={TAPE}" in again.stdout.str()
    assert "Replay:" not in again.stdout.str()
    # The third seed fails, is recorded, replayed to try its tape, and replayed.
    assert pytester.path.joinpath("seeds").read_text().split() == ["0", "1", "2", "2", "2", "2"]


def test_a_replay_shrinks_on_request(run: Run, pytester: pytest.Pytester) -> None:
    tape = write(pytester, "it.tape", *(f'["client -> server: loss", {number}, true]' for number in (2, 3)))
    pytester.makepyfile(PROGRAM + TEST)
    options = (*LOAD, f"--sim-tape={tape.name}", "--sim-jobs=1")
    assert "shrunk" not in pytester.runpytest_inprocess(*options).stdout.str()
    assert "shrunk from 2 choices to 1 " in pytester.runpytest_inprocess(*options, "--sim-shrink=400").stdout.str()


def test_passing_seeds_are_not_recorded(run: Run, pytester: pytest.Pytester) -> None:
    run(TEST.replace("loss=0.2, ", "")).assert_outcomes(passed=1)
    assert not pytester.path.joinpath(".trio_dgram").exists()
    assert len(pytester.path.joinpath("seeds").read_text().split()) == 20


def test_seeds_in_processes_of_their_own_are_recorded(run: Run, pytester: pytest.Pytester) -> None:
    result = run(TEST, "--sim-jobs=2")
    assert REPLAY.search(result.stdout.str())
    assert pytester.path.joinpath(TAPE).exists()


def test_a_tape_beside_a_test_is_replayed_before_its_seeds(run: Run, pytester: pytest.Pytester) -> None:
    test = TEST.replace("loss=0.2", "loss=1e-9")
    lost = write(pytester, "lost.tape", '["client -> server: loss", 2, true]')
    marked = test.replace("@pytest", '@pytest.mark.tape("lost.tape")\n    @pytest', 1)
    result = run(marked)
    result.assert_outcomes(failed=1)
    assert f"--sim-tape={lost.name}" in result.stdout.str()
    assert pytester.path.joinpath("seeds").read_text().split() == ["7"]
    lost.write_text(lost.read_text().splitlines()[0])
    run(marked).assert_outcomes(passed=1)
    assert pytester.path.joinpath("seeds").read_text().split() == ["7", "7", *map(str, range(20))]
    run(marked, "--sim-seed=3").assert_outcomes(passed=1)
    run(marked, "--sim-tape=lost.tape").assert_outcomes(passed=1)
    assert pytester.path.joinpath("seeds").read_text().split()[-2:] == ["3", "7"]


def test_choices_without_a_place_are_counted(run: Run, pytester: pytest.Pytester) -> None:
    write(pytester, "old.tape", '["client -> gone: loss", 2, true]', '["client -> server: loss", 99, true]')
    result = run(TEST, "--sim-tape=old.tape")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["old.tape: 2 of 2 choices had no place any more in *::test_it"])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("", r"tape must have the name of a file, such as @pytest\.mark\.tape\(\"it\.tape\"\), not \(\)"),
        ("5", r"tape must have the name of a file, .* not \(5\)"),
        ("'a', b=1", r"tape must have the name of a file, .* not \('a', b=1\)"),
        ("'none.tape'", r"cannot read the tape .*none\.tape: No such file or directory"),
        ("'broken.tape'", r"broken\.tape, line 2: must be .*"),
        ("'example.tape'", r"example\.tape, line 1: example must be one that Hypothesis has encoded, not '!!' \(str\)"),
    ],
)
def test_a_tape_that_is_missing_or_broken_is_one_line(
    run: Run, pytester: pytest.Pytester, marker: str, message: str
) -> None:
    write(pytester, "broken.tape", "[]")
    (pytester.path / "example.tape").write_text(Tape((), example="!!").to_text())
    result = run(TEST.replace("seeds(20)", f"tape({marker})"))
    result.assert_outcomes(errors=1)
    assert re.search(f"^{message}$|^/.*{message}$", result.stdout.str(), re.MULTILINE)
    assert "Error" not in result.stdout.str()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sim-tape=none.tape"], "ERROR: cannot read the tape none.tape: No such file or directory"),
        (
            ["--sim-tape=it.tape", "--sim-seed=1"],
            "ERROR: --sim-tape and --sim-seed exclude each other: a tape has a seed",
        ),
    ],
)
def test_a_wrong_option_is_one_line(run: Run, pytester: pytest.Pytester, options: list[str], message: str) -> None:
    write(pytester, "it.tape")
    result = run(TEST, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().strip() == message


def test_a_failure_that_does_not_repeat_has_no_tape(run: Run, pytester: pytest.Pytester) -> None:
    result = run("""
    count = 0

    async def test_it(sim_network, autojump_clock):
        global count
        count += 1
        assert count > 1
    """)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["The run did not fail in the same way again: the test depends on more than its seed."])
    assert not pytester.path.joinpath(".trio_dgram").exists()


def test_tests_of_one_name_have_tapes_of_their_own(run: Run, pytester: pytest.Pytester) -> None:
    run("""
    class TestOne:
        async def test_it(self, sim_network, autojump_clock): assert False

    class TestOther:
        async def test_it(self, sim_network, autojump_clock): assert False
    """)
    assert sorted(path.name for path in pytester.path.joinpath(".trio_dgram").iterdir()) == [
        "test_it-0.tape",
        "test_tests_of_one_name_have_tapes_of_their_own.py-TestOther-test_it-0.tape",
    ]


def test_a_test_that_calls_run_is_recorded(run: Run, pytester: pytest.Pytester) -> None:
    run("""
    def test_it():
        async def scenario(network): assert False
        sim.run(scenario)
    """)
    assert pytester.path.joinpath(".trio_dgram", "test_it-0.tape").exists()


HYPOTHESIS = """
    from hypothesis import given, settings, strategies

    examples = []

    @settings(deadline=None, max_examples=20, database=None)
    @given(numbers=strategies.lists(strategies.integers(0, 9)), data=strategies.data())
    def test_it(numbers, data):
        async def scenario(network):
            examples.append((tuple(numbers), data.draw(strategies.integers(0, 9))))
            assert numbers == [] or numbers.pop() != examples[-1][1], "equal"
        sim.run(scenario)

    def test_examples():
        assert examples == [((0,), 0)]
"""


def test_a_replay_runs_the_example_of_hypothesis_that_failed_alone(run: Run, pytester: pytest.Pytester) -> None:
    run(HYPOTHESIS).assert_outcomes(failed=2)
    tape = pytester.path / ".trio_dgram" / "test_it-0.tape"
    assert '"example": ' in tape.read_text()
    run("", f"--sim-tape={tape}").assert_outcomes(failed=1, passed=1)


def test_a_replay_of_an_example_of_hypothesis_that_does_not_fail_any_more_passes(
    run: Run, pytester: pytest.Pytester
) -> None:
    run(HYPOTHESIS)
    pytester.path.joinpath(".trio_dgram", "test_it-0.tape").rename(pytester.path / "it.tape")
    mended = HYPOTHESIS.replace("assert numbers == []", "assert True")
    run(mended.replace("@settings", '@pytest.mark.tape("it.tape")\n    @settings')).assert_outcomes(passed=2)


def test_an_explicit_example_of_hypothesis_is_not_recorded(run: Run, pytester: pytest.Pytester) -> None:
    result = run("""
    from hypothesis import example, given, strategies

    @given(number=strategies.integers())
    @example(number=5)
    def test_it(number):
        async def scenario(network): assert False
        sim.run(scenario)
    """)
    result.assert_outcomes(failed=1)
    assert not pytester.path.joinpath(".trio_dgram").exists()


def test_an_error_of_a_fixture_of_the_module_is_one_of_the_last_test_under_seeds(run: Run) -> None:
    result = run("""
    @pytest.fixture(scope="module")
    def shared():
        yield
        raise ValueError("failed")

    @pytest.mark.seeds(2)
    async def test_it(shared, sim_network, autojump_clock): pass
    """)
    result.assert_outcomes(passed=1, errors=1)
