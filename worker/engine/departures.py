"""Who is to leave an engine unfinished: wishes from any thread, looked at by the device thread at each boundary."""

from collections.abc import Iterable
from threading import Event, Lock

from worker.engine.port import FrameRef, Left, Prepared


class Departures:
    """Which jobs are here, which of them were cancelled, and whether all are asked to park.

    To cancel a job that is not here does nothing, so that no wish outlives its attempt. To park counts until the
    end of a tick that leaves nobody behind, also for frames that join after the wish.
    """

    def __init__(self) -> None:
        self._here: set[str] = set()
        self._cancelled: set[str] = set()
        self._lock = Lock()
        self._parking = Event()

    def arrive(self, frame: Prepared) -> None:
        """The frame is here from now on."""
        with self._lock:
            self._here.add(frame.ref.job_id)

    def cancel(self, job_id: str) -> None:
        """The job's frames are to leave."""
        with self._lock:
            self._cancelled |= {job_id} & self._here

    def park(self) -> None:
        """All frames are to leave, parked."""
        self._parking.set()

    def of(self, ref: FrameRef) -> Left | None:
        """How this frame is to leave, or None; a cancelled job is not parked."""
        if self.is_cancelled(ref):
            return Left(ref, parked=False)
        return Left(ref, parked=True) if self._parking.is_set() else None

    def is_cancelled(self, ref: FrameRef) -> bool:
        """True when the frame's job was cancelled."""
        with self._lock:
            return ref.job_id in self._cancelled

    def are_all(self, frames: Iterable[Prepared]) -> bool:
        """True when nobody wants to stay."""
        return all(self.of(frame.ref) is not None for frame in frames)

    def keep_only(self, staying: Iterable[Prepared]) -> None:
        """At the end of a tick: everyone else is gone, and the wishes about them with them."""
        with self._lock:
            self._here = {frame.ref.job_id for frame in staying}
            self._cancelled &= self._here
            if not self._here:
                self._parking.clear()
