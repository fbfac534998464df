"""The object store that a URL names."""

from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from common.storage.local import LocalStore
from common.storage.port import ObjectStore
from common.storage.s3 import AddressingStyle, S3Location, S3Store

_ALLOWED: Final = (
    "a store URL is file:///absolute/path or "
    "s3://[KEY:SECRET@]bucket[/prefix][?endpoint=http://host:port&region=us-east-1&style=auto|path|virtual]"
)
_STYLES: Final[dict[str, AddressingStyle]] = {"auto": "auto", "path": "path", "virtual": "virtual"}


def open_store(url: str, public_url: str | None = None) -> ObjectStore:
    """The store at `url`. A file store makes its folder; an S3 store is not contacted.

    `public_url` is the endpoint (`https://host[:port]`) at which clients reach an S3 store, when it is another. Key
    and secret in the URL are percent-encoded; without them boto3's usual chain is asked. Raises ValueError that says
    what is allowed and never repeats a secret.
    """
    if url.startswith("file://"):
        return LocalStore(_folder(url))
    if url.startswith("s3://"):
        return S3Store(parse_s3_url(url, public_url))
    raise ValueError(_ALLOWED)


def parse_s3_url(url: str, public_url: str | None = None) -> S3Location:
    """The location that an `s3://` URL names. Raises ValueError as `open_store` does."""
    parts = urlsplit(url)
    options = _options(parts)
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket or ":" in bucket or bool(parts.username) != bool(parts.password) or parts.fragment:
        raise ValueError(_ALLOWED)
    for endpoint in (options.get("endpoint"), public_url):
        if endpoint is not None and not _is_endpoint(endpoint):
            raise ValueError(f"an endpoint is http://host[:port] or https://host[:port]; {_ALLOWED}")
    style = options.get("style", "path" if "endpoint" in options else "auto")
    return S3Location(
        bucket=bucket,
        prefix=unquote(parts.path).strip("/"),
        endpoint=options.get("endpoint"),
        public_endpoint=public_url,
        region=options.get("region", "us-east-1"),
        style=_STYLES[style],
        access_key=unquote(parts.username) if parts.username else None,
        secret_key=unquote(parts.password) if parts.password else None,
    )


def _folder(url: str) -> Path:
    path = unquote(url.removeprefix("file://"))
    if not path.startswith("/"):
        raise ValueError(_ALLOWED)
    return Path(path)


def _options(parts: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    unknown = options.keys() - {"endpoint", "region", "style"}
    if unknown or len(options) != len(pairs) or options.get("style", "auto") not in _STYLES:
        raise ValueError(_ALLOWED)
    return options


def _is_endpoint(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.username)
