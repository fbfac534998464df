"""A form that was cut off is refused, never taken for a shorter one; and other bodies that are not what they seem."""

import pytest

from tests.unit.api.conftest import Api
from tests.unit.api.fakes import picture

BOUNDARY = "boundary"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form() -> bytes:
    """Prompt, image, strength."""
    head = b'--boundary\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = [
        head % (b"prompt", b"", b"a blue square"),
        head % (b"image", b'; filename="a.png"', picture()),
        head % (b"strength", b"", b"0.9"),
    ]
    return b"".join(parts) + b"--boundary--\r\n"


def test_the_whole_form_is_accepted(api: Api) -> None:
    assert api.client.post("/v1/jobs", content=form(), headers=MULTIPART).status_code == 202


def test_a_form_cut_anywhere_is_refused_and_nothing_is_stored(api: Api) -> None:
    whole = form()
    cuts = list(range(0, len(whole) - 3, 17)) + [whole.index(b"--boundary", at) for at in (1, 90, len(whole) - 60)]
    for at in cuts:
        answer = api.client.post("/v1/jobs", content=whole[:at], headers=MULTIPART)
        assert answer.status_code in {400, 422}, at
    assert api.client.get("/v1/jobs").json()["data"] == []
    assert api.bell.rings == []


def test_a_list_given_both_ways_is_refused(api: Api) -> None:
    answer = api.client.post("/v1/jobs", data={"tags.x": "1", "tags": "a", "prompt": "x"}, files={"image": picture()})
    assert answer.status_code == 422


@pytest.mark.parametrize("index", ["9" * 5000, "-1", "1e1", "x", "16"])
def test_an_index_that_is_none_is_404(api: Api, index: str) -> None:
    job = api.submit()
    assert api.client.get(f"/v1/jobs/{job['id']}/images/{index}").status_code == 404


def test_a_body_of_very_many_values_is_refused_before_it_is_built(api: Api) -> None:
    body = b'{"prompt": "x", "tags": [' + b"[]," * 1_000_000 + b"[]]}"
    answer = api.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/v1/jobs"])
def test_head_answers_as_get_without_the_body(api: Api, path: str) -> None:
    answer = api.client.head(path)
    assert (answer.status_code, answer.content) == (api.client.get(path).status_code, b"")
    assert answer.headers["x-content-type-options"] == "nosniff"
