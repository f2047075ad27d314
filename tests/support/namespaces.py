"""Network namespaces: machines of a test's own, for operations that the test must not do on this one.

The test's process enters a namespace itself, in its main thread, so that it is one program with one coverage. A
socket stays in the namespace that it was made in, and a program in the one it was started in (network_namespaces(7)).
No operation in a namespace may run in a thread of Trio's: threads are kept, and would stay in the namespace. So tests
use only addresses, no names.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from .programs import find_program

CLONE_NEWNET: Final = 0x40000000
_THIS: Final = "/proc/thread-self/ns/net"
_LONGEST_WAIT: Final = 60
"""The time limit for a line of a program, in seconds."""
_MANY: Final = 2000
"""How often to ask whether the kernel has done what it does in the background."""


def run(*command: str, text: str | None = None) -> str:
    """Run a program in this namespace, ``text`` its standard input, and return what it prints."""
    program = find_program(command[0])
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, input=text)
    assert not done.returncode, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def ip(*commands: str) -> None:
    """Run commands of ip(8) in this namespace, each written as one string."""
    run("ip", "-batch", "-", text="\n".join(commands))


def sysctl(name: str, value: object) -> None:
    """Write one of this namespace's settings (sysctl(8))."""
    Path("/proc/sys", name.replace(".", "/")).write_text(str(value))


def change_namespace(name: str, *arguments: int) -> None:
    """Call unshare(2) or setns(2), which Python has from 3.12 on."""
    c_library = ctypes.CDLL(None, use_errno=True)
    if getattr(c_library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@contextmanager
def entered(namespace: int) -> Generator[None]:
    """Enter a namespace by its descriptor for the block."""
    home = os.open(_THIS, os.O_RDONLY)
    try:
        change_namespace("setns", namespace, CLONE_NEWNET)
        yield
    finally:
        change_namespace("setns", home, CLONE_NEWNET)
        os.close(home)


def make_namespace() -> int:
    """Make a network namespace whose loopback is up, and return its descriptor; closing that removes it.

    The test is skipped if this is not permitted.
    """
    home = os.open(_THIS, os.O_RDONLY)
    try:
        change_namespace("unshare", CLONE_NEWNET)
    except OSError as error:
        os.close(home)
        lacking = error.errno in (errno.ENOSYS, errno.EINVAL)
        pytest.skip(f"kernel: no network namespaces: {error}" if lacking else f"permission: {error}")
    made = os.open(_THIS, os.O_RDONLY)
    try:
        ip("link set lo up")
        for which in ("all", "default"):
            # A link has no other machines, so skip duplicate address detection.
            sysctl(f"net.ipv6.conf.{which}.accept_dad", 0)
            # Accept packets from sources without a route, as by default.
            sysctl(f"net.ipv4.conf.{which}.rp_filter", 0)
    except BaseException:
        os.close(made)
        raise
    finally:
        change_namespace("setns", home, CLONE_NEWNET)
        os.close(home)
    return made


@contextmanager
def network_namespace() -> Generator[int]:
    """Enter a new network namespace for the block; yield its descriptor."""
    inside = make_namespace()
    try:
        with entered(inside):
            yield inside
    finally:
        os.close(inside)


@attrs.frozen
class Link:
    """A veth pair between the test's namespace and another machine.

    Both ends have an IPv4 address with a broadcast address and an IPv6 address besides the link-local one, and
    know each other's Ethernet address.
    """

    number: int

    @property
    def name(self) -> str:
        """The name of the interface here."""
        return f"veth{self.number}"

    @property
    def peer_name(self) -> str:
        """The name of the interface there."""
        return f"peer{self.number}"

    @property
    def mac(self) -> str:
        """The Ethernet address of the interface here."""
        return f"02:00:00:00:{self.number:02x}:01"

    @property
    def peer_mac(self) -> str:
        """The Ethernet address of the interface there."""
        return f"02:00:00:00:{self.number:02x}:02"

    @property
    def here(self) -> dict[str, str]:
        """The addresses of the interface here, by the type of a socket."""
        return {"udp4": self.host(4, 1), "udp6": self.host(6, 1)}

    @property
    def there(self) -> dict[str, str]:
        """The addresses of the interface there, likewise."""
        return {"udp4": self.host(4, 2), "udp6": self.host(6, 2)}

    @property
    def broadcast(self) -> str:
        """The IPv4 broadcast address of this link."""
        return self.host(4, 255)

    def add_second_address(self, type_: str) -> str:
        """Add a second address to the interface here; return it.

        Args:
          type_: the type of socket that it is for.
        """
        version, length = {"udp4": (4, 24), "udp6": (6, 64)}[type_]
        host = self.host(version, 77)
        add_address(f"{host}/{length}", self.name)
        return host

    def host(self, version: int, number: int) -> str:
        """Return an address on this link: 1 is this end, 2 the other, 255 on IPv4 broadcast."""
        return f"198.18.{self.number}.{number}" if version == 4 else f"2001:db8:{self.number:x}::{number:x}"


@attrs.frozen
class Machine:
    """Another machine, which the test's own is linked to."""

    namespace: int
    home: int
    """The namespace that it is linked to."""

    @contextmanager
    def active(self) -> Generator[None]:
        """Run the block on that machine."""
        with entered(self.namespace):
            yield

    def link(self, number: int = 1, *, mtu: int = 1500, up: bool = True) -> Link:
        """Connect the two by a new pair of interfaces, ``veth`` and ``peer`` with its number.

        Args:
          number: distinguishes the names and addresses of the pairs, 1 to 255.
          mtu: the largest packet of both interfaces, in bytes.
          up: whether to switch on the interface here; the one there is on.
        """
        link = Link(number)
        name, peer = link.name, link.peer_name
        with entered(self.home):
            ip(
                f"link add {name} mtu {mtu} address {link.mac} type veth"
                f" peer name {peer} mtu {mtu} address {link.peer_mac} netns /proc/{os.getpid()}/fd/{self.namespace}"
            )
        _set_up(self.namespace, peer, link, 2, link.mac, up=True)
        _set_up(self.home, name, link, 1, link.peer_mac, up=up)
        if up:
            wait_until_up(self.home, name)
            wait_until_up(self.namespace, peer)
        return link


def _set_up(namespace: int, name: str, link: Link, number: int, neighbour: str, *, up: bool) -> None:
    other = 3 - number
    with entered(namespace):
        ip(
            f"addr add {link.host(4, number)}/24 broadcast {link.host(4, 255)} dev {name}",
            f"addr add {link.host(6, number)}/64 dev {name} nodad",
            *[f"link set {name} up"] * up,
            f"neigh add {link.host(4, other)} lladdr {neighbour} dev {name}",
            f"neigh add {link.host(6, other)} lladdr {neighbour} dev {name}",
        )


def wait_until_up(namespace: int, name: str) -> None:
    """Wait until an interface is ready and has a link-local address.

    The kernel does this in the background, and drops datagrams that are sent before.
    """

    def is_up() -> bool:
        interfaces: list[dict[str, Any]] = json.loads(run("ip", "-j", "address", "show", name))
        usable = [address["scope"] for address in interfaces[0]["addr_info"] if not address.get("tentative")]
        return interfaces[0]["operstate"] == "UP" and "link" in usable

    with entered(namespace):
        attempts = len(list(islice(iter(is_up, True), _MANY)))  # noqa: FBT003 -- what it waits for
    assert attempts < _MANY, f"{name} does not come up"


def add_address(address: str, name: str) -> None:
    """Give an interface that is up an address, written with the length of its prefix, that is reachable at once."""
    host, _, _ = address.partition("/")
    if ":" in host:
        # The kernel adds the local route in the background, and drops datagrams that are sent before.
        ip(f"addr replace {address} dev {name} nodad", f"route replace local {host} dev {name} table local")
    else:
        ip(f"addr replace {address} dev {name}")


@contextmanager
def another_machine(home: int) -> Generator[Machine]:
    """Yield a machine that can be linked to the namespace ``home``."""
    there = make_namespace()
    try:
        yield Machine(there, home)
    finally:
        os.close(there)


@attrs.frozen
class Program:
    """A program that runs in the namespace it was started in."""

    process: subprocess.Popen[bytes]

    def write(self, data: bytes) -> None:
        """Write ``data`` to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def read(self) -> bytes:
        """Return its next output; ``b""`` if it has ended."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], _LONGEST_WAIT)
        assert readable, "the program prints nothing"
        return os.read(self.process.stdout.fileno(), 65536)

    def read_line(self) -> bytes:
        """Return the rest of its next line, from any number of reads."""
        line = b""
        while not line.endswith(b"\n"):
            piece = self.read()
            assert piece, f"the program has ended after {line!r}"
            line += piece
        return line

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


@contextmanager
def program(*command: str) -> Generator[Program]:
    """Run a program for the block, errors and output in one; it is killed at the end."""
    # A killed program cannot remove its own temporary files.
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=os.environ | {"TMPDIR": folder},
        ) as process,
    ):
        try:
            yield Program(process)
        finally:
            process.kill()


@pytest.fixture
def namespace() -> Generator[int]:
    """A new network namespace that the test runs in; its descriptor."""
    with network_namespace() as inside:
        yield inside


@pytest.fixture
def machine(namespace: int) -> Generator[Machine]:
    """Another machine, without a link to the namespace that the test runs in."""
    with another_machine(namespace) as there:
        yield there


@pytest.fixture
def veth(machine: Machine) -> Link:
    """The first link between the namespace that the test runs in and another machine."""
    return machine.link()
