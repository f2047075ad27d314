"""A network namespace with one interface, whose packets this process reads and writes.

Source: network_namespaces(7), user_namespaces(7), and tuntap.rst of the Linux documentation.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Final

from ..._kernel.c_library import c_function
from .._values.places import INTERFACE_INDEX, INTERFACES, is_ipv6

_NEW_USER: Final = 0x10000000
_NEW_NETWORK: Final = 0x40000000
_THIS: Final = "/proc/thread-self/ns/net"
_TUN: Final = Path("/dev/net/tun")
_SET_INTERFACE: Final = 0x400454CA
"""TUNSETIFF."""
_PLAIN_PACKETS: Final = 0x1001
"""IFF_TUN | IFF_NO_PI: IP packets, without a header before them."""
_NAME: Final = INTERFACES[INTERFACE_INDEX]


class NotTriedError(Exception):
    """A run on the kernel is not possible; the message is the reason."""


class Namespace:
    """A network namespace. Its interface has no Ethernet: it carries IP packets.

    Args:
      addresses: the addresses of the interface, plain.

    Raises:
      OSError: if this system has no namespaces, or they are not permitted.
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        with _returning():
            _call("unshare", _NEW_NETWORK)
            self._descriptor = os.open(_THIS, os.O_RDONLY)
            try:
                self.interface: int = _open_interface()
                """The descriptor by which packets leave and enter, one for each read and write."""
            except BaseException:
                os.close(self._descriptor)
                raise
            try:
                _configure(addresses)
            except BaseException:
                self.close()
                raise

    @contextmanager
    def entered(self) -> Generator[None]:
        """Make sockets in the ``with`` block belong to the namespace; nothing else may run in it."""
        with _returning():
            _call("setns", self._descriptor, _NEW_NETWORK)
            yield

    def close(self) -> None:
        """Remove the namespace once no socket is left in it."""
        os.close(self.interface)
        os.close(self._descriptor)


def check_namespaces() -> None:
    """Check that hosts can be on the kernel; a process without the privilege enters a user namespace for good.

    Raises:
      NotTriedError: if they cannot.
    """
    if sys.platform != "linux":  # pragma: no cover -- other systems
        raise NotTriedError("it needs Linux")
    if which("ip") is None:
        raise NotTriedError("it needs the program ip of iproute2")
    try:
        try:
            Namespace([]).close()
        except PermissionError:  # pragma: no cover -- without privileges
            _enter_user_namespace()
            Namespace([]).close()
    except OSError as error:
        raise NotTriedError(f"it needs {_TUN}, and root or user namespaces: {error}") from None


def _enter_user_namespace() -> None:  # pragma: no cover -- without privileges
    user, group = os.geteuid(), os.getegid()
    # The process could not return to a network namespace that belongs to another user namespace.
    _call("unshare", _NEW_USER | _NEW_NETWORK)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _open_interface() -> int:
    from fcntl import ioctl  # noqa: PLC0415 -- Windows lacks it

    interface = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        ioctl(interface, _SET_INTERFACE, struct.pack("16sH22x", _NAME.encode(), _PLAIN_PACKETS))
    except BaseException:
        os.close(interface)
        raise
    return interface


def _configure(addresses: Iterable[str]) -> None:
    """Give the interface of this namespace its addresses and the routes to all others."""
    commands = ["link set lo up", f"link set {_NAME} up"]
    for address in addresses:
        if is_ipv6(address):
            # The link has no other end that could have the address, so skip its detection (RFC 4862, 5.4). The kernel
            # adds the local route in the background, and drops datagrams that arrive before.
            commands.append(f"addr add {address}/128 dev {_NAME} nodad")
            commands.append(f"route add local {address}/128 dev {_NAME} table local")
        else:
            commands.append(f"addr add {address}/32 dev {_NAME}")
    commands += [f"route add {all_} dev {_NAME}" for all_ in ("0.0.0.0/0", "::/0")]
    done = subprocess.run(
        ["ip", "-batch", "-"],  # noqa: S607 -- where the system has it
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()}")


@contextmanager
def _returning() -> Generator[None]:
    """Return to the present network namespace after the ``with`` block."""
    home = os.open(_THIS, os.O_RDONLY)
    try:
        yield
    finally:
        _call("setns", home, _NEW_NETWORK)
        os.close(home)


def _call(name: str, *arguments: int) -> None:
    """Call unshare(2) or setns(2), which Python has from 3.12 on."""
    if c_function(name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
