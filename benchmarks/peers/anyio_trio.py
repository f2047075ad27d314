"""anyio's UDP socket on its Trio backend."""

import sys

import anyio


async def echo() -> None:
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as server:
        print(server.extra(anyio.abc.SocketAttribute.local_port), flush=True)
        async for data, (host, port) in server:
            await server.sendto(data, host, port)


match sys.argv[1:]:
    case ["echo"]:
        anyio.run(echo, backend="trio")
    case _:
        sys.exit("which case?")
