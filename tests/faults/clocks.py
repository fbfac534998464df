"""Processes whose own clock is wrong: what they read as the wall clock is shifted, from the first line on."""

from pathlib import Path

# Whoever asks for the time gets another one; what counts seconds (`time.monotonic`) is no wall clock and stays.
_SITE = """
import datetime, time

_SHIFT_SECONDS = {seconds!r}
_true_time, _true_time_ns = time.time, time.time_ns
time.time = lambda: _true_time() + _SHIFT_SECONDS
time.time_ns = lambda: _true_time_ns() + int(_SHIFT_SECONDS * 1e9)


class _Like(type(datetime.datetime)):
    def __instancecheck__(cls, thing):
        return isinstance(thing, _true_datetime)


_true_datetime = datetime.datetime


class _Shifted(_true_datetime, metaclass=_Like):
    @classmethod
    def now(cls, tz=None):
        return _true_datetime.now(tz) + datetime.timedelta(seconds=_SHIFT_SECONDS)

    @classmethod
    def utcnow(cls):
        return _true_datetime.utcnow() + datetime.timedelta(seconds=_SHIFT_SECONDS)


datetime.datetime = _Shifted
"""


def shifted_clock(folder: Path, seconds: float) -> dict[str, str]:
    """The environment of a Python process whose wall clock is so many seconds ahead, or behind when negative."""
    place = folder / f"clock{seconds:+.0f}"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(_SITE.format(seconds=seconds))
    return {"PYTHONPATH": str(place)}
