"""Identifiers: a type prefix over a UUIDv7, so that ids sort by creation time and say what they name."""

import re
import secrets
import time
from typing import Final, Literal

Kind = Literal["job", "bat", "upl", "whe", "whd", "wrk", "ten"]

_PATTERN: Final = re.compile(r"(job|bat|upl|whe|whd|wrk|ten)_[0-9a-f]{32}")


def new_id(kind: Kind) -> str:
    """A fresh id such as `job_0193…` (32 hexadecimal digits of a UUIDv7, RFC 9562 section 5.7).

    48 bits of Unix milliseconds, then version, variant and 74 random bits: unguessable and ordered to the millisecond.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{kind}_{value:032x}"


def is_id(text: str, kind: Kind) -> bool:
    """True when `text` has the shape of an id of this kind; says nothing about whether it exists."""
    return bool(_PATTERN.fullmatch(text)) and text.startswith(kind)
