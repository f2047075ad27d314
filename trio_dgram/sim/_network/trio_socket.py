"""Simulated sockets with the interface of Trio's sockets."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

import trio

from .._kernel.machine_protocol import Machine
from .kernel_socket import KernelSocket
from .succession import succeeding

T = TypeVar("T")

_LARGEST: Final = 65536
"""More bytes than any datagram has."""


class SimulatedSocket(trio.socket.SocketType):
    """A datagram socket on the simulated network, with the whole interface of ``trio.socket`` for one."""

    def __init__(self, kernel_socket: KernelSocket) -> None:
        self._sock = kernel_socket
        """anyio reads the standard library's socket from this attribute."""
        self._sending_ended = False

    def kernel_socket(self) -> KernelSocket:
        """Return the synchronous socket beneath, which this library uses."""
        return self._sock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._sock)

    @property
    def family(self) -> socket.AddressFamily:
        """The address family."""
        return self._sock.family

    @property
    def type(self) -> socket.SocketKind:
        """The kind of socket: always SOCK_DGRAM."""
        return self._sock.type

    @property
    def proto(self) -> int:
        """The protocol number: 0, the family's own, UDP."""
        return self._sock.proto

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802 -- Trio's name
        """Whether ``shutdown`` has ended the sending."""
        return self._sending_ended

    # At once

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever the socket is; -1 once it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket; waiting tasks get ``trio.ClosedResourceError``."""
        self._sock.close()

    def detach(self) -> int:
        """Refuse: no descriptor works without the network."""
        _refuse("detached from its network")

    def dup(self) -> NoReturn:
        """Refuse: a simulated socket has no duplicates."""
        _refuse("duplicated")

    def share(self, process_id: int, /) -> bytes:  # noqa: ARG002 -- refused for any value
        """Refuse: other processes cannot reach the network."""
        _refuse("shared with another process")

    def listen(self, backlog: int = 0, /) -> None:  # noqa: ARG002 -- refused for any value
        """Refuse: there are only datagrams."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def get_inheritable(self) -> bool:
        """Whether child processes inherit it: never."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:  # noqa: FBT001 -- Trio's signature
        """Refuse inheritance by child processes."""
        if inheritable:
            _refuse("inherited by other processes")

    def getsockname(self) -> Any:
        """Return the local address."""
        return self._sock.getsockname()

    def getpeername(self) -> Any:
        """Return the peer's address."""
        return self._sock.getpeername()

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        """Read an option."""
        return self._sock.getsockopt(level, optname, buflen or 0)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option."""
        self._sock.setsockopt(level, optname, value, optlen or 0)

    def shutdown(self, flag: int) -> None:
        """Stop reading, sending, or both."""
        self._sock.shutdown(flag)
        if flag in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._sending_ended = True

    def is_readable(self) -> bool:
        """Whether the socket is readable now."""
        return self._sock.readable

    # Awaited

    async def wait_writable(self) -> None:
        """Wait until the socket is writable."""
        await self._sock.wait_writable()

    async def accept(self) -> NoReturn:
        """Refuse: there are only datagrams."""
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    async def bind(self, address: Any) -> None:
        """Bind to a local address; a name is resolved."""
        sockaddr = await self._resolve(address, local=True)
        await trio.lowlevel.checkpoint()
        self._sock.bind(sockaddr)

    async def connect(self, address: Any) -> None:
        """Set the peer; a name is resolved."""
        sockaddr = await self._resolve(address, local=False)
        await trio.lowlevel.checkpoint()
        self._sock.connect(sockaddr)

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Receive a datagram."""
        return await self._reading(self._sock.recv, buflen, flags)

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive a datagram into a buffer; return its size."""
        return (await self.recvfrom_into(buffer, nbytes, flags))[0]

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receive a datagram and its source address."""
        return await self._reading(self._sock.recvfrom, bufsize, flags)

    async def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a buffer; return its size and its source address."""
        view = memoryview(buffer).cast("B")[: nbytes or None]
        if flags & socket.MSG_TRUNC:
            # With MSG_TRUNC Linux returns the size of the whole datagram.
            data, _, _, source = await self.recvmsg(_LARGEST, 0, flags)
        else:
            data, source = await self.recvfrom(len(view), flags)
        view[: len(data)] = data[: len(view)]
        return len(data), source

    async def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """Receive a datagram with its control messages."""
        return await self._reading(self._sock.recvmsg, bufsize, ancbufsize, flags)

    async def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """Receive a datagram into several buffers, with its control messages."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data, *rest = await self.recvmsg(sum(map(len, views)), ancbufsize, flags)
        left = data
        for view in views:
            part, left = left[: len(view)], left[len(view) :]
            view[: len(part)] = part
        return (len(data), *rest)

    async def send(self, data: Any, flags: int = 0, /) -> int:
        """Send to the peer."""
        return await self._sending(self._sock.send, data, flags)

    async def sendto(self, *args: Any) -> int:
        """Send to an address; a name is resolved."""
        *rest, address = args
        sockaddr = await self._resolve(address, local=False)
        return await self._sending(self._sock.sendto, *rest, sockaddr)

    async def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        """Send to an address, or the peer, with control messages."""
        sockaddr = None if address is None else await self._resolve(address, local=False)
        return await self._sending(self._sock.sendmsg, list(buffers), ancdata, flags, sockaddr)

    async def _reading(self, call: Callable[..., T], *args: Any) -> T:
        return await _when_possible(self._sock.wait_readable, call, *args)

    async def _sending(self, call: Callable[..., T], *args: Any) -> T:
        return await _when_possible(self._sock.wait_writable, call, *args)

    async def _resolve(self, address: Any, *, local: bool) -> Any:
        """Return an address with a numeric host, as Trio does for its own sockets."""
        most = 2 if self.family == socket.AF_INET else 4
        if not isinstance(address, tuple) or not 2 <= len(address) <= most:
            raise ValueError(f"address should be a (host, port{', [flowinfo, [scopeid]]' if most == 4 else ''}) tuple")
        host, port = address[:2]
        if isinstance(port, int) and host is not None:
            try:
                socket.inet_pton(self.family, host)
            except (OSError, TypeError):
                pass
            else:
                return address
        flags = socket.AI_PASSIVE if local else 0
        if self.family == socket.AF_INET6 and self._sock.accepts_ipv4:
            flags |= socket.AI_V4MAPPED
        host = "255.255.255.255" if host == "<broadcast>" else host or None
        found = await trio.socket.getaddrinfo(host, port, self.family, self.type, 0, flags)
        return (*found[0][4][:2], *address[2:])


class SocketFactory(trio.abc.SocketFactory):
    """Makes the sockets of ``trio.socket.socket`` on a simulated network.

    Args:
      machine: returns the machine for the current task.
    """

    def __init__(self, machine: Callable[[], Machine]) -> None:
        self._machine = machine

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> SimulatedSocket:
        """Make a datagram socket; EPROTONOSUPPORT for any other kind."""
        if family not in (socket.AF_INET, socket.AF_INET6) or type != socket.SOCK_DGRAM:
            raise OSError(
                errno.EPROTONOSUPPORT,
                "the simulated network carries datagrams only, by sockets of AF_INET and AF_INET6, "
                f"not of family {family}, type {type}, protocol {proto}",
            )
        return SimulatedSocket(KernelSocket(self._machine(), socket.AddressFamily(family)))

    @contextmanager
    def replace(self, sock: Any) -> Generator[Any]:
        """Replace a socket that ``adopt_socket`` was given, but no AF_UNIX socket, which uses no network."""
        if sock.family == socket.AF_UNIX:
            yield sock
            return
        made = KernelSocket(self._machine(), sock.family)
        with succeeding(made, sock, "adopt_socket"):
            yield made


def _refuse(what: str) -> NoReturn:
    raise OSError(errno.ENOTSUP, f"a simulated socket cannot be {what}")


async def _when_possible(wait: Callable[[], Awaitable[None]], call: Callable[..., T], *args: Any) -> T:
    """Return the result of ``call`` once it does not block: always a checkpoint, and cancelled only before it took
    effect."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        result = call(*args)
    except BlockingIOError:
        pass
    except BaseException:
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise
    else:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return result
    # No other task runs between the end of the wait and this call, so it cannot block.
    await wait()
    return call(*args)
