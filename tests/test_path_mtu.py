"""The path MTU, and path MTU discovery."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import trio_dgram
from trio_dgram import Address, Datagram, SendManyError
from trio_dgram._kernel import capabilities as _capabilities

from .support.families import Family
from .support.namespaces import Machine

needs_path_mtu = pytest.mark.skipif(
    "config.getoption('--portable')", reason="kernel: the portable calls do not report the path MTU"
)


@needs_path_mtu
@pytest.mark.parametrize("value", ["dont", "want", "do", "probe"])
async def test_mtu_discovery_reads_back(udp: Family, value: Any) -> None:
    async with trio_dgram.open_socket(udp.type, mtu_discovery=value) as sock:
        assert sock.mtu_discovery == value
        sock.mtu_discovery = "dont"
        assert sock.mtu_discovery == "dont"


@needs_path_mtu
async def test_path_mtu_is_reported_for_loopback_and_over_a_link(udp: Family, machine: Machine) -> None:
    link = machine.link(mtu=1300)
    async with trio_dgram.open_socket(udp.type) as sock:
        assert sock.path_mtu((link.there[udp.type], 9)) == 1300
        assert sock.path_mtu(("", 9)) in (65535, 65536)
        if udp.type == "udp6":
            assert sock.path_mtu((link.there["udp4"], 9)) == 1300
        sock.device = link.name
        assert sock.path_mtu((link.there[udp.type], 9)) == 1300


@needs_path_mtu
async def test_path_mtu_is_reported_for_a_broadcast_address(machine: Machine) -> None:
    link = machine.link(mtu=1300)
    for type_ in ("udp4", "udp6"):
        async with trio_dgram.open_socket(type_, broadcast=True, mtu_discovery="do") as sock:
            assert sock.path_mtu((link.host(4, 255), 9)) == 1300
            with pytest.raises(OSError, match="packets of 1300 bytes"):
                await sock.send(b"x" * 1400, (link.host(4, 255), 9))


@needs_path_mtu
@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("icmp_errors", [False, True])
async def test_emsgsize_names_the_path_mtu(udp: Family, machine: Machine, connected: bool, icmp_errors: bool) -> None:
    link = machine.link(mtu=1300)
    largest = 1300 - (28 if udp.type == "udp4" else 48)
    to = Address(link.there[udp.type], 9)
    async with trio_dgram.open_socket(udp.type, mtu_discovery="do", icmp_errors=icmp_errors) as sock:
        if connected:
            await sock.connect(to)
        await sock.send(b"x" * largest, None if connected else to)
        with pytest.raises(OSError, match="packets of 1300 bytes") as caught:
            await sock.send(b"x" * (largest + 1), None if connected else to)
        assert (caught.value.errno, vars(caught.value)["path_mtu"]) == (errno.EMSGSIZE, 1300)
        with pytest.raises(SendManyError, match="packets of 1300 bytes"):
            await sock.send_many([Datagram(b"x" * (largest + 1), to)])
        await sock.send(b"x", None if connected else to)
        assert (sock.statistics().sent, sock.statistics().send_errors) == (2, 2)


async def test_emsgsize_of_a_datagram_too_big_for_udp_names_no_path_mtu(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        with pytest.raises(OSError, match="too long") as caught:
            await sock.send(b"x" * 70_000, sock.address)
        assert caught.value.errno == errno.EMSGSIZE
        assert "packets of" not in str(caught.value)


@needs_path_mtu
async def test_path_mtu_without_a_route_raises_enetunreach(udp: Family, namespace: int) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match="path_mtu") as caught:
            sock.path_mtu((udp.foreign, 9))
        assert caught.value.errno == errno.ENETUNREACH


async def test_path_mtu_is_none_without_the_capability(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        assert sock.path_mtu((udp.loopback, 9)) is None
        for operation in (lambda: sock.mtu_discovery, lambda: setattr(sock, "mtu_discovery", "do")):
            with pytest.raises(OSError, match="mtu_discovery") as caught:
                operation()
            assert caught.value.errno == errno.ENOTSUP
        with pytest.raises(OSError, match="too long") as caught:
            await sock.send(b"x" * 70_000, sock.address)
        assert vars(caught.value)["path_mtu"] is None


async def test_icmp_errors_raise_enotsup_without_the_capability(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    async with trio_dgram.open_nursery() as nursery:
        with pytest.raises(OSError, match="ICMP") as caught:
            nursery.create_socket(udp.type, icmp_errors=True)
        assert caught.value.errno == errno.ENOTSUP
