"""The canvas of an inpaint pass: what the model sees, and how what it makes goes back into the picture."""

from dataclasses import dataclass, replace

from PIL import Image

from common.domain.params import PassParams
from common.images.canonical import on_white
from worker.pictures.geometry import prepare_mask, prepare_picture
from worker.pictures.masks import Box, grow, read_mask, region_of, soften


@dataclass(frozen=True, slots=True)
class Canvas:
    """One prepared input. All pictures have the size that runs; pictures are RGB, masks L (255: repainted).

    `prepared` is the input as it would come out untouched. `model_image` and `model_mask` go to the model: the whole,
    or with a `region` (left, top, right, bottom in `prepared`) that part enlarged. `soft_mask` is the grown and blurred
    mask on `prepared`. `preserves`: outside of `soft_mask` the result equals `prepared`.
    """

    prepared: Image.Image
    model_image: Image.Image
    model_mask: Image.Image
    soft_mask: Image.Image
    region: Box | None
    preserves: bool

    def complete(self, made: Image.Image) -> Image.Image:
        """The result: `made`, put back into its region, and the prepared input where it is to be preserved.

        Raises ValueError when `made` is not an RGB picture of the size that runs.
        """
        if made.mode != "RGB" or made.size != self.prepared.size:
            raise ValueError(f"the model made {made.mode} of {made.size}, not RGB of {self.prepared.size}")
        whole = made if self.region is None else self._put_back(made, self.region)
        return Image.composite(whole, self.prepared, self.soft_mask) if self.preserves else whole

    def over(self, picture: Image.Image) -> "Canvas":
        """The canvas with another picture of its size on it, which the model is to go over again."""
        return replace(self, prepared=picture, model_image=_part(picture, self.region, Image.Resampling.LANCZOS))

    def _put_back(self, made: Image.Image, region: Box) -> Image.Image:
        left, top, right, bottom = region
        whole = self.prepared.copy()
        whole.paste(made.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return whole


def make_canvas(image: Image.Image, mask: Image.Image | None, params: PassParams) -> Canvas:
    """The canvas of an inpaint pass from canonical pictures (`common.images.canonical`).

    Raises ValueError when the pass has no mask parameters, or when `mask` is None and its mode is not `alpha`.
    """
    if params.mask is None:
        raise ValueError("only an inpaint pass has a canvas")
    size = (params.width, params.height)
    prepared = prepare_picture(on_white(image), size, params.resize)
    repainted = prepare_mask(read_mask(mask, image, params.mask.mode), image.size, size, params.resize)
    soft_mask = soften(grow(repainted, params.mask.grow), params.mask.blur)
    region = region_of(soft_mask, params.mask.padding, size) if params.mask.area == "masked" else None
    return Canvas(
        prepared=prepared,
        model_image=_part(prepared, region, Image.Resampling.LANCZOS),
        model_mask=_part(soft_mask, region, Image.Resampling.BILINEAR),
        soft_mask=soft_mask,
        region=region,
        preserves=params.mask.preserve_unmasked,
    )


def _part(picture: Image.Image, region: Box | None, resampling: Image.Resampling) -> Image.Image:
    return picture if region is None else picture.crop(region).resize(picture.size, resampling)
