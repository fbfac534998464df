"""How commands fail: in one readable line, with exit code 1 for what went wrong and 2 for what was asked wrongly."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from common.settings import Settings

Extra = Literal["server", "api", "worker", "all"]

_OURS = frozenset({"api", "client", "common", "courier", "deploy", "migrations", "sweeper", "worker"})


class Failure(Exception):
    """Ends a command with this text and exit code."""

    def __init__(self, text: str, *, exit_code: Literal[1, 2] = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@contextmanager
def needs(extra: Extra) -> Iterator[None]:
    """Around the lazy imports of a command: a missing package becomes the `pip install` line that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        raise _missing(error.name, extra) from error


def require(extra: Extra, *packages: str) -> None:
    """Raises `Failure` when one of the packages that a child process will import is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise _missing(package, extra)


def _missing(package: str, extra: Extra) -> Failure:
    return Failure(f"this needs {package}, which is not installed: pip install 'darkroom[{extra}]'", exit_code=2)


def read_settings(**overrides: object) -> "Settings":
    """The settings of this machine, `overrides` that are not None first; raises `Failure` naming a wrong one."""
    with needs("server"):
        from pydantic import ValidationError

        from common.settings import load_settings
    try:
        return load_settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(_describe(tuple(one["loc"]), one["msg"]) for one in error.errors())
        raise Failure(f"settings: {wrong}", exit_code=2) from error


def _describe(location: tuple[int | str, ...], message: str) -> str:
    name = f"DARKROOM_{str(location[0]).upper()}: " if location else ""
    return name + message.removeprefix("Value error, ")
