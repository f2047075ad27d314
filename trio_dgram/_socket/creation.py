"""Creating the transport of a socket from its configuration."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import trio

from .._codecs.families import UDP6
from .._kernel.compiled_calls import create_calls
from .._kernel.descriptor import Descriptor
from .._kernel.options import write_option
from .._kernel.passed_sockets import PassableSocket, Passed, registry
from .._kernel.system_socket import SharedSocket, SystemSocket
from .._values.errors import with_context
from .config import SocketConfig
from .factory_transport import FactoryCalls, FactorySocket, FactoryTransport, unsupported
from .lifetime import Lifetime
from .transport import KernelTransport, Transport


def create_transport(config: SocketConfig, lifetime: Lifetime) -> Transport:
    """Return a transport with every option set.

    Raises:
      OSError: if no socket can be created, or an option is refused; a socket that was created is closed.
    """
    if config.adopted is not None:
        with _adopted(config.adopted) as adopted:
            return _set_up(config, adopted, lifetime)
    sock = _create_socket(config)
    try:
        return _set_up(config, sock, lifetime)
    except BaseException:
        sock.close()
        raise


def _custom_factory() -> Any:
    """Return the socket factory that a program or a test has installed: Trio has no public function that returns it."""
    factory = trio.socket.set_custom_socket_factory(None)
    trio.socket.set_custom_socket_factory(factory)
    return factory


def _adopted(sock: SharedSocket) -> AbstractContextManager[Any]:
    """Return ``sock``, or what replaces it on the network of a custom factory once the block has succeeded.

    Otherwise a program on a simulated network would use the real one without a word.
    """
    replace = getattr(_custom_factory(), "replace", None)
    return nullcontext(sock) if replace is None else replace(sock)


def passed_on_port(port: int) -> list[Passed]:
    """Return the untaken passed sockets that are bound to ``port``; none where a custom socket factory is installed."""
    return registry.untaken(port) if registry.present and _custom_factory() is None else []


def _create_socket(config: SocketConfig) -> Any:
    factory = _custom_factory()
    family = config.family.family
    try:
        if factory is None:
            return (PassableSocket if registry.present else SystemSocket).create(family)
        made: Any = factory.socket(family, socket.SOCK_DGRAM, 0)
    except OSError as error:
        raise with_context(error, "create_socket", config.family.type) from None
    return made.kernel_socket() if hasattr(made, "kernel_socket") else FactorySocket(made)


def _set_up(config: SocketConfig, sock: Any, lifetime: Lifetime) -> Transport:
    family = config.family
    dual_stack = family is UDP6 and not config.ipv6_only
    if isinstance(sock, FactorySocket):
        if config.packet_info or config.icmp_errors:
            error = unsupported("report neither metadata nor ICMP errors")
            raise with_context(error, "create_socket", family.type)
        awaited = FactoryCalls(sock, family)
        descriptor = Descriptor(sock, family, awaited, dual_stack=dual_stack)
        _configure(config, descriptor)
        return FactoryTransport(descriptor, sock, awaited, lifetime)
    descriptor = Descriptor(sock, family, create_calls(sock, family), dual_stack=dual_stack)
    _configure(config, descriptor)
    return KernelTransport(descriptor, sock)


def _configure(config: SocketConfig, descriptor: Descriptor) -> None:
    try:
        _enable_features(config, descriptor)
    except OSError as error:
        with_context(error, "create_socket" if config.adopted is None else "adopt_socket", config.family.type)
        raise
    for name, value in config.kernel_options.items():
        write_option(descriptor.options, name, value)


def _enable_features(config: SocketConfig, descriptor: Descriptor) -> None:
    if config.offload:
        # A process that shares the descriptor would receive coalesced datagrams that it does not expect.
        descriptor.enable_offload(receive=config.adopted is None)
    if config.adopted is None:
        descriptor.set_up_own(ipv6_only=config.ipv6_only)
    else:
        descriptor.set_up_adopted()
    if config.packet_info:
        descriptor.enable_packet_info()
    if config.icmp_errors:
        descriptor.enable_error_queue()
    if config.reuse_address:
        descriptor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if config.reuse_port:
        descriptor.enable_reuse_port()
