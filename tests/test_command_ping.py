"""``trio-dgram ping`` against socat, our own echo, dnsdist and dig, and on bad networks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import dns.message
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import sim
from trio_dgram._commands.probes import DNSProbe, EchoProbe, FixedProbe, Probe
from trio_dgram._commands.round_trips import RoundTrips

from .support.commands import not_portable, running
from .support.examples import Example
from .support.families import Family
from .support.namespaces import program
from .support.programs import find_program, printed, started, unused_port, url_host
from .test_command_listen import SOCAT

pytestmark = pytest.mark.programs

FAST: Final = ["--interval", "0.001"]


# Real servers


@pytest.mark.parametrize("payload", [[], ["--payload", "hello"], ["--payload", "00ff", "--hex"]])
async def test_socat_echoes(udp: Family, payload: list[str]) -> None:
    port = unused_port(udp)
    address = f"{SOCAT[udp.type]}-RECVFROM:{port},bind={url_host(udp.loopback)},fork"
    async with started("socat", "-d", "-d", address, "PIPE") as socat:
        await printed(socat, b"receiving on")
        async with running("ping", f"{url_host(udp.loopback)}:{port}", "--count", "3", *FAST, *payload) as ping:
            assert await ping.wait() == 0
    assert ping.err.text == ""
    *replies, summary, times = ping.out.text.splitlines()
    address = re.escape(f"{url_host(udp.loopback)}:{port}")
    # Three processes of socat answer, in any order.
    found = [re.fullmatch(rf"reply (\d) from {address}: \d+\.\d{{3}} ms( \(reordered\))?", line) for line in replies]
    assert {each[1] for each in found if each} == {"1", "2", "3"}
    assert summary.startswith("3 sent, 3 received, 0 lost (0 %), 0 duplicates, ")
    assert re.fullmatch(r"round trip min/avg/max/jitter \d+\.\d{3}/\d+\.\d{3}/\d+\.\d{3}/\d+\.\d{3} ms", times)


async def test_listen_echoes(udp: Family) -> None:
    async with running("listen", f"{url_host(udp.loopback)}:0", "--echo", "--text") as listen:
        port = await listen.port()
        async with running("ping", f"{url_host(udp.loopback)}:{port}", "--count", "2", "--json", *FAST) as ping:
            assert await ping.wait() == 0
    *replies, summary = map(json.loads, ping.out.text.splitlines())
    assert [(each["event"], each["sequence"]) for each in replies] == [("reply", 1), ("reply", 2)]
    rtts = [each["rtt"] for each in replies]
    assert summary == {
        "event": "summary",
        "sent": 2,
        "received": 2,
        "lost": 0,
        "duplicates": 0,
        "reordered": 0,
        "rtt_min": min(rtts),
        "rtt_avg": sum(rtts) / 2,
        "rtt_max": max(rtts),
        "jitter": abs(rtts[0] - rtts[1]),
    }
    assert "trio-dgram ping" in listen.out.text


DNSDIST: Final = """
setLocal("{address}")
newServer("127.0.0.1:9")
addAction(AllRule(), SpoofAction("192.0.2.1"))
"""


def test_dnsdist_answers_queries(udp: Family, tmp_path: Path) -> None:
    address = f"{url_host(udp.loopback)}:{unused_port(udp)}"
    configuration = tmp_path / "dnsdist.conf"
    configuration.write_text(DNSDIST.format(address=address))

    async def ping() -> str:
        async with running("ping", address, "--dns", "www.example", "--count", "3", *FAST) as task:
            assert await task.wait() == 0
        return task.out.text

    with program(find_program("dnsdist"), "--supervised", "--disable-syslog", "-C", str(configuration)) as dnsdist:
        Example(dnsdist).line_with("Listening on")
        assert "3 sent, 3 received, 0 lost" in trio.run(ping)


@pytest.mark.parametrize("name", ["www.example", "example.", "."])
async def test_the_query_equals_that_of_dig(name: str) -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        where = ["@127.0.0.1", "-p", str(server.address.port), "+noedns", "+tries=1", "+timeout=1", "+noadflag"]
        async with started("dig", *where, name):
            theirs = (await server.receive()).data
    ours = DNSProbe.create(name).request(1)
    assert ours[2:] == theirs[2:]


@not_portable
async def test_a_refusal_is_named_once(udp: Family) -> None:
    address = f"{url_host(udp.loopback)}:{unused_port(udp)}"
    async with running("ping", address, "--count", "3", "--timeout", "0.05", *FAST) as ping:
        assert await ping.wait() == 1
    assert ping.err.text == (
        f"trio-dgram ping: {address}: connection refused by {udp.loopback} (port unreachable)\n"
        f"trio-dgram ping: no answer from {address}\n"
    )
    assert "3 sent, 0 received, 3 lost (100 %), 0 duplicates, 0 reordered\n" in ping.out.text


async def test_an_error_of_one_request_does_not_end_the_others(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as silent:
        words = ["ping", str(silent.address), "--payload", "x" * 65535, "--count", "2", "--timeout", "0.01", *FAST]
        async with running(*words) as ping:
            assert await ping.wait() == 1
        assert ping.err.text.splitlines()[0] == f"trio-dgram ping: send {silent.address}: Message too long"
    assert "2 sent, 0 received, 2 lost (100 %)" in ping.out.text


# Bad networks


async def echo(sock: trio_dgram.DatagramSocket) -> None:
    async for datagram in sock:
        await sock.send(datagram.reply(datagram.data))
        await sock.send(datagram.reply(b"something else"))


def ping_over(*words: str, **conditions: Any) -> tuple[int | None, str]:
    """Ping an echo server over a network with these conditions in both directions, in virtual time."""

    async def scenario(network: sim.Network) -> tuple[int | None, str]:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, **conditions)
        with server.active():
            async with trio_dgram.open_socket("udp4", port=7) as sock:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(echo, sock)
                    with client.active():
                        async with running("ping", "server:7", "-4", *words) as ping:
                            await ping.ended.wait()
                    nursery.cancel_scope.cancel()
        return ping.code, ping.out.text

    return sim.run(scenario, seed=1)


def test_round_trip_times_are_those_of_the_path() -> None:
    code, text = ping_over("--count", "3", delay=0.025)
    assert code == 0
    assert re.findall(r"\): |: (\S+) ms", text) == ["50.000"] * 3
    assert text.endswith("round trip min/avg/max/jitter 50.000/50.000/50.000/0.000 ms\n")


def test_losses_are_counted() -> None:
    code, text = ping_over("--count", "40", "--json", loss=0.2)
    summary = json.loads(text.splitlines()[-1])
    assert code == 0
    assert 0 < summary["lost"] == 40 - summary["received"] < 30
    assert len(text.splitlines()) == summary["received"] + 1


def test_duplicates_are_counted() -> None:
    _, text = ping_over("--count", "20", duplicate=0.5)
    found = re.search(r"20 sent, 20 received, 0 lost \(0 %\), (\d+) duplicates", text)
    assert found is not None
    assert text.count("(duplicate)") == int(found[1]) > 0
    assert text.count("reply") == 20 + int(found[1])


def test_duplicates_are_no_replies_in_json() -> None:
    _, text = ping_over("--count", "20", "--json", duplicate=0.5)
    assert text.count('"reply"') == 20


def test_reordered_replies_are_counted() -> None:
    _, text = ping_over("--count", "50", "--interval", "0.01", delay=0.05, jitter=0.05, reorder=0.5)
    found = re.search(r"50 sent, 50 received, .* (\d+) reordered", text)
    assert found is not None
    assert text.count("(reordered)") == int(found[1]) > 0


def test_a_late_reply_is_a_loss() -> None:
    code, text = ping_over("--count", "2", "--timeout", "0.5", delay=0.4)
    assert code == 1
    assert text.splitlines() == [
        "no reply 1 within 0.5 s",
        "no reply 2 within 0.5 s",
        "2 sent, 0 received, 2 lost (100 %), 0 duplicates, 0 reordered",
    ]


# Requests


PROBES: Final = [EchoProbe(), FixedProbe(b"hello"), DNSProbe.create("www.example")]


def as_reply(probe: Probe, request: bytes) -> bytes:
    return request[:2] + b"\x81\x80" + request[4:] if isinstance(probe, DNSProbe) else request


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
@pytest.mark.parametrize(("sequence", "latest"), [(1, 1), (1, 9), (70_000, 70_009)])
def test_a_reply_is_recognised(probe: Probe, sequence: int, latest: int) -> None:
    expected = 0 if isinstance(probe, FixedProbe) else sequence
    assert probe.match_untrusted(as_reply(probe, probe.request(sequence)), latest) == expected


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
def test_a_reply_to_an_unsent_request_is_not_counted(probe: Probe) -> None:
    other = EchoProbe() if isinstance(probe, EchoProbe) else FixedProbe(b"other")
    foreign = [b"", b"x" * 200, other.request(1), as_reply(probe, probe.request(1)) + b"x"]
    if not isinstance(probe, DNSProbe):
        assert [probe.match_untrusted(data, 9) for data in foreign] == [None] * 4
    if not isinstance(probe, FixedProbe):
        assert [probe.match_untrusted(as_reply(probe, probe.request(n)), 9) for n in (0, 10)] == [None] * 2


@given(st.binary(max_size=60), st.integers(0, 9))
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)
def test_no_bytes_of_the_network_raise(probe: Probe, data: bytes, position: int) -> None:
    genuine = as_reply(probe, probe.request(1))
    for each in (data, genuine[:position] + data, genuine[: len(genuine) - position] + data):
        assert probe.match_untrusted(each, 1) in (None, 0, 1)


def test_a_query_is_a_valid_dns_message() -> None:
    query = dns.message.from_wire(DNSProbe.create("Bücher.example").request(7))
    assert str(query.question[0]) == "xn--bcher-kva.example. IN A"
    response = dns.message.make_response(query).to_wire().replace(b"example", b"EXAMPLE")
    assert DNSProbe(b"", 0).match_untrusted(response, 1) is None
    probe = DNSProbe.create("bücher.example")
    assert probe.match_untrusted(dns.message.make_response(dns.message.from_wire(probe.request(7))).to_wire(), 9) == 7


# Counting


@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0, 3))))
def test_every_request_is_answered_lost_or_in_flight(events: list[tuple[int, float]]) -> None:
    trips, now, lost = RoundTrips(1.0), 0.0, 0
    for sequence, pause in events:
        now += pause
        lost += len(trips.expire(now))
        if sequence:
            trips.reply(sequence, now)
        else:
            trips.request(now)
        assert trips.sent == trips.received + lost + trips.in_flight
        assert trips.summary()["lost"] == lost + trips.in_flight


def test_a_reply_without_a_request_is_not_counted() -> None:
    trips = RoundTrips(1.0)
    assert trips.oldest() == 0
    assert trips.reply(0, 0.0) is None
    trips.request(0.0)
    assert trips.reply(2, 0.5) is None
    assert trips.summary()["jitter"] is None


def test_equal_requests_are_answered_in_order() -> None:
    trips = RoundTrips(1.0)
    trips.request(0.0)
    trips.request(0.1)
    found = [trips.reply(trips.oldest(), 0.2) for _ in range(3)]
    assert [(each.sequence, each.kind) for each in found if each] == [
        (1, "in order"),
        (2, "in order"),
        (2, "duplicate"),
    ]


def test_the_jitter_is_the_mean_difference_of_successive_times() -> None:
    trips = RoundTrips(9.0)
    for number, rtt in enumerate([1.0, 3.0, 2.0], 1):
        trips.request(0.0)
        trips.reply(number, rtt)
    summary = trips.summary()
    assert [summary[name] for name in ("rtt_min", "rtt_avg", "rtt_max", "jitter")] == [1.0, 2.0, 3.0, 1.5]


def test_old_requests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_dgram._commands.round_trips._REMEMBERED", 2)
    trips = RoundTrips(1.0)
    for number in (1, 2, 3):
        trips.request(0.0)
        trips.reply(number, 0.0)
    assert trips.reply(1, 0.0) is None
    assert trips.duplicates == 0
    assert trips.reply(3, 0.0) is not None
