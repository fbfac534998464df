"""The end of a run: what failed, into a file that can be fed back, and how it went, in words."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.folder.journal import write_whole
from client.folder.plan import Entry, Plan
from client.folder.state import State
from client.folder.submitting import error_before
from client.progress import describe_count, describe_duration

FAILED_NAME: Final = "failed.jsonl"

_MOST_REASONS: Final = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. `failed` has no result, also of those `canceled`; `failed_file` is None when there are none of
    these. `seconds` is None for the rest of a run, whose pace says nothing. `reasons` are the most frequent ones with
    the number of pictures, and there are `more_reasons`.
    """

    done: int
    failed: int
    canceled: int
    files: int
    out: Path
    seconds: float | None
    written_now: int
    failed_file: Path | None
    reasons: list[tuple[str, int]]
    more_reasons: int

    @property
    def exit_code(self) -> int:
        """0 when every picture has its result, else 1."""
        return 1 if self.failed else 0

    def describe(self) -> str:
        """A few lines for a person."""
        counts = f"{self.done} done, {self.failed - self.canceled} failed"
        counts += f", {self.canceled} canceled" if self.canceled else ""
        lines = [f"{counts}: {describe_count(self.files, 'file')} in {self.out}"]
        if self.written_now and self.seconds is not None:
            pace = self.written_now / max(self.seconds, 0.001) * 60
            lines.append(f"{self.written_now} in {describe_duration(self.seconds)}, {pace:.1f} pictures per minute")
        lines += [f"  {count} × {reason}" for reason, count in self.reasons]
        if self.more_reasons:
            lines.append(f"  and {describe_count(self.more_reasons, 'more kind')} in {FAILED_NAME}")
        if self.failed_file is not None:
            again = shlex.join(["darkroom", "batch", "--manifest", str(self.failed_file), "--out", str(self.out)])
            lines.append(f"what failed is in {self.failed_file}; again: {again}")
        return "\n".join(lines)


def conclude(state: State, plan: Plan, *, seconds: float | None, written_before: int) -> Summary:
    """Write `failed.jsonl`, or take it away when nothing failed, and sum up. Raises OSError."""
    failed = list(_failures(state, plan))
    path = state.out / FAILED_NAME
    if failed:
        write_whole(path, (_line(plan, entry, error) for entry, error in failed))
    else:
        path.unlink(missing_ok=True)
    written = [outcome for outcome in state.outcomes.values() if outcome.kind == "written"]
    reasons = _reasons(failed)
    return Summary(
        done=len(written),
        failed=len(failed),
        canceled=sum(error.get("code") == "canceled" for _, error in failed),
        files=sum(len(outcome.files) for outcome in written),
        out=state.out,
        seconds=seconds,
        written_now=len(written) - written_before,
        failed_file=path if failed else None,
        reasons=reasons[:_MOST_REASONS],
        more_reasons=max(0, len(reasons) - _MOST_REASONS),
    )


def _reasons(failed: list[tuple[Entry, dict[str, Any]]]) -> list[tuple[str, int]]:
    """What was wrong with how many, the most frequent first; a picture that is alone with it is named."""
    names: dict[str, list[str]] = {}
    for entry, error in failed:
        names.setdefault(f"{error.get('code')}: {error.get('detail')}", []).append(entry.custom_id)
    often = sorted(names.items(), key=lambda one: -len(one[1]))
    return [(f"{reason} ({of[0]})" if len(of) == 1 else reason, len(of)) for reason, of in often]


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
    return {"custom_id": entry.custom_id, **plan.settings.defaults, **entry.fields, **inputs, "error": error}
