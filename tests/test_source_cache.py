"""The source cache: a source has the same value whether it is cached or not, and the size of the cache is bounded."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

import trio_dgram
from trio_dgram._codecs.families import FAMILIES, PackedAddress
from trio_dgram._kernel import python_calls as _python_calls
from trio_dgram._kernel import source_cache as _source_cache
from trio_dgram._kernel.python_calls import PythonCalls
from trio_dgram._kernel.source_cache import SourceCache
from trio_dgram._socket import creation as _creation
from trio_dgram._values.addresses import ReceivedAddress, ScopedReceivedAddress

Cache = dict[PackedAddress, ReceivedAddress]


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch) -> Cache:
    """The cache of the process, empty at first."""
    cache: Cache = {}
    monkeypatch.setattr(_source_cache, "_cached", cache)
    return cache


def ipv4(number: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!HI8x", 53, 0x0A000000 + number)


def ipv6(number: int, scope: int = 0) -> bytes:
    host = socket.inet_pton(socket.AF_INET6, f"fe80::{number:x}")
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 53, 0) + host + struct.pack("=I", scope)


EACH_FAMILY = pytest.mark.parametrize(
    ("family", "packed", "prefix"), [("udp4", ipv4, "10.0.0."), ("udp6", ipv6, "fe80::")], ids=["udp4", "udp6"]
)


@EACH_FAMILY
def test_a_source_is_cached_across_batches_and_sockets(
    family: str, packed: Callable[[int], bytes], prefix: str
) -> None:
    sources = SourceCache(FAMILIES[family])
    first, second = sources.addresses(packed(1) + packed(2))
    assert (first, second) == ((f"{prefix}1", 53), (f"{prefix}2", 53))
    # Also for another socket.
    again, third, same = SourceCache(FAMILIES[family]).addresses(packed(2) + packed(3) + packed(2))
    assert again is second
    assert same is second
    assert third == (f"{prefix}3", 53)


@EACH_FAMILY
def test_batches_after_one_of_unknown_sources_bypass_the_cache(
    family: str, packed: Callable[[int], bytes], prefix: str, cached: Cache
) -> None:
    sources = SourceCache(FAMILIES[family])
    sources.addresses(packed(1) + packed(2))
    for _ in range(_source_cache._BATCHES_BYPASSED):
        assert sources.addresses(packed(3) + packed(1)) == [(f"{prefix}3", 53), (f"{prefix}1", 53)]
    assert set(cached.values()) == {(f"{prefix}1", 53), (f"{prefix}2", 53)}
    # Half of the sources are cached now.
    for _ in range(2):
        assert sources.addresses(packed(3) + packed(1)) == [(f"{prefix}3", 53), (f"{prefix}1", 53)]
    assert set(cached.values()) == {(f"{prefix}{number}", 53) for number in (1, 2, 3)}


@pytest.mark.skipif(not trio_dgram.capabilities().batches, reason="kernel: no recvmmsg")
async def test_the_size_of_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch, cached: Cache) -> None:
    # The compiled layer has a table of fixed size instead.
    monkeypatch.setattr(_creation, "create_calls", PythonCalls)
    monkeypatch.setattr(_python_calls, "_BURST", 0)
    monkeypatch.setattr(_source_cache, "_LARGEST_CACHE", 5)
    monkeypatch.setattr(_source_cache, "_BATCHES_BYPASSED", 0)
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        for number in range(1, 21):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((f"127.0.1.{number}", 0))
                sender.sendto(b"x", sock.address)
                assert (await sock.receive()).address == sender.getsockname()
            assert 0 < len(cached) <= 5
    # A full cache is cleared, so recent sources are the cached ones.
    assert "127.0.1.1" not in {address.host for address in cached.values()}


def test_a_cache_that_threads_have_grown_over_the_bound_is_cleared(
    monkeypatch: pytest.MonkeyPatch, cached: Cache
) -> None:
    sources = SourceCache(FAMILIES["udp4"])
    sources.addresses(ipv4(1) + ipv4(2) + ipv4(3))
    monkeypatch.setattr(_source_cache, "_LARGEST_CACHE", 2)
    SourceCache(FAMILIES["udp4"]).addresses(ipv4(4))
    assert set(cached.values()) == {("10.0.0.4", 53)}


def test_scoped_sources_are_not_cached(cached: Cache) -> None:
    scoped, unscoped = SourceCache(FAMILIES["udp6"]).addresses(ipv6(1, scope=1) + ipv6(1))
    assert type(scoped) is ScopedReceivedAddress
    assert scoped == ("fe80::1%lo", 53)
    assert unscoped == ("fe80::1", 53)
    assert set(cached.values()) == {("fe80::1", 53)}


def test_a_source_with_port_0_is_none_and_not_cached(cached: Cache) -> None:
    from_port_0 = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 0) + socket.inet_aton("1.2.3.4") + bytes(8)
    assert SourceCache(FAMILIES["udp4"]).addresses(from_port_0 + ipv4(1)) == [None, ("10.0.0.1", 53)]
    assert set(cached.values()) == {("10.0.0.1", 53)}
