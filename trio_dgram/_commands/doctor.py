"""``trio-dgram doctor``: what this machine can do, what it lacks, and the remedy."""

from __future__ import annotations

import platform
import re
import socket
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Final

import trio

from .._kernel.capabilities import Capabilities, capabilities
from .._kernel.interfaces import Interface, interfaces
from . import findings
from .command import Command
from .console import Colour, Console, escape
from .findings import Finding, State, attempt

_COLOURS: Final[dict[State, Colour]] = {"ok": "green", "slow": "yellow", "missing": "red"}
_BUFFER: Final = 8 << 20
"""What a server that must survive bursts requests, in bytes."""
_SLOW_CLOCKS: Final = ("acpi_pm", "hpet", "jiffies", "refined-jiffies", "xen")
"""Clock sources of Linux that a program cannot read without a system call."""
_BAD_KERNELS: Final = [
    # https://github.com/tailscale/tailscale/issues/19777, which names the commits.
    ((7, 0, 0), (7, 1, 4), "segmented datagrams are corrupted on some network devices", "Linux 7.1.5, or offload=False")
]
"""The first and the last release, what is wrong, and the remedy."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of ``doctor``."""
    parser.add_argument(
        "--network", action="store_true", help="try multicast on each interface too, which sends IGMP or MLD there"
    )


def examine(*, network: bool) -> Iterator[Finding]:
    """Yield a finding for each thing that is checked.

    Args:
      network: whether to send on interfaces besides loopback.

    Raises:
      OSError: if no socket can be created.
    """
    has = capabilities()
    yield Finding("python", "ok", f"{platform.python_implementation()} {platform.python_version()}")
    yield Finding("trio", "ok", f"{trio.__version__}, with trio_dgram {version('trio_dgram')}")
    yield kernel(platform.system(), platform.release())
    for name, option in ("rmem_max", socket.SO_RCVBUF), ("wmem_max", socket.SO_SNDBUF):
        yield buffer_limit(name, findings.try_buffer(option))
    yield from offload(has)
    yield _one("batches", has.batches, None, "slow", "recvmmsg(2)", "Linux, and a sandbox that allows it")
    yield _one("drop counter", has.drop_counter, None, "missing", "SO_MEMINFO", "Linux 4.12")
    share = partial(findings.try_sharing, steered=False)
    yield _one("reuse_port", has.reuse_port, share, "missing", "SO_REUSEPORT", "Linux 3.9")
    steer = partial(findings.try_sharing, steered=True)
    yield _one("steering", has.reuse_port, steer, "missing", "SO_ATTACH_REUSEPORT_CBPF", "Linux 4.5")
    yield attempt("ipv6", findings.try_ipv6, "missing", "sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    info = findings.try_packet_info
    yield _one("packet info", has.packet_info, info, "missing", "IP_PKTINFO", "Linux: replies may leave from "
               "another address than was asked")  # fmt: skip
    errors = findings.try_error_queue
    yield _one("ICMP errors", has.error_queue, errors, "missing", "IP_RECVERR", "Linux: icmp_errors=True raises")
    stamps = findings.try_timestamps
    yield _one("timestamps", has.packet_info, stamps, "missing", "SO_TIMESTAMPNS", "Linux 2.6.22")
    yield clock(findings.clock_source())
    yield from networks(interfaces(), network=network)


def _one(
    name: str,
    available: bool,  # noqa: FBT001 -- the field of Capabilities, in a table
    trial: Callable[[], str] | None,
    state: State,
    option: str,
    remedy: str,
) -> Finding:
    """Return a finding: what a trial shows if the system has the option, otherwise ``state``."""
    if not available:
        return Finding(name, state, f"this system has no {option}", remedy)
    return Finding(name, "ok", option) if trial is None else attempt(name, trial, state, remedy)


def kernel(system: str, release: str) -> Finding:
    """Return the finding about a kernel."""
    if system != "Linux":
        return Finding("kernel", "slow", f"{system} {release}: the portable calls only", "run on Linux")
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    number = tuple(int(part or 0) for part in found.groups()) if found else ()
    for first, last, reason, remedy in _BAD_KERNELS:
        if first <= number <= last:
            return Finding("kernel", "slow", f"Linux {release}: {reason}", remedy)
    return Finding("kernel", "ok", f"Linux {release}")


def buffer_limit(name: str, limit: int) -> Finding:
    """Return the finding about the largest buffer that programs may request, in bytes."""
    if limit >= _BUFFER:
        return Finding(name, "ok", f"{limit} bytes")
    return Finding(name, "slow", f"{limit} bytes: bursts overflow it", f"sysctl -w net.core.{name}={_BUFFER}")


def offload(has: Capabilities) -> Iterator[Finding]:
    """Yield the findings about segmentation and coalescing."""
    trial = partial(findings.try_offload, receive=False)
    yield _one("send offload", has.send_offload, trial, "slow", "UDP_SEGMENT", "Linux 4.18")
    # Only a segmented datagram is coalesced on loopback.
    both = partial(findings.try_offload, receive=True) if has.send_offload else None
    yield _one("receive offload", has.receive_offload, both, "slow", "UDP_GRO", "Linux 5.0")


def clock(source: str | None) -> Finding:
    """Return the finding about the clock that stamps datagrams."""
    if source in _SLOW_CLOCKS:
        return Finding("clock", "slow", f"{source}: each reading is a system call", "boot with clocksource=tsc")
    return Finding("clock", "ok", source or "not reported by this system")


def networks(found: list[Interface], *, network: bool) -> Iterator[Finding]:
    """Yield each interface, and whether multicast works on loopback or, if ``network``, on each."""
    for each in found:
        flags = ["up" if each.up else "down", *["multicast"] * each.multicast, *["loopback"] * each.loopback]
        detail = f"{', '.join(flags)}, MTU {each.mtu}: {' '.join(each.addresses) or 'no address'}"
        yield Finding(f"interface {each.name}", "ok", detail)
        if each.up and (each.loopback or (network and each.multicast)):
            remedy = f"ip link set {each.name} multicast on, and a firewall that allows it"
            for family in (socket.AF_INET,) if each.loopback else (socket.AF_INET, socket.AF_INET6):
                name = f"multicast {'IPv4' if family == socket.AF_INET else 'IPv6'} {each.name}"
                yield attempt(name, partial(findings.try_multicast, each.index, family), "missing", remedy)


async def run(arguments: Namespace, console: Console) -> int:
    """Print the findings."""
    await trio.lowlevel.checkpoint()
    for finding in examine(network=arguments.network):
        event = {"name": finding.name, "state": finding.state, "detail": finding.detail, "remedy": finding.remedy}
        state = console.paint(f"{finding.state:<7}", _COLOURS[finding.state])
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        console.emit(event, f"{state}  {finding.name:<18}  {escape(finding.detail)}{remedy}")
    return 0


COMMAND: Final = Command("doctor", "Examine what this machine can do with datagrams", add_arguments, run)
