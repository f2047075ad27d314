"""Senders' addresses: the same values whether they are kept or made anew, and no more of them kept than a bound."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

import trio_dgram
from trio_dgram._codecs.families import FAMILIES, PackedAddress
from trio_dgram._kernel import receiver as _receiver
from trio_dgram._kernel import source_cache as _senders
from trio_dgram._kernel import system_socket as _system
from trio_dgram._kernel.source_cache import Senders
from trio_dgram._values.addresses import ReceivedAddress, ScopedReceivedAddress

Interned = dict[PackedAddress, ReceivedAddress]


@pytest.fixture(autouse=True)
def interned(monkeypatch: pytest.MonkeyPatch) -> Interned:
    """What is kept, nothing at first."""
    kept: Interned = {}
    monkeypatch.setattr(_senders, "_interned", kept)
    return kept


def ipv4(number: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!HI8x", 53, 0x0A000000 + number)


def ipv6(number: int, scope: int = 0) -> bytes:
    host = socket.inet_pton(socket.AF_INET6, f"fe80::{number:x}")
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 53, 0) + host + struct.pack("=I", scope)


EACH_FAMILY = pytest.mark.parametrize(
    ("family", "packed", "prefix"), [("udp4", ipv4, "10.0.0."), ("udp6", ipv6, "fe80::")], ids=["udp4", "udp6"]
)


@EACH_FAMILY
def test_who_sends_again_has_the_address_that_was_made_first(
    family: str, packed: Callable[[int], bytes], prefix: str
) -> None:
    senders = Senders(FAMILIES[family])
    first, second = senders.addresses(packed(1) + packed(2))
    assert (first, second) == ((f"{prefix}1", 53), (f"{prefix}2", 53))
    # Another socket's, too.
    again, third, same = Senders(FAMILIES[family]).addresses(packed(2) + packed(3) + packed(2))
    assert again is second
    assert same is second
    assert third == (f"{prefix}3", 53)


@EACH_FAMILY
def test_after_a_batch_of_strangers_the_next_ones_are_not_kept(
    family: str, packed: Callable[[int], bytes], prefix: str, interned: Interned
) -> None:
    senders = Senders(FAMILIES[family])
    senders.addresses(packed(1) + packed(2))
    for _ in range(_senders._BATCHES_OF_STRANGERS):
        assert senders.addresses(packed(3) + packed(1)) == [(f"{prefix}3", 53), (f"{prefix}1", 53)]
    assert set(interned.values()) == {(f"{prefix}1", 53), (f"{prefix}2", 53)}
    # Half of them are known now.
    for _ in range(2):
        assert senders.addresses(packed(3) + packed(1)) == [(f"{prefix}3", 53), (f"{prefix}1", 53)]
    assert set(interned.values()) == {(f"{prefix}{number}", 53) for number in (1, 2, 3)}


@pytest.mark.skipif(not _system.capabilities.batches, reason="kernel: it has no recvmmsg")
async def test_ever_new_senders_grow_nothing(monkeypatch: pytest.MonkeyPatch, interned: Interned) -> None:
    monkeypatch.setattr(_receiver, "_SEVERAL", 0)
    monkeypatch.setattr(_senders, "_MOST_INTERNED", 5)
    monkeypatch.setattr(_senders, "_BATCHES_OF_STRANGERS", 0)
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        for number in range(1, 21):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((f"127.0.1.{number}", 0))
                sender.sendto(b"x", sock.address)
                assert (await sock.receive()).address == sender.getsockname()
            assert 0 < len(interned) <= 5
    # Begun anew when it is full, so that those of today are found.
    assert "127.0.1.1" not in {address.host for address in interned.values()}


def test_more_than_the_bound_that_threads_have_kept_are_forgotten_too(
    monkeypatch: pytest.MonkeyPatch, interned: Interned
) -> None:
    senders = Senders(FAMILIES["udp4"])
    senders.addresses(ipv4(1) + ipv4(2) + ipv4(3))
    monkeypatch.setattr(_senders, "_MOST_INTERNED", 2)
    Senders(FAMILIES["udp4"]).addresses(ipv4(4))
    assert set(interned.values()) == {("10.0.0.4", 53)}


def test_scopes_are_looked_up_each_time(interned: Interned) -> None:
    scoped, unscoped = Senders(FAMILIES["udp6"]).addresses(ipv6(1, scope=1) + ipv6(1))
    assert type(scoped) is ScopedReceivedAddress
    assert scoped == ("fe80::1%lo", 53)
    assert unscoped == ("fe80::1", 53)
    assert set(interned.values()) == {("fe80::1", 53)}


def test_who_cannot_be_answered_is_nobody(interned: Interned) -> None:
    from_port_0 = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 0) + socket.inet_aton("1.2.3.4") + bytes(8)
    assert Senders(FAMILIES["udp4"]).addresses(from_port_0 + ipv4(1)) == [None, ("10.0.0.1", 53)]
    assert set(interned.values()) == {("10.0.0.1", 53)}
