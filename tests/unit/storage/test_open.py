"""Store URLs."""

from pathlib import Path

import pytest

from common.storage.local import LocalStore
from common.storage.open import open_store, parse_s3_url
from common.storage.s3 import S3Location


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    store = open_store((tmp_path / "with blank").as_uri())
    assert isinstance(store, LocalStore)
    assert (tmp_path / "with blank").is_dir()


def test_a_bucket_alone_is_aws() -> None:
    assert parse_s3_url("s3://pictures") == S3Location("pictures")


def test_everything_can_be_said_in_the_url() -> None:
    url = "s3://test%3Atester:p%40ss%2Fword@pictures/a/b/?endpoint=http://127.0.0.1:9000&region=eu-west-1&style=virtual"
    assert parse_s3_url(url, "https://images.example.org") == S3Location(
        bucket="pictures",
        prefix="a/b",
        endpoint="http://127.0.0.1:9000",
        public_endpoint="https://images.example.org",
        region="eu-west-1",
        style="virtual",
        access_key="test:tester",
        secret_key="p@ss/word",
    )


def test_an_endpoint_of_ones_own_is_spoken_to_by_path() -> None:
    assert parse_s3_url("s3://pictures?endpoint=http://minio:9000").style == "path"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/lib/store",
        "file://relative/path",
        "http://127.0.0.1:9000/bucket",
        "s3://",
        "s3:///prefix",
        "s3://bucket:9000/",
        "s3://onlykey@bucket",
        "s3://bucket?style=sideways",
        "s3://bucket?endpoint=127.0.0.1:9000",
        "s3://bucket?endpoint=http://key:secret@host",
        "s3://bucket?region=a&region=b",
        "s3://bucket?verify=false",
        "s3://bucket#fragment",
    ],
)
def test_any_other_url_is_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(ValueError, match="a store URL is file:///absolute/path or s3://"):
        open_store(url)


def test_a_public_endpoint_has_a_scheme() -> None:
    with pytest.raises(ValueError, match="an endpoint is http"):
        open_store("s3://bucket", "images.example.org")


def test_neither_errors_nor_repr_show_a_secret() -> None:
    with pytest.raises(ValueError, match="a store URL is") as caught:
        open_store("s3://key:topsecret@bucket?style=sideways")
    assert "topsecret" not in str(caught.value)
    assert "topsecret" not in repr(parse_s3_url("s3://key:topsecret@bucket"))
