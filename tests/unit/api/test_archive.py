"""The archive of a batch: names that are only names, objects that are gone, and no more memory than a piece."""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.archive import FileNames, archive_pieces, safe_stem
from common.db.batch_results import ResultLine
from common.domain.job import StoredImage
from common.domain.lifecycle import JobState
from common.storage.port import ObjectMissing, StoreUnavailable
from tests.making import enlist
from tests.making_batches import develop, make_batch, queue_batch
from tests.unit.api.conftest import Api, Json
from tests.unit.api.fakes import MemoryStore

BASE = "https://darkroom.example"
URL = "/v1/batches/{}/archive"


def image(index: int = 0, key: str = "k", content_type: str = "image/png", size: int = 6) -> StoredImage:
    return StoredImage(index, key, 7, 64, 64, content_type, size, "ab" * 32)


def line(custom_id: str | None, *images: StoredImage, number: int = 0) -> ResultLine:
    return ResultLine(number, custom_id, "job_1", JobState.SUCCEEDED, images=list(images))


def opened(api: Api, batch_id: str) -> zipfile.ZipFile:
    answer = api.client.get(URL.format(batch_id))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{batch_id}.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    return archive


def told(archive: zipfile.ZipFile) -> list[Json]:
    return [json.loads(one) for one in archive.read("results.jsonl").splitlines()]


def test_it_has_every_image_that_there_is_and_then_the_results(api: Api) -> None:
    batch_id = queue_batch(api.database, ["photo.JPG", None, "b"], params={"num_images": 2})
    several = queue_batch(api.database, ["one"])
    worker = enlist(api.database)
    develop(api.database, worker, api.store, b"picture", images=2)
    archive = opened(api, batch_id)
    assert archive.namelist() == ["photo-0.png", "photo-1.png", "results.jsonl"]
    assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.read("photo-1.png") == b"picture"
    lines = told(archive)
    plain = api.client.get(f"/v1/batches/{batch_id}/results").text.splitlines()
    assert [one | {"files": None} for one in lines] == [json.loads(one) | {"files": None} for one in plain]
    assert [one["files"] for one in lines] == [["photo-0.png", "photo-1.png"], [], []]
    develop(api.database, worker, api.store, images=2)
    develop(api.database, worker, api.store)
    assert opened(api, several).namelist() == ["one.png", "results.jsonl"]


def test_an_object_that_is_gone_is_left_out_and_said(api: Api) -> None:
    batch_id = queue_batch(api.database, ["a", "b"])
    worker = enlist(api.database)
    for _ in range(2):
        develop(api.database, worker, api.store)
    del api.store.objects[min(api.store.objects)]
    archive = opened(api, batch_id)
    missing, there = sorted(told(archive), key=lambda line: line["error"] is None)
    assert (missing["status"], missing["files"], missing["error"]["code"]) == ("succeeded", [None], "gone")
    assert (there["files"], there["error"]) == ([f"{there['custom_id']}.png"], None)
    assert archive.namelist() == [*there["files"], "results.jsonl"]


def test_there_is_none_of_a_batch_that_validates(api: Api) -> None:
    answer = api.client.get(URL.format(make_batch(api.database)))
    assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")


def test_a_store_that_is_away_is_said_before_anything_is_sent(api: Api) -> None:
    batch_id = queue_batch(api.database, ["a"])
    develop(api.database, enlist(api.database), api.store)
    api.store.is_away = True
    answer = api.client.get(URL.format(batch_id))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def test_a_store_that_goes_away_in_the_middle_leaves_no_whole_archive() -> None:
    class Leaving(MemoryStore):
        def stream(self, key: str) -> Iterator[bytes]:
            yield b"half"
            raise StoreUnavailable(key, "away")

    with pytest.raises(StoreUnavailable):
        list(archive_pieces([line("a", image())], Leaving(), BASE))


@pytest.mark.parametrize(
    ("custom_id", "stem"),
    [
        ("photo.jpg", "photo"),
        ("photo.tar.gz", "photo.tar.gz"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/etc/passwd", "_etc_passwd"),
        ("C:\\autoexec.bat", "C__autoexec.bat"),
        ("..", "_"),
        (".png", "_"),
        (" . ", "_"),
        ("a\x00b\x1bc\u202ed\nf", "a_b_c_d_f"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("ünïcode 画像", "ünïcode 画像"),
        ("x" * 255, "x" * 180),
        ("é" * 255, "é" * 90),
    ],
)
def test_a_custom_id_becomes_a_name_and_no_more_than_that(custom_id: str, stem: str) -> None:
    assert safe_stem(custom_id) == stem


@given(st.lists(st.tuples(st.text(max_size=255), st.integers(1, 3)), max_size=20))
def test_names_are_safe_and_each_is_given_once(given_lines: list[tuple[str, int]]) -> None:
    names = FileNames()
    chosen = []
    for number, (custom_id, count) in enumerate(given_lines):
        images = [image(index) for index in range(count)]
        one = line(custom_id, *images, number=number)
        chosen += [names.choose(one, each) for each in images]
    assert len({name.casefold() for name in chosen}) == len(chosen)
    for name in chosen:
        assert PurePosixPath(name).name == name == PureWindowsPath(name).name
        assert not PureWindowsPath(name).drive
        assert len(name.encode()) < 220
        assert name.isprintable() or " " in name or not name.isascii()
        assert not any(ord(character) < 32 for character in name)
        assert name.endswith(".png")


def test_names_that_are_the_same_are_numbered() -> None:
    names = FileNames()
    given_ids = ["a.png", "a.jpg", "A", "a_2", "a"]
    assert [names.choose(line(one, image()), image()) for one in given_ids] == [
        "a.png",
        "a_2.png",
        "A_3.png",
        "a_2_2.png",
        "a_4.png",
    ]


def test_many_names_that_are_the_same_cost_no_more_than_others() -> None:
    names = FileNames()
    chosen = {names.choose(line("x" * 200 + str(number), image()), image()) for number in range(20_000)}
    assert len(chosen) == 20_000


@pytest.mark.parametrize(("content_type", "extension"), [("image/jpeg", "jpg"), ("image/webp", "webp")])
def test_the_extension_is_that_of_the_result(content_type: str, extension: str) -> None:
    one = image(content_type=content_type)
    assert FileNames().choose(line("photo.png", one), one) == f"photo.{extension}"


class Large:
    """A store of which every object is 64 MiB long, made while it is read."""

    def stream(self, key: str) -> Iterator[bytes]:
        if key == "missing":
            raise ObjectMissing(key)
        return (bytes(1 << 20) for _ in range(64))


def test_memory_does_not_grow_with_the_archive() -> None:
    store: Any = Large()
    lines = (line(str(number), image(size=64 << 20), number=number) for number in range(4))
    tracemalloc.start()
    try:
        size = sum(map(len, archive_pieces(lines, store, BASE)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 256 << 20
    assert peak < 8 << 20
