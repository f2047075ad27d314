"""Steering: which socket of a SO_REUSEPORT group gets a datagram, by a byte of its payload.

The kernel runs a classic BPF program on the payload; what it returns is the index of a socket, in the order of binding.
An index that no socket has selects by the hash of the addresses, as without a program. It needs no privilege.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

from .settings import Steer

SO_ATTACH_REUSEPORT_CBPF: Final = 51

# linux/filter.h, linux/bpf_common.h
_LOAD_LENGTH: Final = 0x80  # BPF_LD | BPF_W | BPF_LEN
_LOAD_BYTE: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_IF_SET: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_RETURN_ACCUMULATOR: Final = 0x16  # BPF_RET | BPF_A
_HASH: Final = 0xFFFFFFFF
_LONG_HEADER: Final = 0x80
"""The bit of a QUIC packet with a long header (RFC 9000, 17.2): a handshake, whose connection id the client chose."""

Instruction = tuple[int, int, int, int]
"""The code, where to jump if true and if false, and the operand (struct sock_filter)."""


def steering_program(steer: Steer) -> list[Instruction]:
    """Return the program that selects a socket; an empty one for the kernel's hash."""
    if steer == "hash":
        return []
    offset, mask = (1, 0xFF) if steer == "quic" else steer
    by_byte = [
        # Loading a byte that is missing would end the program with index 0.
        (_LOAD_LENGTH, 0, 0, 0),
        (_JUMP_IF_GREATER, 1, 0, offset),
        (_RETURN, 0, 0, _HASH),
        (_LOAD_BYTE, 0, 0, offset),
        (_AND, 0, 0, mask),
        (_RETURN_ACCUMULATOR, 0, 0, 0),
    ]
    if steer != "quic":
        return by_byte
    return [
        *by_byte[:3],
        (_LOAD_BYTE, 0, 0, 0),
        (_JUMP_IF_SET, 0, 1, _LONG_HEADER),
        (_RETURN, 0, 0, _HASH),
        *by_byte[3:],
    ]


def attach(sock: socket.socket, steer: Steer) -> None:
    """Steer the group of ``sock``, which is complete."""
    program = steering_program(steer)
    if not program:
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    # struct sock_fprog
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(program), ctypes.addressof(code))
    )
