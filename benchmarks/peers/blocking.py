"""A blocking loop on Python's own socket: what the interpreter can do at best, one datagram at a time."""

from __future__ import annotations

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


def receive(server: socket.socket, seconds: float) -> tuple[int, float]:
    server.recvfrom(65536)
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        for _ in range(64):
            server.recvfrom(65536)
        count += 64
    return count, elapsed


def flood(warm_up: float, seconds: float) -> None:
    server = bound()
    receive(server, warm_up)
    print(*receive(server, seconds), flush=True)


def send(client: socket.socket, to: tuple[str, int], seconds: float) -> tuple[int, float]:
    payload = bytes(1200)
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        for _ in range(64):
            client.sendto(payload, to)
        count += 64
    return count, elapsed


def bulk_send(port: int, warm_up: float, seconds: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        send(client, ("127.0.0.1", port), warm_up)
        print(*send(client, ("127.0.0.1", port), seconds), flush=True)


match sys.argv[1:]:
    case ["echo"]:
        echo()
    case ["flood", warm_up, seconds]:
        flood(float(warm_up), float(seconds))
    case ["bulk", port, warm_up, seconds]:
        bulk_send(int(port), float(warm_up), float(seconds))
    case _:
        sys.exit("which case?")
