"""Untrusted JSON to a Python dict: one object, no duplicate names, no NaN, bounded nesting and width."""

import json
from typing import Any, Final, NoReturn

from common.domain.errors import Refusal

MAX_MEMBERS: Final = 256
MAX_VALUES: Final = 20_000


def parse_json(data: bytes, *, most_values: int = MAX_VALUES) -> dict[str, Any]:
    """The members of one JSON object in UTF-8. Raises `Refusal` (`invalid_json`) for everything else.

    `most_values`: so many commas and brackets, in texts too, are let through.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > most_values:  # counted before they are built
        raise _invalid(f"it has more than {most_values} values")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise _invalid("it is not UTF-8") from None
    except ValueError as error:
        raise _invalid(str(error)) from None
    if not isinstance(value, dict):
        raise _invalid("it must be one JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_MEMBERS:
        raise ValueError(f"an object has more than {MAX_MEMBERS} members")
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(reason: str) -> Refusal:
    return Refusal(f"the body is not acceptable JSON: {reason}", code="invalid_json")
