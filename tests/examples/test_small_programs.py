"""The small examples, run as programs: output, errors, and their end at Ctrl-C."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.examples import EXAMPLES, example, offending_runs

pytestmark = pytest.mark.programs


def test_a_beacon_announces_a_service_to_watchers(namespace: int) -> None:
    with example("beacon.py", "watch") as watcher, example("beacon.py", "announce", "printer", "631") as announcer:
        assert watcher.line() == "up   printer 127.0.0.1:631"
        assert announcer.end() == (0, "")
        assert watcher.end() == (0, "")


def test_statsd_reports_until_it_is_interrupted() -> None:
    with example("statsd.py", "--port", "0", "--interval", "0.05") as statsd:
        assert statsd.line() == "received 0, lost 0, malformed 0"
        assert statsd.end()[0] == 0


def test_a_media_relay_forwards_between_the_ports_of_a_call() -> None:
    with (
        example("media_relay.py", "--calls", "1") as relay,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        ports = [int(word) for word in relay.line().split() if word.isdigit()]
        for sock, port in zip((one, other), ports, strict=True):
            sock.settimeout(20)
            sock.connect(("127.0.0.1", port))
            sock.send(b"hello")
        assert one.recv(100) == b"hello"
        one.send(b"media")
        assert other.recv(100) == b"media"
        assert relay.end() == (0, "forwarded 2, ignored 1\n")


def test_a_file_is_transferred(namespace: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with example("transfer.py", "serve", str(tmp_path)) as server:
        command = [sys.executable, str(EXAMPLES / "transfer.py"), "fetch", "127.0.0.1"]
        assert subprocess.run([*command, "file"], check=True, capture_output=True).stdout == b"content"
        missing = subprocess.run([*command, "other"], check=False, capture_output=True, text=True)
        assert (missing.returncode, missing.stderr) == (1, "transfer.py: 127.0.0.1 has no file 'other'\n")
        assert server.end() == (0, "")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("statsd.py", ["--port", "70000"], "statsd.py: port must be from 0 to 65535, not 70000"),
        ("media_relay.py", ["--host", "192.0.2.1"], "media_relay.py: [Errno 99] "),
        ("transfer.py", ["serve", "/nowhere"], "transfer.py: [Errno 2] No such file or directory"),
    ],
)
def test_an_error_is_one_line(name: str, arguments: list[str], message: str) -> None:
    assert offending_runs(name, [(arguments, 1, message)]) == []
