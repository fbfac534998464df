"""Pytest plugin: the services that tests share, started once per session when a test asks for them."""

import os
from collections.abc import Iterator

import pytest

from tests.services.swift import S3Server, SwiftUnavailable, run_swift


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket. Skips where it cannot be started, but fails in CI."""
    try:
        with run_swift(tmp_path_factory.mktemp("swift")) as server:
            yield server
    except SwiftUnavailable as reason:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the S3 tests: {reason}")
        pytest.skip(str(reason))
