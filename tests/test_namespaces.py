"""Network namespaces: the support code for other tests, and sockets in several namespaces."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import NoReturn

import pytest

import trio_dgram
from trio_dgram import Address

from .support import namespaces
from .support.descriptors import same_descriptors
from .support.families import Family
from .support.forging import Endpoint, internet_checksum, open_forger, udp_packets
from .support.namespaces import Link, Machine, add_address, another_machine, network_namespace, program, run


def here() -> str:
    """Return the network namespace of this thread."""
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_a_namespace_is_left_after_an_error_and_no_descriptor_leaks() -> None:
    home = here()
    with same_descriptors(), pytest.raises(ZeroDivisionError), network_namespace() as inside:
        assert here() != home
        with another_machine(inside) as machine, machine.active():
            assert here() != home
            raise ZeroDivisionError
    assert here() == home


def test_a_namespace_that_cannot_be_set_up_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise ZeroDivisionError

    home = here()
    monkeypatch.setattr(namespaces, "ip", fail)
    with same_descriptors(), pytest.raises(ZeroDivisionError):
        namespaces.make_namespace()
    assert here() == home


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EPERM, "permission: .*unshare"), (errno.EINVAL, "kernel: "), (errno.ENOSYS, "kernel: ")],
)
def test_a_test_is_skipped_where_namespaces_cannot_be_created(
    monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse(name: str, *_: int) -> NoReturn:
        raise OSError(number, f"{name}: {os.strerror(number)}")

    monkeypatch.setattr(namespaces, "change_namespace", refuse)
    with same_descriptors(), pytest.raises(pytest.skip.Exception, match=reason):
        namespaces.make_namespace()


def test_change_namespace_raises_the_kernels_error() -> None:
    with pytest.raises(OSError, match="setns") as caught:
        namespaces.change_namespace("setns", -1, namespaces.CLONE_NEWNET)
    assert caught.value.errno == errno.EBADF


def test_an_interface_is_removed_with_the_machine_of_its_peer(namespace: int) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as changes:
        changes.settimeout(20)
        with another_machine(namespace) as machine:
            name = machine.link().name
            # RTMGRP_LINK: changes of interfaces (rtnetlink(7)).
            changes.bind((0, 1))
        while name in run("ip", "link"):
            changes.recv(65536)


def test_a_link_that_stays_down_is_an_assertion_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    link = machine.link(up=False)
    monkeypatch.setattr(namespaces, "_MANY", 3)
    with pytest.raises(AssertionError, match=f"{link.peer_name} does not come up"):
        namespaces.wait_until_up(machine.namespace, link.peer_name)


def test_a_program_without_output_is_an_assertion_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_LONGEST_WAIT", 0)
    with program("cat") as silent, pytest.raises(AssertionError, match="prints nothing"):
        silent.read()
    assert not silent.running


def test_a_program_that_ends_early_is_an_assertion_error() -> None:
    with program("printf", "two words") as brief, pytest.raises(AssertionError, match="ended after b'two words'"):
        brief.read_line()


async def test_a_socket_stays_in_the_namespace_where_it_was_created(udp: Family, machine: Machine, veth: Link) -> None:
    async with trio_dgram.open_nursery() as nursery:
        with machine.active():
            there = nursery.create_socket(udp.type).unref()
        # Binding and sending from here does not move it.
        await there.bind(0, veth.there[udp.type])
        ours = nursery.create_socket(udp.type).unref()
        with pytest.raises(OSError, match="bind") as caught:
            await ours.bind(0, veth.there[udp.type])
        assert caught.value.errno == errno.EADDRNOTAVAIL
        await ours.send(b"from here", there.address)
        question = await there.receive()
        assert (question.data, question.address) == (b"from here", (veth.here[udp.type], ours.address.port))
        await there.send(question.reply(b"from there"))
        assert await ours.receive() == (b"from there", there.address, None)


async def test_a_received_link_local_address_can_be_answered_unchanged(machine: Machine, veth: Link) -> None:
    async with trio_dgram.open_nursery() as nursery:
        ours = nursery.create_socket("udp6").unref()
        await ours.bind()
        with machine.active():
            theirs = nursery.create_socket("udp6").unref()
            local = next(host for host in trio_dgram.interfaces()[1].addresses if host.startswith("fe80:"))
            await theirs.bind(0, local)
            add_address("fe80::1/64", veth.peer_name)
        add_address("fe80::9/64", veth.name)
        with machine.active():
            await theirs.send(b"question", (f"fe80::9%{veth.peer_name}", ours.address.port))
        question = await ours.receive()
        assert question.address == (f"{local.partition('%')[0]}%{veth.name}", theirs.address.port)
        await ours.send(b"answer", question.address)
        with machine.active():
            answer = await theirs.receive()
        assert answer == (b"answer", Address(f"fe80::9%{veth.peer_name}", ours.address.port), None)


@pytest.mark.parametrize("size", [0, 1, 1000, 1453, 9000, 65507])
async def test_a_forged_datagram_is_received_like_a_real_one(
    udp: Family, machine: Machine, veth: Link, size: int
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0) as sock:
        with machine.active():
            forger = open_forger(veth.peer_name, veth.mac)
        payload = bytes(range(256)) * (size // 256 + 1)
        source = Endpoint(veth.there[udp.type], 7)
        packets = udp_packets(source, Endpoint(veth.here[udp.type], sock.address.port), payload[:size])
        assert max(map(len, packets)) <= 1500
        for packet in packets:
            forger.send(packet)
        forger.close()
        assert await sock.receive() == (payload[:size], Address(veth.there[udp.type], 7), None)


def test_the_internet_checksum_is_that_of_rfc_1071() -> None:
    # The example of its section 3.
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF
    assert internet_checksum(b"\x01") == 0x0100 ^ 0xFFFF
