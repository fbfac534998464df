"""Signatures of webhooks, as the Standard Webhooks specification 1.0 has them: HMAC-SHA256 over `id.timestamp.body`.

Standard library only, because the SDK verifies with it.
"""

import binascii
import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Final

PREFIX: Final = "whsec_"
TOLERANCE_SECONDS: Final = 300
_MIN_BYTES: Final = 24
_MAX_BYTES: Final = 64
_NEW_BYTES: Final = 32
_VERSION: Final = "v1"


class BadSignature(Exception):
    """A delivery that is not from who holds the secret, is not as it was sent, or is too old to be trusted."""


def new_secret() -> str:
    """A fresh secret of 32 random bytes, `whsec_` and base64."""
    return PREFIX + b64encode(secrets.token_bytes(_NEW_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises ValueError unless it is `whsec_` and the base64 of 24 to 64 bytes."""
    try:
        key = b64decode(secret.removeprefix(PREFIX).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if not secret.startswith(PREFIX) or not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise ValueError(f"a webhook secret is {PREFIX} and the base64 of {_MIN_BYTES} to {_MAX_BYTES} bytes")
    return key


def sign(secrets_in_use: Sequence[str], event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature for each secret, separated by spaces. `timestamp`: Unix seconds."""
    return " ".join(_signature(key_of(secret), event_id, timestamp, body) for secret in secrets_in_use)


def verify(headers: Mapping[str, str], body: bytes, secret: str, *, now: float) -> None:
    """Raises `BadSignature` unless `body` is as it was sent, by who holds `secret`, within 300 s of `now` (Unix).

    Header names are read in any case. Raises ValueError for a secret that is none.
    """
    key = key_of(secret)
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if name not in given]
    if missing:
        raise BadSignature(f"the header {missing[0]} is missing")
    stamp = given["webhook-timestamp"]
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadSignature("the header webhook-timestamp is no number of seconds")
    if abs(now - int(stamp)) > TOLERANCE_SECONDS:
        raise BadSignature(f"the delivery is more than {TOLERANCE_SECONDS} seconds from now")
    expected = _signature(key, given["webhook-id"], int(stamp), body).encode()
    offered = [one.encode() for one in given["webhook-signature"].split()]
    if not any([hmac.compare_digest(expected, one) for one in offered]):  # noqa: C419 - every one is compared
        raise BadSignature("no signature is of this secret, id, timestamp and body")


def _signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{event_id}.{timestamp}.".encode() + body
    return f"{_VERSION},{b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
