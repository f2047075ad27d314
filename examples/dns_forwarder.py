"""Forward DNS queries to another server, over UDP, and remember its answers for as long as they last.

It needs dnspython. Try it, with the address of a server that you may ask:

    python dns_forwarder.py 192.0.2.53
    dig -p 5300 @localhost example.org
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import trio
from dns.rdtypes.ANY.SOA import SOA

import trio_dgram

LARGEST_ANSWER: Final = 1232
"""The most that an upstream may send us and a client gets in one datagram, in bytes: what no path fragments."""
LONGEST_TTL: Final = 86_400
IDLE_TIMEOUT: Final = 30.0
"""After how many seconds without a query a client is forgotten. Most ask once from each port."""

MOST_PENDING: Final = 512
"""How many questions upstream has to answer at most. Beyond that they are refused: a flood takes no more sockets."""

Question: TypeAlias = tuple[dns.name.Name, dns.rdatatype.RdataType, dns.rdataclass.RdataClass, int, bool]
"""Name, type and class, the flags and the wish for signatures: what an answer depends on."""

log = logging.getLogger("dns_forwarder")


@attrs.frozen
class Remembered:
    """An answer, when it came, and until when it may be given."""

    answer: dns.message.Message
    came: float
    expires: float


class Cache:
    """The latest answers, so many at most."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._remembered: dict[Question, Remembered] = {}

    def put(self, question: Question, answer: dns.message.Message) -> None:
        """Remember an answer if it may be."""
        lasts = time_to_live(answer)
        if lasts:
            self._remembered.pop(question, None)
            if len(self._remembered) >= self._size:
                del self._remembered[next(iter(self._remembered))]
            now = trio.current_time()
            self._remembered[question] = Remembered(answer, now, now + lasts)

    def get(self, question: Question) -> tuple[dns.message.Message, int] | None:
        """Return an answer that still holds, with its age in seconds."""
        found = self._remembered.get(question)
        if found is None or trio.current_time() >= found.expires:
            return None
        return found.answer, int(trio.current_time() - found.came)


def time_to_live(answer: dns.message.Message) -> int:
    """Return for how many seconds an answer may be remembered; a denial for as long as its SOA says (RFC 2308)."""
    if answer.flags & dns.flags.TC or answer.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return 0
    times = [LONGEST_TTL, *(rrset.ttl for section in sections(answer) for rrset in section)]
    if not answer.answer or answer.rcode() == dns.rcode.NXDOMAIN:
        denials = [rdata.minimum for rrset in answer.authority for rdata in rrset if isinstance(rdata, SOA)]
        times += denials or [0]
    return min(times)


class Forwarder:
    """Answers queries, from the cache or by asking upstream."""

    def __init__(self, upstream: tuple[str, int], cache: Cache, timeout: float, attempts: int) -> None:
        self._upstream = upstream
        self._cache = cache
        self._retry = partial(trio_dgram.retry, timeout=timeout, attempts=attempts)
        self._pending = trio.CapacityLimiter(MOST_PENDING)

    async def handle(self, peer: trio_dgram.DatagramChannel) -> None:
        """Answer what one client asks, side by side: many ask for both kinds of addresses from one port."""
        async with trio.open_nursery() as nursery:
            async for wire in peer:
                nursery.start_soon(self._reply, peer, wire)

    async def _reply(self, peer: trio_dgram.DatagramChannel, wire: bytes) -> None:
        answer = await self._answer(wire, str(peer.address))
        if answer is not None:
            with suppress(trio.BrokenResourceError):  # It has made room for another client.
                await peer.send(answer)

    async def _answer(self, wire: bytes, client: str) -> bytes | None:
        if len(wire) < 12 or wire[2] & 0x80:
            log.info("%s sent no query", client)
            # Neither is an answer answered: two servers would go on for ever.
            return None
        try:
            query = dns.message.from_wire(wire)
            response = dns.message.make_response(query, recursion_available=True, our_payload=LARGEST_ANSWER)
        except dns.exception.DNSException as error:
            log.info("%s sent a malformed query: %s", client, error)
            return refusal(wire, dns.rcode.FORMERR)
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            known = query.opcode() == dns.opcode.QUERY
            return refusal(wire, dns.rcode.FORMERR if known else dns.rcode.NOTIMP)
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
        else:
            await self._fill_in(response, query, client)
        room = min(max(query.payload, 512), LARGEST_ANSWER) if query.edns >= 0 else 512
        # What does not fit is left out record set by record set, and the flag TC says so (RFC 2181, 9).
        return response.to_wire(max_size=room, prefer_truncation=True)

    async def _fill_in(self, response: dns.message.Message, query: dns.message.Message, client: str) -> None:
        """Put into a response what is known about its question, or becomes known."""
        asked = query.question[0]
        flags = query.flags & (dns.flags.RD | dns.flags.CD)
        question = asked.name, asked.rdtype, asked.rdclass, flags, bool(query.ednsflags & dns.flags.DO)
        source = "from the cache"
        found = self._cache.get(question)
        if found is None:
            source = "by upstream"
            answer = await self._ask(question)
            if answer is None:
                log.info("%s asked for %s: upstream has no answer", client, asked.to_text())
                response.set_rcode(dns.rcode.SERVFAIL)
                return
            self._cache.put(question, answer)
            found = answer, 0
        answer, age = found
        response.set_rcode(answer.rcode())
        response.flags |= answer.flags & (dns.flags.AD | dns.flags.TC)
        response.answer, response.authority, response.additional = (
            [dns.rrset.from_rdata_list(rrset.name, max(0, rrset.ttl - age), list(rrset)) for rrset in section]
            for section in sections(answer)
        )
        log.info("%s asked for %s: %s, %s", client, asked.to_text(), dns.rcode.to_text(answer.rcode()), source)

    async def _ask(self, question: Question) -> dns.message.Message | None:
        """Ask upstream, again and again; return its answer if one comes."""
        if not self._pending.available_tokens:
            return None
        name, type_, class_, flags, wants_signatures = question
        # Every time from another port and with another number, both hard to guess (RFC 5452).
        query = dns.message.make_query(
            name, type_, class_, flags=flags, use_edns=0, payload=LARGEST_ANSWER, want_dnssec=wants_signatures
        )
        try:
            async with self._pending, trio_dgram.open_connection(*self._upstream) as upstream:
                for attempt in self._retry():
                    with attempt:
                        await upstream.send(query.to_wire())
                        return await next_answer(upstream, query)
        except (OSError, trio.TooSlowError) as error:
            log.warning("upstream: %s", error)
        return None


async def next_answer(upstream: trio.abc.Channel[bytes], query: dns.message.Message) -> dns.message.Message:
    """Wait for the answer to a query; what is malformed, or answers something else, is passed over."""
    while True:
        wire = await upstream.receive()
        try:
            answer = dns.message.from_wire(wire)
        except dns.exception.DNSException as error:
            log.info("upstream sent a malformed answer: %s", error)
        else:
            if query.is_response(answer):
                return answer
            log.info("upstream sent an answer to another question")


def sections(message: dns.message.Message) -> tuple[list[dns.rrset.RRset], ...]:
    return message.answer, message.authority, message.additional


def refusal(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return the header alone that refuses a query, of which nothing else need be understood."""
    response = dns.message.Message(id=int.from_bytes(wire[:2], "big"))
    response.flags = dns.flags.QR | dns.flags.RA
    response.set_opcode(dns.opcode.Opcode(wire[2] >> 3 & 15))
    response.set_rcode(rcode)
    return response.to_wire()


async def run(arguments: argparse.Namespace) -> None:
    forwarder = Forwarder(arguments.upstream, Cache(arguments.cache), arguments.timeout, arguments.attempts)
    serve = partial(trio_dgram.serve, host=arguments.host, idle_timeout=IDLE_TIMEOUT, max_peers=arguments.max_clients)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for listener in await nursery.start(serve, forwarder.handle, arguments.port):
                log.info("listening on %s", listener.address)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    log.info("stopped")


def upstream(text: str) -> tuple[str, int]:
    """Read ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT``."""
    host, separator, port = text, "", ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        separator, port = port[:1] if closed else "[", port[1:]
    elif text.count(":") == 1:
        host, separator, port = text.partition(":")
    if not host or separator not in {"", ":"} or (separator and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise argparse.ArgumentTypeError(f"HOST, HOST:PORT or [HOST]:PORT, and not {text!r}")
    return host, int(port) if separator else 53


def seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, and not {text}")
    return number


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"a number from 1, and not {text}")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward DNS queries to another server, and remember its answers.")
    parser.add_argument("upstream", type=upstream, help="the server to ask: HOST, HOST:PORT or [HOST]:PORT")
    parser.add_argument("--port", type=int, default=5300, help="0 takes one that is free (default: %(default)s)")
    parser.add_argument("--host", help="an address of this machine, or its name (default: all of them)")
    parser.add_argument(
        "--timeout", type=seconds, default=1.0, help="of the first attempt, doubled each time, in seconds (default: 1)"
    )
    parser.add_argument("--attempts", type=count, default=3, help="how often upstream is asked (default: %(default)s)")
    parser.add_argument("--cache", type=count, default=10_000, help="how many answers are kept (default: %(default)s)")
    parser.add_argument("--max-clients", type=count, default=1024, help="at a time (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failure: Exception | None = None
    try:
        trio.run(run, arguments)
    except* KeyboardInterrupt:
        pass
    except* (OSError, ValueError) as errors:
        failure = errors
    # Nurseries wrap what is raised in them.
    while isinstance(failure, ExceptionGroup):
        failure = failure.exceptions[0]
    if failure is not None:
        sys.exit(f"dns_forwarder: {failure}")


if __name__ == "__main__":
    main()
