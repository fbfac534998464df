"""Pixels become files, with or without the facts of how they were made."""

import hashlib
from io import BytesIO

import pytest
from PIL import Image

from common.images.encode import CONTENT_TYPES, ImageFormat, encode, read_metadata
from tests.unit.images.files import corners, saved

FORMATS: list[ImageFormat] = ["png", "jpeg", "webp"]
FACTS = {"prompt": 'a "cat" 🐈, naïve\nsecond line \x00', "seed": "42", "model": "sd15", "empty": ""}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_says_what_it_is(format_: ImageFormat) -> None:
    encoded = encode(corners(), format=format_)
    assert (encoded.width, encoded.height) == (48, 32)
    assert encoded.content_type == CONTENT_TYPES[format_] == f"image/{format_}"
    assert encoded.sha256 == hashlib.sha256(encoded.data).hexdigest()
    picture = Image.open(BytesIO(encoded.data))
    assert (picture.format, picture.mode, picture.size) == (format_.upper(), "RGB", (48, 32))


def test_png_keeps_every_pixel() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])
    assert Image.open(BytesIO(encode(noise).data)).tobytes() == noise.tobytes()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("metadata", [None, FACTS])
def test_the_same_pixels_and_options_give_the_same_bytes(format_: ImageFormat, metadata: dict[str, str] | None) -> None:
    backwards = metadata and dict(reversed(metadata.items()))
    assert encode(corners(), format=format_, metadata=metadata) == encode(corners(), format=format_, metadata=backwards)


@pytest.mark.parametrize("format_", FORMATS)
def test_metadata_comes_back_exactly(format_: ImageFormat) -> None:
    assert read_metadata(encode(corners(), format=format_, metadata=FACTS).data) == FACTS


@pytest.mark.parametrize("format_", FORMATS)
def test_metadata_does_not_touch_the_pixels(format_: ImageFormat) -> None:
    bare = Image.open(BytesIO(encode(corners(), format=format_).data))
    told = Image.open(BytesIO(encode(corners(), format=format_, metadata=FACTS).data))
    assert bare.tobytes() == told.tobytes()


@pytest.mark.parametrize("format_", FORMATS)
def test_without_metadata_nothing_is_left_of_what_the_image_carried(format_: ImageFormat) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret"
    image = Image.open(BytesIO(saved(corners(), "JPEG", exif=exif, comment=b"secret"))).convert("RGB")
    image.info["icc_profile"] = b"secret"
    encoded = encode(image, format=format_)
    assert b"secret" not in encoded.data
    assert read_metadata(encoded.data) is None
    assert not Image.open(BytesIO(encoded.data)).getexif()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_files_of_others_have_no_metadata_of_ours(kind: str) -> None:
    exif = Image.Exif()
    for description in ("a holiday", "[1, 2]", '{"other": 1}', '{"darkroom": 1}'):
        exif[0x010E] = description
        assert read_metadata(saved(corners(), kind, exif=exif.tobytes())) is None


@pytest.mark.parametrize("format_", ["jpeg", "webp"])
def test_a_higher_quality_is_a_longer_file(format_: ImageFormat) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])
    sizes = [len(encode(noise, format=format_, quality=quality).data) for quality in (10, 60, 95)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_a_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 100"):
        encode(corners(), format="jpeg", quality=quality)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_only_rgb_is_encoded(mode: str) -> None:
    with pytest.raises(ValueError, match="only RGB"):
        encode(corners().convert(mode))


def test_metadata_that_does_not_fit_into_exif_is_refused() -> None:
    huge = {"prompt": "x" * 70_000}
    with pytest.raises(ValueError, match="at most 65000 fit"):
        encode(corners(), format="jpeg", metadata=huge)
    assert read_metadata(encode(corners(), format="png", metadata=huge).data) == huge
