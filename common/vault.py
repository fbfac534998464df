"""Secrets at rest: encrypted with a key that is not in the database (Fernet: AES-128-CBC and HMAC-SHA256)."""

import hashlib
import os
import secrets
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from common.domain.errors import Unavailable
from common.settings import Settings

_FILE: Final = "secret.key"


class Vault:
    """Encrypts with the first key, decrypts with any: so keys can be replaced one after the other."""

    def __init__(self, keys: list[str]) -> None:
        self._fernet = MultiFernet([Fernet(_derived(key)) for key in keys]) if keys else None

    def encrypt(self, secret: str) -> bytes:
        """What may be stored. Raises `Unavailable` when this server has no key."""
        return self._require().encrypt(secret.encode())

    def decrypt(self, token: bytes) -> str:
        """What `encrypt` was given. Raises `Unavailable` when no key of this server fits."""
        try:
            return self._require().decrypt(token).decode()
        except InvalidToken:
            raise Unavailable("a stored secret does not open with this server's DARKROOM_SECRET_KEY") from None

    def _require(self) -> MultiFernet:
        if self._fernet is None:
            raise Unavailable("webhooks need a DARKROOM_SECRET_KEY, which this server has not been given")
        return self._fernet


def open_vault(settings: Settings) -> Vault:
    """With the keys of the settings; without any, on SQLite, with one of a file in the data folder, made if need be."""
    if settings.secret_key is not None:
        return Vault([key.strip() for key in settings.secret_key.get_secret_value().split(",") if key.strip()])
    if settings.database.startswith("sqlite"):
        return Vault([_key_in(settings.data_dir)])
    return Vault([])


def _derived(key: str) -> bytes:
    """Settings hold keys of full entropy in any spelling, Fernet wants 32 bytes."""
    return urlsafe_b64encode(hashlib.sha256(key.encode()).digest())


def _key_in(folder: Path) -> str:
    """Of several processes that start at once one makes the file; it appears whole or not at all."""
    path = folder / _FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f".{_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(own, path)
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return path.read_text().strip()
