"""What a type checker says against wrong programs. It is read by mypy and pyright, and never run.

Each line names the error that it must be; a checker that finds none there reports the comment.
"""

from __future__ import annotations

import trio

from trio_dgram import (
    Address,
    Closed,
    Datagram,
    DatagramNursery,
    DatagramSocket,
    Failure,
    Listening,
    open_socket,
    resolve,
)


def options(nursery: DatagramNursery) -> None:
    nursery.create_socket("udp5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    open_socket("tcp4", port=0)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    nursery.create_socket("udp4", mtu_discovery="always")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    nursery.create_socket(4)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    nursery.create_socket("udp4", no_such_option=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    nursery.create_socket("udp4", ttl="64")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    nursery.create_socket("udp4", True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]  # noqa: FBT003
    open_socket("udp4", 41234)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    open_socket("udp4", connect=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def properties(socket: DatagramSocket, datagram_address: Address) -> None:
    socket.ttl = "64"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    socket.broadcast = None  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    socket.address = datagram_address  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    socket.no_such_option = 1  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


async def sending(socket: DatagramSocket, datagram: Datagram) -> None:
    await socket.send(5, ("localhost", 9))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await socket.send(None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await socket.send(b"", 5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await socket.send(b"", ("localhost", "9"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await socket.send(b"", 9, "localhost")  # type: ignore[call-arg,arg-type] # pyright: ignore[reportCallIssue]
    await socket.send_many([b""])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    await socket.send_many(datagram)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    socket.send(datagram)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]


async def events(socket: DatagramSocket) -> None:
    socket.events(int)  # type: ignore[type-var] # pyright: ignore[reportCallIssue, reportArgumentType]
    socket.events(Closed())  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    socket.events(overflow="wait")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    of_failures: trio.abc.ReceiveChannel[Failure] = socket.events()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    listening: Listening = await socket.events(Failure, Closed).receive()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    await of_failures.send(listening)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def values(datagram: Datagram) -> None:
    datagram.data = b""  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    Datagram("text", ("127.0.0.1", 9))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    datagram.reply("text")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def names() -> None:
    await resolve("localhost", "9", "udp4")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await resolve("localhost", 9)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
