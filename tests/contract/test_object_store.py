"""What every object store does: the same tests on a folder and on a real S3 server."""

import hashlib
import threading
import uuid
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest

from common.storage.local import LocalStore
from common.storage.port import ObjectMissing, ObjectStore
from common.storage.s3 import S3Store

PNG = "image/png"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalStore(tmp_path / "objects")
    return S3Store(request.getfixturevalue("s3_server").location(f"test-{uuid.uuid4().hex}"))


def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, after=after)]


def test_what_was_put_comes_back(store: ObjectStore) -> None:
    store.put("inputs/t/a.png", b"pixels", PNG)
    assert store.get("inputs/t/a.png") == b"pixels"


def test_the_head_tells_size_type_and_time(store: ObjectStore) -> None:
    store.put("a.png", b"pixels", PNG)
    info = store.head("a.png")
    assert info is not None
    assert (info.key, info.size_bytes, info.content_type) == ("a.png", 6, PNG)
    assert abs(datetime.now(UTC) - info.modified_at) < timedelta(minutes=1)


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty.txt", b"", "text/plain; charset=utf-8")
    assert store.get("empty.txt") == b""
    assert store.head("empty.txt") is not None


def test_a_missing_object_is_missing(store: ObjectStore) -> None:
    assert store.head("a/no.png") is None
    with pytest.raises(ObjectMissing) as caught:
        store.get("a/no.png")
    assert caught.value.key == "a/no.png"


def test_a_missing_object_cannot_be_streamed_and_that_shows_at_once(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        store.stream("a/no.png")


def test_a_folder_of_objects_is_no_object(store: ObjectStore) -> None:
    store.put("a/b.png", b"1", PNG)
    assert store.head("a") is None
    with pytest.raises(ObjectMissing):
        store.get("a")


def test_a_second_put_replaces_the_first(store: ObjectStore) -> None:
    store.put("a.png", b"first, and longer", PNG)
    store.put("a.png", b"second", PNG)
    assert store.get("a.png") == b"second"


def test_if_absent_keeps_the_first_and_succeeds(store: ObjectStore) -> None:
    store.put("a/b.png", b"first", PNG, if_absent=True)
    store.put("a/b.png", b"second", PNG, if_absent=True)
    assert store.get("a/b.png") == b"first"


def test_of_many_writers_if_absent_one_wins_whole(store: ObjectStore) -> None:
    contents = [bytes([number]) * 50_000 for number in range(6)]
    threads = [
        threading.Thread(target=store.put, args=("race.png", content, PNG), kwargs={"if_absent": True})
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("race.png") in contents


def test_a_file_is_stored_from_its_start(store: ObjectStore) -> None:
    file = BytesIO(b"line 1\nline 2\n")
    file.read(7)
    store.put("m.jsonl", file, "application/jsonl")
    assert store.get("m.jsonl") == b"line 1\nline 2\n"


def test_a_file_is_stored_if_absent(store: ObjectStore) -> None:
    store.put("m.jsonl", BytesIO(b"{}\n"), "application/jsonl", if_absent=True)
    assert store.get("m.jsonl") == b"{}\n"


def test_a_stream_brings_the_whole_object_in_pieces(store: ObjectStore) -> None:
    content = bytes(range(256)) * 10_000
    store.put("big.bin", content, "application/octet-stream")
    pieces = list(store.stream("big.bin"))
    assert b"".join(pieces) == content
    assert len(pieces) > 2
    assert max(map(len, pieces)) <= 1024 * 1024


def test_delete_removes_one_object_and_no_other(store: ObjectStore) -> None:
    store.put("a/b/1.png", b"1", PNG)
    store.put("a/b/2.png", b"2", PNG)
    store.delete("a/b/1.png")
    assert store.head("a/b/1.png") is None
    assert store.get("a/b/2.png") == b"2"


def test_deleting_what_is_not_there_succeeds(store: ObjectStore) -> None:
    store.delete("a/b/none.png")


def test_a_key_can_be_used_again_after_delete(store: ObjectStore) -> None:
    store.put("a/b/1.png", b"1", PNG)
    store.delete("a/b/1.png")
    store.put("a/b/1.png", b"2", PNG, if_absent=True)
    assert store.get("a/b/1.png") == b"2"


def test_a_listing_is_in_the_order_of_bytes(store: ObjectStore) -> None:
    names = ["a/z", "a-b", "a.b", "a/b/c", "a0", "B", "ä", "a/b-c"]
    for name in names:
        store.put(name, b"1", PNG)
    assert keys(store) == sorted(names, key=str.encode)


def test_a_listing_starts_behind_a_key_that_need_not_exist(store: ObjectStore) -> None:
    for name in ("a/1", "a/2", "b/1", "b-1"):
        store.put(name, b"1", PNG)
    assert keys(store, after="a/1") == ["a/2", "b-1", "b/1"]
    assert keys(store, after="a/15") == ["a/2", "b-1", "b/1"]
    assert keys(store, after="b") == ["b-1", "b/1"]
    assert keys(store, after="z") == []


def test_a_listing_keeps_to_its_prefix(store: ObjectStore) -> None:
    for name in ("results/t1/x", "results/t10/x", "results/t2/x", "resume"):
        store.put(name, b"1", PNG)
    assert keys(store, "results/t1") == ["results/t1/x", "results/t10/x"]
    assert keys(store, "results/t1/") == ["results/t1/x"]
    assert keys(store, "results/", after="results/t1/x") == ["results/t10/x", "results/t2/x"]
    assert keys(store, "none/") == []


def test_a_listing_tells_size_and_time(store: ObjectStore) -> None:
    store.put("a/1", b"12345", PNG)
    (info,) = store.list()
    assert info.size_bytes == 5
    assert abs(datetime.now(UTC) - info.modified_at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "key", ["with blank", "plus+percent%41", "ä/ö/日本.png", "q?a=1&b=2#c", "a=b,c;d:e@f!(g)*~$'\"", "x" * 200]
)
def test_odd_keys_are_kept_as_they_are(store: ObjectStore, key: str) -> None:
    store.put(key, b"odd", PNG)
    assert store.get(key) == b"odd"
    assert keys(store) == [key]
    store.delete(key)
    assert store.head(key) is None


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a\\b", "a\nb", "a\0b", "\ud800"])
def test_bad_keys_are_refused_before_anything_happens(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        store.put(key, b"1", PNG)
    for read in (store.get, store.stream, store.head, store.delete):
        with pytest.raises(ValueError, match="key"):
            read(key)
    assert keys(store) == []


def test_presigned_urls_are_refused_or_complete(store: ObjectStore) -> None:
    digest = hashlib.sha256(b"abc").hexdigest()
    url = store.presign_get("a.png", expires_seconds=60, content_type=PNG)
    put = store.presign_put("a.png", content_type=PNG, size_bytes=3, sha256=digest, expires_seconds=60)
    assert (url is None) == (put is None)
