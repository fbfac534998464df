"""The order of service without a database: flows, pools, claims in company and by affinity; and devices on a clock.

`Service` does in plain Python what the SQL does, with the same pure decisions; `run` lets devices work on it in
simulated time.
"""

import heapq
import random
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from common.domain.affinity import NO_AFFINITY, Affinity, Waiting, preferred
from common.domain.fairness import LANE_WEIGHT, Lane, Tag, drawn_together, tag
from common.domain.fairness import Waiting as Queued

Flow = tuple[str, str, Lane]

_UNTAGGED: Final = Tag(0.0, 0.0)


@dataclass(slots=True, eq=False)
class Job:
    """One job of a flow (pool, tenant, lane); `cost` in device seconds, `key` what jobs of a claim have in common."""

    number: int
    flow: Flow
    cost: float = 1.0
    model: str = "m"
    key: str = "k"
    frames: int = 1
    batch: str | None = None
    arrives_at: float = 0.0
    tag: Tag = _UNTAGGED
    claimed_at: float | None = None
    passed_over_at: float | None = None

    @property
    def order(self) -> tuple[float, int]:
        """Jobs are served in this order."""
        return self.tag.start, self.number

    @property
    def weight(self) -> float:
        """Of its flow."""
        return LANE_WEIGHT[self.flow[2]]


@dataclass(slots=True)
class Service:
    """All pools; `now` in seconds, moved by whoever simulates."""

    now: float = 0.0
    queues: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list))
    finish: dict[Flow, float] = field(default_factory=lambda: defaultdict(float))
    served: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    paused: set[str] = field(default_factory=set)
    held: list[Job] = field(default_factory=list)

    def virtual_time(self, pool: str) -> float:
        """The largest first-in-order tag that any worker of the pool has claimed."""
        return max((served for (name, _), served in self.served.items() if name == pool), default=0.0)

    def submit(self, job: Job) -> None:
        """Into the queue, with a tag."""
        pool = job.flow[0]
        finish, now = self.finish[job.flow], self.virtual_time(pool)
        job.tag = tag(flow_finish=finish, virtual_time=now, cost=job.cost, weight=job.weight)
        self.finish[job.flow] = job.tag.finish
        insort(self.queues[pool], job, key=lambda one: one.order)

    def cancel(self, job: Job) -> bool:
        """Out of the queue; the last of its flow gives its share back. False: it is not queued."""
        queue = self.queues[job.flow[0]]
        if job not in queue:
            return False
        queue.remove(job)
        if self.finish[job.flow] == job.tag.finish:
            self.finish[job.flow] = job.tag.start
        return True

    def hold(self, batch: str) -> list[Job]:
        """A batch is paused: its queued jobs are not claimed. Returns those."""
        taken = self._take(batch)
        self.held += taken
        return taken

    def release(self, batch: str) -> list[Job]:
        """A batch goes on: its held jobs queue up anew, in their old order. Returns those."""
        back = sorted((job for job in self.held if job.batch == batch), key=lambda job: job.order)
        self.held = [job for job in self.held if job.batch != batch]
        for job in back:
            self.submit(job)
        return back

    def cancel_batch(self, batch: str) -> list[Job]:
        """None of its jobs will run, held or not, and what is left of their flows is drawn together. Returns those."""
        gone = [*self._take(batch), *(job for job in self.held if job.batch == batch)]
        self.held = [job for job in self.held if job.batch != batch]
        for flow in {job.flow for job in gone}:
            self._draw_together(flow)
        return gone

    def _take(self, batch: str) -> list[Job]:
        taken = [job for queue in self.queues.values() for job in queue if job.batch == batch]
        for job in taken:
            self.queues[job.flow[0]].remove(job)
        return taken

    def _draw_together(self, flow: Flow) -> None:
        queue, now = self.queues[flow[0]], self.virtual_time(flow[0])
        own = [job for job in queue if job.flow == flow]
        tags, end = drawn_together(
            [Queued(job.tag.start, job.cost / job.weight) for job in own], end=now, virtual_time=now
        )
        for job, drawn in zip(own, tags, strict=True):
            job.tag = drawn
        queue.sort(key=lambda job: job.order)
        self.finish[flow] = min(self.finish[flow], end)

    def claim(
        self,
        pool: str,
        worker: str,
        *,
        limit: int = 1,
        ahead_seconds: float = float("inf"),
        affinity: Affinity = NO_AFFINITY,
    ) -> list[Job]:
        """The first in order or one that the worker prefers, and company: no more than `limit` frames with it, and none
        whose elders cost `ahead_seconds`.
        """
        queue = self.queues[pool]
        if not queue or pool in self.paused:
            return []
        head, first = self._head(queue, affinity), queue[0]
        others = islice((job for job in queue if job.key == head.key and job is not head), limit - 1)
        taken, frames, seconds = [head], head.frames, head.cost
        for job in others:
            if frames + job.frames > limit or seconds >= ahead_seconds:
                break
            taken, frames, seconds = [*taken, job], frames + job.frames, seconds + job.cost
        for job in taken:
            queue.remove(job)
            job.claimed_at = self.now
        seat = (pool, worker)
        self.served[seat] = max(self.served[seat], first.tag.start)
        return taken

    def _head(self, queue: list[Job], affinity: Affinity) -> Job:
        wanted = preferred([self._waiting(job) for job in queue[:40]], affinity)
        if not wanted:
            return queue[0]
        if queue[0].passed_over_at is None:
            queue[0].passed_over_at = self.now
        return next(job for job in queue if str(job.number) == wanted[0].id)

    def _waiting(self, job: Job) -> Waiting:
        waited = None if job.passed_over_at is None else self.now - job.passed_over_at
        return Waiting(str(job.number), job.tag.start, job.model, job.flow[2], passed_over_seconds=waited)


@dataclass(slots=True)
class Device:
    """A worker of a pool with room for so many models; `idle_seconds` while there was work that it could claim."""

    name: str
    pool: str = "p"
    room: int = 2
    models: list[str] = field(default_factory=list)
    is_busy: bool = False
    idle_seconds: float = 0.0

    def load(self, model: str) -> bool:
        """Make this the model used last; True when it was not loaded."""
        is_new = model not in self.models
        if not is_new:
            self.models.remove(model)
        self.models = [*self.models, model][-self.room :]
        return is_new


@dataclass(frozen=True, slots=True)
class Ways:
    """How devices work. `has_bells`: a submit wakes idle devices; otherwise they look once a second, ± 20 %."""

    limit: int = 1
    ahead_seconds: float = float("inf")
    load_seconds: float = 0.0
    has_bells: bool = True
    patience_seconds: float = 0.0


def run(service: Service, jobs: Iterable[Job], devices: list[Device], ways: Ways, seed: int = 0) -> float:
    """Let the devices do all jobs, each when it has arrived. Returns the seconds until the last one is done."""
    chance, order = random.Random(seed), iter(range(1 << 40))
    events: list[tuple[float, int, Job | Device]] = [(job.arrives_at, next(order), job) for job in jobs]
    left = len(events)
    if not ways.has_bells:
        events += [(chance.uniform(0.0, 1.2), next(order), device) for device in devices]
    heapq.heapify(events)
    end = 0.0

    def work(device: Device) -> bool:
        affinity = Affinity(frozenset(device.models), ways.patience_seconds)
        limits = {"limit": ways.limit, "ahead_seconds": ways.ahead_seconds, "affinity": affinity}
        taken = service.claim(device.pool, device.name, **limits)  # type: ignore[arg-type]
        device.is_busy = bool(taken)
        if taken:
            load_seconds = ways.load_seconds if device.load(taken[0].model) else 0.0
            seconds = load_seconds + sum(job.cost for job in taken)
            heapq.heappush(events, (service.now + seconds, next(order), device))
        return bool(taken)

    while events:
        moment, _, happened = heapq.heappop(events)
        for device in devices:
            if not device.is_busy and service.queues[device.pool]:
                device.idle_seconds += moment - service.now
        service.now = moment
        if isinstance(happened, Job):
            left -= 1
            service.submit(happened)
            if ways.has_bells:
                _ = [work(device) for device in devices if not device.is_busy]
            continue
        end = max(end, moment) if happened.is_busy else end
        may_poll = not ways.has_bells and (left > 0 or any(service.queues.values()))
        if not work(happened) and may_poll:
            heapq.heappush(events, (moment + chance.uniform(0.8, 1.2), next(order), happened))
    return end


def list_schedule(costs: Iterable[float], devices: int) -> float:
    """Seconds until all are done when each goes, in this order, to the device that is free first."""
    free = [0.0] * devices
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)
