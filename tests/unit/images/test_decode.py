"""Untrusted bytes become clean pixels, or are refused with a code."""

import hashlib
import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageCms, ImageDraw

from common.images.canonical import on_white
from common.images.decode import decode_untrusted
from common.images.untrusted import DecodedImage, ImageLimits, ImageRejected
from tests.unit.images.files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    PNG_SIGNATURE,
    RGB,
    RGB_ALPHA,
    bomb,
    chunk,
    corners,
    png,
    saved,
)

LIMITS = ImageLimits()
SIZE = (32, 32)
CHEAP_SECONDS = 1.0


@pytest.fixture(autouse=True)
def pillow_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's global limits, which decoding sets, are put back after each test."""
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr("PIL.PngImagePlugin.MAX_TEXT_CHUNK", 1 << 20)
    monkeypatch.setattr("PIL.PngImagePlugin.MAX_TEXT_MEMORY", 64 << 20)


def decode(data: bytes) -> DecodedImage:
    return decode_untrusted(data, limits=LIMITS)


def pixels(data: bytes) -> Image.Image:
    return Image.open(BytesIO(decode(data).png))


def middle(data: bytes) -> tuple[int, ...]:
    """The pixel in the middle, as it is shown on white."""
    return spot_in(on_white(pixels(data)))


def raw_middle(data: bytes) -> tuple[int, ...]:
    """The pixel in the middle with its alpha, if it has one."""
    return spot_in(pixels(data))


def spot_in(picture: Image.Image) -> tuple[int, ...]:
    value = picture.getpixel((picture.width // 2, picture.height // 2))
    assert isinstance(value, tuple)
    return value


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        decode_untrusted(data, limits=limits)
    return caught.value


# What is kept


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})])
def test_each_allowed_format_becomes_an_rgb_png(kind: str, options: dict[str, object]) -> None:
    decoded = decode(saved(corners(), kind, **options))
    assert (decoded.source_format, decoded.width, decoded.height) == (kind, 48, 32)
    assert decoded.sha256 == hashlib.sha256(decoded.png).hexdigest()
    picture = Image.open(BytesIO(decoded.png))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (48, 32))
    assert picture.getpixel((2, 2)) == pytest.approx((255, 0, 0), abs=4)


def test_lossless_rgb_pixels_are_unchanged() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((40, 30), 90) for _ in range(3)])
    assert pixels(saved(noise)).tobytes() == noise.tobytes()


def test_the_same_file_gives_the_same_bytes() -> None:
    assert decode(saved(corners())) == decode(saved(corners()))


def test_nothing_but_pixels_survives() -> None:
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    data = saved(corners(), "JPEG", exif=exif, comment=b"secret", quality=95)
    polyglot = data + b"PK\x03\x04 a zip file at the end"
    clean = decode(polyglot).png
    names = [clean[offset : offset + 4] for offset in chunk_offsets(clean)]
    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}
    assert clean.endswith(chunk(b"IEND", b""))


def chunk_offsets(data: bytes) -> list[int]:
    offsets, position = [], 8
    while position < len(data):
        offsets.append(position + 4)
        position += 12 + struct.unpack_from(">I", data, position)[0]
    return offsets


# Orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners() if orientation == 1 else corners().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(saved(stored, kind, exif=exif.tobytes(), **options))
    upright = Image.open(BytesIO(decoded.png))
    assert (decoded.width, decoded.height) == upright.size == (48, 32)
    seen = [upright.getpixel(spot) for spot in ((4, 4), (43, 4), (4, 27), (43, 27))]
    for value, name in zip(seen, ("red", "green", "blue", "white"), strict=True):
        assert value == pytest.approx(Image.new("RGB", (1, 1), name).getpixel((0, 0)), abs=6)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage and more", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    assert decode(saved(corners(), "JPEG", exif=exif)).width == 48


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(saved(corners(), "JPEG", exif=exif)).width == 48


# Depths and colour spaces


@pytest.mark.parametrize(("sample", "expected"), [(0x0000, 0), (0x00FF, 0), (0x0100, 1), (0x8080, 128), (0xFFFF, 255)])
def test_sixteen_bit_grey_keeps_its_high_byte(sample: int, expected: int) -> None:
    rows = struct.pack(">H", sample) * SIZE[0]
    assert middle(png(*SIZE, depth=16, colour=GREY, rows=rows)) == (expected,) * 3


def test_sixteen_bit_colour_keeps_its_high_bytes() -> None:
    rows = struct.pack(">3H", 0xFFFF, 0x8080, 0x00FF) * SIZE[0]
    assert middle(png(*SIZE, depth=16, colour=RGB, rows=rows)) == (255, 128, 0)


def test_sixteen_bit_alpha_is_laid_on_white() -> None:
    clear = struct.pack(">4H", 0, 0, 0, 0) * SIZE[0]
    assert middle(png(*SIZE, depth=16, colour=RGB_ALPHA, rows=clear)) == (255, 255, 255)
    grey = struct.pack(">2H", 0x4040, 0xFFFF) * SIZE[0]
    assert middle(png(*SIZE, depth=16, colour=GREY_ALPHA, rows=grey)) == (64, 64, 64)


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [(1, b"\xff" * 4, 255), (1, b"\x00" * 4, 0), (2, b"\x55" * 8, 85), (4, b"\x77" * 16, 119), (8, b"\x77" * 32, 119)],
)
def test_grey_of_every_depth_comes_out_right(depth: int, row: bytes, expected: int) -> None:
    assert middle(png(*SIZE, depth=depth, colour=GREY, rows=row)) == (expected,) * 3


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key"),
    [
        (1, GREY, b"\x00" * 4, struct.pack(">H", 0)),
        (2, GREY, b"\x55" * 8, struct.pack(">H", 1)),
        (4, GREY, b"\x77" * 16, struct.pack(">H", 7)),
        (8, GREY, b"\x77" * 32, struct.pack(">H", 0x77)),
        (16, GREY, b"\x12\x34" * 32, struct.pack(">H", 0x1234)),
        (8, RGB, b"\x01\x02\x03" * 32, struct.pack(">3H", 1, 2, 3)),
        (16, RGB, b"\x01\x02\x03\x04\x05\x06" * 32, b"\x01\x02\x03\x04\x05\x06"),
    ],
)
def test_a_colour_key_is_transparent_in_every_depth(depth: int, colour: int, row: bytes, key: bytes) -> None:
    keyed = png(*SIZE, depth=depth, colour=colour, rows=row, before=chunk(b"tRNS", key))
    assert middle(keyed) == (255, 255, 255)
    other_key = chunk(b"tRNS", b"\0\0" * (len(key) // 2) if any(key) else b"\0\1")
    assert middle(png(*SIZE, depth=depth, colour=colour, rows=row, before=other_key)) != (255, 255, 255)


def test_a_palette_is_resolved() -> None:
    palette = chunk(b"PLTE", bytes((10, 20, 30, 40, 50, 60)))
    assert middle(png(*SIZE, depth=8, colour=PALETTE, rows=b"\x01" * 32, before=palette)) == (40, 50, 60)


@pytest.mark.parametrize(
    ("alphas", "expected"), [(b"\xff\x00", (255, 255, 255)), (b"\x00", (40, 50, 60)), (b"\xff\x80", (147, 152, 157))]
)
def test_a_palette_with_transparency_is_laid_on_white(alphas: bytes, expected: tuple[int, ...]) -> None:
    before = chunk(b"PLTE", bytes((10, 20, 30, 40, 50, 60))) + chunk(b"tRNS", alphas)
    data = png(*SIZE, depth=8, colour=PALETTE, rows=b"\x01" * 32, before=before)
    assert middle(data) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("alpha", "expected"), [(255, 100), (0, 255), (128, 177)])
def test_alpha_is_laid_on_white(alpha: int, expected: int) -> None:
    assert middle(saved(Image.new("LA", SIZE, (100, alpha)))) == pytest.approx((expected,) * 3, abs=1)
    rgba = Image.new("RGBA", SIZE, (100, 100, 100, alpha))
    assert middle(saved(rgba)) == pytest.approx((expected,) * 3, abs=1)
    assert middle(saved(rgba, "WEBP", lossless=True, exact=True)) == pytest.approx((expected,) * 3, abs=1)


def test_a_picture_with_holes_keeps_them() -> None:
    half = Image.new("RGBA", SIZE, (10, 20, 30, 128))
    for data in (saved(half), saved(half, "WEBP", lossless=True)):
        decoded = decode(data)
        picture = Image.open(BytesIO(decoded.png))
        assert decoded.has_alpha
        assert (picture.mode, picture.getpixel((3, 3))) == ("RGBA", (10, 20, 30, 128))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_that_is_opaque_everywhere_is_dropped(mode: str) -> None:
    decoded = decode(saved(corners().convert("RGBA").convert(mode)))
    assert not decoded.has_alpha
    assert Image.open(BytesIO(decoded.png)).mode == "RGB"


def test_one_pixel_that_is_not_quite_opaque_keeps_the_alpha_channel() -> None:
    picture = corners().convert("RGBA")
    picture.putpixel((5, 5), (255, 0, 0, 254))
    decoded = decode(saved(picture))
    assert decoded.has_alpha
    assert Image.open(BytesIO(decoded.png)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_was_hidden_under_full_transparency_does_not_survive(kind: str) -> None:
    secret = corners().convert("RGBA")
    secret.putalpha(0)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    clean = Image.open(BytesIO(decode(saved(secret, kind, **options)).png))
    assert clean.getextrema() == ((255, 255), (255, 255), (255, 255), (0, 0))


def test_a_picture_with_holes_is_made_upright_with_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGBA", (48, 32), (9, 9, 9, 255))
    stored.putpixel((0, 31), (9, 9, 9, 0))
    upright = Image.open(BytesIO(decode(saved(stored, exif=exif.tobytes())).png))
    assert upright.size == (32, 48)
    assert upright.getpixel((0, 0)) == (255, 255, 255, 0)
    assert upright.getpixel((31, 0)) == (9, 9, 9, 255)


def test_cmyk_is_shown_in_its_colours() -> None:
    cyan = Image.new("CMYK", SIZE, (255, 0, 0, 0))
    assert middle(saved(cyan, "JPEG", quality=100)) == pytest.approx((0, 255, 255), abs=3)
    paper = Image.new("CMYK", SIZE, (0, 0, 0, 0))
    assert middle(saved(paper, "JPEG", quality=100)) == pytest.approx((255, 255, 255), abs=3)


def test_a_phone_picture_with_a_second_frame_behind_it_is_its_first() -> None:
    second = Image.new("RGB", (48, 32), "black")
    data = saved(corners(), "MPO", save_all=True, append_images=[second], quality=95)
    decoded = decode(data)
    assert decoded.source_format == "JPEG"
    assert Image.open(BytesIO(decoded.png)).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=6)


# ICC profiles


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """An sRGB profile whose red and blue primaries have changed places."""
    profile = srgb_profile()
    return profile.replace(b"rXYZ", b"tmpX", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmpX", b"bXYZ", 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_embedded_profile_is_applied(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    red = Image.new("RGB", SIZE, (250, 0, 0))
    data = saved(red, kind, icc_profile=swapped_profile(), **options)
    assert middle(data) == pytest.approx((0, 0, 250), abs=6)


def test_a_profile_is_applied_under_alpha() -> None:
    red = Image.new("RGBA", SIZE, (255, 0, 0, 128))
    assert raw_middle(saved(red, icc_profile=swapped_profile())) == pytest.approx((0, 0, 255, 128), abs=2)
    assert middle(saved(red, icc_profile=swapped_profile())) == pytest.approx((127, 127, 255), abs=2)


def test_srgb_itself_changes_nothing_to_speak_of() -> None:
    plain = saved(corners())
    with_profile = saved(corners(), icc_profile=srgb_profile())
    for spot in ((4, 4), (43, 4), (4, 27), (43, 27)):
        assert pixels(with_profile).getpixel(spot) == pytest.approx(pixels(plain).getpixel(spot), abs=1)


@pytest.mark.parametrize("profile", [b"garbage", b"", b"\0" * 128])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_broken_profile_is_ignored(profile: bytes, mode: str) -> None:
    assert decode(saved(Image.new(mode, SIZE), "JPEG", icc_profile=profile)).width == SIZE[0]


def test_a_profile_of_another_colour_space_is_ignored() -> None:
    assert middle(saved(Image.new("L", SIZE, 77), icc_profile=srgb_profile())) == (77, 77, 77)


# Refusals


def test_text_named_png_is_an_unsupported_media_type(tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    file.write_text("this is no picture")
    rejection = refusal(file.read_bytes())
    assert rejection.code == "unsupported_media_type"
    assert "PNG, JPEG and WebP are allowed" in rejection.detail


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP", "ICO", "EPS", "PPM", "PDF", "JPEG2000"])
def test_other_formats_are_unsupported_media_types(kind: str) -> None:
    assert refusal(saved(corners(), kind)).code == "unsupported_media_type"


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"8BPS\0\1"])
def test_what_claims_no_allowed_format_is_an_unsupported_media_type(data: bytes) -> None:
    assert refusal(data).code == "unsupported_media_type"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_unreadable(kind: str, share: float) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])
    data = saved(noise, kind)
    rejection = refusal(data[: max(16, int(len(data) * share))])
    assert rejection.code == "image_unreadable"
    assert "a complete PNG, JPEG or WebP file" in rejection.detail


@pytest.mark.parametrize("head", [PNG_SIGNATURE, b"\xff\xd8\xff\xe0", b"RIFF\x10\0\0\0WEBPVP8 "])
def test_a_header_with_garbage_behind_it_is_unreadable(head: bytes) -> None:
    assert refusal(head + b"\x5a" * 500).code == "image_unreadable"


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (8193, 16)])
def test_a_bomb_is_too_large_and_costs_nothing(width: int, height: int) -> None:
    started = time.perf_counter()
    rejection = refusal(bomb(width, height))
    assert rejection.code == "image_too_large"
    assert "16777216 pixels" in rejection.detail
    assert time.perf_counter() - started < CHEAP_SECONDS


def test_a_webp_bomb_is_too_large_and_costs_nothing() -> None:
    canvas = (16_382).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + canvas
    assert refusal(b"RIFF" + struct.pack("<I", len(body)) + body).code == "image_too_large"


def test_the_limits_themselves_are_allowed() -> None:
    limits = ImageLimits(max_pixels=64 * 33, min_side=33, max_side=64)
    assert decode_untrusted(saved(Image.new("RGB", (64, 33))), limits=limits).width == 64
    for size in ((65, 33), (64, 34), (64, 32)):
        assert "sides from 33 to 64 pixels" in refusal(saved(Image.new("RGB", size)), limits).detail


def test_a_picture_that_is_too_small_is_unreadable() -> None:
    assert refusal(saved(Image.new("RGB", (15, 16)))).code == "image_unreadable"


def test_a_file_with_too_many_bytes_is_too_large() -> None:
    rejection = refusal(saved(corners()), ImageLimits(max_bytes=50))
    assert rejection.code == "image_too_large"
    assert "at most 50 bytes" in rejection.detail


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", SIZE, name) for name in ("red", "green", "blue")]
    rejection = refusal(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
    assert rejection.code == "image_unreadable"
    assert "one frame is allowed" in rejection.detail


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_a_compressed_text_bomb_is_refused_cheaply(name: bytes) -> None:
    flood = zlib.compress(b"\0" * 100_000_000, 9)
    content = b"k\0\0" + flood if name == b"zTXt" else b"k\0\1\0\0\0" + flood
    data = png(*SIZE, depth=8, colour=GREY, rows=b"\0" * 32, before=chunk(name, content))
    started = time.perf_counter()
    assert refusal(data).code == "image_unreadable"
    assert time.perf_counter() - started < CHEAP_SECONDS


def test_many_text_chunks_together_are_refused() -> None:
    text = chunk(b"tEXt", b"k\0" + b"x" * 900_000) * 6
    data = png(*SIZE, depth=8, colour=GREY, rows=b"\0" * 32, before=text)
    assert refusal(data).code == "image_unreadable"


def test_a_reasonable_text_chunk_is_allowed_and_dropped() -> None:
    text = chunk(b"tEXt", b"workflow\0" + b"x" * 500_000)
    assert len(decode(png(*SIZE, depth=8, colour=GREY, rows=b"\0" * 32, before=text)).png) < 1000


def test_an_icc_bomb_is_refused_cheaply() -> None:
    flood = chunk(b"iCCP", b"bomb\0\0" + zlib.compress(b"\0" * 50_000_000, 9))
    data = png(*SIZE, depth=8, colour=GREY, rows=b"\0" * 32, before=flood)
    assert refusal(data).code == "image_unreadable"


def test_damaged_files_never_raise_anything_but_a_refusal() -> None:
    """Every byte of small files is changed in turn; whatever comes out is a picture or an `ImageRejected`."""
    drawing = corners(16, 16)
    ImageDraw.Draw(drawing).ellipse((2, 2, 13, 13), fill="yellow")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = saved(drawing, kind, exif=exif.tobytes())
        for position in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[position] ^= 0xFF
            with suppress(ImageRejected):
                decode(bytes(damaged))
