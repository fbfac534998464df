"""What only an S3 store does: URLs for clients, checked by a real server, and its ways to fail."""

import hashlib
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from common.storage import s3
from common.storage.open import open_store
from common.storage.port import ObjectStore, StoreUnavailable
from common.storage.s3 import S3Location, S3Store
from tests.services.swift import S3Server

PNG = "image/png"
KEY = "uploads/t/u"
CONTENT = b"the declared bytes"


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    return S3Store(s3_server.location(f"test-{uuid.uuid4().hex}"))


@pytest.fixture
def single_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without botocore's waits between tries."""
    monkeypatch.setattr(s3, "MAX_ATTEMPTS", 1)


def url_of(store: ObjectStore, key: str, **options: str) -> str:
    url = store.presign_get(key, expires_seconds=60, content_type=PNG, **options)
    assert url is not None
    return url


def declared(store: ObjectStore, content: bytes = CONTENT) -> tuple[str, dict[str, str]]:
    digest = hashlib.sha256(content).hexdigest()
    put = store.presign_put(KEY, content_type=PNG, size_bytes=len(content), sha256=digest, expires_seconds=60)
    assert put is not None
    return put.url, dict(put.headers)


@pytest.mark.s3
def test_a_presigned_url_serves_the_object_as_an_attachment(store: S3Store) -> None:
    store.put("a.png", b"pixels", "application/octet-stream")
    answer = httpx.get(url_of(store, "a.png", filename='my "cat".png'))
    assert (answer.status_code, answer.content) == (200, b"pixels")
    assert answer.headers["content-type"] == PNG
    assert answer.headers["content-disposition"] == 'attachment; filename="my__cat_.png"'


@pytest.mark.s3
def test_without_a_filename_the_object_is_shown_and_not_downloaded(store: S3Store) -> None:
    store.put("a.png", b"pixels", PNG)
    assert "content-disposition" not in httpx.get(url_of(store, "a.png")).headers


@pytest.mark.s3
def test_a_tampered_signature_is_refused(store: S3Store) -> None:
    store.put("a.png", b"pixels", PNG)
    url = url_of(store, "a.png")
    assert httpx.get(url.replace("X-Amz-Signature=", "X-Amz-Signature=0")).status_code == 403


@pytest.mark.s3
def test_a_url_opens_no_other_object(store: S3Store) -> None:
    store.put("a.png", b"mine", PNG)
    store.put("b.png", b"yours", PNG)
    assert httpx.get(url_of(store, "a.png").replace("a.png", "b.png")).status_code == 403


@pytest.mark.s3
def test_an_expired_url_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a.png", b"pixels", PNG)
    an_hour_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: an_hour_ago)
    assert httpx.get(url_of(store, "a.png")).status_code == 403


@pytest.mark.s3
def test_a_presigned_put_stores_what_was_declared(store: S3Store) -> None:
    url, headers = declared(store)
    assert httpx.put(url, content=CONTENT, headers=headers).status_code == 200
    assert store.get(KEY) == CONTENT
    info = store.head(KEY)
    assert info is not None
    assert info.content_type == PNG


@pytest.mark.s3
def test_a_presigned_put_with_a_wrong_signature_is_refused(store: S3Store) -> None:
    url, headers = declared(store)
    forged = url.replace("X-Amz-Signature=", "X-Amz-Signature=0")
    assert httpx.put(forged, content=CONTENT, headers=headers).status_code == 403
    assert store.head(KEY) is None


@pytest.mark.s3
def test_a_presigned_put_of_other_bytes_is_refused(store: S3Store) -> None:
    url, headers = declared(store)
    assert httpx.put(url, content=CONTENT[::-1], headers=headers).status_code == 400
    assert store.head(KEY) is None


@pytest.mark.s3
def test_a_presigned_put_of_another_length_is_refused(store: S3Store) -> None:
    url, headers = declared(store)
    headers["Content-Length"] = str(len(CONTENT) * 2)
    assert httpx.put(url, content=CONTENT * 2, headers=headers).status_code == 403
    assert store.head(KEY) is None


@pytest.mark.s3
@pytest.mark.parametrize("header", ["Content-Type", "x-amz-checksum-sha256"])
def test_a_presigned_put_without_a_declared_header_is_refused(store: S3Store, header: str) -> None:
    url, headers = declared(store)
    del headers[header]
    assert httpx.put(url, content=CONTENT, headers=headers).status_code == 403


@pytest.mark.s3
def test_urls_name_the_public_endpoint_and_requests_the_inner_one(s3_server: S3Server) -> None:
    public = s3_server.endpoint.replace("127.0.0.1", "localhost")
    store = open_store(s3_server.store_url(f"test-{uuid.uuid4().hex}"), public)
    store.put("a.png", b"pixels", PNG)
    url = url_of(store, "a.png")
    assert url.startswith(public)
    assert httpx.get(url).content == b"pixels"


@pytest.mark.s3
def test_a_wrong_secret_is_an_unavailable_store_and_stays_out_of_the_message(s3_server: S3Server) -> None:
    store = S3Store(replace(s3_server.location(), secret_key="not-the-secret"))
    with pytest.raises(StoreUnavailable, match="403 SignatureDoesNotMatch") as caught:
        store.get("a.png")
    assert "not-the-secret" not in str(caught.value)


@pytest.mark.s3
def test_a_missing_bucket_is_an_unavailable_store_and_not_a_missing_object(s3_server: S3Server) -> None:
    store = S3Store(replace(s3_server.location(), bucket="no-such-bucket"))
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        store.get("a.png")


@pytest.mark.s3
def test_the_bucket_is_made_once(s3_server: S3Server) -> None:
    store = S3Store(replace(s3_server.location(), bucket=f"b-{uuid.uuid4().hex}"))
    store.ensure_bucket()
    store.put("a.png", b"1", PNG)
    store.ensure_bucket()
    assert store.get("a.png") == b"1"


@pytest.mark.usefixtures("single_try")
def test_a_refused_connection_is_an_unavailable_store() -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        store = store_at(nobody_listens.getsockname()[1])
        with pytest.raises(StoreUnavailable) as caught:
            store.get("a.png")
        assert caught.value.key == "a.png"
        with pytest.raises(StoreUnavailable):
            store.put("a.png", b"1", PNG, if_absent=True)
        with pytest.raises(StoreUnavailable):
            list(store.list("a/"))


@pytest.mark.usefixtures("single_try")
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_error_is_an_unavailable_store(status: int) -> None:
    with answering([status]) as (store, _), pytest.raises(StoreUnavailable, match=str(status)):
        store.get("a.png")


@pytest.mark.usefixtures("single_try")
def test_a_store_that_knows_no_condition_gets_a_plain_put_from_then_on() -> None:
    with answering([501, 200, 200]) as (store, seen):
        store.put("a.png", b"1", PNG, if_absent=True)
        store.put("b.png", b"1", PNG, if_absent=True)
    assert seen == ["PUT if absent", "PUT", "PUT"]


@pytest.mark.usefixtures("single_try")
def test_a_conflict_with_another_writer_is_tried_again() -> None:
    with answering([409, 412]) as (store, seen):
        store.put("a.png", b"1", PNG, if_absent=True)
    assert seen == ["PUT if absent", "PUT if absent"]


@pytest.mark.usefixtures("single_try")
def test_an_answer_that_breaks_off_is_an_unavailable_store() -> None:
    with answering([206]) as (store, _), pytest.raises(StoreUnavailable):
        store.get("a.png")


@pytest.mark.usefixtures("single_try")
def test_a_stream_that_breaks_off_is_an_unavailable_store() -> None:
    with answering([206]) as (store, _), pytest.raises(StoreUnavailable):
        list(store.stream("a.png"))


def store_at(port: int) -> S3Store:
    return S3Store(S3Location("b", endpoint=f"http://127.0.0.1:{port}", style="path", access_key="k", secret_key="s"))


@contextmanager
def answering(statuses: list[int]) -> Iterator[tuple[S3Store, list[str]]]:
    """A store whose server answers with these statuses in turn, and the requests it saw. 206 breaks off its body."""
    seen: list[str] = []
    left = iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # Answers "Expect: 100-continue", which botocore waits a second for.

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            seen.append(self.command + (" if absent" if "If-None-Match" in self.headers else ""))
            status = next(left)
            self.send_response(status)
            self.send_header("Content-Length", "100" if status == 206 else "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield store_at(server.server_port), seen
        finally:
            server.shutdown()
            thread.join()
