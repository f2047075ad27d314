"""Answer every datagram with itself.

Try it: run this, and in another terminal `nc -u 127.0.0.1 41234`.
"""

import trio

import trio_dgram


async def echo() -> None:
    async with trio_dgram.open_socket("udp4", port=41234) as server:
        print(f"listening on {server.address}", flush=True)
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


if __name__ == "__main__":
    trio.run(echo)
