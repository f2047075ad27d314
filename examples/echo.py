"""Answer every datagram with itself.

Try it: run this, and in another terminal `nc -u 127.0.0.1 41234`.
"""

import argparse
import logging

import trio

import trio_dgram

log = logging.getLogger("echo")


async def echo(type_: trio_dgram.SocketType, port: int, host: str | None, proxies: list[str]) -> None:
    async with trio_dgram.open_socket(type_, port=port, host=host, proxy_protocol=proxies) as server:
        log.info("listening on %s", server.address)
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer every datagram with itself.")
    parser.add_argument("--type", choices=("udp4", "udp6"), default="udp4", help="IPv4, or IPv6 (default: %(default)s)")
    parser.add_argument("--port", type=int, default=41234, help="0 takes one that is free (default: %(default)s)")
    parser.add_argument("--host", help="an address of this machine, or its name (default: all of them)")
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="NETWORK",
        help="a balancer, such as nginx, that writes PROXY protocol headers; may be given several times",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        trio.run(echo, arguments.type, arguments.port, arguments.host, arguments.proxy)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        log.info("stopped")


if __name__ == "__main__":
    main()
