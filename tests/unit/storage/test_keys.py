"""The names of objects."""

import pytest

from common.storage.keys import (
    check_key,
    content_type_of,
    input_key,
    manifest_key,
    result_key,
    step_key,
    upload_key,
)

SHA256 = "0123456789abcdef" * 4


def test_keys_say_what_whose_and_which() -> None:
    assert input_key("ten_1", SHA256) == f"inputs/ten_1/{SHA256}.png"
    assert result_key("ten_1", "job_2", 3, 0, SHA256, "png") == "results/ten_1/job_2/3/0-0123456789abcdef.png"
    assert result_key("ten_1", "job_2", 3, "grid", SHA256, "jpg") == "results/ten_1/job_2/3/grid-0123456789abcdef.jpg"
    assert step_key("ten_1", "job_2", 3, 1, SHA256, "safetensors") == (
        "steps/ten_1/job_2/3/1-0123456789abcdef.safetensors"
    )
    assert upload_key("ten_1", "upl_4") == "uploads/ten_1/upl_4"
    assert manifest_key("ten_1", "bat_5") == "manifests/ten_1/bat_5.jsonl"


def test_every_key_is_one_that_stores_take() -> None:
    check_key(result_key("t" * 128, "j" * 128, 2**63, 15, SHA256, "webp"))


@pytest.mark.parametrize("tenant_id", ["", "..", "a/b", "A", "a b", "a\n", "ä", "t" * 129])
def test_an_id_that_could_lead_elsewhere_is_refused(tenant_id: str) -> None:
    with pytest.raises(ValueError, match="an id in a key"):
        upload_key(tenant_id, "upl_1")
    with pytest.raises(ValueError, match="an id in a key"):
        upload_key("ten_1", tenant_id)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n"])
def test_a_digest_of_another_form_is_refused(sha256: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        input_key("ten_1", sha256)


@pytest.mark.parametrize("extension", ["", ".png", "p/g", "PNG", "../x"])
def test_an_extension_of_another_form_is_refused(extension: str) -> None:
    with pytest.raises(ValueError, match="extension"):
        result_key("ten_1", "job_1", 1, 0, SHA256, extension)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        result_key("ten_1", "job_1", -1, 0, SHA256, "png")
    with pytest.raises(ValueError, match="negative"):
        step_key("ten_1", "job_1", 1, -1, SHA256, "png")


@pytest.mark.parametrize("key", ["a" * 201, "/".join(["a" * 100] * 10), "a/.b", "a/./b", "a\x7fb"])
def test_a_key_that_some_store_could_not_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        check_key(key)


def test_the_content_type_follows_the_extension() -> None:
    assert content_type_of("a/b.png") == "image/png"
    assert content_type_of("a.png/b") == "application/octet-stream"
    assert content_type_of("png") == "application/octet-stream"
