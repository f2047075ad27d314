"""The configuration of connections, checked when it is made."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from copy import copy
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final, TextIO, TypeAlias, cast

import attrs
from OpenSSL import crypto

from .._services.limits import count
from .._values.arguments import check_bool, check_choice, check_integer, check_number, describe_value
from .engine import VERSIONS, make_configuration
from .packets import SMALLEST_DATAGRAM

StrPath: TypeAlias = "str | PathLike[str]"

_MOST_STREAMS: Final = 2**60
_MOST_DATA: Final = 2**62 - 1
_LONGEST_IDLE: Final = 2**32
"""More would not fit into milliseconds of 62 bits; this is 136 years."""
_LARGEST_DATAGRAM: Final = 65507
_LARGEST_FRAME: Final = 65535


def _check_alpn(_: object, attribute: attrs.Attribute[Any], value: Sequence[object]) -> None:
    if not value:
        raise ValueError(f"{attribute.name} must not be empty: QUIC needs a protocol (RFC 9001, 8.1)")
    for each in value:
        if not isinstance(each, str):
            raise TypeError(f"{attribute.name} must contain only strings, not {describe_value(each)}")
        if not (each.isascii() and 1 <= len(each) <= 255):
            raise ValueError(f"{attribute.name} must contain names of 1 to 255 ASCII characters, not {each!r}")


def _as_names(value: Sequence[str]) -> tuple[str, ...]:
    given: object = value
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise TypeError(f"alpn must be a sequence of strings, not {describe_value(value)}")
    return tuple(value)


def _check_path(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str | PathLike):
        raise TypeError(f"{attribute.name} must be the path of a PEM file, not {describe_value(value)}")


def _check_bool(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_bool(attribute.name, value)


def _check_name(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a string, not {describe_value(value)}")
    if not (value and value.isascii()):
        raise ValueError(f"{attribute.name} must be an address or a name in ASCII (xn--...), not {value!r}")


def _check_seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not check_number(attribute.name, value, 0):
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


def _check_idle_timeout(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not 0.001 <= check_number(attribute.name, value, 0) <= _LONGEST_IDLE:
        raise ValueError(f"{attribute.name} must be from 0.001 to {_LONGEST_IDLE}, not {value}")


def _check_places(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or len(cast("tuple[object, ...]", value)) != 2:
        raise TypeError(f"{attribute.name} must be two numbers, of two-way and one-way streams, not {value!r}")
    for each in cast("tuple[object, ...]", value):
        check_integer(attribute.name, each, 0, _MOST_STREAMS)


def _check_size(lowest: int, highest: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_integer(attribute.name, value, lowest, highest)

    return check


def _check_versions(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple):
        raise TypeError(f"{attribute.name} must be a tuple, not {describe_value(value)}")
    versions = cast("tuple[object, ...]", value)
    if not versions or any(each not in VERSIONS for each in versions):
        raise ValueError(f"{attribute.name} must contain 1, 2 or both, not {versions!r}")


def _check_congestion(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_choice(attribute.name, value, ("cubic", "reno"))


def _check_key_log(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str | PathLike) and not hasattr(value, "write"):
        raise TypeError(f"{attribute.name} must be a path or a text file, not {describe_value(value)}")


@attrs.frozen(kw_only=True)
class Configuration:
    """The settings of QUIC connections; one value serves any number of servers and connections::

        from trio_dgram import quic

        configuration = quic.Configuration(alpn=["example"], idle_timeout=60)

    Files are read when it is made.

    Attributes:
      alpn (Sequence[str]): the application protocols, the preferred one first (RFC 7301).
      certificate (StrPath | None): the PEM file with the certificate and those of intermediate CAs. A server needs it;
        a client presents it if the server asks. Default: None.
      key (StrPath | None): the PEM file with its private key; None if it is in ``certificate``. Default: None.
      trust (StrPath | None): the PEM file with the CAs to trust; None for the bundle of certifi, which is not the
        system's. Default: None.
      verify (bool): whether a client verifies the certificate of the server. Default: True.
      verify_clients (bool): whether a server requires a certificate of each client, issued by a CA of ``trust``.
        Default: False.
      server_name (str | None): the name or address that the certificate must be issued for; None for the host of the
        connection. Default: None.
      idle_timeout (float): the seconds without a packet from the peer after which a connection ends, from 0.001; the
        peer may request less. Default: 30.
      keep_alive (float | None): the period in seconds with which to send a PING frame (RFC 9000, 10.1.2); None for
        never. Default: None.
      max_data (int): the most received bytes of all streams of a connection that are not consumed yet. Default:
        1048576.
      max_stream_data (int): the same for one stream. Default: 262144.
      send_window (int): the number of queued bytes of one stream at which ``send_all`` waits. Default: 262144.
      max_streams (tuple[int, int]): the most two-way and the most one-way streams that the peer may have open. Default:
        (100, 0).
      max_datagram_size (int): the size of the UDP payloads to send, 1200 to 65507 bytes; the path must carry it.
        Default: 1200.
      datagrams (bool): whether to receive DATAGRAM frames (RFC 9221). Default: False.
      max_datagram_frame_size (int): the largest of them, 1 to 65535 bytes. Default: 65535.
      versions (tuple[int, ...]): the versions of QUIC, the preferred one first: 1 (RFC 9000) and 2 (RFC 9369). Default:
        (1, 2).
      congestion (str): ``"cubic"`` or ``"reno"``. Default: 'cubic'.
      key_log (StrPath | TextIO | None): the file to append the secrets of connections to, in the format of NSS, for
        Wireshark. Default: None.
      qlog (StrPath | None): the folder to write a log of each connection to, in qlog format. Default: None.

    Raises:
      TypeError, ValueError: if a value is invalid, or a file has no certificate or key.
      OSError: if a file cannot be read.
    """

    alpn: Sequence[str] = attrs.field(converter=_as_names, validator=_check_alpn)
    certificate: StrPath | None = attrs.field(default=None, validator=_check_path)
    key: StrPath | None = attrs.field(default=None, validator=_check_path)
    trust: StrPath | None = attrs.field(default=None, validator=_check_path)
    verify: bool = attrs.field(default=True, validator=_check_bool)
    verify_clients: bool = attrs.field(default=False, validator=_check_bool)
    server_name: str | None = attrs.field(default=None, validator=_check_name)
    idle_timeout: float = attrs.field(default=30, validator=_check_idle_timeout)
    keep_alive: float | None = attrs.field(default=None, validator=_check_seconds)
    max_data: int = attrs.field(default=1024 * 1024, validator=_check_size(1024, _MOST_DATA))
    max_stream_data: int = attrs.field(default=256 * 1024, validator=_check_size(1024, _MOST_DATA))
    send_window: int = attrs.field(default=256 * 1024, validator=count(_MOST_DATA))
    max_streams: tuple[int, int] = attrs.field(default=(100, 0), validator=_check_places)
    max_datagram_size: int = attrs.field(default=1200, validator=_check_size(SMALLEST_DATAGRAM, _LARGEST_DATAGRAM))
    datagrams: bool = attrs.field(default=False, validator=_check_bool)
    max_datagram_frame_size: int = attrs.field(default=_LARGEST_FRAME, validator=_check_size(1, _LARGEST_FRAME))
    versions: tuple[int, ...] = attrs.field(default=(1, 2), validator=_check_versions)
    congestion: str = attrs.field(default="cubic", validator=_check_congestion)
    key_log: StrPath | TextIO | None = attrs.field(default=None, validator=_check_key_log)
    qlog: StrPath | None = attrs.field(default=None, validator=_check_path)
    _engine: Any = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Read the files."""
        object.__setattr__(self, "_engine", self._read())

    def engine(self) -> Any:
        """Return aioquic's ``QuicConfiguration`` behind this value, to change settings that have no field here.

        Every connection starts with a copy of it.
        """
        return self._engine

    def _read(self) -> Any:
        if self.key is not None and self.certificate is None:
            raise ValueError("key must not be passed without certificate")
        if self.trust is not None:
            _check_pem("trust", fspath(self.trust))
        elif self.verify_clients:
            raise ValueError("verify_clients must come with trust, the CAs that issue the certificates of clients")
        try:
            return make_configuration(
                None if self.certificate is None else (fspath(self.certificate), fspath(self.key or self.certificate)),
                _key_log(self.key_log),
                None if self.qlog is None else _existing_folder(self.qlog),
                alpn_protocols=list(self.alpn),
                cafile=None if self.trust is None else fspath(self.trust),
                congestion_control_algorithm=self.congestion,
                idle_timeout=self.idle_timeout,
                max_data=self.max_data,
                max_datagram_frame_size=self.max_datagram_frame_size if self.datagrams else None,
                max_datagram_size=self.max_datagram_size,
                max_stream_data=self.max_stream_data,
                supported_versions=[VERSIONS[each] for each in self.versions],
                verify_mode=None if self.verify else ssl.CERT_NONE,
            )
        except (ValueError, IndexError, TypeError) as error:
            names = ", ".join(repr(fspath(each)) for each in (self.certificate, self.key) if each is not None)
            raise ValueError(f"certificate and key must be PEM files of one pair, not {names}: {error}") from error


def _key_log(value: StrPath | TextIO | None) -> TextIO | None:
    if not isinstance(value, str | PathLike):
        return value
    path = Path(value)
    with path.open("a"):
        pass
    return cast("TextIO", _Appending(path))


class _Appending:
    """A text file that is open only while a line is written, so nothing has to close it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(text)

    def flush(self) -> None:
        """Do nothing: each line is written at once."""


def _existing_folder(path: StrPath) -> str:
    if not Path(path).is_dir():
        raise NotADirectoryError(f"qlog must be a folder that exists, not {fspath(path)!r}")
    return fspath(path)


def _check_pem(name: str, path: str) -> None:
    try:
        crypto.load_certificate(crypto.FILETYPE_PEM, Path(path).read_bytes())
    except crypto.Error:
        raise ValueError(f"{name} must be a PEM file of certificates, not {path!r}") from None


def client_configuration(configuration: Configuration, host: str) -> Any:
    """Return aioquic's configuration for one connection to ``host``."""
    engine = copy(configuration.engine())
    engine.is_client = True
    name = configuration.server_name
    engine.server_name = host.partition("%")[0].encode("idna").decode("ascii") if name is None else name
    return engine


def server_configuration(configuration: Configuration) -> Any:
    """Return aioquic's configuration for the connections of a server."""
    engine = copy(configuration.engine())
    engine.is_client = False
    return engine
