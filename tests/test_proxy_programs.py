"""Services behind the balancers of the distribution: nginx and dnsdist."""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trio_dgram
from trio_dgram import DatagramSocket, ProxiedAddress

from .support.examples import Example
from .support.families import FAMILIES, Family
from .support.marks import needs_packet_info
from .support.namespaces import Machine, ip, program
from .support.programs import find_program, printed, started, unused_port, url_host

pytestmark = pytest.mark.programs

MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

NGINX: Final = """
load_module {module};
events {{ }}
stream {{
    server {{
        listen {host}:{port} udp;
        proxy_pass {server};
        {options}
    }}
}}
"""


def client_at(udp: Family) -> Any:
    return trio_dgram.open_socket(udp.type, port=0, host=udp.loopback)


async def received(sock: DatagramSocket) -> trio_dgram.Datagram:
    with trio.fail_after(10):
        return await sock.receive()


def find_nginx(folder: Path) -> list[str]:
    """Return the command of nginx with its stream module, which keeps its files in ``folder``."""
    nginx = find_program("nginx")
    if not MODULE.exists():  # pragma: no cover -- .ci/run installs it
        pytest.skip("program: nginx has no stream module")
    settings = f"daemon off; master_process off; user root; pid {folder}/pid; error_log stderr notice;"
    return [nginx, "-e", "stderr", "-g", settings]


@contextmanager
def nginx(folder: Path, host: str, port: int, server: str, *options: str) -> Generator[None]:
    """Run nginx between its ``host`` and ``port`` and ``server``."""
    command = find_nginx(folder)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        NGINX.format(module=MODULE, host=url_host(host), port=port, server=server, options="\n".join(options))
    )
    # Not by a thread of Trio's, which may be in another namespace.
    with program(*command, "-c", str(configuration)) as running:
        Example(running).line_with("event method")
        yield


async def test_a_session_of_nginx_is_one_client(udp: Family, tmp_path: Path) -> None:
    port, host = unused_port(udp), udp.loopback
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=host, proxy_protocol=[host], proxy_sessions=True) as service,
        client_at(udp) as first,
        client_at(udp) as second,
    ):
        server = f"{url_host(host)}:{service.address.port}"
        with nginx(tmp_path, host, port, server, "proxy_protocol on;", "proxy_timeout 60s;"):
            for number in range(3):
                for client in (first, second):
                    await client.send(b"question %d" % number, (host, port))
                    datagram = await received(service)
                    assert (datagram.data, datagram.address) == (b"question %d" % number, client.address)
                    assert isinstance(datagram.address, ProxiedAddress)
                    for _ in range(2):
                        await service.send(datagram.reply(b"answer %d" % number))
                        assert (await received(client)).data == b"answer %d" % number
        assert service.statistics().proxy_refused == 0


async def test_nginx_with_one_answer_to_each_question_needs_no_sessions(udp: Family, tmp_path: Path) -> None:
    port, host = unused_port(udp), udp.loopback
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=host, proxy_protocol=[host]) as service,
        client_at(udp) as client,
    ):
        server = f"{url_host(host)}:{service.address.port}"
        options = ("proxy_protocol on;", "proxy_requests 1;", "proxy_responses 1;")
        ports = set()
        with nginx(tmp_path, host, port, server, *options):
            for number in range(3):
                await client.send(b"question %d" % number, (host, port))
                datagram = await received(service)
                assert (datagram.data, datagram.address) == (b"question %d" % number, client.address)
                assert isinstance(datagram.address, ProxiedAddress)
                ports.add(datagram.address.proxy.port)
                await service.send(datagram.reply(b"answer"))
                assert (await received(client)).data == b"answer"
        assert len(ports) > 1


def deliver_locally(service: int) -> None:
    """Deliver to this machine what its port ``service`` sends, whatever the destination."""
    try:
        ip(
            "link set lo up",
            "route add local default dev lo table 100",
            f"rule add ipproto udp sport {service} lookup 100 priority 1",
        )
    except AssertionError as error:  # pragma: no cover -- the kernel of CI has rules
        pytest.skip(f"kernel: no transparent proxies: {error}")


async def test_a_transparent_nginx_needs_no_header(machine: Machine, tmp_path: Path) -> None:
    link = machine.link()
    here, there = link.here["udp4"], link.there["udp4"]
    with machine.active():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind((there, 0))
    deliver_locally(5300)
    with client:
        async with trio_dgram.open_socket("udp4", port=5300, host="127.0.0.1") as service:
            with nginx(tmp_path, here, 53, "127.0.0.1:5300", "proxy_bind $remote_addr:$remote_port transparent;"):
                client.sendto(b"question", (here, 53))
                datagram = await received(service)
                assert (datagram.data, datagram.address) == (b"question", client.getsockname())
                await service.send(datagram.reply(b"answer"))
                with trio.fail_after(10):
                    await trio.lowlevel.wait_readable(client)
                assert client.recvfrom(100) == (b"answer", (here, 53))


DNSDIST: Final = """
setSecurityPollSuffix("")
setLocal("127.0.0.1:{port}")
addLocal("[::1]:{port}")
newServer{{address="127.0.0.1:{server}", useProxyProtocol=true}}
getServer(0):setUp()
addAction(AllRule(), SetProxyProtocolValuesAction({{[224]="one", [225]="two"}}))
"""


def query(number: int) -> bytes:
    """Return a DNS query (RFC 1035, 4)."""
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + b"\x04name\x07example\0" + struct.pack("!2H", 1, 1)


@needs_packet_info
async def test_dnsdist_forwards_clients_of_both_families_over_ipv4(tmp_path: Path) -> None:
    port = unused_port(FAMILIES[0])
    configuration = tmp_path / "dnsdist.conf"
    async with (
        trio_dgram.open_socket(
            "udp4", port=0, host="127.0.0.1", proxy_protocol=["127.0.0.1"], packet_info=True
        ) as service,
        client_at(FAMILIES[0]) as ipv4,
        client_at(FAMILIES[1]) as ipv6,
    ):
        configuration.write_text(DNSDIST.format(port=port, server=service.address.port))
        async with started("dnsdist", "--supervised", "--disable-syslog", "-C", str(configuration)) as process:
            await printed(process, b"Listening on", times=2)
            ports = set()
            for number in range(3):
                for client, host in ((ipv4, "127.0.0.1"), (ipv6, "::1")):
                    await client.send(query(number), (host, port))
                    datagram = await received(service)
                    assert datagram.address == client.address
                    assert isinstance(datagram.address, ProxiedAddress)
                    ports.add(datagram.address.proxy.port)
                    assert datagram.info is not None
                    header = datagram.info.proxy_header
                    assert header is not None
                    assert (header.source, header.destination) == (client.address, (host, port))
                    assert set(header.tlvs) == {(224, b"one"), (225, b"two")}
                    answer = datagram.data[:2] + b"\x81\x80" + datagram.data[4:]
                    await service.send(datagram.reply(answer))
                    assert (await received(client)).data[:4] == struct.pack("!H", number) + b"\x81\x80"
            # Many clients share a port of dnsdist.
            assert len(ports) == 1
            assert service.statistics().proxy_refused == 0
