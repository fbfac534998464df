"""What the stub promises beyond the port: its time, its late joins, its pictures."""

from tests.unit.worker.frames import frames_of, gradient, img2img, pictures, run, txt2img
from worker.engine.port import Event, Stepped
from worker.engine.stub_engine import StubEngine, picture_of


def test_frames_share_the_time_of_a_step() -> None:
    slept: list[float] = []
    run(StubEngine(step_seconds=0.25, sleep=slept.append), frames_of(txt2img(num_images=3)))
    assert slept == [0.25] * 4


def test_a_frame_may_join_between_the_steps_of_another() -> None:
    engine = StubEngine()
    early, late = frames_of(txt2img(), job_id="early")[0], frames_of(txt2img(), job_id="late")[0]
    events: list[Event] = []
    engine.join(early)
    engine.tick(events.append)
    assert engine.offer(late).ok
    engine.join(late)
    engine.tick(events.append)
    assert events == [Stepped(early.ref, 1, 4), Stepped(early.ref, 2, 4), Stepped(late.ref, 1, 4)]


def test_the_picture_can_be_predicted_from_the_frame_alone() -> None:
    (frame,) = frames_of(img2img(), job_id="a", picture=gradient())
    (same,) = frames_of(img2img(), job_id="b", picture=gradient())
    (made,) = pictures(run(StubEngine(), [frame])).values()
    assert made.tobytes() == picture_of(same).tobytes()
