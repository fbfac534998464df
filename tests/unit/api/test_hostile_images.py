"""Hostile images through the real decoding process."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from common.images.sandbox import ImageDecoder
from tests.unit.api.conftest import Api


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    decoder = ImageDecoder(processes=1)
    yield decoder
    decoder.close()


@pytest.fixture
def real(make_api: Callable[..., Api], decoder: ImageDecoder) -> Api:
    return make_api(decoder=decoder)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 50,000 by 50,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("cut.jpg", jpeg()[:2000], 422, "image_unreadable"),
        ("text.png", b"I am a text file.\n" * 20, 415, "unsupported_media_type"),
        ("bomb.png", bomb(), 422, "image_too_large"),
        ("empty.png", b"", 415, "unsupported_media_type"),
    ],
)
def test_a_hostile_file_is_refused_and_the_api_lives(real: Api, name: str, data: bytes, status: int, code: str) -> None:
    response = real.client.post("/v1/jobs", data={"prompt": "x"}, files={"image": (name, data)})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code)
    assert problem["errors"][0]["pointer"] == "/image"
    assert real.has_stored_nothing()
    assert real.client.get("/healthz").status_code == 200


def test_an_honest_photograph_is_accepted(real: Api) -> None:
    response = real.client.post("/v1/jobs", data={"prompt": "x"}, files={"image": ("a.jpg", jpeg())})

    assert response.status_code == 202
    assert next(iter(real.store.objects.values())).startswith(b"\x89PNG")
