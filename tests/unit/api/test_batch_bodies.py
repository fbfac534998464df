"""What may be the body of a batch: forms with a manifest, their limits, and what is cut off."""

import hashlib
import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select

from api import batch_bodies, manifests
from api.manifests import measure_manifest, write_manifest
from common.db.tables import batches, objects
from common.domain.errors import DarkroomError, Invalid
from common.storage.local import LocalStore
from tests.unit.api.conftest import Api, Json
from tests.unit.api.tending import hand_in_manifest

LINES = b'{"prompt": "x"}\n{"prompt": "y", "custom_id": "second"}\n'
MULTIPART = {"Content-Type": "multipart/form-data; boundary=boundary"}
HEAD = b'--boundary\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'


def form(manifest: bytes = LINES, request: bytes = b"{}") -> bytes:
    parts = [HEAD % (b"request", b"") + request, HEAD % (b"manifest", b'; filename="m.jsonl"') + manifest]
    return b"\r\n".join(parts) + b"\r\n--boundary--\r\n"


def nothing_is_kept(api: Api) -> bool:
    with api.database.read() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (batches, objects)
        ]
    return counts == [0, 0] and not api.store.objects and not api.bell.courier_rings


def refusal(answer: Any) -> tuple[int, str, str]:
    body = answer.json()
    first = (body.get("errors") or [{"pointer": "", "code": body["code"]}])[0]
    return answer.status_code, first["pointer"], first["code"]


def test_a_manifest_is_stored_as_it_came(api: Api) -> None:
    answer = hand_in_manifest(api, LINES, {"name": "n", "defaults": {"strength": 0.5}})

    batch = answer.json()
    assert answer.status_code == 202, answer.text
    assert (batch["name"], batch["counts"]["total"]) == ("n", 2)
    assert list(api.store.objects.values()) == [LINES]
    with api.database.read() as connection:
        row = connection.execute(select(objects)).one()
    assert (row.bytes, row.sha256) == (len(LINES), hashlib.sha256(LINES).hexdigest())


def test_a_manifest_alone_is_enough(api: Api) -> None:
    assert hand_in_manifest(api, LINES).status_code == 202


def test_the_request_may_be_a_file_too(api: Api) -> None:
    files = {"manifest": ("m", LINES), "request": ("r", b'{"name": "n"}')}

    assert api.client.post("/v1/batches", files=files).json()["name"] == "n"


@pytest.mark.parametrize("manifest", [b"\xef\xbb\xbf" + LINES, LINES.replace(b"\n", b"\r\n\r\n \n"), LINES.rstrip()])
def test_lines_are_counted_as_a_courier_reads_them(api: Api, manifest: bytes) -> None:
    assert hand_in_manifest(api, manifest).json()["counts"]["total"] == 2


def test_the_same_form_with_the_same_key_is_one_batch_and_another_manifest_is_another(api: Api) -> None:
    key = {"Idempotency-Key": "k"}

    first = hand_in_manifest(api, LINES, {"name": "n"}, **key)
    again = hand_in_manifest(api, LINES, {"name": "n"}, **key)
    other = hand_in_manifest(api, LINES + b"{}", {"name": "n"}, **key)

    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len(api.store.objects) == 1


@pytest.mark.parametrize(
    ("files", "data", "pointer", "code"),
    [
        ({}, {"request": "{}"}, "/manifest", "validation_error"),
        ({}, {"manifest": "{}"}, "/manifest", "validation_error"),
        ({"manifest": b""}, {}, "/manifest", "validation_error"),
        ({"manifest": b"\n \r\n\n"}, {}, "/manifest", "validation_error"),
        ({"manifest": LINES, "image": b"x"}, {}, "/image", "unknown_field"),
        ({"manifest": LINES}, {"manfest": "x"}, "/manfest", "unknown_field"),
        ({"manifest": LINES}, {"request": '{"items": []}'}, "/items", "validation_error"),
        ({"manifest": LINES}, {"request": '{"matrix": {}}'}, "/matrix", "validation_error"),
        ({"manifest": LINES}, {"request": '{"nmae": "x"}'}, "/nmae", "unknown_field"),
        ({"manifest": LINES}, {"request": '{"defaults": {"seed": -1}}'}, "/defaults/seed", "validation_error"),
        ({"manifest": LINES}, {"request": ["{}", "{}"]}, "/request", "validation_error"),
        ({"manifest": LINES}, {"request": "[]"}, "", "invalid_json"),
        ({"manifest": LINES}, {"request": '{"name": "a", "name": "b"}'}, "", "invalid_json"),
    ],
)
def test_a_wrong_form_is_refused_with_the_part(
    api: Api, files: Mapping[str, bytes], data: Json, pointer: str, code: str
) -> None:
    parts = {name: (name, content) for name, content in files.items()} or {"request": (None, data.pop("request", "{}"))}

    answer = api.client.post("/v1/batches", files=parts, data=data)

    assert refusal(answer) == (400 if code == "invalid_json" else 422, pointer, code)
    assert nothing_is_kept(api)


def test_a_form_cut_anywhere_is_refused_and_nothing_is_kept(api: Api) -> None:
    whole = form()
    assert whole.count(b"--boundary") == 3
    for at in range(0, len(whole) - 3, 7):
        answer = api.client.post("/v1/batches", content=whole[:at], headers=MULTIPART)
        assert answer.status_code in {400, 422}, at
    assert nothing_is_kept(api)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/jsonl"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_other_types_of_bodies_are_refused(api: Api, headers: Mapping[str, str]) -> None:
    assert api.client.post("/v1/batches", content=LINES, headers=headers).status_code in {400, 415}


def test_too_many_lines_are_refused_with_their_count(api: Api) -> None:
    answer = hand_in_manifest(api, b"{}\n" * 100_001)

    assert refusal(answer) == (422, "/manifest", "validation_error")
    assert "100001 lines" in answer.json()["detail"]
    assert answer.json()["errors"][0]["allowed"] == {"maximum": 100_000}
    assert nothing_is_kept(api)


def test_a_hundred_thousand_lines_are_accepted(api: Api) -> None:
    assert hand_in_manifest(api, b"{}\n" * 100_000).json()["counts"]["total"] == 100_000


def test_a_flood_of_blank_lines_is_refused(api: Api) -> None:
    assert refusal(hand_in_manifest(api, b"\n" * 1_000_001 + LINES)) == (422, "/manifest", "validation_error")


def test_a_manifest_that_is_too_large_is_refused_where_it_passes_the_limit(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_bodies, "MOST_MANIFEST_BYTES", 1000)

    answer = hand_in_manifest(api, b"{}\n" * 400)

    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "manifest is larger than 1000 bytes" in answer.json()["detail"]
    assert nothing_is_kept(api)


def test_a_request_part_is_of_a_mebibyte_at_most(api: Api) -> None:
    long = json.dumps({"name": "x" * (1 << 20)}).encode()

    field = api.client.post("/v1/batches", files={"manifest": ("m", LINES)}, data={"request": long.decode()})
    file = api.client.post("/v1/batches", files={"manifest": ("m", LINES), "request": ("r", long)})

    assert (field.status_code, file.status_code) == (400, 413)
    assert nothing_is_kept(api)


def test_json_is_as_long_as_any_other_body_at_most(make_api: Callable[..., Api]) -> None:
    api = make_api(max_body_bytes=2000)

    long = api.client.post("/v1/batches", json={"items": [{"prompt": "x" * 2000}]})
    form_ = hand_in_manifest(api, b"{}\n" * 2000)

    assert (long.status_code, long.json()["code"]) == (413, "payload_too_large")
    assert form_.status_code == 202
    assert api.client.post("/v1/jobs", json={"prompt": "x" * 2000}).status_code == 413


def test_a_body_that_is_said_to_be_longer_than_a_form_may_be_is_refused_unread(api: Api) -> None:
    headers = MULTIPART | {"Content-Length": str(300 << 20)}

    assert api.client.post("/v1/batches", content=form(), headers=headers).status_code == 413


def test_a_matrix_of_many_large_lines_is_refused_before_it_is_written(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MOST_MANIFEST_BYTES", 100_000)
    matrix = {"product": {"prompt": ["x" * 4000], "seed": list(range(1000))}}

    assert refusal(api.client.post("/v1/batches", json={"matrix": matrix})) == (422, "/matrix", "validation_error")


def test_a_matrix_of_a_hundred_thousand_prompts_with_commas_is_accepted(api: Api) -> None:
    matrix = {"zip": {"prompt": ["a cat, in oil, on a table"] * 100_000, "seed": list(range(100_000))}}

    answer = api.client.post("/v1/batches", json={"matrix": matrix})

    assert (answer.status_code, answer.json()["counts"]["total"]) == (202, 100_000)


def test_json_of_very_many_values_is_refused_before_it_is_built(api: Api) -> None:
    body = b'{"items": [' + b"{}," * 1_000_001 + b"{}]}"

    answer = api.client.post("/v1/batches", content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "\\u65e5\\u672c"])
def test_what_a_line_says_is_for_the_courier_to_judge(api: Api, text: str) -> None:
    body = f'{{"items": [{{"prompt": "{text}"}}]}}'.encode()

    answer = api.client.post("/v1/batches", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 202
    assert list(api.store.objects.values()) == [b'{"prompt":"%s"}\n' % text.encode()]


def test_what_was_written_measures_the_same_again() -> None:
    lines = [{"prompt": "a\nb", "n": number} for number in range(1000)]

    written = write_manifest(lines, "")
    read = measure_manifest(written.file)

    assert (written.lines, written.bytes, written.sha256) == (1000, read.bytes, read.sha256)
    assert read.lines == 1000
    written.close()
    assert written.file.closed


def test_a_manifest_that_cannot_be_written_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[io.BytesIO] = []

    def open_(**_: Any) -> io.BytesIO:
        made.append(io.BytesIO())
        return made[0]

    monkeypatch.setattr(manifests, "SpooledTemporaryFile", open_)
    with pytest.raises(Invalid):
        write_manifest([{"strength": float("inf")}], "/items")
    assert made[0].closed


def test_a_manifest_of_tens_of_megabytes_is_never_in_memory(tmp_path: Path) -> None:
    """The body in pieces of 64 KiB, read, measured and stored as the route does it."""
    line = b'{"prompt": "%s"}\n' % (b"x" * 2000)
    store, size = LocalStore(tmp_path), 40 << 20

    def pieces() -> Iterator[bytes]:
        yield form()[: -len(b"\r\n--boundary--\r\n")]
        for _ in range(size // (len(line) * 32)):
            yield line * 32
        yield b"\r\n--boundary--\r\n"

    async def read() -> int:
        async def stream() -> AsyncIterator[bytes]:
            for piece in pieces():
                yield piece

        headers = MULTIPART["Content-Type"]
        request: Any = SimpleNamespace(headers={"Content-Type": headers}, stream=stream)
        parts = await batch_bodies._read_form(request)
        manifest = measure_manifest(parts["manifest"].file)  # type: ignore[union-attr]
        store.put("manifests/default/bat_1.jsonl", manifest.file, "application/jsonl")
        await parts.close()
        return manifest.bytes

    tracemalloc.start()
    try:
        stored = anyio.run(read)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    info = store.head("manifests/default/bat_1.jsonl")
    assert info is not None
    assert info.size_bytes == stored > 39 << 20
    assert peak < 8 << 20


def test_a_body_that_cannot_be_fingerprinted_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(DarkroomError, match="nested too deeply"):
        batch_bodies.fingerprint_of("POST", "/", {"x": deep}, {})
