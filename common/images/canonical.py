"""The canonical form of an input: the PNG that decoding wrote and the store keeps, 8-bit sRGB, upright, RGB or RGBA."""

from io import BytesIO

from PIL import Image


def open_canonical(data: bytes) -> Image.Image:
    """The pixels of a stored input, loaded: mode RGB, or RGBA if it has transparent parts.

    Raises ValueError for bytes that are no complete PNG of one of these modes.
    """
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"a canonical image is RGB or RGBA, not {image.mode}")
            image.load()
            return image.copy()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a canonical PNG: {error}") from error


def on_white(picture: Image.Image) -> Image.Image:
    """A canonical picture as RGB, its transparent parts laid on white; an RGB picture is returned as it is."""
    if picture.mode == "RGB":
        return picture
    if picture.mode != "RGBA":
        raise ValueError(f"a canonical image is RGB or RGBA, not {picture.mode}")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return white
