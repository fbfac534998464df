"""Any pixels that Pillow may load from a PNG, JPEG or WebP file become 8-bit sRGB, with alpha where they have holes."""

from functools import lru_cache
from io import BytesIO
from typing import Final

from PIL import Image, ImageCms

MAX_PROFILE_BYTES: Final = 4 * 1024 * 1024

_ICC_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_SIXTEEN_BITS: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_HIGH_BYTE: Final = [value >> 8 for value in range(65536)]
_WHERE_CLEAR: Final = [255] + [0] * 255


def to_srgb(image: Image.Image) -> Image.Image:
    """The loaded `image` as a new picture of the same size, without any `info`.

    It is RGBA if any pixel is not opaque, else RGB. An embedded ICC profile that is valid, at most 4 MiB long and made
    for the picture's colour space is applied to the colours; any other is ignored. Pixels of alpha 0 are white: what
    nobody could see does not survive.
    """
    profile = image.info.get("icc_profile")
    colours, alpha = split_alpha(image)
    rgb = _apply_profile(colours, profile) if profile else colours.convert("RGB")
    rgb.info = {}
    del colours
    if alpha is not None and alpha.getextrema() != (255, 255):
        rgb.paste("white", mask=alpha.point(_WHERE_CLEAR))
        rgb.putalpha(alpha)
    return rgb


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours (mode RGB, L or CMYK, 8 bits) and the alpha channel (mode L, 255 is opaque), None when there is none.

    16-bit grey keeps its high byte: Pillow's own conversion would clip everything above 255 to white.
    """
    if image.mode in _SIXTEEN_BITS:
        return _split_sixteen_bits(image)
    is_grey = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        return (image if image.mode == "CMYK" else image.convert("L" if is_grey else "RGB")), None
    if is_grey:
        pair = image.convert("LA")
        return pair.getchannel("L"), pair.getchannel("A")
    quad = image if image.mode == "RGBA" else image.convert("RGBA")
    return quad.convert("RGB"), quad.getchannel("A")


def fit_transparency_key(image: Image.Image) -> None:
    """Bring a PNG's colour key from the depth of the file to that of the pixels Pillow will load. Call before `load`.

    Pillow leaves the key as written (PNG, section 11.3.2.1: in the sample depth of the image), so the key of a 2-bit
    grey or 16-bit RGB file would match the wrong pixels.
    """
    key, rawmode = image.info.get("transparency"), _rawmode(image)
    if isinstance(key, int) and rawmode in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if rawmode == "L;2" else 17)
    if isinstance(key, tuple) and rawmode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _rawmode(image: Image.Image) -> str | None:
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles and isinstance(tiles[0].args, str) else None


def _split_sixteen_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    key = image.info.get("transparency")
    wide = image.convert("I")
    alpha = None
    if isinstance(key, int):
        alpha = wide.point([0 if value == key else 255 for value in range(65536)], "L")
    return wide.point(_HIGH_BYTE, "L"), alpha


def _apply_profile(colours: Image.Image, profile_bytes: bytes) -> Image.Image:
    if len(profile_bytes) > MAX_PROFILE_BYTES:
        return colours.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(profile_bytes))
        if profile.profile.xcolor_space.strip() != _ICC_SPACES[colours.mode]:
            return colours.convert("RGB")
        converted = ImageCms.profileToProfile(colours, profile, _srgb_profile(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return colours.convert("RGB")
    return converted or colours.convert("RGB")


@lru_cache(maxsize=1)
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
