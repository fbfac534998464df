"""How a result carries the recipe that made it, so that anyone can read it back.

The recipe is one JSON object (see `common.domain.recipe`). Where it is:

- PNG: text chunk iTXt `darkroom` in UTF-8; besides, `Description` has the prompt and `Software` says Darkroom.
- JPEG, WebP: EXIF UserComment (0x9286), behind the 8 bytes that name its character code (EXIF 2.32, section 4.6.5 C):
  `ASCII` if the text is plain ASCII, else `UNICODE` (UTF-16 in the byte order of the block); and Software (0x0131).

A JPEG has 64 KiB for it. A recipe that is longer loses the prompts of its `steps`, then all, and says so with
`"truncated": true`.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

SOFTWARE: Final = "Darkroom"
MAX_JPEG_EXIF_BYTES: Final = 65_000

_KEY: Final = "darkroom"
_ASCII: Final = b"ASCII\0\0\0"
_UNICODE: Final = b"UNICODE\0"
_PROMPTS: Final = ("prompt", "negative_prompt")
_BROKEN_EXIF: Final = (SyntaxError, ValueError, KeyError, IndexError, TypeError, OSError, struct.error)


def png_text(metadata: Mapping[str, Any]) -> PngInfo:
    """The text chunks of a PNG."""
    info = PngInfo()
    info.add_itxt(_KEY, _as_json(metadata))
    info.add_text("Software", SOFTWARE)
    if prompt := _shown_prompt(metadata):
        info.add_text("Description", prompt)
    return info


def webp_exif(metadata: Mapping[str, Any]) -> bytes:
    """The EXIF block of a WebP, of any length."""
    return _exif(metadata)


def jpeg_exif(metadata: Mapping[str, Any]) -> bytes:
    """The EXIF block of a JPEG: without the prompts of the steps where it is too long, then without any, then empty."""
    without_all = {name: value for name, value in _truncated(metadata).items() if name not in _PROMPTS}
    for recipe in (metadata, _truncated(metadata), without_all):
        if len(block := _exif(recipe)) <= MAX_JPEG_EXIF_BYTES:
            return block
    return _exif({"truncated": True})


def find_recipe(image: Image.Image) -> dict[str, Any] | None:
    """The recipe in an opened PNG, JPEG or WebP, or None when it has none of ours."""
    text = image.info.get(_KEY) if image.format == "PNG" else _user_comment(image)
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _as_json(value: Mapping[str, Any]) -> str:
    """Canonical, and readable in every alphabet; escaped to ASCII if a lone surrogate leaves no other way."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text


def _shown_prompt(metadata: Mapping[str, Any]) -> str:
    """The prompt, or those of the steps line by line, without what a text chunk cannot hold."""
    prompts = [one.get("prompt") for one in (metadata, *(metadata.get("steps") or ())) if isinstance(one, Mapping)]
    text = "\n".join(prompt for prompt in prompts if isinstance(prompt, str) and prompt)
    return text.replace("\0", " ").encode(errors="replace").decode()


def _truncated(metadata: Mapping[str, Any]) -> dict[str, Any]:
    steps = [
        {name: value for name, value in step.items() if name not in _PROMPTS} for step in metadata.get("steps") or ()
    ]
    return dict(metadata) | ({"steps": steps} if steps else {}) | {"truncated": True}


def _exif(metadata: Mapping[str, Any]) -> bytes:
    text = _as_json(metadata)
    exif = Image.Exif()
    exif.endian = "<"
    exif[ExifTags.Base.Software] = SOFTWARE
    comment = _ASCII + text.encode() if text.isascii() else _UNICODE + text.encode("utf-16-le")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif.tobytes()


def _user_comment(image: Image.Image) -> str | None:
    try:
        exif = image.getexif()
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        if exif.get(ExifTags.Base.Software) != SOFTWARE or not isinstance(comment, bytes):
            return None
        if comment.startswith(_ASCII):
            return comment[len(_ASCII) :].decode("ascii")
        if comment.startswith(_UNICODE):
            return comment[len(_UNICODE) :].decode("utf-16-be" if exif.endian == ">" else "utf-16-le")
    except _BROKEN_EXIF:
        return None
    return None
