"""The programs that engines are compared with and are: each works off a backlog in this process on the same weights.

Pictures are encoded as PNG with Pillow's defaults by all of them: the plain programs encode in their loop, the engines
hand pictures to a thread, as the worker does. What encoding takes is told apart from the rest.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.plain import Plain, as_png
from benchmarks.workloads import Edit, picture
from tests.unit.worker.frames import frames_of
from worker.checkpoints.loading import parts_of
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine, Event, Failed, Finished, Prepared
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.pipelines.registry import pipeline_for

MOST_IMAGES = 16
MOST_ROWS = 32


@dataclass
class Taken:
    """What a program took for a backlog, in seconds; `cpu` is the whole process's.

    `wall` ends with the last file. `bare_wall` and `bare_cpu` are without encoding: what the program takes to have
    the last picture, with nobody encoding. `rows` are those of the passes that each job shared, as an engine tells it.
    """

    jobs: int
    wall: float = 0.0
    cpu: float = 0.0
    bare_wall: float = 0.0
    bare_cpu: float = 0.0
    rows: list[float] = field(default_factory=list)
    pictures: dict[int, Image.Image] = field(default_factory=dict, repr=False)


Program = Callable[[Sequence[Edit]], Taken]


class _Encoding:
    """Encodes pictures and adds up what that takes, here or on a thread of its own."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.thread = ThreadPoolExecutor(1)

    def encode(self, image: Image.Image) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        as_png(image)
        self.wall += time.perf_counter() - wall
        self.cpu += time.thread_time() - cpu


class _Watch:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def groups_alike(edits: Sequence[Edit], most_images: int = MOST_IMAGES) -> list[list[int]]:
    """The numbers of jobs with equal parameters, at most so many together, by when the first of them was queued."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, edit in enumerate(edits):
        alike.setdefault(edit.parameters, []).append(number)
    return [
        numbers[start : start + most_images]
        for numbers in alike.values()
        for start in range(0, len(numbers), most_images)
    ]


def load_per_call(plain: Plain) -> Program:
    """Every job loads the model and is one call; encoded at once."""

    def run(edits: Sequence[Edit]) -> Taken:
        return _run_calls(plain, edits, ([number] for number in range(len(edits))), is_loading=True)

    return run


def loop(plain: Plain) -> Program:
    """A resident pipeline, one job per call; encoded at once."""

    def run(edits: Sequence[Edit]) -> Taken:
        return _run_calls(plain, edits, ([number] for number in range(len(edits))))

    return run


def micro_batches(plain: Plain, most_images: int = MOST_IMAGES) -> Program:
    """A resident pipeline, up to so many jobs with equal parameters per call; encoded at once."""

    def run(edits: Sequence[Edit]) -> Taken:
        return _run_calls(plain, edits, groups_alike(edits, most_images))

    return run


def _run_calls(
    plain: Plain, edits: Sequence[Edit], calls: Iterable[Sequence[int]], *, is_loading: bool = False
) -> Taken:
    taken, encoding, watch = Taken(len(edits)), _Encoding(), _Watch()
    for numbers in calls:
        if is_loading:
            plain.forget()
        for number, image in zip(numbers, plain.draw([edits[number] for number in numbers]), strict=True):
            encoding.encode(image)
            taken.pictures[number] = image
    taken.wall, taken.cpu = watch.read()
    taken.bare_wall, taken.bare_cpu = taken.wall - encoding.wall, taken.cpu - encoding.cpu
    return taken


def on_engine(engine: Engine, *, is_picking: bool) -> Program:
    """An engine through its port; jobs are prepared before the clock starts, as the claimer does on its own thread.

    `is_picking`: any waiting job that the engine takes may join, as claims look for company; else the next one only.
    """

    def run(edits: Sequence[Edit]) -> Taken:
        frames = prepared(edits)
        taken, encoding, watch = Taken(len(edits)), _Encoding(), _Watch()

        def emit(event: Event) -> None:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished) and event.pixels is not None:
                taken.pictures[int(event.ref.job_id)] = event.pixels
                taken.rows += [event.facts["mean_rows"]] if "mean_rows" in event.facts else []
                encoding.thread.submit(encoding.encode, event.pixels)

        drain(engine, frames, emit, is_picking=is_picking)
        drawn, _ = watch.read()
        encoding.thread.shutdown()
        taken.wall, taken.cpu = watch.read()
        taken.bare_wall, taken.bare_cpu = drawn, taken.cpu - encoding.cpu
        return taken

    return run


def prepared(edits: Sequence[Edit]) -> list[Prepared]:
    """One frame per job, ready to join; the job's id is its number."""
    return [prepare(edit, number) for number, edit in enumerate(edits)]


def prepare(edit: Edit, number: int) -> Prepared:
    """The frame of one job, whose id is this number."""
    return frames_of(edit.params(), job_id=str(number), picture=picture(edit.side))[0]


def drain(engine: Engine, frames: Sequence[Prepared], emit: Callable[[Event], None], *, is_picking: bool) -> None:
    """Join what the engine takes, tick, join again as room frees up, until all are done."""
    waiting = deque(frames)
    while waiting or engine.load().frames:
        admit(engine, waiting, is_picking=is_picking)
        engine.tick(emit)


def admit(engine: Engine, waiting: deque[Prepared], *, is_picking: bool) -> None:
    """Join waiting frames as long as the engine takes them."""
    if not is_picking:
        while waiting and engine.offer(waiting[0]).ok:
            engine.join(waiting.popleft())
        return
    for frame in list(waiting):
        if engine.offer(frame).ok:
            waiting.remove(frame)
            engine.join(frame)


def pipeline_engine(plain: Plain, model: str, family: str) -> PipelineEngine:
    """Our pipeline engine on the weights of the plain pipeline, with the batches of `micro_batches`."""
    return PipelineEngine(pipeline_for(family), parts_of(plain.pipeline(model)), max_frames=MOST_IMAGES)


def step_engine(plain: Plain, model: str, family: str, most_rows: int = MOST_ROWS, **options: Any) -> StepEngine:
    """Our step engine on the weights of the plain pipeline."""
    parts = parts_of(plain.pipeline(model))
    return StepEngine(pipeline_for(family), parts, budget=RowBudget(most_rows), **options)


def tiny_plain(folder: Path) -> Plain:
    """Plain diffusers on the CPU, quiet and on one thread."""
    import torch

    from worker.quiet import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(1)
    return Plain(folder)
