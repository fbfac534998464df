"""A line of a batch's results as JSON. Pure: the base of URLs comes in."""

import json
from typing import Any, Final

from common.db.batch_results import ResultLine
from common.job_document import job_url, present_result

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def present_line(line: ResultLine, base: str) -> dict[str, Any]:
    """One line of `results`. `base` is the address of the API without the final slash."""
    url = "" if line.job_id is None else job_url(base, line.job_id)
    return {
        "line": line.line,
        "custom_id": line.custom_id,
        "job": line.job_id,
        "status": line.state,
        "images": [present_result(one, url, line.step_of(one), line.expires_at) for one in line.images],
        "error": line.error,
    }


def line_text(document: dict[str, Any]) -> bytes:
    """A document as a line of JSON Lines, its end included."""
    return _ENCODER.encode(document).encode() + b"\n"
