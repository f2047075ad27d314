"""The HTTP/3 server, and clients that fetch from it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.examples import EXAMPLES, Example
from ..support.namespaces import program
from ..support.programs import find_program
from ..support.quic import files

pytestmark = pytest.mark.programs

CLIENT = Path(__file__).parents[1] / "support" / "http3_client.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<p>hello</p>")
    (tmp_path / "large.bin").write_bytes(bytes(500_000))
    return tmp_path


def command(folder: Path) -> list[str]:
    options = ["--certificate", str(files() / "cert.pem"), "--key", str(files() / "key.pem")]
    return [
        sys.executable,
        str(EXAMPLES / "http3_server.py"),
        str(folder),
        *options,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]


def test_aioquics_client_fetches_files(folder: Path) -> None:
    with program(*command(folder)) as running:
        server = Example(running)
        port = server.line_with("listening on").rpartition(":")[2]
        paths = ["/index.html", "/large.bin", "/nothing", "/../secret"]
        fetched = subprocess.run(
            [sys.executable, CLIENT, port, files() / "ca.pem", *paths], check=True, capture_output=True, text=True
        )
        assert fetched.stdout.splitlines() == [
            "/index.html 200 12",
            "/large.bin 200 500000",
            "/nothing 404 10",
            "/../secret 404 10",
        ]
        assert server.end(signal.SIGINT) == (0, "")


def test_curl_fetches_a_file(folder: Path) -> None:
    curl = find_program("curl")
    version = subprocess.run([curl, "--version"], check=True, capture_output=True, text=True).stdout
    if "HTTP3" not in version:
        pytest.skip("distribution: its curl is built without HTTP/3")
    with program(*command(folder)) as running:  # pragma: no cover -- where curl has HTTP/3
        port = Example(running).line_with("listening on").rpartition(":")[2]
        url = f"https://127.0.0.1:{port}/index.html"
        fetched = subprocess.run(
            [curl, "--http3-only", "--cacert", files() / "ca.pem", url], check=True, capture_output=True, text=True
        )
        assert fetched.stdout == "<p>hello</p>"
