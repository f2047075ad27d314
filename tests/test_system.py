"""What the platform can do, and what is done where it cannot."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys

import attrs
import pytest

import trio_dgram
from trio_dgram._kernel import system_socket as _system

from .support.families import Family
from .support.faults import faulty_kernel


def test_a_platform_that_is_not_known_can_do_no_more_than_the_portable_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _system.detect() != _system.portable
    monkeypatch.setattr(sys, "platform", "another")
    assert _system.detect() == _system.portable


async def test_where_a_socket_cannot_be_dissolved_it_binds_and_connects_and_says_so_when_asked(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "capabilities", attrs.evolve(_system.portable, dissolve=False))
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        async with trio_dgram.open_socket(udp.type) as sock:
            await sock.connect(peer.address)
            await sock.send(b"x")
            assert (await peer.receive()).address == sock.address
            with pytest.raises(OSError, match="cannot disconnect") as caught:
                sock.disconnect()
            assert caught.value.errno == errno.ENOTSUP
            assert sock.remote_address == peer.address


async def test_where_dissolving_is_refused_the_port_is_the_one_that_the_kernel_chose(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type) as sock:
            assert repr(sock) == f"<trio_dgram.DatagramSocket {udp.type}, unbound>"
            faults.set("disconnect", errno.EPERM)
            assert (await sock.bind(0, udp.loopback)).port
            assert faults.calls["bind"] == 1


def test_dissolving_a_closed_socket_is_the_kernels_error() -> None:
    sock = _system.SystemSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        sock.disconnect()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_an_answer_that_means_it_was_dissolved_all_the_same_is_none(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    passed = []

    class Library:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        @staticmethod
        def connect(_: int, sockaddr: bytes, length: int) -> int:
            passed.append((sockaddr[0], len(sockaddr), length))
            ctypes.set_errno(errno.EAFNOSUPPORT)
            return -1

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(_system, "c_library", Library)
    with _system.SystemSocket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.disconnect()
    # BSDs begin with the length.
    assert passed == [(16 if platform == "darwin" else 0, 16, 16)]
