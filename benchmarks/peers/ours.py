"""trio_dgram, in the ordinary idiom."""

from __future__ import annotations

import gc
import hashlib
import secrets
import socket
import sys
import tracemalloc
from functools import partial
from time import perf_counter

import trio
import trio.testing

import trio_dgram


async def echo() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        print(server.address.port, flush=True)
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


async def batched_echo() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        print(server.address.port, flush=True)
        while True:
            await server.send_many([datagram.reply(datagram.data) for datagram in await server.receive_many()])


async def receive(server: trio_dgram.DatagramSocket, seconds: float) -> tuple[int, float]:
    await server.receive_many()
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        count += len(await server.receive_many())
    return count, elapsed


async def flood(warm_up: float, seconds: float) -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        print(server.address.port, flush=True)
        await receive(server, warm_up)
        print(*await receive(server, seconds), flush=True)


async def send(
    client: trio_dgram.DatagramSocket, datagrams: list[trio_dgram.Datagram], seconds: float
) -> tuple[int, float]:
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        await client.send_many(datagrams)
        count += len(datagrams)
    return count, elapsed


async def bulk_send(port: int, warm_up: float, seconds: float) -> None:
    async with trio_dgram.open_socket("udp4") as client:
        address = await trio_dgram.resolve("127.0.0.1", port, "udp4")
        payload = bytes(1200)
        datagrams = [trio_dgram.Datagram(payload, address) for _ in range(1000)]
        await send(client, datagrams, warm_up)
        print(*await send(client, datagrams, seconds), flush=True)


async def echo_on(sockets: int) -> None:
    async def serve(server: trio_dgram.DatagramSocket) -> None:
        async for datagram in server:
            await server.send(datagram.data, datagram.address)

    async with trio_dgram.open_nursery() as nursery:
        servers = [nursery.create_socket("udp4") for _ in range(sockets)]
        for server in servers:
            await server.bind(0, "127.0.0.1")
            nursery.start_soon(serve, server)
        print(",".join(str(server.address.port) for server in servers), flush=True)


async def echo_in_group(sockets: int) -> None:
    async with trio_dgram.open_nursery() as nursery, trio_dgram.SocketGroup() as group:
        servers = [nursery.create_socket("udp4") for _ in range(sockets)]
        for server in servers:
            await server.bind(0, "127.0.0.1")
            group.add(server)
        print(",".join(str(server.address.port) for server in servers), flush=True)
        async for server, datagram in group:
            await server.send(datagram.data, datagram.address)


async def workers(processes: int) -> None:
    from trio_dgram.workers import supervise  # noqa: PLC0415 -- only this case needs it

    async with trio.open_nursery() as nursery:
        command = [sys.executable, __file__, "worker"]
        supervisor = await nursery.start(partial(supervise, command, listen=["127.0.0.1:0"], processes=processes))
        print(supervisor.addresses[0].port, flush=True)


async def worker() -> None:
    from trio_dgram.workers import passed_sockets  # noqa: PLC0415 -- as above

    _, address = passed_sockets()[0]
    async with trio_dgram.open_socket("udp4", port=address.port, host=address.host) as server:
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


async def channels(peers: int, host: str) -> None:
    async def answer(peer: trio_dgram.DatagramChannel) -> None:
        async for data in peer:
            await peer.send(data)

    async with trio.open_nursery() as nursery:
        listeners: list[trio_dgram.DatagramListener] = await nursery.start(
            lambda task_status: trio_dgram.serve(answer, 0, host=host, max_peers=peers, task_status=task_status)
        )
        print(listeners[0].address.port, flush=True)


async def guarded() -> None:
    """Answer validated peers, until one of them sends ``enough``."""
    import resource  # noqa: PLC0415 -- Windows has none

    over = trio.Event()
    secret = secrets.token_bytes(32)

    async def answer(peer: trio_dgram.DatagramChannel) -> None:
        # Computed, not stored, so that it stays valid for a peer that was evicted.
        cookie = b"cookie" + hashlib.blake2s(repr(peer.address).encode(), key=secret).digest()
        proved = False
        async for data in peer:
            if data == cookie:
                peer.mark_validated()
                proved = True
                await peer.send(b"welcome")
            elif not proved:
                await peer.send(cookie)
            else:
                await peer.send(data)
                if data == b"enough":
                    over.set()

    async with trio.open_nursery() as nursery:
        listeners: list[trio_dgram.DatagramListener] = await nursery.start(
            lambda task_status: trio_dgram.serve(answer, 0, host="127.0.0.1", task_status=task_status)
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(listeners[0].address.port, flush=True)
        await over.wait()
        # What was sent before is to be counted, too.
        await trio.sleep(0.2)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        now = listeners[0].statistics()
        refused = now.refused + now.refused_by_filter + now.refused_by_network
        astray = now.received - (now.delivered + now.queued + now.discarded + now.dropped + refused)
        astray += now.accepted - (now.peers + now.evicted + now.expired)
        print(grown, astray, now.received, now.dropped_by_kernel or 0, now.accepted, now.evicted, flush=True)
        nursery.cancel_scope.cancel()


async def idle(sockets: int) -> None:
    async with trio_dgram.open_nursery() as nursery:
        tracemalloc.start()
        kept = [nursery.create_socket("udp4") for _ in range(sockets)]
        for server in kept:
            await server.bind(0, "127.0.0.1")
        print(tracemalloc.get_traced_memory()[0] / sockets, flush=True)
        nursery.cancel_scope.cancel()


async def idle_peers(count: int) -> None:
    async def idle(peer: trio_dgram.DatagramChannel) -> None:
        async with peer:
            while True:
                await peer.receive()

    async def nothing() -> None:
        await trio.sleep_forever()

    def memory() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    async with trio.open_nursery() as nursery:
        before = memory()
        for _ in range(count):
            nursery.start_soon(nothing)
        await trio.testing.wait_all_tasks_blocked()
        tasks = memory() - before
        nursery.cancel_scope.cancel()
    (listener,) = await trio_dgram.open_listeners(0, host="127.0.0.1", max_peers=count)
    async with listener, trio.open_nursery() as nursery:
        before = memory()
        for number in range(count):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((f"127.1.{number // 250}.{1 + number % 250}", 0))
                client.sendto(b"x", listener.address)
            nursery.start_soon(idle, await listener.accept())
        await trio.testing.wait_all_tasks_blocked()
        print((memory() - before - tasks) / count, flush=True)
        nursery.cancel_scope.cancel()


match sys.argv[1:]:
    case ["echo"]:
        trio.run(echo)
    case ["batched"]:
        trio.run(batched_echo)
    case ["flood", warm_up, seconds]:
        trio.run(flood, float(warm_up), float(seconds))
    case ["bulk", port, warm_up, seconds]:
        trio.run(bulk_send, int(port), float(warm_up), float(seconds))
    case ["sockets", sockets]:
        trio.run(echo_on, int(sockets))
    case ["group", sockets]:
        trio.run(echo_in_group, int(sockets))
    case ["workers", processes]:
        trio.run(workers, int(processes))
    case ["worker"]:
        trio.run(worker)
    case ["channels", peers, host]:
        trio.run(channels, int(peers), host)
    case ["guarded"]:
        trio.run(guarded)
    case ["idle peers", count]:
        trio.run(idle_peers, int(count))
    case ["idle", sockets]:
        trio.run(idle, int(sockets))
    case _:
        sys.exit("which case?")
