"""The echo example with real clients: netcat and socat."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from typing import Final

import pytest

from trio_dgram import Address

from ..support.examples import EXAMPLES, offending_runs
from ..support.families import Family
from ..support.namespaces import Program, program
from ..support.programs import find_program

pytestmark = pytest.mark.programs

ECHO: Final = EXAMPLES / "echo.py"
CLIENTS: Final = {
    "nc": ["nc", "-u", "127.0.0.1", "41234"],
    "socat": ["socat", "STDIO", "UDP4:127.0.0.1:41234"],
}
SOCAT: Final = {"udp4": "UDP4:127.0.0.1:{}", "udp6": "UDP6:[::1]:{}"}


@pytest.fixture
def echo(namespace: int) -> Generator[Program]:
    """The example, in a namespace because its port is fixed."""
    with program(sys.executable, str(ECHO)) as running:
        assert running.read_line() == b"listening on 0.0.0.0:41234\n"
        yield running


def client(name: str) -> list[str]:
    """Return the command of a client."""
    program_name, *arguments = CLIENTS[name]
    return [find_program(program_name), *arguments]


@pytest.mark.parametrize("name", CLIENTS)
def test_each_line_is_echoed(echo: Program, name: str) -> None:
    with program(*client(name)) as running:
        for line in (b"hello\n", b"\x00\xff\n", b"x" * 1400 + b"\n", "grüß dich\n".encode()):
            running.write(line)
            assert running.read() == line
    assert echo.running


@pytest.mark.usefixtures("echo")
def test_each_client_receives_its_own_echoes() -> None:
    with program(*client("nc")) as one, program(*client("socat")) as other:
        for _ in range(3):
            one.write(b"one\n")
            other.write(b"other\n")
            assert (one.read(), other.read()) == (b"one\n", b"other\n")


def test_clients_that_exit_before_their_echo_do_not_disturb_others(echo: Program) -> None:
    for name in [*CLIENTS] * 2:
        with program(*client(name)) as hasty:
            hasty.write(b"bye\n")
    with program(*client("nc")) as patient:
        patient.write(b"still there?\n")
        assert patient.read() == b"still there?\n"
    assert echo.running


def test_options_choose_the_address_and_an_interrupt_ends_the_server(udp: Family) -> None:
    options = ["--type", udp.type, "--host", udp.loopback, "--port", "0"]
    with program(sys.executable, str(ECHO), *options) as echo:
        host, port = Address.parse(echo.read_line().decode().removeprefix("listening on ").strip())
        assert host == udp.loopback
        with program(find_program("socat"), "STDIO", SOCAT[udp.type].format(port)) as client:
            client.write(b"hello\n")
            assert client.read() == b"hello\n"
        echo.process.send_signal(signal.SIGINT)
        assert echo.read_line() == b"stopped\n"
        assert echo.read() == b""
        assert echo.process.wait() == 0


REFUSED: Final[list[tuple[list[str], int, str]]] = [
    (["--port", "70000"], 1, "echo.py: port must be from 0 to 65535, not 70000"),
    (["--port", "http"], 2, "invalid int value: 'http'"),
    (["--type", "tcp"], 2, "invalid choice: 'tcp'"),
    (["--host", "192.0.2.77"], 1, "Cannot assign requested address"),
    (["--proxy", "balancer"], 1, "proxy_protocol must hold addresses and networks"),
    *[
        (["--help"], 0, text)
        for text in ("Answer every datagram with itself.", "--type", "--host", "--port", "--proxy", "default: 41234")
    ],
]


def test_wrong_arguments_are_refused_and_help_is_shown() -> None:
    assert offending_runs("echo.py", REFUSED) == []
