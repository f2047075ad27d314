"""The capabilities of the platform, and the behaviour without them."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys

import attrs
import pytest

import trio_dgram
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel import system_socket as _system

from .support.families import Family
from .support.faults import faulty_kernel


def test_an_unknown_platform_has_the_portable_capabilities_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _capabilities.detect() != _capabilities.portable()
    monkeypatch.setattr(sys, "platform", "another")
    assert _capabilities.detect() == _capabilities.portable()


async def test_a_socket_that_cannot_disconnect_binds_and_connects_and_raises_enotsup(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    portable = attrs.evolve(_capabilities.portable(), disconnect=False)
    monkeypatch.setattr(_capabilities, "detected", portable)
    monkeypatch.setattr(_system, "c_function", lambda _: None)
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        async with trio_dgram.open_socket(udp.type) as sock:
            await sock.connect(peer.address)
            await sock.send(b"x")
            assert (await peer.receive()).address == sock.address
            with pytest.raises(OSError, match="cannot disconnect") as caught:
                sock.disconnect()
            assert caught.value.errno == errno.ENOTSUP
            assert sock.remote_address == peer.address


async def test_bind_keeps_the_port_that_the_kernel_chose_where_disconnecting_is_refused(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type) as sock:
            assert repr(sock) == f"<trio_dgram.DatagramSocket {udp.type}, unbound>"
            faults.set("disconnect", errno.EPERM)
            assert (await sock.bind(0, udp.loopback)).port
            assert faults.calls["bind"] == 1


def test_disconnecting_a_closed_socket_raises_the_kernels_error() -> None:
    sock = _system.SystemSocket.create(socket.AF_INET)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sock.disconnect()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_disconnect_ignores_eafnosupport_when_no_peer_is_left(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    passed = []

    class Library:
        @staticmethod
        def connect(_: int, sockaddr: bytes, length: int) -> int:
            passed.append((sockaddr[0], len(sockaddr), length))
            ctypes.set_errno(errno.EAFNOSUPPORT)
            return -1

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(_system, "c_function", lambda name: getattr(Library, name))
    with _system.SystemSocket.create(socket.AF_INET) as sock:
        sock.disconnect()
    # On BSDs a struct sockaddr begins with its length.
    assert passed == [(16 if platform == "darwin" else 0, 16, 16)]
