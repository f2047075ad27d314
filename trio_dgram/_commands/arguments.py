"""Types of arguments, as argparse calls them: they return a value or raise what is wrong with the text."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from ipaddress import ip_address

import attrs

from .._values.addresses import Address, check_port

_FORM = "must be HOST:PORT or [HOST]:PORT"


def local_address(text: str) -> Address:
    """Parse ``[HOST:]PORT``; without a host all interfaces, port 0 for any."""
    return _address(text, "must be PORT, HOST:PORT or [HOST]:PORT", lowest=0)


def peer_address(text: str) -> Address:
    """Parse ``HOST:PORT``, the port from 1 to 65535."""
    return _address(text, _FORM, lowest=1)


def _address(text: str, form: str, *, lowest: int) -> Address:
    try:
        address = Address.parse(f":{text}" if text.isdigit() and not lowest else text)
    except ValueError:
        raise ArgumentTypeError(f"{form}, with a port from {lowest} to 65535, not {text!r}") from None
    try:
        check_port("port", address.port, lowest=lowest)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return address


@attrs.frozen
class Group:
    """A multicast group and the interface to join it on, if one is named."""

    host: str
    interface: str | int | None
    version: int


def group(text: str) -> Group:
    """Parse a multicast group, perhaps with ``%interface``: its name, index or address."""
    host, percent, interface = text.partition("%")
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if address is None or not address.is_multicast or bool(percent) != bool(interface):
        raise ArgumentTypeError(f"must be a multicast group, as in 224.0.0.251 or ff02::fb%eth0, not {text!r}")
    return Group(host, (int(interface) if interface.isdecimal() else interface) or None, address.version)


def positive(text: str) -> int:
    """Parse a count from 1."""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:20]) < 2**63:
        raise ArgumentTypeError(f"must be an integer from 1, not {text!r}")
    return int(text)


def duration(text: str) -> float:
    """Parse a number above 0: seconds, or a rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def hexadecimal(text: str) -> bytes:
    """Parse bytes as hexadecimal digits; white space between bytes is ignored.

    Raises:
      ValueError: if it is something else.
    """
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"must be pairs of hexadecimal digits, not {text!r}") from None


def add_families(parser: ArgumentParser) -> None:
    """Add ``-4`` and ``-6``, which select among the addresses of a name."""
    families = parser.add_mutually_exclusive_group()
    families.add_argument("-4", dest="family", action="store_const", const="udp4", help="use IPv4 only")
    families.add_argument("-6", dest="family", action="store_const", const="udp6", help="use IPv6 only")


def add_formats(parser: ArgumentParser) -> None:
    """Add the options that choose how datagrams are printed."""
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--text", action="store_true", help="print payloads as text, escaped, instead of a hexdump")
    formats.add_argument("--raw", action="store_true", help="write payloads alone, unchanged")
