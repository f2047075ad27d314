"""A blocking loop on Python's own socket: what the interpreter can do at best, one datagram at a time."""

import socket
import sys
from time import perf_counter


def bound() -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    return server


def echo() -> None:
    server = bound()
    while True:
        data, address = server.recvfrom(65536)
        server.sendto(data, address)


def flood(seconds: float) -> None:
    server = bound()
    server.recvfrom(65536)
    count, start = 0, perf_counter()
    while perf_counter() - start < seconds:
        server.recvfrom(65536)
        count += 1
    print(count, perf_counter() - start, flush=True)


def bulk_send(port: int, seconds: float) -> None:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    payload, address = b"x" * 1200, ("127.0.0.1", port)
    count, start = 0, perf_counter()
    while perf_counter() - start < seconds:
        for _ in range(1000):
            client.sendto(payload, address)
        count += 1000
    print(count, perf_counter() - start, flush=True)


match sys.argv[1:]:
    case ["echo"]:
        echo()
    case ["flood", seconds]:
        flood(float(seconds))
    case ["bulk", port, seconds]:
        bulk_send(int(port), float(seconds))
    case _:
        sys.exit("which case?")
