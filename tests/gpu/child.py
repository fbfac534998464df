"""What has to run in a process of its own: `python -m tests.gpu.child picture|fault <checkpoints> <family>`."""

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import structlog

from common.domain.capabilities import Task
from tests.gpu.studio import Studio, develop, device_of, events_of, job
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import DeviceLost
from worker.pipelines.registry import pipeline_for
from worker.quiet import quiet_libraries


def _digest(studio: Studio, family: str) -> str:
    """The digest of what a deterministic job draws."""
    pictures = develop(studio.engine(family, device_of()), job(Task.TXT2IMG, num_images=2, deterministic=True))
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()


def _fault(studio: Studio, family: str) -> str:
    """What the engine raises when a kernel fails an assertion; the device is lost to this process."""
    import torch

    def read_beyond(_module: Any, _inputs: Any, output: tuple[Any, ...]) -> None:
        output[0].flatten()[torch.tensor([output[0].numel()], device=output[0].device)]

    parts = studio.parts(family, device_of())
    parts["unet"].register_forward_hook(read_beyond)
    engine = PipelineEngine(pipeline_for(family), parts, max_frames=1)
    try:
        return f"went on: {events_of(engine, job(Task.TXT2IMG))}"
    except DeviceLost as error:
        return type(error).__name__


if __name__ == "__main__":
    quiet_libraries()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    answers = {"picture": _digest, "fault": _fault}
    print(answers[sys.argv[1]](Studio(Path(sys.argv[2])), sys.argv[3]), flush=True)
    os._exit(0)  # after a fault, torch's own farewell would abort
