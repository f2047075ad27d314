"""Multicast and broadcast on the loopback interface, as other implementations' suites insist on them.

IPv4 multicasts on loopback; IPv6 does not, and is tried between machines of the tests' own (test_memberships.py).
"""

from __future__ import annotations

import errno

import pytest
import trio

import trio_dgram

from ..support.families import Family

GROUP = "239.1.2.3"


async def test_three_receivers_on_one_port_each_get_all_four_messages() -> None:
    async with trio_dgram.open_nursery() as nursery:
        receivers = [nursery.create_socket("udp4", reuse_address=True) for _ in range(3)]
        port = 0
        for receiver in receivers:
            port = (await receiver.bind(port)).port
            (joined,) = receiver.add_membership(GROUP, "lo")
            assert joined.name == "lo"
        sender = nursery.create_socket("udp4", multicast_interface="127.0.0.1", multicast_loopback=True)
        messages = [b"First message", b"Second message", b"Third message", b"Fourth message"]
        for message in messages:
            await sender.send(message, (GROUP, port))
        for receiver in receivers:
            assert [(await receiver.receive()).data for _ in messages] == messages
        nursery.cancel_scope.cancel()


async def test_leaving_and_joining_by_source_hears_only_that_source() -> None:
    async with trio_dgram.open_nursery() as nursery:
        receiver = nursery.create_socket("udp4")
        port = (await receiver.bind()).port
        senders = {}
        for host in ("127.0.0.1", "127.0.0.2"):
            senders[host] = nursery.create_socket("udp4", multicast_interface="lo")
            await senders[host].bind(0, host)

        async def from_both(message: str) -> list[str]:
            for sender in senders.values():
                await sender.send(message, (GROUP, port))
            return [datagram.address.host for datagram in await receiver.receive_many()]

        receiver.add_membership(GROUP, "127.0.0.1")
        assert await from_both("before") == ["127.0.0.1", "127.0.0.2"]
        receiver.drop_membership(GROUP, "127.0.0.1")
        receiver.add_membership(GROUP, "lo", source="127.0.0.2")
        assert await from_both("by source") == ["127.0.0.2"]
        receiver.drop_membership(GROUP, "lo", source="127.0.0.2")
        receiver.add_membership(GROUP, 1)
        assert await from_both("after") == ["127.0.0.1", "127.0.0.2"]
        nursery.cancel_scope.cancel()


async def test_a_socket_gets_its_own_groups_only() -> None:
    async with trio_dgram.open_nursery() as nursery:
        one, other = (nursery.create_socket("udp4", reuse_address=True) for _ in range(2))
        port = (await one.bind()).port
        await other.bind(port)
        one.add_membership(GROUP, "lo")
        other.add_membership("239.9.9.9", "lo")
        await one.send(b"x", ("127.0.0.1", port))
        async with trio_dgram.open_socket("udp4", multicast_interface="lo") as sender:
            await sender.send(b"for one", (GROUP, port))
        assert (await one.receive()).data == b"for one"
        if trio_dgram._system.capabilities.group_isolation:
            # What came by the one membership went to the one socket; the unicast went to the last binder.
            assert (await other.receive()).data == b"x"
            with pytest.raises(trio.WouldBlock):
                other.receive_nowait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("which", ["lo", "127.0.0.1", 1])
async def test_the_outgoing_interface_is_chosen_reset_and_checked(which: str | int) -> None:
    async with trio_dgram.open_socket("udp4", port=0) as sock:
        assert sock.multicast_interface is None
        sock.add_membership(GROUP, "lo")
        sock.multicast_interface = which
        assert sock.multicast_interface == which
        await sock.send(b"by lo", (GROUP, sock.address.port))
        assert (await sock.receive()).data == b"by lo"
        sock.multicast_interface = None
        assert sock.multicast_interface is None


@pytest.mark.parametrize(
    ("wrong", "error"),
    [("nowhere", OSError), ("1.1.1.1", OSError), (0, ValueError), (-1, ValueError), ("", ValueError), (1.5, TypeError),
     (True, TypeError), (b"lo", TypeError), (10**6, OSError)],
)  # fmt: skip
async def test_an_outgoing_interface_that_is_none_is_refused(udp: Family, wrong: str, error: type[Exception]) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        with pytest.raises(error, match="multicast_interface") as caught:
            sock.multicast_interface = wrong
        if isinstance(caught.value, OSError):
            assert caught.value.errno == errno.ENODEV
        await sock.send(b"usable", sock.address)
        assert (await sock.receive()).data == b"usable"


async def test_ipv6_too_takes_its_outgoing_interface_by_name_and_index() -> None:
    async with trio_dgram.open_socket("udp6") as sock:
        for which in ("lo", 1, "::1"):
            sock.multicast_interface = which
            assert sock.multicast_interface == which


async def test_broadcast_needs_to_be_allowed() -> None:
    async with trio_dgram.open_socket("udp4", port=0) as sock:
        with pytest.raises(PermissionError, match=r"send 127\.255\.255\.255"):
            await sock.send(b"x", ("127.255.255.255", 9))
        sock.broadcast = True
        await sock.send(b"x", ("127.255.255.255", 9))


async def test_joining_binds_a_socket_that_is_not_bound() -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        sock.add_membership(GROUP, "lo")
        assert sock.address.port > 0


@pytest.mark.parametrize("operation", ["add_membership", "drop_membership"])
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (("256.256.256.256",), ValueError, "group must be a numeric"),
        (("192.0.2.1",), ValueError, "group must be a multicast"),
        (("",), ValueError, "group must be"),
        ((5,), TypeError, "group must be"),
        ((None,), TypeError, "group must be"),
        ((GROUP, 1.5), TypeError, "interface must be"),
        ((GROUP, "nowhere"), OSError, f"{GROUP} on nowhere"),
    ],
)
async def test_a_membership_call_names_what_is_wrong(
    operation: str, arguments: tuple[object, ...], error: type[Exception], match: str
) -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        with pytest.raises(error, match=match):
            getattr(sock, operation)(*arguments)
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address


@pytest.mark.parametrize(("source", "error"), [("nowhere", ValueError), (GROUP, ValueError), (1, TypeError)])
async def test_a_source_must_be_a_unicast_address(source: str, error: type[Exception]) -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        with pytest.raises(error, match="source must be"):
            sock.add_membership(GROUP, "lo", source=source)


async def test_a_group_of_the_other_family_is_refused(udp: Family) -> None:
    other = {"udp4": "ff02::1", "udp6": GROUP}[udp.type]
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(ValueError, match="group must be a numeric IPv"):
            sock.add_membership(other, "lo")


async def test_joining_twice_and_leaving_what_was_not_joined_is_the_kernels_error() -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        sock.add_membership(GROUP, "lo")
        with pytest.raises(OSError, match=f"add_membership {GROUP} on lo") as caught:
            sock.add_membership(GROUP, "lo")
        assert caught.value.errno == errno.EADDRINUSE
        assert [interface.name for interface in sock.drop_membership(GROUP)] == ["lo"]
        for arguments in ((GROUP, "lo"), (GROUP,)):
            with pytest.raises(OSError, match=f"drop_membership {GROUP} on") as caught:
                sock.drop_membership(*arguments)
            assert caught.value.errno == errno.EADDRNOTAVAIL
