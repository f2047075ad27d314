"""Every public member of every exported class is intended and documented."""

from __future__ import annotations

import ast
import functools
import inspect
import pydoc
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, get_type_hints

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import DatagramNursery, DatagramSocket, EventChannel, Exchange, dtls, lowlevel, quic, workers
from trio_dgram._dtls.limits import DTLSLimits
from trio_dgram._kernel.options import OPTIONS
from trio_dgram._peers.limits import PeerLimits
from trio_dgram._quic.limits import QuicLimits
from trio_dgram._socket.config import SocketConfig, check_options

PACKAGES: Final = (trio_dgram, dtls, lowlevel, quic, workers)

MEMBERS: Final = {
    "trio_dgram.Address": "family host parse port",
    "trio_dgram.AddressBlockedError": "",
    "trio_dgram.AlreadyBoundError": "",
    "trio_dgram.AlreadyConnectedError": "",
    "trio_dgram.AmplificationLimitError": "",
    "trio_dgram.Capabilities": """
        batches bind_to_device compiled disconnect drop_counter error_queue multicast_all packet_info path_mtu
        receive_offload reuse_port send_offload source_membership
    """,
    "trio_dgram.ChannelOptions": "max_buffer_size overflow",
    "trio_dgram.ChannelStatistics": "delivered dropped failures_dropped queued",
    "trio_dgram.Closed": "",
    "trio_dgram.Connected": "address",
    "trio_dgram.Credentials": "gid pid uid",
    "trio_dgram.Datagram": "address data info reply",
    "trio_dgram.DatagramChannel": "aclose address close local_address mark_validated receive send statistics",
    "trio_dgram.DatagramError": "",
    "trio_dgram.DatagramListener": "accept aclose address close socket_statistics statistics",
    "trio_dgram.DatagramNursery": """
        adopt_socket cancel_scope child_tasks create_socket parent_task start start_soon trio_nursery
    """,
    "trio_dgram.DatagramSocket": """
        aclose add_membership address bind broadcast close closed connect device disconnect drop_membership dscp ecn
        events fileno getsockopt memberships mtu_discovery multicast_interface multicast_loopback multicast_ttl path_mtu
        receive receive_buffer_size receive_many receive_nowait ref rejoin_memberships remote_address send
        send_buffer_size send_many send_nowait setsockopt statistics ttl type unref
    """,
    "trio_dgram.EventChannel": "aclose close closed receive receive_nowait statistics",
    "trio_dgram.Exchange": "request statistics",
    "trio_dgram.ExchangeStatistics": "duplicates in_flight replies sent strays timeouts",
    "trio_dgram.Failure": "address error operation",
    "trio_dgram.Interface": "addresses index loopback mtu multicast name up",
    "trio_dgram.ListenerOptions": """
        accept_filter amplification_limit broadcast device dscp ecn icmp_errors idle_timeout ipv6_only lookup
        max_buffer_bytes max_buffer_size max_peers max_peers_per_network max_total_bytes mtu_discovery
        multicast_interface multicast_loopback multicast_ttl offload packet_info proxy_protocol proxy_sessions
        proxy_stream_ok proxy_versions receive_block_list receive_buffer_size reuse_address reuse_port send_block_list
        send_buffer_size ttl unvalidated_timeout
    """,
    "trio_dgram.ListenerStatistics": """
        accepted amplification_refused buffered_bytes closed delivered discarded dropped dropped_by_kernel evicted
        expired handlers_cancelled peers queued received refused refused_by_filter refused_by_network waiting
    """,
    "trio_dgram.Listening": "address",
    "trio_dgram.Membership": "group index interface source",
    "trio_dgram.NotBoundError": "",
    "trio_dgram.NotConnectedError": "",
    "trio_dgram.PacketInfo": """
        credentials dscp ecn hop_limit interface local_address proxy_header timestamp_ns truncated
    """,
    "trio_dgram.PeerOptions": """
        accept_filter amplification_limit idle_timeout max_buffer_bytes max_buffer_size max_peers max_peers_per_network
        max_total_bytes unvalidated_timeout
    """,
    "trio_dgram.PeerStatistics": "bytes_received bytes_sent dropped queued queued_bytes received validated",
    "trio_dgram.PeerUnreachable": "address icmp_code icmp_type offender operation path_mtu reason",
    "trio_dgram.ProxiedAddress": "family host parse port proxy",
    "trio_dgram.ProxyHeader": "command destination source tlvs",
    "trio_dgram.ProxyHeaderError": "",
    "trio_dgram.SendManyError": "index sent",
    "trio_dgram.SocketGroup": "aclose add close discard receive receive_many",
    "trio_dgram.SocketOptions": """
        broadcast device dscp ecn icmp_errors ipv6_only lookup mtu_discovery multicast_interface multicast_loopback
        multicast_ttl offload packet_info proxy_protocol proxy_sessions proxy_stream_ok proxy_versions
        receive_block_list receive_buffer_size reuse_address reuse_port send_block_list send_buffer_size ttl
    """,
    "trio_dgram.SocketStateError": "",
    "trio_dgram.SocketStatistics": """
        coalesced_datagrams coalesced_receives discarded_at_close dropped_by_kernel filtered kernel_drops_exact
        proxy_headers proxy_refused receive_errors received segmented_datagrams segmented_sends send_errors sent
        truncated unsplit_batches
    """,
    "trio_dgram.UnixAddress": "family host parse path port",
    "trio_dgram.dtls.CertificateError": "",
    "trio_dgram.dtls.DTLSChannel": "aclose address close local_address mark_validated receive send statistics",
    "trio_dgram.dtls.DTLSChannelStatistics": "bytes_received bytes_sent dropped received sent",
    "trio_dgram.dtls.DTLSListener": "accept aclose address close socket_statistics statistics",
    "trio_dgram.dtls.DTLSListenerOptions": """
        broadcast device dscp ecn handshake_timeout icmp_errors idle_timeout ipv6_only lookup max_buffer_bytes
        max_buffer_size max_handshakes max_peers max_peers_per_network max_total_bytes mtu_discovery multicast_interface
        multicast_loopback multicast_ttl offload packet_info proxy_protocol proxy_sessions proxy_stream_ok
        proxy_versions receive_block_list receive_buffer_size reuse_address reuse_port send_block_list send_buffer_size
        ttl
    """,
    "trio_dgram.dtls.DTLSListenerStatistics": """
        accepted closed dropped evicted expired handlers_cancelled handshakes handshakes_evicted handshakes_failed
        handshaking peers refused refused_by_network waiting
    """,
    "trio_dgram.dtls.DTLSPeerOptions": """
        handshake_timeout idle_timeout max_buffer_bytes max_buffer_size max_handshakes max_peers max_peers_per_network
        max_total_bytes
    """,
    "trio_dgram.lowlevel.ErrorRecord": "errno icmp_code icmp_type offender origin path_mtu reason",
    "trio_dgram.quic.CertificateError": "",
    "trio_dgram.quic.Closed": "application code reason remote",
    "trio_dgram.quic.Configuration": """
        alpn certificate congestion datagrams engine idle_timeout keep_alive key key_log max_data
        max_datagram_frame_size max_datagram_size max_stream_data max_streams qlog send_window server_name trust verify
        verify_clients versions
    """,
    "trio_dgram.quic.Connection": """
        accept_receive_streams accept_streams aclose address alpn close datagrams local_address open_send_stream
        open_stream peer_certificate ping rebind serve_streams statistics update_keys wait_closed
    """,
    "trio_dgram.quic.DatagramFrames": "aclose dropped max_size receive send",
    "trio_dgram.quic.HandshakeError": "code reason remote",
    "trio_dgram.quic.Listener": "accept aclose address close socket_statistics statistics",
    "trio_dgram.quic.QuicConnectionStatistics": """
        bytes_received bytes_sent congestion_window datagrams_dropped lost migrations received rtt sent streams
    """,
    "trio_dgram.quic.QuicError": "code reason remote",
    "trio_dgram.quic.QuicListenerOptions": """
        accept_filter broadcast device dscp ecn handshake_timeout icmp_errors ipv6_only lookup max_connections
        max_connections_per_network max_handshakes mtu_discovery multicast_interface multicast_loopback multicast_ttl
        offload packet_info proxy_protocol proxy_sessions proxy_stream_ok proxy_versions receive_block_list
        receive_buffer_size retry reuse_address reuse_port send_block_list send_buffer_size ttl
    """,
    "trio_dgram.quic.QuicListenerStatistics": """
        accepted closed connections handshakes handshakes_evicted handshakes_failed handshaking ignored negotiations
        refused refused_by_filter refused_by_network retries waiting
    """,
    "trio_dgram.quic.QuicPeerOptions": """
        accept_filter handshake_timeout max_connections max_connections_per_network max_handshakes retry
    """,
    "trio_dgram.quic.ReceiveStream": "aclose id receive_some stop",
    "trio_dgram.quic.SendStream": "aclose id reset send_all wait_send_all_might_not_block",
    "trio_dgram.quic.Stream": """
        aclose id receive_some reset send_all send_eof stop wait_send_all_might_not_block
    """,
    "trio_dgram.workers.Backoff": "factor healthy_after initial maximum",
    "trio_dgram.workers.Supervisor": "addresses events reload stop workers",
    "trio_dgram.workers.Worker": "dropped_by_kernel index pid queued_bytes restarts state",
    "trio_dgram.workers.WorkerEvent": "event exit_code index pid",
    "trio_dgram.workers.WorkersFailedError": "",
}
"""The members that the specification of the public API names."""

EXPORTED: Final = {
    f"{package.__name__}.{name}": getattr(package, name) for package in PACKAGES for name in package.__all__
}
CLASSES: Final = {name: value for name, value in EXPORTED.items() if inspect.isclass(value)}
NO_CONSTRUCTOR: Final = {
    DatagramSocket: "open_socket() or DatagramNursery.create_socket()",
    DatagramNursery: "open_nursery()",
    EventChannel: "DatagramSocket.events()",
    Exchange: "open_exchange()",
    dtls.DTLSChannel: "dtls.open_connection(), dtls.serve() or DTLSListener.accept()",
    quic.Connection: "quic.open_connection() or quic.serve()",
    quic.DatagramFrames: "Connection.datagrams",
    quic.Listener: "quic.serve()",
    quic.ReceiveStream: "Connection.accept_receive_streams()",
    quic.SendStream: "Connection.open_send_stream()",
    quic.Stream: "Connection.open_stream() or Connection.accept_streams()",
    workers.Supervisor: "supervise()",
}


PACKAGE: Final = Path(trio_dgram.__file__).parent


@functools.cache
def definitions() -> dict[str, ast.ClassDef]:
    """The classes of the package by name; a class shows its public module, so inspect cannot find its source."""
    return {
        node.name: node
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "sim"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


def own_classes(class_: type) -> list[type]:
    return [each for each in class_.__mro__ if each.__module__.partition(".")[0] == "trio_dgram"]


def attributes_set_by(class_: type) -> Iterator[str]:
    """Yield the names of the attributes that the methods of a class set on ``self``."""
    for node in ast.walk(definitions()[class_.__name__]):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def public_members(class_: type) -> set[str]:
    names = {name for each in own_classes(class_) for name in (*vars(each), *each.__annotations__)}
    names.update(name for each in own_classes(class_) for name in attributes_set_by(each))
    return {name for name in names if not name.startswith("_")}


def test_every_exported_class_is_in_the_table() -> None:
    assert sorted(MEMBERS) == sorted(CLASSES)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_class_has_the_public_members_of_its_specification(name: str) -> None:
    assert public_members(CLASSES[name]) == set(MEMBERS[name].split())


@pytest.mark.parametrize(("class_", "use"), NO_CONSTRUCTOR.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_class_without_a_public_constructor_names_what_to_call(class_: Any, use: str) -> None:
    message = f"{class_.__name__} has no public constructor: use {use}"
    for args in [(), (1, 2)]:
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            class_(*args)


# Fields and options

ENTRY: Final = re.compile(r"  (?P<name>\w+) \((?P<type>.+?)\): (?P<text>.*)")
DEFAULT: Final = re.compile(r"(?P<meaning>.*?) Default: (?P<default>[^ ].*)\.")
WITH_FIELDS: Final = {
    name: class_
    for name, class_ in CLASSES.items()
    if attrs.has(class_) or hasattr(class_, "_fields") or hasattr(class_, "__total__")
}
OPTIONS_OF: Final = [
    trio_dgram.SocketOptions,
    trio_dgram.ChannelOptions,
    trio_dgram.PeerOptions,
    trio_dgram.ListenerOptions,
    dtls.DTLSPeerOptions,
    dtls.DTLSListenerOptions,
    quic.QuicPeerOptions,
    quic.QuicListenerOptions,
]
ERRORS_WITH_FIELDS: Final = ["trio_dgram.PeerUnreachable", "trio_dgram.SendManyError", "trio_dgram.quic.QuicError"]


def documented_fields(class_: type) -> list[tuple[str, str, str]]:
    """Return name, type and text of each field in the section "Attributes:" of a docstring."""
    lines = inspect.cleandoc(class_.__doc__ or "").splitlines()
    entries: list[list[str]] = []
    if "Attributes:" not in lines:
        return []
    for line in lines[lines.index("Attributes:") + 1 :]:
        if not line.startswith("  "):
            break  # pragma: no cover -- the section is the last one
        if line.startswith("    "):
            entries[-1][2] += " " + line.strip()
        else:
            entry = ENTRY.fullmatch(line)
            assert entry is not None, line
            entries.append([entry["name"], entry["type"], entry["text"]])
    return [(name, type_, text) for name, type_, text in entries]


def documented_defaults(class_: type) -> dict[str, str]:
    defaults = {}
    for name, _, text in documented_fields(class_):
        found = DEFAULT.fullmatch(text)
        assert found is not None, f"{name}: {text}"
        defaults[name] = found["default"]
    return defaults


def field_names(class_: type) -> list[str]:
    """Return the names of the fields of a class, in order, without those of a base class that documents them."""
    if hasattr(class_, "_fields"):
        return list(class_._fields) if "_fields" in vars(class_) else []
    if attrs.has(class_):
        return [field.name for field in attrs.fields(class_) if field.init]
    return list(class_.__annotations__)


@pytest.mark.parametrize("name", WITH_FIELDS)
def test_every_field_is_documented_once(name: str) -> None:
    class_ = WITH_FIELDS[name]
    documented = Counter(field for field, _, _ in documented_fields(class_))
    assert documented == Counter(field_names(class_))


@pytest.mark.parametrize("name", ERRORS_WITH_FIELDS)
def test_every_attribute_of_an_error_is_documented_once(name: str) -> None:
    assert sorted(field for field, _, _ in documented_fields(CLASSES[name])) == sorted(MEMBERS[name].split())


@pytest.mark.parametrize("name", [*WITH_FIELDS, *ERRORS_WITH_FIELDS])
def test_every_field_has_a_type_and_a_meaning(name: str) -> None:
    for field, type_, text in documented_fields(CLASSES[name]):
        assert type_.strip(), field
        meaning = text.partition(" Default:")[0]
        assert len(meaning) > len(field), field
        assert meaning.endswith("."), meaning


@pytest.mark.parametrize("name", [name for name, class_ in WITH_FIELDS.items() if not hasattr(class_, "__total__")])
def test_the_documented_type_of_a_field_is_its_annotation(name: str) -> None:
    annotations = {
        field: note for each in reversed(own_classes(CLASSES[name])) for field, note in each.__annotations__.items()
    }
    for field, type_, _ in documented_fields(CLASSES[name]):
        annotation = annotations[field]
        assert type_ == (annotation if isinstance(annotation, str) else annotation.__forward_arg__)


@pytest.mark.parametrize("class_", OPTIONS_OF)
def test_the_documented_type_of_a_plain_option_is_its_annotation(class_: type) -> None:
    hints = get_type_hints(class_)
    for name, type_, _ in documented_fields(class_):
        if hints[name] in {bool, int}:
            assert type_ == hints[name].__name__, name


def test_the_documented_defaults_of_packet_info_are_the_real_ones() -> None:
    assert documented_defaults(trio_dgram.PacketInfo) == attrs.asdict(
        trio_dgram.PacketInfo(), value_serializer=lambda _instance, _field, value: repr(value)
    )


def test_the_documented_defaults_of_socket_options_are_the_real_ones() -> None:
    config = check_options("udp6", {})
    assert config == SocketConfig(family=config.family)
    assert documented_defaults(trio_dgram.SocketOptions) == {
        name: "the system's" if name in OPTIONS else repr(getattr(config, name))
        for name in trio_dgram.SocketOptions.__annotations__
    }


def test_an_option_without_a_value_is_left_to_the_system() -> None:
    assert check_options("udp6", {}).kernel_options == {}


def test_the_documented_defaults_of_channel_options_are_the_real_ones() -> None:
    parameters = inspect.signature(DatagramSocket.events).parameters
    real = {name: repr(parameters[name].default) for name in trio_dgram.ChannelOptions.__annotations__}
    assert documented_defaults(trio_dgram.ChannelOptions) == real


def test_the_documented_defaults_of_listener_options_are_the_real_ones() -> None:
    limits = PeerLimits()
    real = {name: repr(getattr(limits, name)) for name in trio_dgram.PeerOptions.__annotations__}
    assert documented_defaults(trio_dgram.PeerOptions) == real
    both = real | documented_defaults(trio_dgram.SocketOptions)
    assert documented_defaults(trio_dgram.ListenerOptions) == both
    assert list(real) == [field.name for field in attrs.fields(PeerLimits)]


def test_the_documented_defaults_of_dtls_options_are_the_real_ones() -> None:
    limits = DTLSLimits()
    real = {name: repr(getattr(limits, name)) for name in dtls.DTLSPeerOptions.__annotations__}
    assert documented_defaults(dtls.DTLSPeerOptions) == real
    both = real | documented_defaults(trio_dgram.SocketOptions)
    assert documented_defaults(dtls.DTLSListenerOptions) == both
    assert list(real) == [field.name for field in attrs.fields(DTLSLimits)]


def test_the_documented_defaults_of_quic_options_are_the_real_ones() -> None:
    limits = QuicLimits()
    real = {name: repr(getattr(limits, name)) for name in quic.QuicPeerOptions.__annotations__}
    assert documented_defaults(quic.QuicPeerOptions) == real
    both = real | documented_defaults(trio_dgram.SocketOptions)
    assert documented_defaults(quic.QuicListenerOptions) == both
    assert list(real) == [field.name for field in attrs.fields(QuicLimits)]


def test_the_documented_defaults_of_a_quic_configuration_are_the_real_ones() -> None:
    configuration = quic.Configuration(alpn=["test"])
    assert [name for name, _, _ in documented_fields(quic.Configuration)] == [
        field.name for field in attrs.fields(quic.Configuration) if field.init
    ]
    for name, _, text in documented_fields(quic.Configuration)[1:]:
        assert text.endswith(f" Default: {getattr(configuration, name)!r}."), name


# Functions, methods and properties


def callables(packages: tuple[ModuleType, ...]) -> Iterator[tuple[str, Any]]:
    """Yield every public function of some modules, and every public method of their classes."""
    for package in packages:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value):
                yield f"{package.__name__}.{name}", value
            elif inspect.isclass(value):
                for member in MEMBERS[f"{package.__name__}.{name}"].split():
                    method = inspect.getattr_static(value, member, None)
                    if isinstance(method, FunctionType | classmethod | staticmethod):
                        yield f"{package.__name__}.{name}.{member}", getattr(value, member)


ARGUMENT: Final = re.compile(r"^  (?P<name>\w+): (?P<text>.*(\n {4,}.*)*)", re.MULTILINE)
CALLABLES: Final = dict(callables(PACKAGES))


@pytest.mark.parametrize("name", CALLABLES)
def test_a_function_mentions_each_of_its_parameters(name: str) -> None:
    documentation = inspect.getdoc(CALLABLES[name])
    assert documentation
    parameters = [each for each in inspect.signature(CALLABLES[name]).parameters if each != "self"]
    undocumented = [
        each for each in parameters if not re.search(rf"^  {each}:|``{each}``", documentation, re.MULTILINE)
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", CALLABLES)
def test_the_documentation_of_an_optional_parameter_states_its_default(name: str) -> None:
    documentation = inspect.getdoc(CALLABLES[name]) or ""
    entries = {entry["name"]: entry["text"] for entry in ARGUMENT.finditer(documentation)}
    for parameter in inspect.signature(CALLABLES[name]).parameters.values():
        # nursery.start passes task_status, and other functions describe their own.
        if parameter.name in entries and parameter.default not in {parameter.empty, trio.TASK_STATUS_IGNORED}:
            stated = r"Default:|\bNone\b" if parameter.default is None else r"Default:"
            assert re.search(stated, entries[parameter.name]), parameter.name


@pytest.mark.parametrize("name", CLASSES)
def test_a_property_is_documented(name: str) -> None:
    class_ = CLASSES[name]
    for member in MEMBERS[name].split():
        static = inspect.getattr_static(class_, member, None)
        if isinstance(static, property):
            assert inspect.getdoc(static), member


@pytest.mark.parametrize("name", OPTIONS)
def test_the_property_of_an_option_shows_its_documentation(name: str) -> None:
    documentation = inspect.getdoc(inspect.getattr_static(DatagramSocket, name))
    assert documentation == f"{OPTIONS[name].doc} Type: {OPTIONS[name].type}."
    assert documentation.split()[0] in pydoc.plain(pydoc.render_doc(DatagramSocket))
