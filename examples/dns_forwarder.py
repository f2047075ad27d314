"""Forward DNS queries to another server over UDP, and cache its answers.

It needs dnspython. Try it with the address of a server that answers your queries:

    python dns_forwarder.py 192.0.2.53
    dig -p 5300 @localhost example.org
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import secrets
import signal
import sys
from collections.abc import Hashable
from contextlib import suppress
from functools import lru_cache, partial
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
"""The largest answer that upstream may send and a client gets, in bytes: no path fragments it."""
LONGEST_TTL: Final = 86_400
IDLE_TIMEOUT: Final = 30.0
"""The time in seconds after which a client without a query is forgotten. Most use each port for one query."""

MAX_PENDING: Final = 512
"""The largest number of questions that await an answer of upstream. Further ones are refused."""

RECEIVE_BUFFER: Final = 2**20
"""The size in bytes of the kernel's queue of queries.

Linux's default of 212,992 holds 256 small ones, and 192 while it is being emptied: the memory of those that were
received is released late.
"""

PORTS: Final = 16
"""The number of ports that upstream is asked from at the same time. Each question uses a random one (RFC 5452, 9.2)."""
PORT_LIFETIME: Final = 30.0
"""The mean time in seconds after which a port is replaced by another one."""

Question: TypeAlias = tuple[dns.name.Name, dns.rdatatype.RdataType, dns.rdataclass.RdataClass, int, bool]
"""Name, type and class, the flags and the wish for signatures: what an answer depends on."""

log = logging.getLogger("dns_forwarder")


@attrs.frozen
class Remembered:
    """A cached answer, with the times at which it arrived and expires."""

    answer: dns.message.Message
    came: float
    expires: float


class Cache:
    """The latest ``size`` answers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._remembered: dict[Question, Remembered] = {}

    def put(self, question: Question, answer: dns.message.Message) -> None:
        """Store an answer for as long as its records allow."""
        lasts = time_to_live(answer)
        if lasts:
            self._remembered.pop(question, None)
            if len(self._remembered) >= self._size:
                del self._remembered[next(iter(self._remembered))]
            now = trio.current_time()
            self._remembered[question] = Remembered(answer, now, now + lasts)

    def get(self, question: Question) -> tuple[dns.message.Message, int] | None:
        """Return an answer that has not expired, with its age in seconds."""
        found = self._remembered.get(question)
        if found is None or trio.current_time() >= found.expires:
            return None
        return found.answer, int(trio.current_time() - found.came)


def time_to_live(answer: dns.message.Message) -> int:
    """Return the number of seconds for which an answer may be cached. The SOA of a denial has it (RFC 2308)."""
    if answer.flags & dns.flags.TC or answer.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return 0
    times = [LONGEST_TTL, *(rrset.ttl for section in sections(answer) for rrset in section)]
    if not answer.answer or answer.rcode() == dns.rcode.NXDOMAIN:
        denials = [rdata.minimum for rrset in answer.authority for rdata in rrset if isinstance(rdata, SOA)]
        times += denials or [0]
    return min(times)


class Pending:
    """A question that upstream has been asked, for all clients that wait for the answer."""

    def __init__(self) -> None:
        self.answer: dns.message.Message | None = None
        self.done = trio.Event()


class Upstream:
    """Asks another server, with many questions in flight on each of several ports.

    A forged answer must have the id of a query and arrive at its port (RFC 5452). So each query has a random id and
    uses a random one of the ports. The kernel chooses their numbers at random, and they are replaced so often that it
    does not pay to search for them. Clients with the same question share one query: several would multiply the chance
    of a guess (RFC 5452, 5).
    """

    def __init__(self, address: tuple[str, int], cache: Cache, timeout: float, attempts: int) -> None:
        self._address = address
        self._cache = cache
        self._timeout = timeout
        self._attempts = attempts
        self._exchanges: list[trio_dgram.Exchange] = []
        self._pending: dict[Question, Pending] = {}
        self._nursery: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the ports open, for ever."""
        async with trio.open_nursery() as self._nursery:
            for _ in range(PORTS):
                await self._nursery.start(self._keep_port)
            task_status.started()

    async def _keep_port(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        while True:
            try:
                await self._use_port(task_status)
            except OSError as error:
                # Only opening raises it, such as ENETUNREACH.
                log.warning("upstream: %s", error)
                task_status.started()
                await trio.sleep(1)
            task_status = trio.TASK_STATUS_IGNORED

    async def _use_port(self, task_status: trio.TaskStatus[None]) -> None:
        async with (
            trio_dgram.open_connection(*self._address) as channel,
            trio_dgram.open_exchange(channel, key=key_of) as exchange,
        ):
            self._exchanges.append(exchange)
            task_status.started()
            try:
                await trio.sleep(PORT_LIFETIME * random.uniform(0.5, 1.5))
            finally:
                self._exchanges.remove(exchange)
            while exchange.statistics().in_flight:  # noqa: ASYNC110 -- nothing waits for the end of the port
                await trio.sleep(1)

    async def ask(self, question: Question) -> dns.message.Message | None:
        """Return the answer to a question; None if there is none, or too many are pending."""
        pending = self._pending.get(question)
        if pending is None:
            if len(self._pending) >= MAX_PENDING or not self._exchanges:
                return None
            pending = self._pending[question] = Pending()
            # The task of a client may be cancelled, and others wait for the same answer.
            self._nursery.start_soon(self._fetch, question, pending)
        await pending.done.wait()
        return pending.answer

    async def _fetch(self, question: Question, pending: Pending) -> None:
        try:
            pending.answer = await self._exchange_query(question)
            if pending.answer is not None:
                # Before the question is no longer pending: otherwise it could be asked again.
                self._cache.put(question, pending.answer)
        except (OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError) as error:
            # A ValueError is an id in flight for this name with other flags, about once in 65,536 such queries.
            log.warning("upstream: %s", error if error.__cause__ is None else f"{error}: {error.__cause__}")
        finally:
            del self._pending[question]
            pending.done.set()

    async def _exchange_query(self, question: Question) -> dns.message.Message | None:
        name, type_, class_, flags, wants_signatures = question
        query = dns.message.make_query(
            name,
            type_,
            class_,
            flags=flags,
            use_edns=0,
            payload=LARGEST_ANSWER,
            want_dnssec=wants_signatures,
            id=secrets.randbits(16),
        )
        exchange = secrets.choice(self._exchanges)
        wire = await exchange.request(query.to_wire(), timeout=self._timeout, attempts=self._attempts)
        answer = parse(wire)
        if not query.is_response(answer):
            log.info("upstream sent a query back")
            return None
        return answer


@lru_cache(maxsize=1024)
def parse(wire: bytes) -> dns.message.Message:
    """Parse a message, once for the key and for the answer. The message must not be changed."""
    return dns.message.from_wire(wire)


def key_of(wire: bytes) -> Hashable:
    """Return what a query and its response have in common: the id and the question, with its case as it is.

    Raises:
      ValueError: if ``wire`` is neither a query of ours nor a response; the exchange drops it then.
    """
    try:
        message = parse(wire)
    except dns.exception.DNSException as error:
        log.info("upstream sent a malformed answer: %s", error)
        raise ValueError("malformed") from error
    if len(message.question) != 1 or (message.answer and not message.flags & dns.flags.QR):
        log.info("upstream sent something else than an answer")
        raise ValueError("neither a query of ours nor a response")
    asked = message.question[0]
    return message.id, asked.name.labels, asked.rdtype, asked.rdclass


class Forwarder:
    """Answers queries, from the cache or by asking upstream."""

    def __init__(self, upstream: Upstream, cache: Cache) -> None:
        self._upstream = upstream
        self._cache = cache

    async def handle(self, peer: trio_dgram.DatagramChannel) -> None:
        """Answer the queries of one client concurrently: many ask for both kinds of addresses from one port."""
        async with trio.open_nursery() as nursery:
            async for wire in peer:
                nursery.start_soon(self._reply, peer, wire)

    async def _reply(self, peer: trio_dgram.DatagramChannel, wire: bytes) -> None:
        answer = await self._answer(wire, str(peer.address))
        if answer is not None:
            with suppress(trio.BrokenResourceError):  # The client was evicted.
                await peer.send(answer)

    async def _answer(self, wire: bytes, client: str) -> bytes | None:
        if len(wire) < 12 or wire[2] & 0x80:
            log.info("%s sent no query", client)
            # A response to a response could make two servers answer each other for ever.
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
        # Record sets that do not fit are left out, and the flag TC reports it (RFC 2181, 9).
        return response.to_wire(max_size=room, prefer_truncation=True)

    async def _fill_in(self, response: dns.message.Message, query: dns.message.Message, client: str) -> None:
        """Copy the cached answer, or that of upstream, into a response."""
        asked = query.question[0]
        flags = query.flags & (dns.flags.RD | dns.flags.CD)
        question = asked.name, asked.rdtype, asked.rdclass, flags, bool(query.ednsflags & dns.flags.DO)
        source = "from the cache"
        found = self._cache.get(question)
        if found is None:
            source = "by upstream"
            answer = await self._upstream.ask(question)
            if answer is None:
                log.info("%s asked for %s: upstream has no answer", client, asked.to_text())
                response.set_rcode(dns.rcode.SERVFAIL)
                return
            found = answer, 0
        answer, age = found
        response.set_rcode(answer.rcode())
        response.flags |= answer.flags & (dns.flags.AD | dns.flags.TC)
        response.answer, response.authority, response.additional = (
            [dns.rrset.from_rdata_list(rrset.name, max(0, rrset.ttl - age), list(rrset)) for rrset in section]
            for section in sections(answer)
        )
        log.info("%s asked for %s: %s, %s", client, asked.to_text(), dns.rcode.to_text(answer.rcode()), source)


def sections(message: dns.message.Message) -> tuple[list[dns.rrset.RRset], ...]:
    return message.answer, message.authority, message.additional


def refusal(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return a header that refuses a query. Only the header of the query is read."""
    response = dns.message.Message(id=int.from_bytes(wire[:2], "big"))
    response.flags = dns.flags.QR | dns.flags.RA
    response.set_opcode(dns.opcode.Opcode(wire[2] >> 3 & 15))
    response.set_rcode(rcode)
    return response.to_wire()


async def run(arguments: argparse.Namespace) -> None:
    cache = Cache(arguments.cache)
    upstream = Upstream(arguments.upstream, cache, arguments.timeout, arguments.attempts)
    forwarder = Forwarder(upstream, cache)
    serve = partial(
        trio_dgram.serve,
        host=arguments.host,
        idle_timeout=IDLE_TIMEOUT,
        receive_buffer_size=RECEIVE_BUFFER,
        max_peers=arguments.max_clients,
        proxy_protocol=arguments.proxy,
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run)
            for listener in await nursery.start(serve, forwarder.handle, arguments.port):
                log.info("listening on %s", listener.address)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    log.info("stopped")


def server(text: str) -> tuple[str, int]:
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
    parser.add_argument("upstream", type=server, help="the server to ask: HOST, HOST:PORT or [HOST]:PORT")
    parser.add_argument("--port", type=int, default=5300, help="0 takes one that is free (default: %(default)s)")
    parser.add_argument("--host", help="an address of this machine, or its name (default: all of them)")
    parser.add_argument(
        "--timeout", type=seconds, default=1.0, help="of the first attempt, doubled each time, in seconds (default: 1)"
    )
    parser.add_argument("--attempts", type=count, default=3, help="how often upstream is asked (default: %(default)s)")
    parser.add_argument("--cache", type=count, default=10_000, help="how many answers are kept (default: %(default)s)")
    parser.add_argument("--max-clients", type=count, default=1024, help="at a time (default: %(default)s)")
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="NETWORK",
        help="a balancer, such as dnsdist, that writes PROXY protocol headers; may be given several times",
    )
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
