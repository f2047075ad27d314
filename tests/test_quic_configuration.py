"""QUIC configurations: checked when they are made, before anything is opened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trio_dgram import quic
from trio_dgram._quic.configuration import client_configuration as engine_of_client

from .support.quic import client_configuration, connected, connecting, files, server_configuration, serving


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"alpn": []}, ValueError, "alpn must not be empty: QUIC needs a protocol (RFC 9001, 8.1)"),
        ({"alpn": "h3"}, TypeError, "alpn must be a sequence of strings, not 'h3' (str)"),
        ({"alpn": 5}, TypeError, "alpn must be a sequence of strings, not 5 (int)"),
        ({"alpn": [b"h3"]}, TypeError, "alpn must contain only strings, not b'h3' (bytes)"),
        ({"alpn": [""]}, ValueError, "alpn must contain names of 1 to 255 ASCII characters, not ''"),
        ({"certificate": 5}, TypeError, "certificate must be the path of a PEM file, not 5 (int)"),
        ({"certificate": "/nonexistent"}, FileNotFoundError, "/nonexistent"),
        ({"key": "key.pem"}, ValueError, "key must not be passed without certificate"),
        ({"trust": "/nonexistent"}, FileNotFoundError, "/nonexistent"),
        ({"verify": 1}, TypeError, "verify must be a bool"),
        ({"verify_clients": 1}, TypeError, "verify_clients must be a bool"),
        ({"verify_clients": True}, ValueError, "verify_clients must come with trust, the CAs that issue the"),
        ({"server_name": 5}, TypeError, "server_name must be a string"),
        ({"server_name": ""}, ValueError, "server_name must be an address or a name in ASCII (xn--...), not ''"),
        ({"server_name": "bücher.example"}, ValueError, "server_name must be an address or a name in ASCII"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout must be from 0.001 to 4294967296, not 0"),
        ({"idle_timeout": 1e30}, ValueError, "idle_timeout must be from 0.001 to 4294967296, not 1e+30"),
        ({"idle_timeout": None}, TypeError, "idle_timeout must be a number"),
        ({"keep_alive": 0}, ValueError, "keep_alive must be greater than 0, not 0"),
        ({"max_data": 1023}, ValueError, "max_data must be from 1024"),
        ({"max_stream_data": "1"}, TypeError, "max_stream_data must be an integer"),
        ({"send_window": 0}, ValueError, "send_window must be from 1"),
        ({"max_streams": 5}, TypeError, "max_streams must be two numbers, of two-way and one-way streams, not 5"),
        ({"max_streams": (1, -1)}, ValueError, "max_streams must be from 0"),
        ({"max_datagram_size": 1199}, ValueError, "max_datagram_size must be from 1200 to 65507, not 1199"),
        ({"datagrams": "yes"}, TypeError, "datagrams must be a bool"),
        ({"max_datagram_frame_size": 0}, ValueError, "max_datagram_frame_size must be from 1 to 65535, not 0"),
        ({"versions": [1]}, TypeError, "versions must be a tuple"),
        ({"versions": (3,)}, ValueError, "versions must contain 1, 2 or both, not (3,)"),
        ({"congestion": "bbr"}, ValueError, "congestion must be one of 'cubic', 'reno', not 'bbr'"),
        ({"key_log": 5}, TypeError, "key_log must be a path or a text file, not 5 (int)"),
        ({"key_log": "/"}, IsADirectoryError, "/"),
        ({"qlog": 5}, TypeError, "qlog must be"),
        ({"qlog": "/nonexistent"}, NotADirectoryError, "qlog must be a folder that exists, not '/nonexistent'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        quic.Configuration(**{"alpn": ["test"], **settings})
    assert message in str(caught.value)


def test_files_must_have_certificates_and_keys(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ValueError, match=r"trust must be a PEM file of certificates, not '.*empty.pem'"):
        client_configuration(trust=empty)
    for wrong in ({"certificate": empty}, {"key": empty}):
        with pytest.raises(ValueError, match="certificate and key must be PEM files of one pair, not"):
            server_configuration(**wrong)


def test_a_key_must_be_the_one_of_its_certificate() -> None:
    with pytest.raises(
        ValueError, match=r"of one pair, not '.*other-ca.pem', '.*key.pem': the key is not the one of the certificate"
    ):
        server_configuration(certificate=files() / "other-ca.pem")


def test_a_configuration_is_frozen_and_has_values() -> None:
    configuration = client_configuration(alpn=["h3", "hq"])
    assert configuration.alpn == ("h3", "hq")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        configuration.verify = False  # type: ignore[misc]
    assert configuration == client_configuration(alpn=("h3", "hq"))


def test_an_international_name_of_a_host_is_encoded() -> None:
    assert engine_of_client(client_configuration(), "bücher.example").server_name == "xn--bcher-kva.example"


def test_certificate_and_key_may_be_one_file(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes((files() / "cert.pem").read_bytes() + (files() / "key.pem").read_bytes())
    assert server_configuration(certificate=both, key=None).certificate == both


async def test_settings_of_aioquic_without_a_field_can_be_changed() -> None:
    configuration = client_configuration()
    configuration.engine().initial_rtt = 0.5
    async with serving() as (listener,), connecting(listener, configuration) as connection:
        assert connection._session.engine._configuration.initial_rtt == 0.5


async def test_keys_and_events_are_logged(tmp_path: Path) -> None:
    log, path = io.StringIO(), tmp_path / "keys"
    async with connected({"key_log": log, "qlog": tmp_path}, {"key_log": path}) as pair:
        await pair.client.ping()
    assert "SERVER_HANDSHAKE_TRAFFIC_SECRET" in log.getvalue()
    assert "CLIENT_TRAFFIC_SECRET_0" in path.read_text()
    assert list(tmp_path.glob("*.qlog"))


async def test_a_log_of_events_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "qlog"
    folder.mkdir()
    async with serving(configuration=server_configuration(qlog=folder)) as (listener,):
        folder.rmdir()
        for _ in range(2):
            async with connecting(listener) as connection:
                await connection.ping()
        while listener.statistics().connections:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert "was not written: [Errno 2] No such file or directory" in caplog.text
