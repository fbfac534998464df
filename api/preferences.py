"""What a client would like but does not insist on: the header `Prefer` (RFC 7240), of which we know `wait`."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from common.domain.errors import Invalid, Problem

MOST_WAIT_SECONDS: Final = 60
# Commas and semicolons separate, but not within quotes.
_PIECE: Final = r'((?:[^"{}]|"(?:[^"\\]|\\.)*"?)*)[{}]?'
_PREFERENCES: Final = re.compile(_PIECE.format(",", ","))
_PARAMETERS: Final = re.compile(_PIECE.format(";", ";"))
_QUOTED: Final = re.compile(r'"([^"\\]*)"')


def wait_preference(given: Sequence[str]) -> int | None:
    """The seconds of the first `wait` in the values of `Prefer`, None without one; other preferences are passed over.

    Raises `Invalid` for one that is no whole number of 1 to 60.
    """
    for name, value in _preferences(given):
        if name == "wait":
            if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= MOST_WAIT_SECONDS:
                detail = f"the preference wait is a whole number of seconds, 1 to {MOST_WAIT_SECONDS}"
                raise Invalid([Problem("/header/prefer", "validation_error", detail)])
            return int(value)
    return None


def _preferences(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for header in given:
        for preference in _PREFERENCES.findall(header):
            first = _PARAMETERS.match(preference)
            name, _, value = (first[1] if first else "").partition("=")
            quoted = _QUOTED.fullmatch(value.strip())
            yield name.strip().lower(), quoted[1] if quoted else value.strip()
