"""The echo example, as the programs that everybody has see it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from .support.namespaces import Program, program
from .support.programs import find_program

ECHO: Final = Path(__file__).parents[1] / "examples" / "echo.py"
CLIENTS: Final = {
    "nc": ["nc", "-u", "127.0.0.1", "41234"],
    "socat": ["socat", "STDIO", "UDP4:127.0.0.1:41234"],
}


@pytest.fixture
def echo(namespace: int) -> Generator[Program]:
    """The example, on a machine of its own since its port is fixed."""
    with program(sys.executable, str(ECHO)) as running:
        assert running.read_line() == b"listening on Address(host='0.0.0.0', port=41234)\n"
        yield running


def client(name: str) -> list[str]:
    """Return the command of a client."""
    program_name, *arguments = CLIENTS[name]
    return [find_program(program_name), *arguments]


@pytest.mark.parametrize("name", CLIENTS)
def test_whatever_is_typed_is_echoed(echo: Program, name: str) -> None:
    with program(*client(name)) as running:
        for line in (b"hello\n", b"\x00\xff\n", b"x" * 1400 + b"\n", "grüß dich\n".encode()):
            running.write(line)
            assert running.read() == line
    assert echo.running


@pytest.mark.usefixtures("echo")
def test_each_client_gets_its_own_echoes() -> None:
    with program(*client("nc")) as one, program(*client("socat")) as other:
        for _ in range(3):
            one.write(b"one\n")
            other.write(b"other\n")
            assert (one.read(), other.read()) == (b"one\n", b"other\n")


def test_clients_that_leave_before_their_echo_comes_do_no_harm(echo: Program) -> None:
    for name in [*CLIENTS] * 2:
        with program(*client(name)) as hasty:
            hasty.write(b"bye\n")
    with program(*client("nc")) as patient:
        patient.write(b"still there?\n")
        assert patient.read() == b"still there?\n"
    assert echo.running
