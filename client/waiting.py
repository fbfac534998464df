"""Waiting for a job: by its events for who wants to see all of it, by long polls for who wants the end only.

Whichever of the two cannot be had, from an older server, through a proxy or where too many wait already, gives way to
plain looks, at first every 0.1 s and then up to once a second, and is tried again now and then.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import httpx

from client.errors import ClientError, WaitTimeout
from client.patience import parse_retry_after, poll_wait
from client.streaming import JobStream, merge_event
from client.transport import Transport, read_body
from common.domain.lifecycle import TERMINAL

RawJob: TypeAlias = dict[str, Any]

_HOLD_SECONDS: Final = 50  # servers hold up to 60, and so do many proxies
_HELD_SECONDS: Final = 1.0  # an answer held back for so long needs no pause after it
_AGAIN_SECONDS: Final = 15.0


class Wait:
    """One wait for the job at `address`, whose `version` is known or None, for up to `timeout` seconds.

    Both ways raise `WaitTimeout` when these are over, and `ClientError` as `Transport.request` does.
    """

    def __init__(self, transport: Transport, address: str, version: int | None, timeout: float | None) -> None:
        self._transport = transport
        self._address = address
        self._version = version
        self._timeout = timeout
        self._end_at = None if timeout is None else transport.clock() + timeout
        self._hold_from = transport.clock()
        self._etag: str | None = None
        self._looks = 0

    def for_the_end(self) -> RawJob:
        """The finished job, by long polls."""
        while True:
            began, known = self._transport.clock(), self._version
            held = self._hold()
            answer = held or self._look()
            job = self._take(answer)
            if job is not None and job["status"] in TERMINAL:
                return job
            is_newer = (self._version or 0) > (known or 0)
            was_held = held is not None and self._transport.clock() - began >= _HELD_SECONDS
            self._pause(0.0 if is_newer or was_held else self._rest(answer))

    def with_progress(self, show: Callable[[RawJob], object]) -> RawJob:
        """The finished job, by its events; `show` gets the job at every change, the finished one last."""
        while True:
            job = self._follow(show) or self._look_for_a_while(show)
            if job is not None:
                return job

    def _follow(self, show: Callable[[RawJob], object]) -> RawJob | None:
        """The finished job; None when the events cannot be had, or not up to the last."""
        job: RawJob = {}
        events = iter(JobStream(self._transport, f"{self._address}/events", end_at=self._end_at, insists=False))
        while True:
            try:
                event = next(events, None)
            except ClientError:  # if something is wrong with the job itself, the next look says so
                return None
            if event is None or event.kind != "done":
                self._pause(0.0)
            if event is None:
                return None
            before, job = job, merge_event(job, event)
            if event.kind == "done" or (job != before and job["status"] not in TERMINAL):
                show(job)
            if event.kind == "done":
                return job

    def _look_for_a_while(self, show: Callable[[RawJob], object]) -> RawJob | None:
        until = self._transport.clock() + _AGAIN_SECONDS
        while self._transport.clock() < until or self._is_last_look():
            answer = self._look()
            job = self._take(answer)
            if job is not None:
                show(job)
                if job["status"] in TERMINAL:
                    return job
            self._pause(self._rest(answer))
        return None

    def _look(self) -> httpx.Response:
        return self._transport.request("GET", self._address, may_repeat=True, headers=self._headers())

    def _hold(self) -> httpx.Response | None:
        """The answer to a long poll; None when there is nothing to ask for, or the server does not give it."""
        seconds = self._hold_seconds()
        if seconds < 1:
            return None
        question = {"wait": str(seconds), "since": str(self._version)}
        options = {"params": question, "timeout": self._transport.patience(seconds)}
        try:
            return self._transport.request("GET", self._address, may_repeat=False, headers=self._headers(), **options)
        except ClientError:
            self._hold_from = self._transport.clock() + _AGAIN_SECONDS
            return None

    def _hold_seconds(self) -> int:
        now = self._transport.clock()
        if self._version is None or now < self._hold_from:
            return 0
        return _HOLD_SECONDS if self._end_at is None else min(_HOLD_SECONDS, int(self._end_at - now))

    def _headers(self) -> dict[str, str]:
        return {"If-None-Match": self._etag} if self._etag else {}

    def _take(self, answer: httpx.Response) -> RawJob | None:
        """The job of an answer; None when it says that nothing changed."""
        if answer.status_code == httpx.codes.NOT_MODIFIED:
            return None
        job = read_body(answer)
        self._etag = answer.headers.get("ETag")
        if isinstance(job.get("version"), int):  # an answer from a replica that lags does not take us back
            self._version = max(self._version or 0, job["version"])
        return job

    def _rest(self, answer: httpx.Response) -> float:
        self._looks += 1
        return poll_wait(self._looks - 1, parse_retry_after(answer.headers))

    def _is_last_look(self) -> bool:
        return self._end_at is not None and self._transport.clock() >= self._end_at

    def _pause(self, seconds: float) -> None:
        left = float("inf") if self._end_at is None else self._end_at - self._transport.clock()
        if left <= 0:
            raise WaitTimeout(f"{self._address.rpartition('/')[2]} is not finished after {self._timeout:g} seconds")
        if seconds > 0:  # less than asked for if need be: the last look is when the time is up
            self._transport.sleep(min(seconds, left))
