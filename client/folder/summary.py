"""The end of a run: what failed, into a file that can be fed back, and how it went, in words."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.folder.journal import write_whole
from client.folder.plan import Entry, Plan
from client.folder.state import State
from client.folder.submitting import error_before
from client.progress import describe_duration

FAILED_NAME: Final = "failed.jsonl"

_MOST_REASONS: Final = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended; `failed_file` is None when nothing failed."""

    done: int
    failed: int
    files: int
    out: Path
    seconds: float
    written_now: int
    failed_file: Path | None
    reasons: list[tuple[str, int]]

    @property
    def exit_code(self) -> int:
        """0 when every picture has its result, else 1."""
        return 1 if self.failed else 0

    def describe(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.done} done, {self.failed} failed: {self.files} files in {self.out}"]
        if self.written_now:
            pace = self.written_now / max(self.seconds, 0.001) * 60
            lines.append(f"{self.written_now} in {describe_duration(self.seconds)}, {pace:.1f} pictures per minute")
        lines += [f"  {count} × {reason}" for reason, count in self.reasons]
        if self.failed_file is not None:
            lines.append(f"what failed is in {self.failed_file}; again: darkroom batch --manifest {self.failed_file} …")
        return "\n".join(lines)


def conclude(state: State, plan: Plan, *, seconds: float, written_before: int) -> Summary:
    """Write `failed.jsonl`, or take it away when nothing failed, and sum up. Raises OSError."""
    failed = list(_failures(state, plan))
    path = state.out / FAILED_NAME
    if failed:
        write_whole(path, (_line(plan, entry, error) for entry, error in failed))
    else:
        path.unlink(missing_ok=True)
    written = [outcome for outcome in state.outcomes.values() if outcome.kind == "written"]
    reasons = Counter(f"{error.get('code')}: {error.get('detail')}" for _, error in failed)
    return Summary(
        done=len(written),
        failed=len(failed),
        files=sum(len(outcome.files) for outcome in written),
        out=state.out,
        seconds=seconds,
        written_now=len(written) - written_before,
        failed_file=path if failed else None,
        reasons=reasons.most_common(_MOST_REASONS),
    )


def _failures(state: State, plan: Plan) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Every entry without a result, with the reason, in the order of the plan."""
    for entry in plan.entries:
        outcome = state.outcomes.get(entry.custom_id)
        error = (outcome.error if outcome else None) or error_before(state, entry)
        if outcome is None or outcome.kind == "failed":
            yield entry, error or {"code": "not_developed", "detail": "the batch was not developed"}


def _line(plan: Plan, entry: Entry, error: dict[str, Any]) -> dict[str, Any]:
    """A line for `--manifest`, which needs none of the options of the run."""
    sources = {"image": entry.image, "mask": entry.mask}
    inputs = {role: source.get("file", source) for role, source in sources.items() if source is not None}
    fields = {**plan.settings.defaults, **entry.fields}
    return {"custom_id": entry.custom_id, **inputs, **fields, "error": error}
