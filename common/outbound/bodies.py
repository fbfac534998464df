"""Bodies of answers, in pieces, without their content coding, and never more than asked for."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from common.outbound.errors import FetchFailed, FileTooLong

PIECE_BYTES: Final = 64 * 1024
_DEFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS


def decoded(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The body behind a `Content-Encoding`, in pieces that stay small however far one byte inflates.

    We ask for no coding; gzip and deflate are understood from those who do not listen. Raises `FetchFailed`
    for other codings, and for a body that is broken or cut off.
    """
    coding = coding.strip().lower()
    if coding in {"", "identity"}:
        return iter(pieces)
    if coding in _DEFLATED:
        return _inflated(pieces)
    raise FetchFailed("The answer has an unknown content coding; none, gzip and deflate are allowed.", retryable=False)


def limited(pieces: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The pieces as they are. Raises `FileTooLong` with the one that goes beyond `max_bytes` in all."""
    count = 0
    for piece in pieces:
        count += len(piece)
        if count > max_bytes:
            raise FileTooLong(max_bytes)
        yield piece


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    for piece in pieces:
        pending = piece
        while pending and not inflater.eof:
            try:
                inflated = inflater.decompress(pending, PIECE_BYTES)
            except zlib.error as error:
                raise FetchFailed("The answer is not what its content coding says.", retryable=False) from error
            pending = inflater.unconsumed_tail
            yield inflated
        if inflater.eof:
            return
    raise FetchFailed("The answer ends in the middle of its content coding.", retryable=True)
