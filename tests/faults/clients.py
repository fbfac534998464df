"""Clients of a deployment under faults: what they were promised goes into a history, and nothing else does.

Everything that they do follows from the seed. Submits carry an Idempotency-Key and are repeated as the SDK does it.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from client.sdk import Darkroom, Job
from common.clock import monotonic_seconds
from worker.engine.stub_engine import picture_from

SIDE = 64
SOURCES = 4
PATIENCE_SECONDS = 300
_CANCEL_SHARE = 0.04
_STEPS = (2, 6)


@dataclass(frozen=True, slots=True)
class Order:
    """One job as a client wants it: `source` is the number of an input picture, None for txt2img."""

    key: str
    prompt: str
    seed: int
    count: int
    steps: int
    priority: str
    source: int | None = None
    cancels: bool = False

    def expected(self, index: int) -> Image.Image:
        """The picture that result `index` must be."""
        pixels = b"" if self.source is None else source_picture(self.source).tobytes()
        return picture_from(pixels, self.prompt, self.seed + index, (SIDE, SIDE))


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submit was answered with success: from now on the job may not be lost."""

    at: float
    job_id: str
    order: Order


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancel was answered; `state` is what the answer said."""

    at: float
    job_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Polled:
    """A look at a job was answered."""

    at: float
    job_id: str
    version: int
    state: str


Record = Submitted | Cancelled | Polled


@dataclass
class History:
    """What clients were told, in the order of the answers. Only ever grows; any thread may write."""

    records: list[Record] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, record: Record) -> None:
        """A further answer."""
        with self._lock:
            self.records.append(record)

    def submitted(self) -> dict[str, Order]:
        """The acknowledged jobs and what was ordered."""
        return {record.job_id: record.order for record in list(self.records) if isinstance(record, Submitted)}

    def cancelled(self) -> set[str]:
        """The jobs whose cancelling was acknowledged, however they end."""
        return {record.job_id for record in list(self.records) if isinstance(record, Cancelled)}

    def seen(self) -> dict[str, list[tuple[int, str]]]:
        """Version and state of every job in the order in which they were told."""
        found: dict[str, list[tuple[int, str]]] = {}
        for record in list(self.records):
            if isinstance(record, Polled):
                found.setdefault(record.job_id, []).append((record.version, record.state))
        return found


def source_picture(number: int) -> Image.Image:
    """Input picture `number`: noise of a fixed seed, of the size that the stub model likes."""
    pixels = random.Random(number).randbytes(SIDE * SIDE * 3)
    return Image.frombytes("RGB", (SIDE, SIDE), pixels)


def source_png(number: int) -> bytes:
    """The same as a file."""
    buffer = BytesIO()
    source_picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def make_orders(seed: int, count: int) -> list[Order]:
    """A mix of tasks, sizes and priorities, the same for the same seed."""
    chance = random.Random(seed)
    return [_make_order(chance, f"{seed}-{number}") for number in range(count)]


def _make_order(chance: random.Random, key: str) -> Order:
    return Order(
        key=f"order-{key}",
        prompt=f"picture {key}",
        seed=chance.randrange(2**31),
        count=chance.choice((1, 1, 2, 3)),
        steps=chance.randint(*_STEPS),
        priority=chance.choice(("normal", "normal", "low", "high")),
        source=chance.choice((None, *range(SOURCES))),
        cancels=chance.random() < _CANCEL_SHARE,
    )


@dataclass
class Clients:
    """Threads that submit `orders` in turn and look at them. `pause_seconds` lies between two submits of a thread."""

    url: str
    orders: Sequence[Order]
    history: History = field(default_factory=History)
    api_key: str | None = None
    threads: int = 4
    pause_seconds: float = 0.0
    errors: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _all: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to submit and to look."""
        chunks = [self.orders[number :: self.threads] for number in range(self.threads)]
        for chunk in chunks:
            self._begin(lambda chunk=chunk: self._submit_all(chunk))
        self._looker = self._begin(self._look_all)

    def until_submitted(self, between: Callable[[], None]) -> None:
        """Call `between` until every order is acknowledged; raises what a client raised."""
        while any(thread.is_alive() for thread in self._all if thread is not self._looker):
            self.check()
            between()
        self.check()

    def check(self) -> None:
        """Raise the first error that a client met."""
        if self.errors:
            raise self.errors[0]

    def stop(self) -> None:
        """Look no more, and end the threads."""
        self._stop.set()
        for thread in self._all:
            thread.join()

    def _begin(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._safely, args=(work,), daemon=True)
        thread.start()
        self._all.append(thread)
        return thread

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def _submit_all(self, orders: Sequence[Order]) -> None:
        with self.connect() as server:
            uploads = {number: server.upload(source_png(number)) for number in sorted(_sources(orders))}
            for order in orders:
                if self._stop.wait(self.pause_seconds):
                    return
                image = None if order.source is None else uploads[order.source]
                self._submit(server, order, image)

    def _submit(self, server: Darkroom, order: Order, image: object) -> None:
        job = server.submit(
            prompt=order.prompt,
            image=image,  # type: ignore[arg-type]
            idempotency_key=order.key,
            seed=order.seed,
            num_images=order.count,
            num_inference_steps=order.steps,
            strength=None if image is None else 1.0,
            priority=order.priority,
        )
        self.history.add(Submitted(monotonic_seconds(), job.id, order))
        if order.cancels:
            answer = server.cancel(job.id)
            self.history.add(Cancelled(monotonic_seconds(), job.id, answer.status))

    def _look_all(self) -> None:
        """Look at jobs in turn, the unfinished ones again and again, until stopped."""
        chance = random.Random(len(self.orders))
        finished: set[str] = set()
        with self.connect() as server:
            while not self._stop.wait(max(self.pause_seconds, 0.05)):
                known = [job_id for job_id in self.history.submitted() if job_id not in finished]
                for job_id in chance.sample(known, min(4, len(known))):
                    job = server.job(job_id)
                    self.history.add(polled(job))
                    finished |= {job_id} if job.is_finished and chance.random() < 0.5 else set()

    def connect(self) -> Darkroom:
        """A connection of its own."""
        return Darkroom(self.url, self.api_key, retry_seconds=PATIENCE_SECONDS)


def polled(job: Job) -> Polled:
    """What an answer said about a job."""
    return Polled(monotonic_seconds(), job.id, int(job.raw["version"]), job.status)


def _sources(orders: Sequence[Order]) -> set[int]:
    return {order.source for order in orders if order.source is not None}
