"""Storing behind the device: several pictures at once, each frame's trouble its own, and no next pass kept waiting."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from queue import SimpleQueue
from typing import Any

import pytest
from PIL import Image, ImageChops

from common.domain.capabilities import Task
from common.domain.params import EditParams, MaskParams, Output
from tests.unit.worker.frames import frames_of, gradient, img2img, txt2img
from tests.waiting import wait_until
from worker.engine.port import Finished, FrameRef, Prepared
from worker.handover import unpack
from worker.results import ResultWriter
from worker.roster import HeldJob, Roster
from worker.storing import Developed, Stored, Storer

SECONDS = 20
RED, GREEN, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue"))


class Store:
    """What results need of an object store: bytes by key, in the order of their arrival. `before` may wait or raise."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: Callable[[str], object] = lambda key: None

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self.before(key)
        self.objects[key] = data

    def picture(self, key: str) -> Image.Image:
        return Image.open(BytesIO(self.objects[key]))

    def keys(self, part: str) -> list[str]:
        return [key for key in self.objects if part in key]


class Studio:
    """A storer, the jobs whose frames the device has taken, and what was told."""

    def __init__(self, threads: int = 3) -> None:
        self.roster, self.store = Roster(), Store()
        self._told: SimpleQueue[Stored] = SimpleQueue()
        results = ResultWriter(self.store)  # type: ignore[arg-type]
        self.storer = Storer(results=results, roster=self.roster, threads=threads, done=self._told.put)

    def begin(self, params: EditParams, **wishes: Any) -> Sequence[Prepared]:
        frames = frames_of(params, **wishes)
        assert self.roster.add(frames[0].job)
        assert self.roster.make_ready(frames)
        assert all(self.roster.take_ready(frame) for frame in frames)
        return frames

    def held(self, frame: Prepared) -> HeldJob:
        held = self.roster.get(frame.ref)
        assert held is not None
        return held

    def develop(self, frame: Prepared, picture: Image.Image | None = RED, **made: Any) -> None:
        """What the device thread does with a frame that has run its pass."""
        if frame.number < len(frame.job.params.then):
            self.roster.expect_next(frame.ref)
        self.storer.put(Developed(frame, Finished(frame.ref, picture, {}, number=frame.number, **made)))

    def keep(self, ref: FrameRef, picture: Image.Image) -> None:
        """What the claimer does with a picture of an earlier attempt."""
        self.storer.put(Finished(ref, picture, {}, number=0, is_stored=True))

    def told(self, count: int = 1) -> list[Stored]:
        return [self._told.get(timeout=SECONDS) for _ in range(count)]

    def has_told_nothing(self) -> bool:
        return self._told.empty()


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.storer.close()


def chained(params: EditParams, passes: int = 2, **changes: Any) -> EditParams:
    later = replace(img2img(strength=1.0, num_inference_steps=4), prompt="later")
    return replace(params, then=(later,) * (passes - 1), **changes)


def is_same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def test_a_picture_is_completed_encoded_stored_and_told(studio: Studio) -> None:
    mask = Image.new("RGB", (64, 64))
    mask.paste("white", (0, 0, 32, 64))
    params = img2img(task=Task.INPAINT, mask=MaskParams(preserve_unmasked=True))
    (frame,) = studio.begin(params, mask=mask)
    studio.develop(frame, RED)
    (stored,) = studio.told()
    assert (stored.ref, stored.error, stored.goes_on, stored.step, stored.grid) == (frame.ref, None, False, None, None)
    assert stored.image is not None
    data = studio.store.objects[stored.image.key]
    assert (stored.image.index, stored.image.seed) == (0, 7)
    assert (stored.image.sha256, stored.image.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert "store_ms" in stored.facts
    whole, right = studio.store.picture(stored.image.key), (32, 0, 64, 64)
    assert is_same(whole.crop((0, 0, 32, 64)), RED.crop((0, 0, 32, 64)))
    assert is_same(whole.crop(right), gradient().crop(right))


def test_several_pictures_are_stored_at_once(studio: Studio) -> None:
    barrier = threading.Barrier(3, timeout=SECONDS)
    studio.store.before = lambda key: barrier.wait()
    for frame in studio.begin(txt2img(num_images=3)):
        studio.develop(frame)
    assert [one.error for one in studio.told(3)] == [None] * 3
    assert len(studio.store.objects) == 3


def test_a_frame_that_hands_pixels_on_is_ready_before_the_store_has_answered(studio: Studio) -> None:
    answers = threading.Event()
    studio.store.before = lambda key: answers.wait(SECONDS)
    (frame,) = studio.begin(chained(txt2img(), keep="all"))
    studio.develop(frame, GREEN)
    wait_until(studio.roster.ready_count, what="the next pass")
    (following,) = studio.roster.ready()
    assert (following.number, following.ref, following.params.prompt) == (1, frame.ref, "later")
    assert following.image is not None
    assert is_same(following.image, GREEN)
    assert studio.has_told_nothing()
    answers.set()
    (stored,) = studio.told()
    assert stored.goes_on
    assert stored.image is not None
    assert stored.step is not None


@pytest.mark.parametrize("trouble", ["completion", "next_frame"])
def test_a_frame_that_cannot_be_completed_fails_its_job_only_and_does_not_go_on(studio: Studio, trouble: str) -> None:
    (bad,) = studio.begin(chained(txt2img()), job_id="bad")
    (fine,) = studio.begin(chained(txt2img()), job_id="fine")
    if trouble == "completion":
        bad = replace(bad, canvas=frames_of(img2img(task=Task.INPAINT, mask=MaskParams()), mask=RED)[0].canvas)
        studio.develop(bad, Image.new("RGB", (8, 8)))
    else:
        studio.develop(bad, None)
    (failed,) = studio.told()
    studio.develop(fine)
    (stored,) = studio.told()
    assert isinstance(failed.error, ValueError)
    assert not failed.goes_on
    assert (stored.error, stored.goes_on) == (None, True)
    assert [frame.ref.job_id for frame in studio.roster.ready()] == ["fine"]
    assert studio.roster.take_ready(studio.roster.ready()[0])
    assert not studio.roster.has_frames()


def test_a_picture_that_cannot_be_encoded_fails_its_job_only(studio: Studio) -> None:
    bad, fine = studio.begin(txt2img(), job_id="bad"), studio.begin(txt2img(), job_id="fine")
    studio.develop(bad[0], Image.new("L", (64, 64)))
    studio.develop(fine[0])
    by_job = {one.ref.job_id: one for one in studio.told(2)}
    assert isinstance(by_job["bad"].error, ValueError)
    assert not by_job["bad"].goes_on
    assert by_job["fine"].error is None
    assert len(studio.store.objects) == 1


def test_a_frame_that_is_ready_already_goes_on_to_its_end_when_its_picture_cannot_be_stored(studio: Studio) -> None:
    def refuse(key: str) -> None:
        raise OSError("disk full")

    studio.store.before = refuse
    (frame,) = studio.begin(chained(txt2img(), keep="all"))
    studio.develop(frame)
    (failed,) = studio.told()
    assert isinstance(failed.error, OSError)
    assert failed.goes_on  # the device thread lets it leave
    assert studio.roster.ready_count() == 1


@pytest.mark.parametrize("reason", ["cancelled", "gone"])
def test_an_unwanted_picture_is_not_stored_and_its_frame_is_forgotten(studio: Studio, reason: str) -> None:
    (frame,) = studio.begin(chained(txt2img(), keep="all"))
    if reason == "gone":
        studio.roster.remove(frame.job)
    else:
        studio.held(frame).is_cancel_wished = True
    studio.develop(frame)
    (stored,) = studio.told()
    assert (stored.error, stored.image, stored.step, stored.goes_on) == (None, None, None, False)
    assert studio.store.objects == {}
    assert not studio.roster.has_frames()


def test_the_grid_is_written_once_after_the_last_picture(studio: Studio) -> None:
    barrier = threading.Barrier(3, timeout=SECONDS)
    studio.store.before = lambda key: barrier.wait() if "grid" not in key else None
    frames = studio.begin(img2img(num_images=3, output=Output(grid=True)))
    for frame, picture in zip(frames, (RED, GREEN, BLUE), strict=True):
        studio.develop(frame, picture)
    (grid,) = [one.grid for one in studio.told(3) if one.grid is not None]
    assert studio.store.keys("grid") == [grid.key] == list(studio.store.objects)[-1:]
    picture = studio.store.picture(grid.key)
    places = [(picture.width * number // 4 + picture.width // 8, picture.height // 2) for number in (1, 2, 3)]
    assert [picture.getpixel(place) for place in places] == [one.getpixel((0, 0)) for one in (RED, GREEN, BLUE)]


def test_a_handover_is_stored_once_in_order_of_index_although_its_images_come_out_of_order(studio: Studio) -> None:
    frames = studio.begin(chained(txt2img(num_images=3)))
    steps = []
    for index, picture in ((2, BLUE), (0, RED), (1, GREEN)):
        studio.develop(frames[index], picture)
        steps += [one.step for one in studio.told()]
    assert steps[:2] == [None, None]
    assert steps[2] is not None
    step, size = steps[2]
    data = studio.store.objects[step.key]
    assert list(studio.store.objects) == [step.key]
    assert (step.number, step.sha256, size) == (0, hashlib.sha256(data).hexdigest(), len(data))
    handed_on = unpack(data).pictures
    assert handed_on is not None
    assert all(is_same(one, other) for one, other in zip(handed_on, (RED, GREEN, BLUE), strict=True))
    assert [frame.ref.index for frame in studio.roster.ready()] == [0, 1, 2]


def test_a_picture_of_an_earlier_attempt_is_stored_and_its_step_is_not_stored_again(studio: Studio) -> None:
    (frame,) = studio.begin(chained(txt2img(), keep="all"))
    studio.keep(frame.ref, GREEN)
    (stored,) = studio.told()
    assert stored.image is not None
    assert list(studio.store.objects) == [stored.image.key]
    assert (stored.goes_on, stored.step) == (True, None)


@pytest.mark.parametrize("trouble", ["unwanted", "failing"])
def test_a_picture_of_an_earlier_attempt_says_nothing_of_the_frame_whatever_becomes_of_it(
    studio: Studio, trouble: str
) -> None:
    """The frame runs a later pass meanwhile, or is being made ready for one."""
    (frame,) = studio.begin(chained(txt2img(), passes=3, keep="all"))
    studio.roster.expect_next(frame.ref)
    if trouble == "unwanted":
        studio.held(frame).is_late = True
    studio.keep(frame.ref, Image.new("L", (64, 64)))
    (stored,) = studio.told()
    assert stored.image is None
    assert stored.goes_on
    assert studio.roster.forget_next(frame.ref)


def test_what_was_put_before_closing_is_still_stored_and_nothing_after_it(studio: Studio) -> None:
    answers = threading.Event()
    studio.store.before = lambda key: answers.wait(SECONDS)
    frames = studio.begin(txt2img(num_images=8))
    for frame in frames:
        studio.develop(frame)
    studio.storer.close()
    with pytest.raises(RuntimeError):
        studio.develop(frames[0])
    answers.set()
    assert {one.ref.index for one in studio.told(8)} == set(range(8))
    assert len(studio.store.objects) == 8
