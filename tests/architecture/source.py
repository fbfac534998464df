"""The source as syntax trees, for the rules that a machine can keep."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "client", "common", "courier", "deploy", "sweeper", "worker")


def modules(*packages: str) -> Iterator[Path]:
    """Every Python file of the product, or of these packages."""
    for package in packages or PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> set[str]:
    """The absolute names of the modules that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def place(path: Path) -> str:
    """The file as people name it."""
    return str(path.relative_to(ROOT))
