"""Opening what decoding stored."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.images.canonical import on_white, open_canonical
from common.images.decode import decode_untrusted
from common.images.untrusted import ImageLimits
from tests.unit.images.files import corners, saved


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_stored_picture_opens_as_it_was(mode: str) -> None:
    picture = corners().convert(mode)
    opened = open_canonical(saved(picture))
    assert (opened.mode, opened.tobytes()) == (mode, picture.tobytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        saved(corners())[:-30],
        saved(corners(), "JPEG"),
        saved(corners(), "WEBP"),
        saved(corners().convert("L")),
        saved(corners().convert("LA")),
        saved(corners().convert("P")),
        saved(corners().convert("1")),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="canonical"):
        open_canonical(data)


def test_an_opaque_picture_is_on_white_already() -> None:
    picture = corners()
    assert on_white(picture) is picture


def test_only_canonical_modes_are_laid_on_white() -> None:
    with pytest.raises(ValueError, match="not L"):
        on_white(corners().convert("L"))


@given(st.tuples(*[st.integers(0, 255)] * 4))
def test_on_white_shows_a_decoded_picture_as_pillow_would_lay_the_original(pixel: tuple[int, int, int, int]) -> None:
    original = Image.new("RGBA", (16, 16), pixel)
    expected = Image.new("RGB", original.size, "white")
    expected.paste(original.convert("RGB"), mask=original.getchannel("A"))
    decoded = decode_untrusted(saved(original), limits=ImageLimits())
    assert on_white(open_canonical(decoded.png)).tobytes() == expected.tobytes()
    assert decoded.has_alpha == (pixel[3] < 255)
    assert Image.open(BytesIO(decoded.png)).mode == ("RGBA" if decoded.has_alpha else "RGB")
