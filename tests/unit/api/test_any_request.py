"""Whatever is put together from the fields of a request is accepted or refused; what is accepted can be sent again."""

import random
from typing import Any

from tests.unit.api.conftest import Api, Json, data_url

STEP: dict[str, list[Any]] = {
    "task": ["txt2img", "img2img", "inpaint", None],
    "model": ["demo", "sd15", "sdxl", "sdxl-refiner", "kandinsky22", "kandinsky22-inpaint", "sdxl-inpaint", "x"],
    "prompt": ["x", "", None],
    "negative_prompt": ["", "y", None],
    "strength": [0.01, 0.5, 1.0, None],
    "guidance_scale": [0, 1, 7.5, None],
    "num_inference_steps": [1, 2, 20, 150, None],
    "steps_mode": ["exact", "scaled", None],
    "seed": [0, 2**32 - 1, None],
    "width": [64, 512, 2048, 136, None],
    "height": [64, 512, 2048, None],
    "resize": ["fit", "fill", "pad", "stretch", None],
    "scheduler": ["ddim", "lcm", "heun", "nope", None],
    "refiner": [
        {"model": "sdxl-refiner"},
        {"model": "sdxl-refiner", "strength": 0.3},
        {"model": "sdxl-refiner", "switch_at": 0.99},
        {"model": "kandinsky22", "strength": 0.2},
        None,
    ],
    "adapters": [[], [{"id": "a"}], None],
    "mask_mode": ["alpha", "black_repaints", None],
    "mask_blur": [0, 64, None],
    "mask_grow": [0, 128, None],
    "inpaint_area": ["whole", "masked", None],
    "inpaint_padding": [0, 32, None],
    "preserve_unmasked": [True, False, None],
}
JOB = STEP | {
    "num_images": [1, 3, 16],
    "keep": ["all", "last"],
    "previews": [True, False],
    "deterministic": [True, False],
    "output": [{}, {"format": "jpeg", "grid": True}, {"format": "webp", "metadata": False, "quality": 1}],
}
REQUESTS = 600


def drawn(chance: random.Random, fields: dict[str, list[Any]], share: float) -> Json:
    return {name: chance.choice(values) for name, values in fields.items() if chance.random() < share}


def request(chance: random.Random) -> Json:
    made = drawn(chance, JOB, 0.2)
    made |= {role: data_url() for role, share in (("image", 0.6), ("mask", 0.3)) if chance.random() < share}
    if chance.random() < 0.3:
        made["steps"] = [drawn(chance, STEP, 0.1) for _ in range(chance.randint(1, 4))]
    return made


def sent_again(job: Json, original: Json) -> Json:
    again = {name: value for name, value in job["params"].items() if name not in {"passes", "num_images"}}
    again |= {} if "steps" in again else {"model": job["model"], "task": job["task"]}
    return again | {role: original[role] for role in ("image", "mask") if role in original}


def test_any_request_is_accepted_or_refused_and_an_accepted_one_can_be_sent_again(api: Api) -> None:
    chance = random.Random(3)
    accepted = 0
    for _ in range(REQUESTS):
        asked = request(chance)
        answer = api.client.post("/v1/jobs", json=asked)
        assert answer.status_code in {202, 422}, (asked, answer.text)
        if answer.status_code == 422:
            assert answer.json()["errors"], asked
            continue
        accepted += 1
        job = answer.json()
        again = api.client.post("/v1/jobs", json=sent_again(job, asked))
        assert again.status_code == 202, (asked, again.text)
        assert again.json()["params"]["passes"] == job["params"]["passes"], asked
    assert accepted > REQUESTS / 20
