"""The command that runs workers: its exit codes, its signals and its table."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from trio_dgram.__main__ import main as command_line

from .support.families import FAMILIES
from .support.namespaces import program
from .support.passing import bound
from .support.programs import find_program, printed, started, unused_port
from .support.supervised import ROOT, children, light
from .test_workers import pytestmark  # noqa: F401 -- the same kernel is needed

REFUSED: Final = [
    (["--udp", "127.0.0.1:0", "--processes", "0", "--", "true"], 2, "processes must be from 1 to 1024, not 0"),
    (["--udp", "127.0.0.1:0", "--processes", "1025", "--", "true"], 2, "processes must be from 1 to 1024"),
    (["--", "true"], 2, "listen must name at least one address"),
    (["--udp", "127.0.0.1", "--", "true"], 2, "host:port"),
    (["--udp", "127.0.0.1:0", "--name", "a:b", "--", "true"], 2, "without a colon"),
    (["--udp", "127.0.0.1:0", "--receive-buffer", "0", "--", "true"], 2, "receive_buffer_size must be from 1"),
    (["--udp", "192.0.2.1:5", "--", "true"], 1, "192.0.2.1:5"),
    (["--udp", "x" * 64 + ".example:5", "--", "true"], 1, "is not a valid name"),
    (["--udp", "127.0.0.1:0", "--", "no-such-program"], 127, "no-such-program: the program is not found\n"),
    (["--udp", "127.0.0.1:0", "--processes", "1", "--", *light("sys.exit(3)")], 1, "exited with code 3"),
]
UNPARSED: Final = [
    (["--udp", "127.0.0.1:0", "--receive-buffer", "8X", "--", "true"], "a number of bytes, with K, M or G, not '8X'"),
    (["--udp", "127.0.0.1:0", "--steer", "1", "--", "true"], "must be hash, quic or OFFSET,MASK, not '1'"),
    (["--udp", "127.0.0.1:0"], "-- PROGRAM"),
]


def main(words: list[str]) -> int:
    return command_line(["workers", *words])


@pytest.mark.parametrize(("words", "code", "message"), REFUSED)
def test_exit_codes_distinguish_failures(
    words: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    assert message in capfd.readouterr().err
    assert children() == []


@pytest.mark.parametrize(("words", "message"), UNPARSED)
def test_arguments_that_cannot_be_read_exit_with_2(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capfd.readouterr().err


def test_the_last_lines_of_a_program_that_cannot_start_are_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    body = "[print(number, file=sys.stderr) for number in range(25)]; sys.exit('a \\x1b[31mreason')"
    assert main(["--udp", "127.0.0.1:0", "--processes", "1", "--", *light(body)]) == 1
    _, _, last = capfd.readouterr().err.partition("trio-dgram workers: ")
    reason, *lines = last.splitlines()
    assert reason == "5 workers ended within a second and none was ready: the last one exited with code 1"
    assert lines == [*[f"  {number}" for number in range(6, 25)], r"  a \x1b[31mreason"]


def test_a_busy_port_exits_with_1_and_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with bound(FAMILIES[0]) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        assert main(["--udp", address, "--", "true"]) == 1
        assert f"bind {address}" in capfd.readouterr().err


def signalling(*numbers: signal.Signals) -> list[str]:
    """Return the command of a worker that sends signals to its supervisor, one per start."""
    return light(
        "import signal\n"
        "notify('READY=1')\n"
        f"for number in {[int(number) for number in numbers]}:\n"
        "    os.kill(os.getppid(), number)\n"
        "answer()"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_and_the_command(number: signal.Signals) -> None:
    words = ["--udp", "127.0.0.1:0", "--processes", "2", "--receive-buffer", "64K", "--steer", "0,255", "--"]
    assert main([*words, *signalling(number)]) == 0
    assert children() == []


def test_the_command_is_the_first_process_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    container = [find_program("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, *COMMAND]
    words = ["--udp", "127.0.0.1:0", "--processes", "2", "--", *signalling(signal.SIGUSR1, signal.SIGTERM)]
    done = subprocess.run([*container, *words], capture_output=True, text=True, check=False, timeout=60)
    if "Operation not permitted" in done.stderr:  # pragma: no cover -- CI is allowed to
        pytest.skip(f"permission: {done.stderr}")
    assert done.returncode == 0
    assert done.stderr.splitlines()[1].split()[0] == "0"


def test_the_changes_of_workers_are_json_lines(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--json", "--udp", "127.0.0.1:0", "--processes", "1", "--"]
    assert main([*words, *signalling(signal.SIGTERM)]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    # The signal may arrive before the supervisor has read that the worker is ready.
    assert [event["event"] for event in events if event["event"] != "ready"] == ["started", "exited"]
    assert {event["index"] for event in events} == {0}
    assert len({event["pid"] for event in events}) == 1


def test_a_signal_prints_the_state_of_the_workers(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--udp", "127.0.0.1:0", "--processes", "1", "--steer", "quic", "--"]
    assert main([*words, *signalling(signal.SIGUSR1, signal.SIGTERM)]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].split() == ["worker", "pid", "state", "restarts", "dropped", "by", "kernel", "queued", "bytes"]
    assert lines[1].split()[0] == "0"


def test_sighup_replaces_the_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flag = str(tmp_path / "replaced")
    body = (
        "import signal\n"
        "notify('READY=1')\n"
        f"again = os.path.exists({flag!r})\n"
        f"open({flag!r}, 'w').close()\n"
        "os.kill(os.getppid(), signal.SIGTERM if again else signal.SIGHUP)\n"
        "answer()"
    )
    assert main(["--udp", "127.0.0.1:0", "--processes", "1", "--", *light(body)]) == 0
    assert capfd.readouterr().err == ""


COMMAND: Final = ("-m", "trio_dgram", "workers")


async def test_a_sighup_while_workers_are_replaced_replaces_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    address = ("127.0.0.1", unused_port(FAMILIES[0]))
    words = ["--udp", "{}:{}".format(*address), "--processes", "1", "--no-gro", "--drain-timeout", "5", "--"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(20)
        waiting = light(f"passed.sendto(b'started', {client.getsockname()}); passed.recv(100)\n" + LIGHT)
        async with started(sys.executable, *COMMAND, *words, *waiting) as command:
            assert client.recv(100) == b"started"
            command.send_signal(signal.SIGHUP)
            assert client.recv(100) == b"started"
            # It is not ready, so the round is not over. The table shows that the second request was received.
            command.send_signal(signal.SIGHUP)
            command.send_signal(signal.SIGUSR1)
            await printed(command, b"queued bytes")
            client.sendto(b"become ready", address)
            assert client.recv(100) == b"started"
            command.send_signal(signal.SIGTERM)
            assert await command.wait() == 0


LIGHT: Final = "notify('READY=1')\nanswer()"


def test_the_command_runs_on_a_socket_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    port = unused_port(FAMILIES[0])
    activate = [find_program("systemd-socket-activate"), "-d", "-l", f"127.0.0.1:{port}", "--setenv=PYTHONPATH"]
    words = [sys.executable, *COMMAND, "--processes", "2", "--", *light()]
    with program(*activate, *words) as command, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        assert b"Listening on" in command.read_line()
        client.settimeout(20)
        client.sendto(b"hello", ("127.0.0.1", port))
        assert client.recv(100).endswith(b" hello")
        lines = iter(command.read_line, b"")
        assert any(b"2 workers share one socket on 127.0.0.1" in line for line in lines)
