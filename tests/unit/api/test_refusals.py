"""A request that is refused names the field, says what is allowed, and leaves nothing behind."""

from typing import Any

import pytest

from tests.unit.api.conftest import Api, data_url
from tests.unit.api.fakes import picture

TOO_LONG = "x" * 4001

CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"strength": 1.5}, "/strength", "validation_error"),
    ({"strength": 0}, "/strength", "validation_error"),
    ({"strength": "0.5"}, "/strength", "validation_error"),
    ({"strength": True}, "/strength", "validation_error"),
    ({"strength": 0.01, "image": data_url()}, "/num_inference_steps", "infeasible"),
    ({"strength": 0.5}, "/strength", "unsupported_param"),
    ({"guidance_scale": 31}, "/guidance_scale", "validation_error"),
    ({"guidance_scale": -0.1}, "/guidance_scale", "validation_error"),
    ({"num_inference_steps": 151}, "/num_inference_steps", "validation_error"),
    ({"num_inference_steps": 0}, "/num_inference_steps", "validation_error"),
    ({"num_inference_steps": 10.5}, "/num_inference_steps", "validation_error"),
    ({"num_images": 17}, "/num_images", "validation_error"),
    ({"num_images": True}, "/num_images", "validation_error"),
    ({"seed": 2**32}, "/seed", "validation_error"),
    ({"seed": -1}, "/seed", "validation_error"),
    ({"seed": 10**400}, "/seed", "validation_error"),
    ({"width": 100}, "/width", "validation_error"),
    ({"width": 56}, "/width", "validation_error"),
    ({"height": 2056}, "/height", "validation_error"),
    ({"prompt": TOO_LONG}, "/prompt", "validation_error"),
    ({"prompt": "a\0b"}, "/prompt", "validation_error"),
    ({"prompt": 5}, "/prompt", "validation_error"),
    ({"negative_prompt": TOO_LONG}, "/negative_prompt", "validation_error"),
    ({"task": "inpaint"}, "/image", "validation_error"),
    ({"task": "inpaint", "image": data_url()}, "/mask", "mask_missing"),
    ({"task": "repaint"}, "/task", "validation_error"),
    ({"mask": data_url(), "task": "img2img", "image": data_url()}, "/mask", "mask_unnecessary"),
    ({"mask_blur": 65}, "/mask_blur", "validation_error"),
    ({"mask_grow": 4}, "/mask_grow", "unsupported_param"),
    ({"scheduler": "eular"}, "/scheduler", "unsupported_param"),
    ({"clip_skip": 1}, "/clip_skip", "unknown_field"),
    ({"steps": [{}]}, "/steps", "validation_error"),
    ({"steps": [{}, {"strenght": 1}]}, "/steps/1/strenght", "unknown_field"),
    ({"steps": [{}, {"model": "sd51"}]}, "/steps/1/model", "unknown_model"),
    ({"keep": "all"}, "", "validation_error"),
    ({"adapters": [{"id": "x"}]}, "/adapters/0/id", "unsupported_param"),
    ({"model": "kandinsky22", "width": 72}, "/width", "unsupported_param"),
    ({"task": "img2img"}, "/image", "validation_error"),
    ({"task": "txt2img", "image": data_url()}, "/image", "unsupported_param"),
    ({"model": "demmo"}, "/model", "unknown_model"),
    ({"output": {"format": "gif"}}, "/output/format", "validation_error"),
    ({"output": {"quality": 0}}, "/output/quality", "validation_error"),
    ({"output": {"gird": True}}, "/output/gird", "unknown_field"),
    ({"output": []}, "/output", "validation_error"),
    ({"priority": "urgent"}, "/priority", "validation_error"),
    ({"deadline_seconds": 0}, "/deadline_seconds", "validation_error"),
    ({"deadline_seconds": 604801}, "/deadline_seconds", "validation_error"),
    ({"expires_in_seconds": 60}, "/expires_in_seconds", "validation_error"),
    ({"tags": ["x"] * 11}, "/tags", "validation_error"),
    ({"tags": ["\0"]}, "/tags/0", "validation_error"),
    ({"tags": "x"}, "/tags", "validation_error"),
    ({"metadata": {f"k{n}": "" for n in range(17)}}, "/metadata", "validation_error"),
    ({"metadata": {"a/b": "x" * 501}}, "/metadata/a~1b", "validation_error"),
    ({"metadata": {"a": 1}}, "/metadata/a", "validation_error"),
    ({"metadata": {"a\0": "x"}}, "/metadata/a\\u0000", "validation_error"),
    ({"image": {"data": "data:image/png;base64,%%%"}}, "/image/data", "image_unreadable"),
    ({"image": {"data": "http://example.org/cat.png"}}, "/image/data", "image_unreadable"),
    ({"image": {"data": "data:image/png;base64," + "A" * 14_000_000}}, "/image/data", "image_too_large"),
    ({"image": {"url": "http://169.254.169.254/", **data_url()}}, "/image", "validation_error"),
    ({"image": {}}, "/image", "validation_error"),
    ({"image": data_url(b"not a picture")}, "/image", "image_unreadable"),
    ({"image": "cat.png"}, "/image", "validation_error"),
    ({"strenght": 0.5}, "/strenght", "unknown_field"),
    ({"webhook": {}}, "/webhook/url", "validation_error"),
    ({"webhook": "https://example.org"}, "/webhook", "validation_error"),
    ({"webhook": {"url": "https://example.org", "secrt": "x"}}, "/webhook/secrt", "unknown_field"),
]


@pytest.mark.parametrize(("members", "pointer", "code"), CASES)
def test_a_wrong_field_is_named_and_nothing_is_stored(
    api: Api, members: dict[str, Any], pointer: str, code: str
) -> None:
    response = api.client.post("/v1/jobs", json={"prompt": "x"} | members)

    problem = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert (pointer, code) in [(error["pointer"], error["code"]) for error in problem["errors"]]
    assert all(error["detail"] for error in problem["errors"])
    assert api.has_stored_nothing()


def test_a_misspelt_field_is_answered_with_the_right_one(api: Api) -> None:
    (error,) = api.client.post("/v1/jobs", json={"prompt": "x", "strenght": 0.5}).json()["errors"]

    assert error["did_you_mean"] == "strength"


def test_a_range_is_told_as_json_schema_tells_it(api: Api) -> None:
    (error,) = api.client.post("/v1/jobs", json={"prompt": "x", "strength": 1.5}).json()["errors"]

    assert error["allowed"] == {"exclusiveMinimum": 0, "maximum": 1}
    assert error["detail"] == "strength must be a number, greater than 0 and at most 1, not 1.5"


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"tags": ["a", 1]}, "tags[1] must be text"),
        ({"steps": [{"model": "demo"}, 5]}, "steps[1] must be an object"),
        ({"webhook": {"url": "https://example.com", "events": ["job.done"]}}, "events[0] must be one of job.started"),
        ({"adapters": [{"id": 5}]}, "id must be text"),
        ({"adapters": [5]}, "adapters[0] must be an object"),
    ],
)
def test_an_item_of_a_list_is_named_by_its_list(api: Api, members: Any, detail: str) -> None:
    (error,) = api.client.post("/v1/jobs", json={"prompt": "x"} | members).json()["errors"]

    assert error["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("query", "allowed"),
    [
        ("limit=0", {"minimum": 1}),
        ("limit=101", {"maximum": 100}),
        ("status=done", ["queued", "running", "succeeded", "failed", "canceled"]),
        ("after=job_1", {"pattern": "^job_[0-9a-f]{32}$"}),
        ("created_after=then", None),
    ],
)
def test_what_a_query_may_be_is_told_as_of_a_body(api: Api, query: str, allowed: Any) -> None:
    (error,) = api.client.get(f"/v1/jobs?{query}").json()["errors"]

    assert error.get("allowed") == allowed


def test_an_unknown_model_is_answered_with_those_there_are(api: Api) -> None:
    (error,) = api.client.post("/v1/jobs", json={"prompt": "x", "model": "demmo"}).json()["errors"]

    assert error["did_you_mean"] == "demo"
    assert "sd15" in error["allowed"]


def test_every_wrong_field_is_named_at_once(api: Api) -> None:
    wrong = {"strength": 2, "seed": -1, "color": "red"}

    problem = api.client.post("/v1/jobs", json={"prompt": "x"} | wrong).json()

    assert {error["pointer"] for error in problem["errors"]} == {"/strength", "/seed", "/color"}
    assert problem["code"] == "validation_error"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("strength", "1,5"),
        ("strength", "nan"),
        ("strength", "1e999"),
        ("num_images", "2.0"),
        ("seed", "0x10"),
        ("deterministic", "yes"),
        ("output.quality", ""),
        ("num_images", "9" * 5000),
    ],
)
def test_a_malformed_form_field_is_named(api: Api, name: str, text: str) -> None:
    response = api.client.post("/v1/jobs", data={"prompt": "x", name: text}, files={"image": ("a.png", picture())})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/" + name.replace(".", "/")
    assert api.has_stored_nothing()


def test_a_file_under_an_unknown_name_is_refused(api: Api) -> None:
    response = api.client.post("/v1/jobs", data={"prompt": "x"}, files={"picture": ("a.png", picture())})

    assert response.json()["errors"][0]["pointer"] == "/picture"


def test_an_image_that_is_no_file_part_is_explained(api: Api) -> None:
    response = api.client.post("/v1/jobs", files={"image": (None, "cat.png"), "prompt": (None, "x")})

    assert "-F image=@" in response.json()["detail"]


@pytest.mark.parametrize(
    "parts",
    [
        [("prompt", (None, "a")), ("prompt", (None, "b"))],
        [("image", ("a.png", picture())), ("image", ("b.png", picture()))],
        [("request", (None, '{"prompt": "x"}')), ("prompt", (None, "y"))],
        [("request", (None, '{"image": null}')), ("image", ("a.png", picture()))],
        [("output", (None, "png")), ("output.format", (None, "png"))],
    ],
)
def test_what_is_given_twice_is_refused(api: Api, parts: list[Any]) -> None:
    assert api.client.post("/v1/jobs", files=parts).status_code == 422


def test_an_unknown_query_parameter_is_refused_with_the_right_one(api: Api) -> None:
    (error,) = api.client.get("/v1/jobs?limti=5").json()["errors"]

    assert (error["pointer"], error["code"], error["did_you_mean"]) == ("/query/limti", "unknown_field", "limit")


@pytest.mark.parametrize(
    "url",
    [
        "/v1/jobs/x?y=1",
        "/v1/models?y=1",
        "/v1/queue?y",
        "/v1/jobs?limit=1&limit=2",
        "/v1/jobs?limit=0",
        "/v1/jobs?limit=101",
        "/v1/jobs?status=done",
        "/v1/jobs?after=job_1",
        "/v1/jobs?model=%00",
    ],
)
def test_no_query_parameter_is_ever_ignored(api: Api, url: str) -> None:
    response = api.client.get(url)

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"].startswith("/query/")
