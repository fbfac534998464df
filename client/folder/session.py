"""One run of the folder command, from its plan to its summary; or the rest of one that was ended."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from client.batch import Batch
from client.errors import ConnectionFailed, DarkroomAPIError
from client.folder.crew import Crew
from client.folder.display import Display
from client.folder.errors import FolderError
from client.folder.following import Following
from client.folder.names import ENDINGS
from client.folder.patience import Patience
from client.folder.plan import Entry, FolderOptions, Plan, files_of, make_plan, read_settings, require_source
from client.folder.state import FOLDER_NAME, Outcome, State, locked
from client.folder.submitting import end_refused, error_before, find_lost_batch, submit_batch, uploads_of
from client.folder.summary import FAILED_NAME, Summary, conclude
from client.folder.uploading import Uploading
from client.folder.writing import Writing
from client.progress import describe_count
from client.sdk import Darkroom

_MOST_IMAGES: Final = 16
_SHOWN: Final = 3
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Handed:
    """A run that does not wait: the batch, None if there was nothing to hand in, and how many files were refused."""

    batch_id: str | None
    refused: int


class Session:
    """A run. Everything it does is noted in its folder first or at once, so that `resume` goes on after any end."""

    def __init__(
        self,
        server: Darkroom,
        options: FolderOptions,
        console: Console,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._options = options
        self._console = console
        self._patience = patience
        self._clock = clock
        self._is_handed_in = False

    @property
    def is_handed_in(self) -> bool:
        """Whether the server has the batch, or may have it."""
        return self._is_handed_in

    def run(self) -> Summary | Handed:
        """Do all that is left. Raises `FolderError`, `ClientError` and OSError; then it can be resumed, unless the
        text says otherwise.
        """
        if not self._options.resume:
            require_source(self._options)
        with locked(self._options.out):
            state = State(self._options.out)
            plan = self._open(state)
            with Display(self._console, self._clock) as display:
                return self._do(state, plan, display)

    def _open(self, state: State) -> Plan:
        """The plan to follow: the one of before, or a new one."""
        options, before = self._options, state.plan
        if before is not None and options.resume:
            wrong = before.settings.differences(read_settings(options))
            if wrong:
                raise FolderError(
                    f"--resume goes on as before, but {', '.join(wrong)} differ: leave them out", exit_code=2
                )
            return before
        if before is not None and not state.is_over:
            raise FolderError(
                f"{options.out} has a batch that is not finished ({state.batch_id or 'not handed in yet'}, "
                f"{len(state.outcomes)} of {len(before.entries)} done): go on with --resume, or give another --out",
                exit_code=2,
            )
        if options.resume and options.folder is None and options.manifest is None:
            raise FolderError(f"there is nothing to resume in {options.out}", exit_code=2)
        require_source(options)
        plan = make_plan(options)
        self._require_room(plan, is_ours=before is not None)
        state.begin(plan)
        self._announce(plan)
        return plan

    def _do(self, state: State, plan: Plan, display: Display) -> Summary | Handed:
        began = self._clock()
        self._forget_damaged(state)
        before = sum(outcome.kind == "written" for outcome in state.outcomes.values())
        if not state.is_over:
            batch_id = self._hand_in(state, plan, display)
            if not self._options.wait:
                return Handed(batch_id, sum(error_before(state, entry) is not None for entry in plan.entries))
            if batch_id is not None:
                self._fetch(state, plan, batch_id, display)
        seconds = None if self._options.resume else self._clock() - began
        summary = conclude(state, plan, seconds=seconds, written_before=before)
        if not state.is_over:
            state.note_end()
        return summary

    def _hand_in(self, state: State, plan: Plan, display: Display) -> str | None:
        """The id of the batch, which is made unless it is there; None when every file was refused."""
        self._is_handed_in = state.submission is not None
        if state.batch_id is None and state.submission_is_old(files_of(plan)):
            find_lost_batch(self._server.batches, state)
        if state.batch_id is None:
            if state.submission is None:
                self._upload(state, plan, display)
            self._is_handed_in = True
            batch = submit_batch(self._server.batches, state, plan)
            if batch is not None:
                display.say(f"{batch.id}: {describe_count(batch.counts.total, 'job')}")
        return state.batch_id

    def _upload(self, state: State, plan: Plan, display: Display) -> None:
        """Send every file; those of a first round that took a day are sent once more."""
        files = list(files_of(plan))
        if not self._options.resume:
            self._require_server(state)
        self._show_uploads(state, files, display)
        if plan.settings.manifest is None and plan.settings.on_invalid != "skip":
            self._try_first(state, plan, display)
        for _ in range(_ROUNDS):
            self._show_uploads(state, files, display)
            Uploading(self._server, state, self._patience, display).send(files, self._options.concurrency)
            if all(state.fresh_copy(path) or state.sent[path].error for path in files):
                return
        raise FolderError("the pictures change or expire faster than they are sent")

    def _require_server(self, state: State) -> None:
        """Raise `FolderError` for an address where nothing is: nothing has been sent, so there is nothing to resume."""
        try:
            self._server.require_answer()
        except ConnectionFailed as error:
            state.note_end()
            raise FolderError(f"{error}; nothing was sent") from error

    def _show_uploads(self, state: State, files: Sequence[str], display: Display) -> None:
        display.show_uploads(sum(state.fresh_copy(path) is not None for path in files), len(files))

    def _try_first(self, state: State, plan: Plan, display: Display) -> None:
        """Have the first picture's job judged before the others are sent: what is wrong with it is so with all."""
        first = plan.entries[0]
        Uploading(self._server, state, self._patience, display).send(list(first.files.values()), 1)
        if error_before(state, first) is not None:
            return
        line = plan.settings.defaults | first.as_line(uploads_of(state, first))
        try:
            self._server.check({name: value for name, value in line.items() if name != "custom_id"})
        except DarkroomAPIError as error:
            end_refused(state, error)
            raise

    def _fetch(self, state: State, plan: Plan, batch_id: str, display: Display) -> None:
        entries = [entry for entry in plan.entries if error_before(state, entry) is None]
        writing = Writing(self._server, state, self._patience, display, overwrite=self._options.overwrite)

        def show(batch: Batch) -> None:
            written = sum(outcome.kind == "written" for outcome in list(state.outcomes.values()))
            display.show_batch(batch, failed_before=len(plan.entries) - len(entries), written=written)

        following = Following(self._server.batches, batch_id, entries, set(state.outcomes))
        with Crew(self._options.concurrency, self._patience) as crew:
            batch = following.follow(crew, writing.write, self._patience, show)
        if batch.status == "rejected":
            _note_rejection(state, entries, batch)

    def _forget_damaged(self, state: State) -> None:
        """Results that were written and are not there any more as they were are fetched again."""
        if state.is_over:
            return
        for custom_id, outcome in list(state.outcomes.items()):
            if any(_size(state.out / name) != size for name, size in outcome.files.items()):
                del state.outcomes[custom_id]

    def _require_room(self, plan: Plan, *, is_ours: bool) -> None:
        """Raise `FolderError` if a result would meet a file that is there."""
        if self._options.overwrite:
            return
        out = self._options.out
        there = {path.relative_to(out).as_posix() for path in out.rglob("*") if _is_result(path)}
        if not there:
            return
        met = [name for entry in plan.entries for name in _possible_names(entry.stem) if name in there]
        met += [FAILED_NAME] if FAILED_NAME in there and not is_ours else []
        if met:
            shown = ", ".join(met[:_SHOWN]) + (", …" if len(met) > _SHOWN else "")
            met_files = describe_count(len(met), "file")
            raise FolderError(
                f"{met_files} in {out} would be overwritten ({shown}): give another --out, or --overwrite",
                exit_code=2,
            )

    def _announce(self, plan: Plan) -> None:
        others = f"; {describe_count(plan.others, 'other file')} left out: no PNG, JPEG or WebP" if plan.others else ""
        pictures = describe_count(len(plan.entries), "picture")
        self._console.print(f"{pictures}{others}", markup=False, highlight=False, soft_wrap=True)


def _note_rejection(state: State, entries: Sequence[Entry], batch: Batch) -> None:
    """Of a batch of which nothing was queued: the wrong lines with their errors, the others with the reason."""
    wrong: dict[int | None, dict[str, object]] = {}
    for one in batch.errors:
        wrong.setdefault(one.get("line"), {name: value for name, value in one.items() if name != "line"})
    others = wrong.get(None, {"code": "batch_rejected", "detail": "other lines are wrong, and nothing was queued"})
    for number, entry in enumerate(entries):
        state.note_outcome(entry.custom_id, Outcome("failed", {}, wrong.get(number, others)))


def _possible_names(stem: str) -> list[str]:
    endings = sorted(set(ENDINGS.values()))
    return [f"{stem}{ending}" for ending in endings] + [
        f"{stem}-{index}{ending}" for index in range(_MOST_IMAGES) for ending in endings
    ]


def _is_result(path: Path) -> bool:
    return FOLDER_NAME not in path.parts and path.is_file()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
