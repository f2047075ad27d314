"""What other systems answer, emulated on Linux: disconnecting on macOS and the BSDs, and the controls of Windows."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import DatagramSocket
from trio_dgram._kernel import c_library as _c_library
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel import windows as _windows

from .support.descriptors import same_descriptors
from .support.families import Family
from .support.faults import faulty_kernel
from .support.refusals import RefusingLibrary

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernel: the emulation is of Linux's calls")


# macOS and the BSDs

EFFECTS: Final = ("keeps the port", "frees the port", "keeps the peer")
ANSWERS: Final = {
    f"{name} and {effect}": (effect, number)
    for name, number in {"EAFNOSUPPORT": errno.EAFNOSUPPORT, "EINVAL": errno.EINVAL, "success": 0}.items()
    for effect in EFFECTS
    if number or effect != "keeps the peer"
}
"""What connect(2) with AF_UNSPEC does and answers."""


@attrs.define
class DisconnectingLibrary:
    """Functions of a C library whose connect(2) with AF_UNSPEC acts and answers as on BSDs.

    Args:
      effect: what becomes of the association: one of ``EFFECTS``.
      number: the errno that it answers with, 0 for success.
    """

    effect: str
    number: int
    calls: int = 0

    def connect(self, descriptor: int, sockaddr: bytes, length: int) -> int:
        # struct sockaddr of BSDs: its length, then AF_UNSPEC.
        assert (sockaddr[0], sockaddr[1], len(sockaddr)) == (16, 0, length)
        self.calls += 1
        if self.effect != "keeps the peer":
            self._dissolve(descriptor)
        ctypes.set_errno(self.number)
        return -1 if self.number else 0

    def _dissolve(self, descriptor: int) -> None:
        real = ctypes.CDLL(None, use_errno=True)
        with socket.socket(fileno=descriptor) as sock:
            local = sock.getsockname()
            assert real.connect(descriptor, bytes(16), 16) == 0
            if self.effect == "keeps the port" and local[1] and not sock.getsockname()[1]:
                sock.bind(local)
            sock.detach()


@pytest.fixture(params=list(ANSWERS.values()), ids=list(ANSWERS))
def bsd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DisconnectingLibrary:
    """A BSD: its connect(2), and no more than the portable calls."""
    emulated = DisconnectingLibrary(*request.param)
    library = RefusingLibrary({"connect": emulated.connect})
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(_c_library, "c_library", lambda: library)
    monkeypatch.delattr(socket, "SO_BINDTODEVICE")
    monkeypatch.setattr(_capabilities, "detected", None)
    return emulated


async def talk(one: DatagramSocket, other: DatagramSocket) -> None:
    """Send in both directions."""
    await one.send(b"question", None if is_connected(one) else other.address)
    question = await other.receive()
    await other.send(question.reply(b"answer"))
    assert (await one.receive()).data == b"answer"


def is_connected(sock: DatagramSocket) -> bool:
    try:
        return bool(sock.remote_address)
    except trio_dgram.NotConnectedError:
        return False


@pytest.mark.usefixtures("bsd")
async def test_a_bsd_binds_to_an_automatic_and_to_a_named_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as automatic, trio_dgram.open_socket(udp.type) as named:
        address = await automatic.bind(0, udp.loopback)
        assert address == automatic.address == (udp.loopback, address.port)
        assert address.port
        automatic.close()
        assert await named.bind(address.port, udp.loopback) == named.address == address
        async with trio_dgram.open_socket(udp.type) as client:
            await talk(client, named)
            assert client.address.host == udp.wildcard
            assert client.address.port


@pytest.mark.parametrize("bound", ["unbound", "automatic port", "named port"])
async def test_a_bsd_connects_disconnects_and_connects_again_and_keeps_the_port(
    udp: Family, bsd: DisconnectingLibrary, bound: str
) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as server,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as another,
        trio_dgram.open_socket(udp.type) as sock,
    ):
        if bound != "unbound":
            port = 0
            if bound == "named port":
                async with trio_dgram.open_socket(udp.type, port=0) as free:
                    port = free.address.port
            await sock.bind(port)
        await sock.connect(server.address)
        port = sock.address.port
        await talk(sock, server)
        if bsd.effect == "keeps the peer":
            await assert_that_it_stays_connected(sock, server, bsd.number)
            return
        for peer in (another, server):
            sock.disconnect()
            assert sock.address.port == port
            assert not is_connected(sock)
            await talk(sock, another)
            await talk(sock, server)
            await sock.connect(peer.address)
            assert (sock.address.port, sock.remote_address) == (port, peer.address)
            await talk(sock, peer)


async def assert_that_it_stays_connected(sock: DatagramSocket, server: DatagramSocket, number: int) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="disconnect") as caught:
            sock.disconnect()
        assert caught.value.errno == number
        assert vars(caught.value)["operation"] == "disconnect"
        assert vars(caught.value)["address"] == sock.remote_address == server.address
    await talk(sock, server)


@pytest.mark.usefixtures("namespace", "bsd")
async def test_a_failed_connect_leaves_the_socket_of_a_bsd_unbound(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match="unreachable"):
            await sock.connect((udp.foreign, 9))
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address
        address = await sock.bind(0, udp.loopback)
        assert sock.address == address


def test_a_bsd_has_the_portable_capabilities(bsd: DisconnectingLibrary) -> None:
    with same_descriptors():
        found = trio_dgram.capabilities()
    assert found == _capabilities.portable()
    assert (found.disconnect, found.reuse_port, found.bind_to_device) == (True, True, False)
    assert not bsd.calls


# Windows


@attrs.define
class WinSock:
    """ws2_32.dll, which refuses the controls with the codes in ``missing``."""

    missing: frozenset[int]
    calls: list[tuple[int, int, int, int]] = attrs.field(factory=list)

    def WSAIoctl(  # noqa: N802 -- the name that the library has
        self, handle: Any, code: int, value: Any, size: int, output: None, output_size: int, returned: Any, *rest: None
    ) -> int:
        assert (output, output_size, rest) == (None, 0, (None, None))
        assert isinstance(returned._obj, ctypes.c_ulong)
        self.calls.append((handle.value, code, value._obj.value, size))
        return -1 if code in self.missing else 0


@pytest.fixture
def winsock(monkeypatch: pytest.MonkeyPatch, missing: set[int]) -> WinSock:
    """The WinSock of this process."""
    library = WinSock(frozenset(missing))

    def load(name: str) -> WinSock:
        assert name == "ws2_32"
        return library

    monkeypatch.setattr(ctypes, "WinDLL", load, raising=False)
    return library


@pytest.mark.parametrize("missing", [set(), {0x9800000C}, {0x9800000F}, {0x9800000C, 0x9800000F}])
async def test_both_reports_of_windows_are_disabled_and_may_be_missing(udp: Family, winsock: WinSock) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        descriptor = sock.fileno()
        # _WSAIOW(IOC_VENDOR, 12) and _WSAIOW(IOC_VENDOR, 15), a BOOL that is false.
        assert winsock.calls == [(descriptor, 0x9800000C, 0, 4), (descriptor, 0x9800000F, 0, 4)]
        await sock.bind(0, udp.loopback)
        await sock.send(b"to itself", sock.address)
        assert (await sock.receive()).data == b"to itself"


@pytest.mark.parametrize("error", [TypeError, OSError])
async def test_a_system_without_a_c_library_binds_connects_and_cannot_disconnect(
    udp: Family, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def load() -> None:
        raise error

    monkeypatch.setattr(_c_library, "c_library", load)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(_capabilities, "detected", None)
    assert not trio_dgram.capabilities().disconnect
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as server:
        async with trio_dgram.open_socket(udp.type, connect=server.address) as client:
            await talk(client, server)
            with pytest.raises(OSError, match=r"disconnect .*: this system cannot disconnect") as caught:
                client.disconnect()
            assert caught.value.errno == errno.ENOTSUP
            await talk(client, server)


def test_nothing_is_disabled_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ctypes, "WinDLL", raising=False)
    _windows.disable_reports(-1)


RECEIVING: Final[dict[str, Callable[[DatagramSocket], Any]]] = {
    "receive": DatagramSocket.receive,
    "iteration": DatagramSocket.__anext__,
    "receive_many": DatagramSocket.receive_many,
}


@pytest.mark.parametrize("receive", RECEIVING)
@pytest.mark.parametrize("reset", [errno.ECONNRESET, errno.ENETRESET])
async def test_a_reset_reported_on_an_unconnected_socket_ends_no_receive_loop(
    udp: Family, reset: int, receive: str
) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            for number in range(3):
                faults.set("recvfrom", reset, reset)
                await sock.send(bytes([number]), sock.address)
                received = await RECEIVING[receive](sock)
                datagrams = received if isinstance(received, list) else [received]
                assert [datagram.data for datagram in datagrams] == [bytes([number])]
            assert not faults.pending
            assert sock.statistics().received == 3
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
