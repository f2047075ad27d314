# What native.c defines, where it is documented.

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .._codecs.families import SocketAddress
from .._values.addresses import ReceivedAddress
from .._values.datagrams import Datagram, PacketInfo

class KernelCalls:
    def __init__(
        self,
        sock: socket.socket,
        family: int,
        source_type: type[ReceivedAddress],
        send: Callable[[Any], object],
        sendto: Callable[[Any, Any], object],
        /,
    ) -> None: ...
    def receive(self, owner: object, into: deque[Datagram] | list[Datagram], limit: int, /) -> None: ...
    def send_batch(
        self, payloads: Sequence[bytes], sockaddrs: Sequence[SocketAddress | None], start: int, /
    ) -> int: ...
    def send(self, payload: bytes, /) -> object: ...
    def sendto(self, payload: bytes, sockaddr: SocketAddress, /) -> object: ...

def configure(datagram_type: type[Datagram], cached_local_info: Callable[[bytes], PacketInfo | None], /) -> None: ...
