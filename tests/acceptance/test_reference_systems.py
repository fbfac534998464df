"""The reference systems S1 to S3, image to image: each told as its user's story over HTTP.

Real processes and real classes on tiny weights. S4 is in `test_reference_inpainting`, S5 in `test_reference_guide`.
"""

import pytest

from tests.acceptance.studio import ABSENT, FEW, FIXED, Studio, as_data_url, codes, opened, photo
from tests.processes.harness import eventually

pytestmark = pytest.mark.processes

Source = dict[str, str]


# S1: ImageEdit.


def test_s1_an_uploaded_photo_is_edited_at_two_quality_levels_with_the_known_defaults(user: Studio) -> None:
    source = user.upload(photo())
    pictures = []
    for model in ("sd15", "sdxl"):
        job = user.edit(image=source, prompt="a fantasy landscape", model=model, output={"format": "jpeg"})
        params = job["params"]
        assert (params["strength"], params["guidance_scale"], params["num_inference_steps"]) == (0.8, 7.5, 50)
        assert (params["num_images"], params.get("negative_prompt", ""), job["effective_steps"]) == (1, "", 40)
        (image,) = job["images"]
        assert (image["content_type"], image["width"], image["height"]) == ("image/jpeg", 64, 64)
        assert user.fetch(job).startswith(b"\xff\xd8\xff")
        pictures.append(user.look(job))
    assert pictures[0] != pictures[1]


def test_s1_several_images_come_from_one_input_and_each_can_be_made_again_alone(
    user: Studio, photo_there: Source
) -> None:
    wish = FIXED | {"image": photo_there, "prompt": "a fantasy landscape", "model": "sd15"}
    several = user.edit(**wish, num_images=3)
    assert [image["seed"] for image in several["images"]] == [40, 41, 42]
    first, second, third = (user.look(several, index) for index in range(3))
    assert first != second != third != first
    alone = user.edit(**(wish | {"seed": 41}))
    assert user.fetch(alone) == user.fetch(several, 1)


def test_s1_more_of_the_models_parameters_can_be_set(user: Studio, photo_there: Source) -> None:
    wish = FIXED | {"image": photo_there, "prompt": "a fantasy landscape", "model": "sd15", "strength": 0.5}
    plain = user.edit(**wish)
    shaped = user.edit(**wish, scheduler="euler", steps_mode="exact", width=128, height=64, resize="pad")
    assert (plain["effective_steps"], shaped["effective_steps"]) == (2, 5)
    assert (user.look(plain).size, user.look(shaped).size) == ((64, 64), (128, 64))
    assert shaped["params"]["scheduler"] == "euler"


def test_s1_the_model_stays_resident_from_one_job_to_the_next(user: Studio, photo_there: Source) -> None:
    for _ in range(2):
        job = user.edit(**FEW, image=photo_there, prompt="a cat", model="sd15")
    assert "load_ms" not in job["metrics"]

    def residents() -> int:
        count: int = user.client.get("/v1/models/sd15").json()["resident_workers"]
        return count

    assert eventually(residents, what="the worker's word on what it has loaded") == 1


# S2: image-to-image with Stable Diffusion.


def test_s2_the_same_seed_gives_the_same_bytes_and_another_seed_another_picture(
    user: Studio, photo_there: Source
) -> None:
    wish = FIXED | {"image": photo_there, "prompt": "a castle"}
    first, again, other = (user.edit(**(wish | {"seed": seed})) for seed in (7, 7, 8))
    assert user.fetch(again) == user.fetch(first)
    assert user.look(other) != user.look(first)


def test_s2_without_a_seed_one_is_chosen_and_reported_so_that_the_picture_can_be_had_again(
    user: Studio, photo_there: Source
) -> None:
    wish = FEW | {"deterministic": True, "image": photo_there, "prompt": "a castle"}
    lucky = user.edit(**wish)
    again = user.edit(**wish, seed=lucky["images"][0]["seed"])
    assert user.fetch(again) == user.fetch(lucky)


def test_s2_the_number_format_follows_the_device_and_is_not_the_users_to_choose(
    user: Studio, photo_there: Source
) -> None:
    refused = user.submit(image=photo_there, prompt="a castle", dtype="float16")
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_field")
    assert user.edit(**FEW, image=photo_there, prompt="a castle")["device"] == "cpu"


@pytest.mark.parametrize(("strength", "effective"), [(0.3, 3), (0.75, 7), (1.0, 10)])
def test_s2_strength_decides_how_many_of_the_steps_run(
    user: Studio, photo_there: Source, strength: float, effective: int
) -> None:
    job = user.edit(image=photo_there, prompt="a castle", strength=strength, num_inference_steps=10)
    assert (job["effective_steps"], job["progress"]["step"]) == (effective, effective)


def test_s2_a_strength_that_leaves_no_step_is_refused(user: Studio, photo_there: Source) -> None:
    refused = user.submit(image=photo_there, prompt="a castle", strength=0.01, num_inference_steps=50)
    assert (refused.status_code, refused.json()["code"]) == (422, "infeasible")


def test_s2_guidance_of_at_most_1_leaves_the_negative_prompt_unheard_and_says_so(
    user: Studio, photo_there: Source
) -> None:
    wish = FIXED | {"image": photo_there, "prompt": "a castle"}
    plain = user.edit(**wish, guidance_scale=1.0)
    unheard = user.edit(**wish, guidance_scale=1.0, negative_prompt="people, text")
    assert (codes(plain), codes(unheard)) == (set(), {"guidance_off"})
    assert user.look(unheard) == user.look(plain)
    guided = user.edit(**wish, guidance_scale=7.5)
    heard = user.edit(**wish, guidance_scale=7.5, negative_prompt="people, text")
    assert (codes(guided), codes(heard)) == (set(), set())
    assert user.look(heard) != user.look(guided)


def test_s2_a_model_whose_weights_are_not_there_fails_with_what_to_do_and_harms_no_other_job(
    user: Studio, photo_there: Source
) -> None:
    job = user.end_of(image=photo_there, prompt="a castle", model=ABSENT)
    assert (job["status"], job["error"]["code"], job["images"]) == ("failed", "model_unavailable", [])
    assert "Put the checkpoint where the models file says" in job["error"]["detail"]
    assert user.edit(**FEW, image=photo_there, prompt="a castle")["status"] == "succeeded"


# S3: AI image-to-image transformation.


def test_s3_upload_write_generate_see_download(user: Studio) -> None:
    wish = {"prompt": "a clear and sharp photo", "model": "sd21", "num_inference_steps": 8}
    job = user.edit(image=as_data_url(photo(320, 180)), **wish)
    (image,) = job["images"]
    assert (job["params"]["strength"], job["effective_steps"]) == (0.75, 6)
    assert (image["width"], image["height"]) == (168, 96)  # 16:9 at the native area of 128x128
    seen = user.client.get(image["url"])
    assert seen.headers["content-disposition"].startswith("inline")
    assert opened(seen.content).size == (168, 96)
    saved = user.client.get(image["url"], params={"download": 1})
    assert saved.headers["content-disposition"] == f'attachment; filename="{job["id"]}-0.png"'
    assert saved.content == seen.content


def test_s3_one_picture_serves_restoration_style_transfer_and_fantasy(user: Studio, photo_there: Source) -> None:
    prompts = [
        "a clear and sharp photo",
        "a painting in the style of Van Gogh",
        "a castle on the back of a dragon, fantasy, two moons",
    ]
    jobs = [user.edit(**FIXED, image=photo_there, prompt=prompt, model="sd21") for prompt in prompts]
    assert [job["params"]["prompt"] for job in jobs] == prompts
    restored, painted, imagined = (user.look(job) for job in jobs)
    assert restored != painted != imagined != restored
    assert restored.size == (128, 128)
