"""The tokens of Retry packets (RFC 9000, 8.1.2): they prove that a client receives at its address."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .._values.addresses import Address

_LIFETIME: Final = 30
"""Seconds: clients return a token at once (RFC 9000, 8.1.3)."""
_NONCE: Final = 12
_TIME: Final = 8


class RetryTokens:
    """Makes and checks tokens.

    Args:
      secret: the secret that all workers of a supervisor share, so that each accepts the tokens of the others; None for
        a key of this process.
    """

    def __init__(self, secret: bytes | None) -> None:
        material = os.urandom(32) if secret is None else secret
        self._aead = AESGCM(sha256(b"trio_dgram.quic retry" + material).digest())

    def create(self, address: Address, original_id: bytes, own_id: bytes) -> bytes:
        """Return a token for a client at ``address``, which has chosen ``original_id`` and is to use ``own_id``."""
        nonce = os.urandom(_NONCE)
        issued = int(time.time() * 1000).to_bytes(_TIME)
        return nonce + self._aead.encrypt(nonce, issued + original_id, _bound_to(address, own_id))

    def original_id_untrusted(self, token: bytes, address: Address, own_id: bytes) -> bytes | None:
        """Return the ID that the client had chosen; None if the token is not for it, or too old."""
        if len(token) <= _NONCE:
            return None
        try:
            content = self._aead.decrypt(token[:_NONCE], token[_NONCE:], _bound_to(address, own_id))
        except InvalidTag:
            return None
        age = time.time() - int.from_bytes(content[:_TIME]) / 1000
        return content[_TIME:] if age <= _LIFETIME else None


def _bound_to(address: Address, own_id: bytes) -> bytes:
    return own_id + f"{address.host} {address.port}".encode()
