"""``trio-dgram doctor`` on this machine, in namespaces that lack something, and with faked capabilities."""

from __future__ import annotations

import json
import platform
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import trio_dgram
from trio_dgram._codecs.ancillary import SO_TIMESTAMPNS
from trio_dgram._commands import doctor, findings
from trio_dgram._commands.findings import Finding, attempt
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._workers.steering import SO_ATTACH_REUSEPORT_CBPF

from .support.commands import run_command, running
from .support.namespaces import Link, ip, sysctl

LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="kernel: not Linux")
pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif("config.getoption('--portable')", reason="kernel: doctor tries what it has"),
]


def by_name(found: Iterable[Finding]) -> dict[str, Finding]:
    return {each.name: each for each in found}


def examined(*, network: bool = False) -> dict[str, Finding]:
    return by_name(doctor.examine(network=network))


def states(found: dict[str, Finding]) -> dict[str, str]:
    return {name: each.state for name, each in found.items() if not name.startswith("interface")}


async def test_every_finding_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    async with running("doctor") as task:
        assert await task.wait() == 0
    lines = task.out.text.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "slow", "missing"}
    assert len(lines) == len(examined())
    async with running("doctor", terminal=True) as task:
        await task.wait()
    assert task.out.text.startswith("\x1b[32mok     \x1b[0m  python ")


def test_json_has_the_documented_fields() -> None:
    outcome = run_command("doctor", "--json")
    assert outcome.code == 0
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert all(list(each) == ["name", "state", "detail", "remedy"] for each in found)
    assert all(bool(each["remedy"]) == (each["state"] != "ok") for each in found)


@LINUX
def test_the_limits_of_buffers_are_those_of_the_kernel() -> None:
    found = examined()
    for name in ("rmem_max", "wmem_max"):
        limit = int(Path("/proc/sys/net/core", name).read_text())
        assert found[name].detail.startswith(f"{limit} bytes")


def test_supported_features_are_reported_as_working() -> None:
    has, found = trio_dgram.capabilities(), states(examined())
    for name, available in {
        "send offload": has.send_offload,
        "receive offload": has.receive_offload,
        "batches": has.batches,
        "drop counter": has.drop_counter,
        "reuse_port": has.reuse_port,
        "steering": has.reuse_port,
        "packet info": has.packet_info,
        "ICMP errors": has.error_queue,
        "timestamps": has.packet_info,
    }.items():
        assert (found[name] == "ok") == available, name


def test_every_interface_is_listed() -> None:
    found = examined()
    for each in trio_dgram.interfaces():
        detail = found[f"interface {each.name}"].detail
        assert ("up" if each.up else "down") in detail
        assert f"MTU {each.mtu}" in detail
        assert all(address in detail for address in each.addresses)


def test_the_portable_path_is_reported_without_its_missing_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    found = examined()
    expected = dict.fromkeys(("send offload", "receive offload", "batches"), "slow")
    expected |= dict.fromkeys(("drop counter", "packet info", "ICMP errors", "timestamps"), "missing")
    assert {name: found[name].state for name in expected} == expected
    assert all(found[name].remedy and "this system has no" in found[name].detail for name in expected)
    assert found["reuse_port"].state == found["ipv6"].state == "ok"


def test_coalescing_is_not_tried_without_segmentation() -> None:
    has = _capabilities.COMPLETE
    lacking = _capabilities.Capabilities(**{name: name != "send_offload" for name in has.__annotations__})
    found = by_name(doctor.offload(lacking))
    assert (found["send offload"].state, found["receive offload"]) == (
        "slow",
        Finding("receive offload", "ok", "UDP_GRO"),
    )


@LINUX
def test_without_a_loopback_interface_every_tried_feature_is_reported_as_missing(
    namespace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "_TIMEOUT", 0.01)
    ip("link set lo down")
    found = examined()
    assert {name for name, each in found.items() if each.state != "ok"} >= {
        "send offload",
        "receive offload",
        "reuse_port",
        "steering",
        "ipv6",
        "packet info",
        "ICMP errors",
        "timestamps",
    }
    assert "down" in found["interface lo"].detail
    assert "multicast IPv4 lo" not in found


@LINUX
def test_disabled_ipv6_is_missing(namespace: int) -> None:
    sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
    found = examined()["ipv6"]
    assert (found.state, found.detail) == ("missing", "Cannot assign requested address")
    sysctl("net.ipv6.conf.lo.disable_ipv6", found.remedy.rpartition("=")[2])
    assert examined()["ipv6"].state == "ok"


@LINUX
def test_multicast_leaves_the_machine_only_on_request(veth: Link) -> None:
    assert set(examined()) & {f"multicast IPv4 {veth.name}", f"multicast IPv6 {veth.name}"} == set()
    found = examined(network=True)
    names = [f"multicast IPv4 {veth.name}", f"multicast IPv6 {veth.name}", "multicast IPv4 lo"]
    assert [found[name].state for name in names] == ["ok"] * 3


@LINUX
def test_multicast_that_a_firewall_drops_is_missing(namespace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "_TIMEOUT", 0.01)
    monkeypatch.setattr(findings, "_GROUP", {socket.AF_INET: "127.0.0.1"})
    found = by_name(doctor.networks(trio_dgram.interfaces(), network=False))["multicast IPv4 lo"]
    assert (found.state, found.detail) == ("missing", "Invalid argument")


@pytest.mark.parametrize(
    ("system", "release", "state"),
    [
        ("Linux", "6.18.44", "ok"),
        ("Linux", "7.0.0-3-generic", "slow"),
        ("Linux", "7.0", "slow"),
        ("Linux", "7.1.4", "slow"),
        ("Linux", "7.1.5", "ok"),
        ("Linux", "unknown", "ok"),
        ("Darwin", "24.1.0", "slow"),
    ],
)
def test_known_bad_kernels_are_reported(system: str, release: str, state: str) -> None:
    found = doctor.kernel(system, release)
    assert (found.state, bool(found.remedy), release in found.detail) == (state, state != "ok", True)


def test_a_small_buffer_limit_is_reported_with_the_value_to_set() -> None:
    assert doctor.buffer_limit("rmem_max", 212992) == Finding(
        "rmem_max", "slow", "212992 bytes: bursts overflow it", "sysctl -w net.core.rmem_max=8388608"
    )
    assert doctor.buffer_limit("rmem_max", 8388608).state == "ok"


@pytest.mark.parametrize(("source", "state"), [("tsc", "ok"), ("hpet", "slow"), (None, "ok")])
def test_slow_clocks_are_reported(source: str | None, state: str) -> None:
    assert doctor.clock(source).state == state


def test_a_clock_source_may_be_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(findings, "_CLOCK_SOURCE", tmp_path / "missing")
    assert findings.clock_source() is None
    (tmp_path / "missing").write_text("tsc\n")
    assert findings.clock_source() == "tsc"


# Kernels that accept an option and do not do it


class Broken(socket.socket):
    """A socket of such a kernel."""

    def recvmsg(self, *arguments: Any) -> Any:
        data, control, flags, source = super().recvmsg(*arguments)
        return data, CONTROL if control else [], flags, source

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if option not in {104, SO_ATTACH_REUSEPORT_CBPF}:
            super().setsockopt(level, option, *value)


CONTROL: list[tuple[int, int, bytes]] = []


@LINUX
def test_an_option_without_an_effect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Broken)
    found = examined()
    assert {name: found[name].detail for name in ("receive offload", "packet info", "timestamps")} == {
        "receive offload": "received 100 bytes in one call, not 800",
        "packet info": "the datagram arrived without its local address",
        "timestamps": "the datagram arrived without a timestamp",
    }
    assert found["steering"].state == "missing"
    assert " of 64 datagrams" in found["steering"].detail


@LINUX
def test_a_timestamp_of_another_clock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = (socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("@ll", 1, 0))
    monkeypatch.setattr("tests.test_command_doctor.CONTROL", [(socket.SOL_SOCKET, 1, b""), stamp])
    monkeypatch.setattr(socket, "socket", Broken)
    assert "the kernel's clock differs from the program's by 1" in examined()["timestamps"].detail


def test_silence_is_reported_as_such() -> None:
    def silence() -> str:
        raise TimeoutError

    assert attempt("x", silence, "missing", "listen") == Finding("x", "missing", "no datagram arrived", "listen")


def test_doctor_fails_if_it_cannot_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_capabilities, "detected", None)
    monkeypatch.setattr(_capabilities, "detect", refuse)
    outcome = run_command("doctor")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "trio-dgram doctor: Too many open files\n")
