"""Names on the simulated network."""

from __future__ import annotations

import socket
from typing import Any, Final, Literal, TypeAlias

import attrs
import trio

from .._values.places import is_ipv6, plain

LookupFailure: TypeAlias = Literal["not found", "try again"]
"""The errors of a name lookup."""
_ERRORS: Final = {
    "not found": (socket.EAI_NONAME, "Name or service not known"),
    "try again": (socket.EAI_AGAIN, "Temporary failure in name resolution"),
}
_LOOPBACK: Final = ("127.0.0.1", "::1")


@attrs.frozen
class Answer:
    """The result of a name lookup, as configured."""

    error: LookupFailure | None = None
    delay: float = 0.0


class Resolver(trio.abc.HostnameResolver):
    """Resolves the names of the network's hosts."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        """By name, in lower case and without a dot at its end."""
        self.answers: dict[str, Answer] = {}

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Resolve a name as getaddrinfo(3) does, among the names of the network only."""
        name = canonical_name(host.decode()) if host else ""
        answer = self.answers.get(name, Answer())
        if answer.delay:
            await trio.sleep(answer.delay)
        else:
            await trio.lowlevel.checkpoint()
        addresses = _LOOPBACK if name == "localhost" else self.addresses.get(name, ())
        if not host or _is_numeric(name):
            # Trio also resolves a numeric host if the port is the name of a service.
            return socket.getaddrinfo(name or None, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        wanted = [
            address for address in addresses if family in (0, socket.AF_INET6 if is_ipv6(address) else socket.AF_INET)
        ]
        if answer.error is not None:
            raise socket.gaierror(*_ERRORS[answer.error])
        if not wanted or flags & socket.AI_NUMERICHOST:
            number, text = _ERRORS["not found"]
            raise socket.gaierror(number, f"{text}: no host of the simulated network is called {name!r}")
        numeric = flags & ~socket.AI_CANONNAME | socket.AI_NUMERICHOST
        found: list[Any] = []
        for address in wanted:
            found += socket.getaddrinfo(address, port, family, type, proto, numeric)
        if flags & socket.AI_CANONNAME:
            found[0] = (*found[0][:3], name, found[0][4])
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Return the name of a host by its address, and of a port, as getnameinfo(3) does."""
        await trio.lowlevel.checkpoint()
        host, service = socket.getnameinfo(sockaddr, flags & ~socket.NI_NAMEREQD | socket.NI_NUMERICHOST)
        if not flags & socket.NI_NUMERICHOST:
            if host in _LOOPBACK:
                return "localhost", service
            for name, addresses in self.addresses.items():
                if host in addresses:
                    return name, service
            if flags & socket.NI_NAMEREQD:
                raise socket.gaierror(*_ERRORS["not found"])
        return host, service


def _is_numeric(name: str) -> bool:
    try:
        plain(name)
    except OSError:
        return False
    return True


def canonical_name(name: str) -> str:
    """Return a name in its canonical form: DNS ignores case, and the trailing dot has no meaning here (RFC 4343)."""
    return name.lower().removesuffix(".")
