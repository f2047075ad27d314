"""The files of docs/deploying, as the programs that they are for read them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trio_dgram
from trio_dgram.__main__ import COMMANDS
from trio_dgram._commands.command import parse
from trio_dgram._commands.console import Console

from .support.examples import EXAMPLES, Example
from .support.namespaces import Machine, ip, program, run
from .support.programs import find_program
from .test_proxy_programs import find_nginx

FILES: Final = EXAMPLES.parent / "docs" / "deploying"
UNITS: Final = sorted(FILES.glob("*.s*"))
BALANCER: Final = ("192.0.2.1", 41234)
SERVERS: Final = ("192.0.2.11", "192.0.2.12")

pytestmark = pytest.mark.programs


def test_the_systemd_units_are_valid() -> None:
    assert len(UNITS) == 4
    verify = [find_program("systemd-analyze"), "verify", "--man=no", *map(str, UNITS)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_configuration_of_dnsdist_is_valid() -> None:
    assert "OK" in run("dnsdist", "--check-config", "-C", str(FILES / "dnsdist.conf"))


# nginx


async def echoed_to(host: str) -> None:  # pragma: no cover -- only a long test calls it
    """Ask the balancer from an address until it answers."""
    async with trio_dgram.open_connection(*BALANCER, local=(host, 0)) as peer:
        async for attempt in trio_dgram.retry(timeout=0.2, attempts=8):
            with attempt:
                await peer.send(host)
                # nginx sends an empty datagram to the client of a server that refuses.
                while await peer.receive() != host.encode():
                    pass


@pytest.mark.long
async def test_nginx_distributes_clients_among_machines_and_loses_none_when_one_fails(
    machine: Machine, tmp_path: Path
) -> None:
    link = machine.link()
    ip(f"addr add {BALANCER[0]}/24 dev {link.name}")
    nginx = [*find_nginx(tmp_path), "-c", str(FILES / "nginx.conf")]
    run(*nginx, "-t")
    with ExitStack() as stack:
        with machine.active():
            ip(*[f"addr add {server}/24 dev {link.peer_name}" for server in SERVERS])
            echo = [sys.executable, str(EXAMPLES / "echo.py"), "--proxy", BALANCER[0], "--host"]
            servers = [Example(stack.enter_context(program(*echo, server))) for server in SERVERS]
        for server in servers:
            server.line_with("listening on")
        Example(stack.enter_context(program(*nginx))).line_with("event method")
        for failing in (None, servers[0]):
            if failing is not None:
                failing.end()
            async with trio.open_nursery() as nursery:
                for number in range(1, 9):
                    nursery.start_soon(echoed_to, f"127.0.0.{number}")


# Kubernetes


def kubectl(*words: str, text: str) -> dict[str, Any]:
    """Run a command of kubectl that needs no cluster on an object, and return the result."""
    subcommand, *rest = words
    done: dict[str, Any] = json.loads(
        run("kubectl", *subcommand.split(), "--local", "-f", "-", "-o", "json", *rest, text=text)
    )
    return done


def contains(whole: Any, part: Any) -> bool:
    """Whether every value of ``part`` is in ``whole``, at the same place."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def test_the_manifest_has_only_fields_that_kubernetes_has() -> None:
    documents = (FILES / "echo.yaml").read_text().split("\n---\n")
    # The first command keeps every field, the second one drops what is none of the type.
    deployment, service = (kubectl("annotate", "checked=yes", text=text) for text in documents)
    del deployment["metadata"]["annotations"], service["metadata"]["annotations"]
    assert contains(kubectl("set env", "CHECKED=yes", text=documents[0]), deployment)
    assert contains(kubectl("set selector", "app=echo", text=documents[1]), service)
    assert not contains(kubectl("set selector", "app=echo", text=documents[1]), {"spec": {"prots": []}})

    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    console = Console(sys.stdout.buffer, sys.stderr.buffer)
    _, *words = container["command"]
    workers = parse(COMMANDS[words[0]], words[1:], console)
    assert str(workers.processes) == container["resources"]["limits"]["cpu"]
    assert workers.drain_timeout < pod["terminationGracePeriodSeconds"]
    probe = container["readinessProbe"]
    _, *words = probe["exec"]["command"]
    ping = parse(COMMANDS[words[0]], words[1:], console)
    assert ping.count == 1
    assert ping.timeout < probe["timeoutSeconds"]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == ping.peer.port == container["ports"][0]["containerPort"]
