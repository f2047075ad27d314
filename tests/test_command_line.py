"""The command line as a whole: help, exit codes, errors, interrupts, and what reaches a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import unicodedata
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_dgram.__main__ import COMMANDS, main
from trio_dgram._commands import command as frame
from trio_dgram._commands.command import Command, CommandError, explain, first_error, until_interrupted
from trio_dgram._commands.console import Console, escape

from .support.commands import PROGRAM, Screen, run_command
from .support.namespaces import program

NOWHERE: Final = "127.0.0.1:9"


# Help


def test_without_a_command_the_help_goes_to_standard_error() -> None:
    outcome = run_command()
    assert (outcome.code, outcome.out) == (2, "")
    assert all(name in outcome.err for name in COMMANDS)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_lists_every_command(word: str) -> None:
    outcome = run_command(word)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"  {name} " in outcome.out for name in COMMANDS)


def test_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"trio-dgram \d+\.\d+\.\d+\S*\n", run_command("--version").out)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_describes_itself_and_its_options(name: str) -> None:
    outcome = run_command(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(text in outcome.out for text in (f"usage: trio-dgram {name}", COMMANDS[name].summary, "--json"))


# Errors


USAGE: Final = [
    (["nothing"], "trio-dgram: unknown command 'nothing', the commands are listen, send, ping, doctor, workers, show"),
    (["listen"], "the following arguments are required: PORT"),
    (["listen", "70000"], "must be PORT, HOST:PORT or [HOST]:PORT, with a port from 0 to 65535, not '70000'"),
    (["listen", "1:2:3"], "not '1:2:3'"),
    (["listen", "0", "--count", "0"], "argument --count: must be an integer from 1, not '0'"),
    (["listen", "0", "--count", "9" * 30], "must be an integer from 1"),
    (["listen", "0", "--coun", "1"], "unrecognized arguments: --coun 1"),
    (["listen", "0", "--raw", "--json"], "argument --raw: not allowed with argument --json"),
    (["listen", "0", "--raw", "--text"], "argument --text: not allowed with argument --raw"),
    (["listen", "0", "--echo", "--reply", "x"], "argument --reply: not allowed with argument --echo"),
    (["listen", "0", "--group", "10.0.0.1"], "must be a multicast group"),
    (["listen", "0", "--group", "224.0.0.251%"], "must be a multicast group"),
    (["listen", "0", "--group", "mdns"], "must be a multicast group"),
    (["listen", "[::1]:0", "--group", "224.0.0.251%lo"], "is no IPv6 group, but [::1]:0 is an IPv6 address"),
    (["send"], "the following arguments are required: HOST:PORT\n"),
    (["send", "127.0.0.1:0", "x"], "argument HOST:PORT: port must be from 1 to 65535, not 0"),
    (["send", "9", "x"], "argument HOST:PORT: must be HOST:PORT or [HOST]:PORT, with a port from 1 to 65535, not '9'"),
    (["send", "::1:9", "x"], "not '::1:9'"),
    (["send", NOWHERE, "--hex", "0g"], "argument DATA: must be pairs of hexadecimal digits, not '0g'"),
    (["send", NOWHERE, "--hex", "\udcff"], r"argument DATA: must be pairs of hexadecimal digits, not '\\\\xff'"),
    (["send", NOWHERE, "x", "--rate", "0"], "argument --rate: must be a number above 0, not '0'"),
    (["send", NOWHERE, "x", "--rate", "nan"], "argument --rate: must be a number above 0"),
    (["send", NOWHERE, "x", "--wait", "soon"], "argument --wait: must be a number above 0, not 'soon'"),
    (["send", NOWHERE, "-4", "-6"], "argument -6: not allowed with argument -4"),
    (["send", NOWHERE, "-6", "x"], "'127.0.0.1' has no IPv6 address"),
    (["send", "[::1]:9", "-4", "x"], "'::1' has no IPv4 address"),
    (["ping", NOWHERE, "--hex"], "argument --hex: needs --payload"),
    (["ping", NOWHERE, "--payload", "xy", "--hex"], "argument --payload: must be pairs of hexadecimal digits"),
    (["ping", NOWHERE, "--dns", "a..b"], "argument --dns: must be a domain name, not 'a..b'"),
    (["ping", NOWHERE, "--dns", "a" * 64], "argument --dns: must be a domain name"),
    (["ping", NOWHERE, "--dns", "a." * 130], "argument --dns: must be a domain name"),
    (["ping", NOWHERE, "--dns", "x", "--payload", "x"], "argument --payload: not allowed with argument --dns"),
    (["show"], "the following arguments are required: FILE.pcapng"),
    (["show", "x", "--svg", "--json"], "argument --svg: not allowed with argument --json"),
    (["show", "x", "--svg", "--to", NOWHERE], "argument --svg: not allowed with argument --to"),
    (["show", "x", "--from", "client"], "argument --from: needs --to"),
    (["doctor", "now"], "unrecognized arguments: now"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "text"), USAGE, ids=lambda value: " ".join(value).encode("ascii", "replace").decode()
                         if isinstance(value, list) else "")  # fmt: skip
def test_wrong_arguments_are_one_line_and_code_2(words: list[str], text: str) -> None:
    outcome = run_command(*words)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith("trio-dgram ") or words == ["nothing"]
    assert text in outcome.err


FAILURES: Final = [
    (["listen", "192.0.2.77:0"], "trio-dgram listen: bind 192.0.2.77: Cannot assign requested address\n"),
    (["listen", "nohost.invalid:0"], "trio-dgram listen: cannot resolve 'nohost.invalid': "),
    (["listen", "127.0.0.1:0", "--group", "239.1.2.3%nowhere"], "239.1.2.3 on nowhere: No such device\n"),
    (["send", "nohost.invalid:9", "x"], "trio-dgram send: cannot resolve 'nohost.invalid': "),
    (
        ["send", "[fe80::1%nowhere]:9", "x"],
        "trio-dgram send: there is no interface 'nowhere', the zone of fe80::1%nowhere\n",
    ),
    (["send", "x" * 64 + ".example:9", "x"], "is not a valid name"),
    (["show", "/nowhere.pcapng"], "trio-dgram show: /nowhere.pcapng: No such file or directory\n"),
    (["show", "/"], "trio-dgram show: /: Is a directory\n"),
]


@pytest.mark.parametrize(
    ("words", "text"), FAILURES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_an_error_of_the_system_is_one_line_and_code_1(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        # The query for an unknown name would leave this machine.
        if host in (b"nohost.invalid", "nohost.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *arguments, **options)

    ask = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    outcome = run_command(*words)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert text in outcome.err


def test_a_long_datagram_fails_by_one_line() -> None:
    outcome = run_command("send", NOWHERE, "x" * 65508)
    assert (outcome.code, outcome.out) == (1, "0 sent, 0 received\n")
    assert outcome.err == "trio-dgram send: send 127.0.0.1:9: Message too long\n"


def failing_command(error: BaseException) -> Command:
    async def run(*_: object) -> int:
        await trio.lowlevel.checkpoint()
        raise error

    return Command("listen", "", lambda _: None, run)


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_appears_only_with_debug(debug: bool, capfd: pytest.CaptureFixture[str]) -> None:
    err = Screen()
    words = ["--debug"] * debug
    assert frame.run(failing_command(ZeroDivisionError("division by zero")), words, Console(Screen(), err)) == 1
    assert err.text == (
        "trio-dgram listen: internal error, --debug prints the traceback: ZeroDivisionError('division by zero')\n"
    )
    assert ("Traceback" in capfd.readouterr().err) == debug


def test_a_broken_pipe_is_silent() -> None:
    for error in (BrokenPipeError(), ExceptionGroup("", [BrokenPipeError()])):
        err = Screen()
        assert frame.run(failing_command(error), [], Console(Screen(), err)) == 1
        assert err.data == b""


def test_the_help_into_a_broken_pipe_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise BrokenPipeError

    out, err = Screen(), Screen()
    monkeypatch.setattr(out, "write", refuse)
    assert main(["listen", "--help"], Console(out, err)) == 1
    assert err.data == b""


def test_an_interrupt_before_the_command_runs_is_silent() -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    err = Screen()
    command = attrs.evolve(COMMANDS["listen"], add_arguments=interrupted)
    assert frame.run(command, [], Console(Screen(), err)) == 130
    assert err.data == b""


def test_one_line_reports_the_first_error_of_a_group() -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [CommandError("one"), CommandError("other")])])
    assert explain(first_error(group)) == "one"
    assert explain(OSError("without an errno")) == "without an errno"


# Interrupts, as a process


INTERRUPTED: Final = {
    "listen": (["listen", "127.0.0.1:0"], b"listening on", "0 received, 0 dropped by the kernel, 0 filtered\n"),
    "send": (["send", NOWHERE, "x", "--wait", "100", "--rate", "0.01", "--count", "2"], b"refused",
             "1 sent, 0 received\n"),
    "send from a terminal": (["send", NOWHERE, "--wait", "100", "--text"], b"", "0 sent, 0 received\n"),
    "ping": (["ping", NOWHERE, "--interval", "100"], b"refused", "1 sent, 0 received, 1 lost (100 %), 0 duplicates"),
}  # fmt: skip


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_ends_a_command_with_its_summary(name: str) -> None:
    words, ready, summary = INTERRUPTED[name]
    with program(*PROGRAM, *words) as running:
        output = running.read() if ready else b""
        assert ready in output
        if not ready:
            wait_until_sigint_is_handled(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        while piece := running.read():
            output += piece
        assert summary in output.decode()
        assert b"Traceback" not in output
        assert running.process.wait() == 130


def wait_until_sigint_is_handled(pid: int) -> None:
    """Wait until the program waits in a thread of Trio's, which reads its standard input."""
    while len(os.listdir(f"/proc/{pid}/task")) < 2:  # noqa: PTH208
        os.sched_yield()


def test_a_reader_that_ends_early_ends_the_command_silently() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PROGRAM, "doctor"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_script_is_declared() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert 'trio-dgram = "trio_dgram.__main__:main"' in text


async def test_sigint_cancels_the_command() -> None:
    async def run(*_: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()
        finally:
            summaries.append("summary")

    summaries: list[str] = []
    assert await until_interrupted(run, Namespace(), Console(Screen(), Screen())) == 130
    assert summaries == ["summary"]


def test_the_default_is_the_command_line_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-dgram", "--version"])
    assert main() == 0
    assert capfd.readouterr().out.startswith("trio-dgram ")


# Options


def test_options_may_precede_or_follow_the_arguments() -> None:
    lines = [
        ["send", "--hex", NOWHERE, "00", "ff", "--json"],
        ["send", NOWHERE, "--hex", "00", "--json", "ff"],
        ["send", "--json", NOWHERE, "00", "ff", "--hex"],
    ]
    assert [run_command(*words).out for words in lines] == ['{"event": "summary", "sent": 2, "received": 0}\n'] * 3


def test_data_after_two_dashes_may_begin_with_a_dash() -> None:
    assert run_command("send", NOWHERE, "--", "-x", "--hex").out == "2 sent, 0 received\n"


# What reaches a terminal


@given(st.binary())
def test_escaped_bytes_contain_no_terminal_control_sequence(data: bytes) -> None:
    escaped = escape(data)
    assert {unicodedata.category(each) for each in escaped} & {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"} == set()


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()


@given(st.binary(), st.binary())
def test_different_bytes_are_escaped_differently(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        ("grüß".encode(), "grüß"),
        (b"a\x1b[31m\n\t\x7f", r"a\x1b[31m\n\t\x7f"),
        (b"\xff\x9b", r"\xff\x9b"),
        ("\x9b\u202e\u2028".encode(), r"\u009b\u202e\u2028"),
        (b"\\x41", r"\\x41"),
    ],
)
def test_controls_and_undecodable_bytes_are_escaped(data: bytes, text: str) -> None:
    assert escape(data) == text


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, pipe = (Console(Screen(terminal=each), Screen()) for each in (True, False))
    assert (terminal.paint("ok", "green"), pipe.paint("ok", "green")) == ("\x1b[32mok\x1b[0m", "ok")
    terminal.json = True
    assert terminal.paint("ok", "green") == "ok"
    terminal.json = False
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("ok", "green") == "ok"


def test_output_to_a_terminal_is_coloured() -> None:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([*PROGRAM, "doctor"], stdin=theirs, stdout=theirs, stderr=theirs, check=True, env=environment)
    os.close(theirs)
    assert b"\x1b[32mok     \x1b[0m" in os.read(ours, 1 << 16)
    os.close(ours)
