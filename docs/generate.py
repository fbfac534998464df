"""Writes the pages that are made from the code: `python docs/generate.py`; `--check` says whether they are stale."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CheckConstraint, Index, UniqueConstraint

from api.main import create_app
from common.db.tables import metadata
from common.domain.lifecycle import INITIAL, MOVES, JobState
from common.settings import Settings

HERE = Path(__file__).parent
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def schema() -> str:
    """Every table: who writes it, its columns, and the rules that SQL keeps."""
    head = (
        "# Schema\n\nMade by `make docs` from `common/db/tables.py`; the same on PostgreSQL and SQLite. Moments are "
        "UTC by the database's own clock; ids are text with a type prefix. Sizes are bytes, lengths pixels, durations "
        "seconds unless a name says otherwise.\n"
    )
    return "\n".join([head, *(_table(table) for table in metadata.sorted_tables)])


def settings() -> str:
    """Every setting with its default and one line."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"DARKROOM_{name.upper()}"
        default = "" if field.default in (None, "") else f"`{field.default}`"
        rows.append(f"| `{variable}` | {default} | {field.description} |")
    head = (
        "# Settings\n\nMade by `make docs` from `common/settings.py`. From the environment or from `.env`; read once "
        "at start.\n"
    )
    return "\n".join([head, *rows, ""])


def lifecycle() -> str:
    """The diagram of the lifecycle, from the table of moves."""
    arrows = [f"    [*] --> {INITIAL}: submit"]
    for move in MOVES:
        arrows += [f"    {move.source} --> {target}: {move.name}" for target in move.targets]
    ends = [f"    {state} --> [*]" for state in JobState if state.is_terminal]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, *ends, "```"])


def openapi() -> str:
    """The description of the HTTP surface, as a server on loopback serves it."""
    app = create_app(Settings(_env_file=None, host="127.0.0.1", auth="none", docs=True))
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated page and what it should hold."""
    yield HERE / "schema.md", schema()
    yield HERE / "settings.md", settings()
    yield HERE / "openapi.json", openapi()
    page = HERE / "job-lifecycle.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    yield page, f"{before}{BEGIN}\n{lifecycle()}\n{END}{after}"


def _table(table: Table) -> str:
    rows = ["| Column | Type | | Meaning |", "|---|---|---|---|", *(_column(column) for column in table.columns)]
    rules = [*_rules(table), *_indexes(table)]
    return "\n".join([f"## {table.name}\n\n{table.comment}\n", *rows, "", *rules, ""])


def _column(column: Column[object]) -> str:
    marks = ["key"] if column.primary_key else []
    marks += [f"→ {key.column.table.name}" for key in column.foreign_keys]
    marks += ["null"] if column.nullable else []
    kind = column.type.compile(postgresql.dialect()).lower()
    return f"| `{column.name}` | {kind} | {', '.join(marks)} | {column.comment} |"


def _rules(table: Table) -> list[str]:
    checks = [rule for rule in table.constraints if isinstance(rule, CheckConstraint)]
    uniques = [rule for rule in table.constraints if isinstance(rule, UniqueConstraint)]
    lines = [f"- CHECK `{rule.sqltext}`" for rule in checks]
    lines += [f"- UNIQUE ({', '.join(column.name for column in rule.columns)})" for rule in uniques]
    return sorted(lines)


def _indexes(table: Table) -> list[str]:
    return sorted(_index(index) for index in table.indexes)


def _index(index: Index) -> str:
    where = index.dialect_options["postgresql"]["where"]
    condition = f" WHERE {where}" if where is not None else ""
    return f"- INDEX ({', '.join(column.name for column in index.columns)}){condition}"


def main() -> int:
    """Write the pages, or with `--check` name the stale ones. Returns the exit status."""
    stale = [page for page, text in pages() if not page.exists() or page.read_text() != text]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.name} is stale: run make docs", file=sys.stderr)
        return int(bool(stale))
    for page, text in list(pages()):
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
