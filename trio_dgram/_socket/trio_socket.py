"""A Trio socket over a datagram socket, for libraries that take a ``trio.socket.SocketType``.

Addresses have the form that the kernel's sockets have in Python: ``(host, port)`` on IPv4, ``(host, port, flow info,
scope id)`` on IPv6, a path or the bytes of an abstract name on ``"unix"`` sockets.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import OrderedDict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, NoReturn, Self, cast

import trio

from .._codecs.families import is_literal
from .._values.addresses import Address, ProxiedAddress, UnixAddress, peer_key
from .._values.arguments import describe_value
from .._values.datagrams import Datagram, PacketInfo, info_for_reply
from .._values.errors import (
    AlreadyBoundError,
    AlreadyConnectedError,
    NotBoundError,
    NotConnectedError,
    SocketStateError,
)
from .datagram_socket import DatagramSocket
from .interrupts import defer_interrupts

_MOST_PEERS: Final = 4096
"""How many peers a socket remembers the local address of: the network chooses their number."""

_ERRNOS: Final[dict[type[SocketStateError], int]] = {
    AlreadyBoundError: errno.EINVAL,
    NotBoundError: errno.EINVAL,
    AlreadyConnectedError: errno.EISCONN,
    NotConnectedError: errno.ENOTCONN,
}
"""The errno of the kernel for each error that the state of a socket causes."""


def as_trio_socket(socket: DatagramSocket) -> trio.socket.SocketType:
    """Return a ``trio.socket.SocketType`` over a socket, for libraries that take one, such as dnspython::

        async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as socket:
            sock = trio_dgram.as_trio_socket(socket)
            await sock.sendto(b"hello", sock.getsockname())
            data, source = await sock.recvfrom(2048)

    Args:
      socket: the socket. It counts, filters and offloads as before, and may be used directly as well.

    Raises:
      TypeError: if ``socket`` is not a :class:`DatagramSocket`.

    The methods are those of Trio's datagram sockets (``trio.socket``). Addresses are those of the :mod:`socket` module:
    two items for IPv4, four for IPv6, a path for ``"unix"``. They raise :exc:`OSError` instead of the errors of this
    library, such as EBADF on a closed socket and EINVAL on one that is bound already. Differences:

    - Receiving binds an unbound socket to an automatically chosen port on all interfaces.
    - If the socket has ``packet_info``, ``sendto`` to a peer that has sent before leaves from the local address (and,
      link-local, by the interface) that the peer's latest datagram was sent to; the latest 4096 peers are remembered.
    - The source of a datagram from a proxy is a :class:`ProxiedAddress`; sending to it sends to the proxy.
    - On a connected socket ``sendto`` and ``connect`` raise EISCONN.
    - OSError(ENOTSUP): flags, ancillary data, ``shutdown``, ``dup``, ``detach``, ``wait_writable``, and sharing the
      descriptor with other processes.
    - As for :class:`DatagramSocket`, a pending ICMP error of an earlier datagram is raised by receiving, never by
      sending.

    Every async method is a cancellation point, always; a cancelled call has sent or consumed nothing.
    """
    if not isinstance(cast("object", socket), DatagramSocket):
        raise TypeError(f"socket must be a DatagramSocket, not {describe_value(socket)}")
    return TrioSocket(socket)


@defer_interrupts
class TrioSocket(trio.socket.SocketType):
    """What :func:`as_trio_socket` returns."""

    def __init__(self, datagram_socket: DatagramSocket) -> None:
        self._socket = datagram_socket
        self._descriptor = datagram_socket._descriptor  # noqa: SLF001 -- of this layer
        self._family = self._descriptor.family
        # How to reply to each peer, the one that sent last at the end.
        self._replies: OrderedDict[Any, PacketInfo] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<trio socket over {self._socket!r}>"

    @property
    def family(self) -> socket.AddressFamily:
        """The address family."""
        return self._family.family

    @property
    def type(self) -> socket.SocketKind:
        """The kind of socket: SOCK_DGRAM."""
        return socket.SOCK_DGRAM

    @property
    def proto(self) -> int:
        """The protocol number: 0, the default of the family."""
        return 0

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802 -- Trio's name
        """Whether sending was shut down: never."""
        return False

    # Without waiting

    def fileno(self) -> int:
        """Return the number of the descriptor, -1 once the socket is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; tasks that wait for it get ``trio.ClosedResourceError``."""
        self._socket.close()

    def getsockname(self) -> Any:
        """Return the local address."""
        with self._as_kernel_errors():
            return self._sockaddr(self._descriptor.local_address())

    def getpeername(self) -> Any:
        """Return the address of the peer; ENOTCONN without one."""
        with self._as_kernel_errors():
            return self._sockaddr(self._socket.remote_address)

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        """Read an option (getsockopt(2))."""
        with self._as_kernel_errors():
            return self._socket.getsockopt(level, optname, buflen or 0)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option (setsockopt(2))."""
        with self._as_kernel_errors():
            if optlen is None:
                self._socket.setsockopt(level, optname, value)
            else:
                self._socket.setsockopt(level, optname, value, optlen)

    def is_readable(self) -> bool:
        """Whether a datagram, or an error, can be received without waiting."""
        with self._as_kernel_errors():
            inbox = self._socket._inbox  # noqa: SLF001 -- of this layer
            return bool(inbox.ready) or (inbox.reader is None and inbox.pull())

    def get_inheritable(self) -> bool:
        """Whether child processes inherit the descriptor: never."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:  # noqa: FBT001 -- Trio's signature
        """Raise ENOTSUP unless ``inheritable`` is false."""
        if inheritable:
            _refuse("be inherited by other processes")

    def dup(self) -> NoReturn:
        """Raise ENOTSUP."""
        _refuse("be duplicated")

    def detach(self) -> int:
        """Raise ENOTSUP."""
        _refuse("be detached from its descriptor")

    def share(self, process_id: int, /) -> bytes:  # noqa: ARG002 -- refused in any case
        """Raise ENOTSUP."""
        _refuse("be shared with another process")

    def shutdown(self, flag: int) -> None:  # noqa: ARG002 -- refused in any case
        """Raise ENOTSUP."""
        _refuse("be shut down: close it")

    def listen(self, backlog: int = 128) -> None:  # noqa: ARG002 -- refused in any case
        """Raise EOPNOTSUPP, as for any datagram socket."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    # Awaited

    async def accept(self) -> NoReturn:
        """Raise EOPNOTSUPP, as for any datagram socket."""
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    async def wait_writable(self) -> NoReturn:
        """Raise ENOTSUP: ``send`` and ``sendto`` wait themselves."""
        await trio.lowlevel.checkpoint()
        _refuse("be waited for until it is writable: await sendto")

    async def bind(self, address: Any) -> None:
        """Bind to a local address; a name is resolved."""
        with self._as_kernel_errors():
            if self._family.is_internet:
                await self._socket.bind(await self._address(address))
            else:
                await self._socket.bind(address)

    async def connect(self, address: Any) -> None:
        """Fix the peer; a name is resolved."""
        with self._as_kernel_errors():
            await self._socket.connect(await self._address(address))

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Receive a datagram, truncated to ``buflen`` bytes."""
        return (await self.recvfrom(buflen, flags))[0]

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receive a datagram, truncated to ``bufsize`` bytes; return it with its source."""
        datagram, source = await self._receive(bufsize, flags)
        return datagram.data[:bufsize], source

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive a datagram into a buffer; return its size."""
        return (await self.recvfrom_into(buffer, nbytes, flags))[0]

    async def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a buffer; return its size and its source."""
        view = memoryview(buffer).cast("B")
        if nbytes > len(view):
            raise ValueError("nbytes is greater than the length of the buffer")
        data, source = await self.recvfrom(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data), source

    async def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        """Receive a datagram; return it with no ancillary data, MSG_TRUNC or 0, and its source."""
        if ancbufsize:
            _refuse("receive ancillary data: create it with packet_info=True and read Datagram.info")
        datagram, source = await self._receive(bufsize, flags)
        truncated = len(datagram.data) > bufsize or (datagram.info is not None and datagram.info.truncated)
        return datagram.data[:bufsize], [], socket.MSG_TRUNC if truncated else 0, source

    async def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        """Receive a datagram into several buffers; return its size and the rest of what ``recvmsg`` returns."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data, ancillary, found, source = await self.recvmsg(sum(map(len, views)), ancbufsize, flags)
        rest = data
        for view in views:
            part, rest = rest[: len(view)], rest[len(view) :]
            view[: len(part)] = part
        return len(data), ancillary, found, source

    async def send(self, data: Any, flags: int = 0, /) -> int:
        """Send a datagram to the peer; return its size."""
        return await self._send(data, flags, None)

    async def sendto(self, *args: Any) -> int:
        """Send a datagram, ``sendto(data, address)`` or ``sendto(data, flags, address)``; return its size."""
        if len(args) not in (2, 3):
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args)} given)")
        return await self._send(args[0], args[1] if len(args) == 3 else 0, args[-1])

    async def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send the joined buffers as one datagram; return its size."""
        if list(ancdata):
            _refuse("send ancillary data: send a Datagram with a PacketInfo")
        return await self._send(b"".join(map(memoryview, buffers)), flags, address)

    async def _receive(self, bufsize: int, flags: int) -> tuple[Datagram, Any]:
        """Return the next datagram and its source in the kernel's form, and remember how to reply."""
        _check_flags(flags)
        if bufsize < 0:
            raise ValueError(f"the size of the buffer must not be negative, not {bufsize}")
        with self._as_kernel_errors():
            if not self._socket._association.bound:  # noqa: SLF001 -- of this layer
                await self._socket.bind()
            datagram = await self._socket.receive()
        source = self._sockaddr(datagram.address) if datagram.address.host else None
        if datagram.info is not None:
            self._remember(self._canonical(source) if source else None, info_for_reply(datagram.info, datagram.address))
        return datagram, source

    def _remember(self, source: Any, info: PacketInfo | None) -> None:
        replies = self._replies
        if info is None:
            replies.pop(source, None)
            return
        replies[source] = info
        replies.move_to_end(source)
        if len(replies) > _MOST_PEERS:
            replies.popitem(last=False)

    async def _send(self, data: Any, flags: int, address: Any) -> int:
        _check_flags(flags)
        # A string is a payload for the library, but not for a Trio socket.
        payload = data if type(data) is bytes else bytes(memoryview(data))
        with self._as_kernel_errors():
            if address is None:
                if self._family.is_internet and self._socket._association.peer is None:  # noqa: SLF001 -- of this layer
                    raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
                await self._socket.send(payload)
                return len(payload)
            to = await self._address(address)
            info = self._replies.get(self._canonical(address)) if self._replies else None
            if info is None:
                await self._socket.send(payload, to)
            else:
                await self._socket.send(Datagram(payload, to, info))
        return len(payload)

    # Addresses

    def _sockaddr(self, address: Address) -> Any:
        """Return an address in the kernel's form."""
        if type(address) is ProxiedAddress:
            # Its class is how it is sent to the proxy.
            return address
        if isinstance(address, UnixAddress):
            return os.fsencode(address.host) if address.host.startswith("\0") else address.host
        sockaddr: Any = tuple(self._family.sockaddr(address, dual_stack=True) or address)
        return sockaddr if len(sockaddr) == 4 or self.family == socket.AF_INET else (*sockaddr, 0, 0)

    def _canonical(self, sockaddr: Any) -> Any:
        """Return ``sockaddr`` as :meth:`_sockaddr` returns it: programs leave out what is zero."""
        if type(sockaddr) is ProxiedAddress:
            return peer_key(sockaddr)
        if self.family != socket.AF_INET6:
            return tuple(sockaddr) if isinstance(sockaddr, tuple | list) else sockaddr
        host, port, *rest = sockaddr
        return (host, port, 0, rest[1] if len(rest) > 1 else 0)

    async def _address(self, sockaddr: Any) -> Any:
        """Return an address in the kernel's form as one that the socket takes."""
        if not self._family.is_internet or type(sockaddr) is ProxiedAddress:
            return sockaddr
        most = 2 if self.family == socket.AF_INET else 4
        if not isinstance(sockaddr, tuple | list) or not 2 <= len(sockaddr) <= most:
            form = "(host, port)" if most == 2 else "(host, port[, flowinfo[, scope_id]])"
            raise ValueError(f"address must be a {form} tuple, not {describe_value(sockaddr)}")
        host: Any
        host, port, *rest = sockaddr
        # Trio maps the IPv4 addresses of a name on a dual-stack socket, and takes names of services.
        flags = socket.AI_V4MAPPED if self._descriptor.dual_stack else 0
        is_name = host and not is_literal(host.partition("%")[0], self.family)
        if isinstance(port, str) or (flags and is_name and self._socket._config.lookup is None):  # noqa: SLF001 -- of this layer
            found = await trio.socket.getaddrinfo(host or None, port, self.family, self.type, 0, flags)
            host, port = (found[0][4][0] if is_name else host), found[0][4][1]
        if len(rest) > 1 and rest[1] and "%" not in host:
            host = f"{host}%{rest[1]}"
        return (host, port)

    # Errors

    @contextmanager
    def _as_kernel_errors(self) -> Generator[None]:
        """Raise errors of this library as Trio's sockets do: as an :exc:`OSError` of the kernel."""
        if self._socket.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            yield
        except SocketStateError as error:
            raise OSError(_ERRNOS[type(error)], str(error)) from None


def _check_flags(flags: int) -> None:
    if flags:
        _refuse(f"use flags: they must be 0, not {flags!r}")


def _refuse(what: str) -> NoReturn:
    raise OSError(errno.ENOTSUP, f"a Trio socket over a DatagramSocket cannot {what}")
