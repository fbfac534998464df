"""Pixels become files, with or without the facts of how they were made."""

import hashlib
import json
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from common.images.encode import CONTENT_TYPES, ImageFormat, encode, read_metadata
from tests.unit.images.files import corners, saved

FORMATS: list[ImageFormat] = ["png", "jpeg", "webp"]
FACTS: dict[str, Any] = {
    "prompt": 'a "cat" 🐈, naïve\nsecond line \x00',
    "seed": 42,
    "strength": 0.6,
    "deterministic": True,
    "adapters": [{"id": "ink", "weight": 0.5}],
    "output": {"format": "png", "quality": 90},
    "empty": "",
}
PLAIN: dict[str, Any] = {"prompt": "a cat", "seed": 1}
CHAIN: dict[str, Any] = {
    "keep": "all",
    "steps": [{"prompt": "猫" * 4000, "negative_prompt": "🐈" * 4000, "seed": seed} for seed in range(10)],
}


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
def test_the_same_pixels_and_options_give_the_same_bytes(format_: ImageFormat, metadata: dict[str, Any] | None) -> None:
    backwards = metadata and dict(reversed(metadata.items()))
    assert encode(corners(), format=format_, metadata=metadata) == encode(corners(), format=format_, metadata=backwards)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "metadata", [FACTS, PLAIN, {}, {"prompt": "\ud800 alone"}, {"prompt": "", "steps": [PLAIN, FACTS]}]
)
def test_metadata_comes_back_exactly(format_: ImageFormat, metadata: dict[str, Any]) -> None:
    assert read_metadata(encode(corners(), format=format_, metadata=metadata).data) == metadata


@given(st.text(max_size=40), st.sampled_from(FORMATS))
def test_every_prompt_comes_back(prompt: str, format_: ImageFormat) -> None:
    picture = Image.new("RGB", (16, 16))
    assert read_metadata(encode(picture, format=format_, metadata={"prompt": prompt}).data) == {"prompt": prompt}


def test_a_png_tells_any_viewer_its_prompt_and_maker() -> None:
    info = Image.open(BytesIO(encode(corners(), metadata=FACTS).data)).info
    assert info["Description"] == 'a "cat" 🐈, naïve\nsecond line  '
    assert info["Software"] == "Darkroom"
    assert json.loads(info["darkroom"]) == FACTS
    chain = Image.open(BytesIO(encode(corners(), metadata={"steps": [{"prompt": "one"}, {"prompt": "two"}]}).data))
    assert chain.info["Description"] == "one\ntwo"


@pytest.mark.parametrize("format_", ["jpeg", "webp"])
@pytest.mark.parametrize(
    ("metadata", "head", "codec"), [(PLAIN, b"ASCII\0\0\0", "ascii"), (FACTS, b"UNICODE\0", "utf-16-le")]
)
def test_exif_names_the_character_code_of_its_comment(
    format_: ImageFormat, metadata: dict[str, Any], head: bytes, codec: str
) -> None:
    exif = Image.open(BytesIO(encode(corners(), format=format_, metadata=metadata).data)).getexif()
    comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert exif[ExifTags.Base.Software] == "Darkroom"
    assert exif.endian == "<"
    assert comment[:8] == head
    assert json.loads(comment[8:].decode(codec)) == metadata


def test_a_big_endian_block_is_read_too() -> None:
    exif = Image.Exif()
    exif.endian = ">"
    exif[ExifTags.Base.Software] = "Darkroom"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + '{"prompt":"猫"}'.encode("utf-16-be")
    assert read_metadata(saved(corners(), "JPEG", exif=exif.tobytes())) == {"prompt": "猫"}


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


def commented(comment: object, software: str = "Darkroom") -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = software
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        commented(b'ASCII\0\0\0{"prompt":"x"}', software="GIMP"),
        commented(b"ASCII\0\0\0a holiday"),
        commented(b"ASCII\0\0\0[1, 2]"),
        commented(b"ASCII\0\0\0\xff"),
        commented(b"UNICODE\0\0"),
        commented(b'{"prompt":"x"}'),
        commented(b""),
        commented(7),
    ],
)
def test_files_of_others_have_no_metadata_of_ours(kind: str, exif: bytes) -> None:
    assert read_metadata(saved(corners(), kind, exif=exif)) is None


@pytest.mark.parametrize("text", ["a holiday", "[1, 2]", "null", "{", "[" * 100_000])
def test_a_foreign_text_chunk_is_no_metadata_of_ours(text: str) -> None:
    info = PngInfo()
    info.add_itxt("darkroom", text)
    assert read_metadata(saved(corners(), pnginfo=info)) is None


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", saved(corners(), "GIF")])
def test_reading_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable PNG, JPEG or WebP"):
        read_metadata(data)


def test_damaged_files_never_raise_anything_but_a_value_error() -> None:
    for format_ in FORMATS:
        whole = encode(Image.new("RGB", (16, 16)), format=format_, metadata=FACTS).data
        for position in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[position] ^= 0xFF
            with suppress(ValueError):
                read_metadata(bytes(damaged))


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


def test_a_chain_too_long_for_a_jpeg_loses_the_prompts_of_its_steps_and_says_so() -> None:
    kept = read_metadata(encode(corners(), format="jpeg", metadata=CHAIN).data)
    assert kept == {"keep": "all", "steps": [{"seed": seed} for seed in range(10)], "truncated": True}


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_a_long_chain_fits_whole_into_the_other_formats(format_: ImageFormat) -> None:
    assert read_metadata(encode(corners(), format=format_, metadata=CHAIN).data) == CHAIN


def test_the_longest_prompts_of_one_pass_fit_into_a_jpeg() -> None:
    longest = {"prompt": "🐈" * 4000, "negative_prompt": "🐈" * 4000, "seed": 2**32 - 1}
    assert read_metadata(encode(corners(), format="jpeg", metadata=longest).data) == longest


def test_metadata_that_does_not_fit_into_a_jpeg_loses_its_prompts_but_never_the_picture() -> None:
    huge = {"prompt": "x" * 70_000, "seed": 3}
    assert read_metadata(encode(corners(), format="jpeg", metadata=huge).data) == {"seed": 3, "truncated": True}
    odd = {"adapters": "x" * 70_000}
    assert read_metadata(encode(corners(), format="jpeg", metadata=odd).data) == {"truncated": True}
    assert read_metadata(encode(corners(), format="png", metadata=huge).data) == huge
