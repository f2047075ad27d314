"""The compiled layer: when it is used, and what it leaves behind. What it does is tested with the other hot calls."""

from __future__ import annotations

import errno
import gc
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

import trio_dgram
from trio_dgram import Datagram
from trio_dgram._codecs.ancillary import IP_PKTINFO, UDP_GRO
from trio_dgram._codecs.families import FAMILIES
from trio_dgram._kernel import passed_sockets as _passed_sockets
from trio_dgram._kernel.compiled_calls import CompiledCalls, create_calls
from trio_dgram._kernel.python_calls import PythonCalls
from trio_dgram._kernel.system_socket import SystemSocket, share
from trio_dgram._values.addresses import ReceivedIPv4Address, new_tuple

OPERATIONS: Final = 100_000
COMPILED: Final = trio_dgram.capabilities().compiled
needs_compiled = pytest.mark.skipif(not COMPILED, reason="pure: without the compiled layer")


# When it is used


@pytest.mark.parametrize(("pure", "compiled"), [("1", False), ("0", True), ("", True)][: 3 if COMPILED else 1])
def test_the_environment_selects_pure_python_at_import(pure: str, *, compiled: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import trio_dgram; print(trio_dgram.capabilities().compiled)"],
        env={**os.environ, "TRIO_DGRAM_PURE": pure},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(compiled)


@needs_compiled
@pytest.mark.parametrize("type_", ["udp4", "udp6"])
def test_the_systems_sockets_use_the_compiled_layer(type_: str) -> None:
    family = FAMILIES[type_]
    passable = _passed_sockets.PassableSocket.create(family.family)
    with SystemSocket.create(family.family) as sock, passable, share(os.dup(sock.fileno())) as shared:
        assert {type(create_calls(each, family)) for each in (sock, passable, shared)} == {CompiledCalls}


def test_other_sockets_are_served_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(SystemSocket):
        pass

    class Watched(socket.socket):
        pass

    with (
        Replaced.create(socket.AF_INET) as replaced,
        SystemSocket(Watched(socket.AF_INET, socket.SOCK_DGRAM)) as watched,
        SystemSocket.create(socket.AF_UNIX) as unix,
    ):
        assert type(create_calls(replaced, FAMILIES["udp4"])) is PythonCalls
        assert type(create_calls(watched, FAMILIES["udp4"])) is PythonCalls
        assert type(create_calls(unix, FAMILIES["unix"])) is PythonCalls
    monkeypatch.setattr(socket, "socket", Watched)
    with SystemSocket.create(socket.AF_INET) as through_replacement:
        assert type(create_calls(through_replacement, FAMILIES["udp4"])) is PythonCalls


# Unusual arguments and moments


@pytest.fixture
def sock() -> Generator[SystemSocket]:
    with SystemSocket.create(socket.AF_INET) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def test_a_closed_socket_raises_ebadf_and_reaches_no_other_descriptor(sock: SystemSocket) -> None:
    calls, number = create_calls(sock, FAMILIES["udp4"]), sock.fileno()
    address = sock.getsockname()
    sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert other.fileno() == number
        other.connect(("127.0.0.1", 9))
        for call in (lambda: calls.receive([], 1), lambda: calls.sendto(b"x", address), lambda: calls.send(b"x")):
            with pytest.raises(OSError, match=r".") as closed:
                call()
            assert closed.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("payload", "to"),
    [
        (b"x", ("::1", 9)),
        (b"x", ("127.0.0.1\0", 9)),
        (b"x", ("\ud800", 9)),
        (b"x", ("127.0.0.1", 65536)),
        (b"x", ("127.0.0.1", -1)),
        (b"x", ("127.0.0.1", 1 << 70)),
        (b"x", ("127.0.0.1", "9")),
        (b"x", ("127.0.0.1",)),
        (b"x", None),
        ("x", ("127.0.0.1", 9)),
    ],
)
def test_both_implementations_raise_the_same_error_for_a_wrong_argument(
    sock: SystemSocket, payload: Any, to: Any
) -> None:
    errors = []
    for calls in (PythonCalls(sock, FAMILIES["udp4"]), create_calls(sock, FAMILIES["udp4"])):
        with pytest.raises((TypeError, ValueError, OverflowError, OSError)) as error:
            calls.sendto(payload, to)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


@needs_compiled
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ([], []),
        ((), (), 0),
        ([b"x"], None, 0),
        ([b"x"], [("127.0.0.1", 9)], "0"),
        ([b"x"], [("127.0.0.1", 9)], 1 << 70),
    ],
)
def test_wrong_arguments_of_the_extension_raise(sock: SystemSocket, arguments: tuple[Any, ...]) -> None:
    calls: Any = create_calls(sock, FAMILIES["udp4"])
    with pytest.raises((TypeError, OverflowError)):
        calls._native.send_batch(*arguments)


@needs_compiled
@pytest.mark.parametrize("start", [-(1 << 62), -1, 1, 1 << 62])
def test_a_batch_beyond_its_lists_sends_nothing(sock: SystemSocket, start: int) -> None:
    calls: Any = create_calls(sock, FAMILIES["udp4"])
    assert calls._native.send_batch([b"x"], [sock.getsockname()], start) == 0
    assert calls._native.send_batch([b"x", b"y"], [], 0) == 0


def test_every_kind_of_payload_and_address_of_the_socket_module_is_sent(sock: SystemSocket) -> None:
    calls, (host, port) = create_calls(sock, FAMILIES["udp4"]), sock.getsockname()

    class Text(str):
        __slots__ = ()

    payloads: list[Any] = [b"x", bytearray(b"x"), memoryview(b"x")]
    for payload in payloads:
        for to in ((host, port), trio_dgram.Address(host, port), (Text(host), port), ("localhost", port)):
            calls.sendto(payload, to)
    sock.connect((host, port))
    for payload in payloads:
        calls.send(payload)
    got: list[Datagram] = []
    with suppress(BlockingIOError):
        calls.receive(got, 100)
    assert [datagram.data for datagram in got] == [b"x"] * 15


def test_an_error_of_the_filter_loses_no_earlier_datagram(sock: SystemSocket) -> None:
    def broken(_: str) -> bool:
        raise ZeroDivisionError

    calls, address = create_calls(sock, FAMILIES["udp4"]), sock.getsockname()
    with SystemSocket.create(socket.AF_INET) as other:
        other.sendto(b"1", address)
        sock.sendto(b"2", address)
    calls.filter_own(address[1], broken)
    got: list[Datagram] = []
    with pytest.raises(ZeroDivisionError):
        calls.receive(got, 10)
    assert [datagram.data for datagram in got] == [b"1"]
    assert calls.counts.received == 1


# What it leaves behind


def test_nothing_in_the_source_depends_on_the_version_of_the_headers() -> None:
    source = (Path(__file__).parents[1] / "trio_dgram" / "_kernel" / "native.c").read_text()
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    assert re.findall(r"\bPy_RETURN_\w+|\bPyArg_\w+\([^;]*#[^;]*;|\bPy_BuildValue\([^;]*#[^;]*;", code) == []


def references() -> int:  # pragma: no cover -- only a long test calls it
    """Return how many references there are, or blocks of memory where Python does not count references."""
    gc.collect()
    count: Callable[[], int] = getattr(sys, "gettotalrefcount", sys.getallocatedblocks)
    return count()


@pytest.mark.long
@needs_compiled
@pytest.mark.parametrize(
    "mode", ["plain", "with info", "with local address", "coalescing", "filtered", "refused", "batch"]
)
def test_no_operation_leaves_a_reference(sock: SystemSocket, mode: str) -> None:
    calls = create_calls(sock, FAMILIES["udp4"])
    calls.with_info, calls.coalescing = mode == "with info", mode == "coalescing"
    calls.with_local_address = mode == "with local address"
    if mode in ("with info", "with local address"):
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    if mode == "coalescing":
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    if mode == "filtered":
        calls.filter_own(sock.getsockname()[1], "127.0.0.1".__eq__)
    address = new_tuple(ReceivedIPv4Address, sock.getsockname())
    batch: list[Any] = [b"payload", bytearray(b"payload")]
    to = ("127.0.0.1", 0) if mode == "refused" else address

    def operate(times: int) -> None:
        got: list[Datagram] = []
        for _ in range(times):
            try:
                if mode == "batch":
                    calls.send_batch(batch, [to, to])
                else:
                    calls.sendto(b"payload", to)
                calls.receive(got, 2)
            except OSError:
                continue
            got.clear()

    operate(1000)
    before = references()
    operate(OPERATIONS)
    # Others may keep a few, such as caches.
    assert references() - before < 100
