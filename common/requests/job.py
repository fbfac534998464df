"""The body of `POST /v1/jobs`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from common.domain.batch import MOST_CUSTOM_ID
from common.domain.capabilities import SCHEDULERS
from common.domain.params import SEED_LIMIT
from common.domain.sizes import MAX_SIDE, MIN_SIDE, SIZE_STEP
from common.requests.base import Strict, Text, check_text
from common.requests.images import ImageSource
from common.requests.webhooks import JobWebhookRequest

Lane = Literal["high", "normal", "low"]
TaskName = Literal["txt2img", "img2img", "inpaint"]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIZE_STEP)]
Tag = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_text)]
MetadataValue = Annotated[str, Field(max_length=500), AfterValidator(check_text)]
ExternalId = Annotated[str, Field(min_length=1, max_length=MOST_CUSTOM_ID), AfterValidator(check_text)]
ModelId = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_text)]
Strength = Annotated[float, Field(gt=0, le=1)]

WEEK_SECONDS = 7 * 24 * 3600


class OutputRequest(Strict):
    """How results are encoded."""

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: int = Field(90, ge=1, le=100, description="For jpeg and webp.")
    metadata: bool = Field(True, description="Embed prompt, parameters, seed and model in the file, or strip all.")
    grid: bool = Field(False, description="Also make one picture of the input beside all results: `…/grid`.")


class RefinerRequest(Strict):
    """A second model that polishes: from `switch_at` of the schedule on, or afterwards with `strength`."""

    model: ModelId = Field(description="An id of `GET /v1/models`.")
    switch_at: float | None = Field(
        None, gt=0, lt=1, description="Share of the schedule after which it takes the latents over. Default: 0.8."
    )
    strength: Strength | None = Field(None, description="Refine the finished picture with this strength instead.")


class AdapterRequest(Strict):
    """One LoRA."""

    id: ModelId = Field(description="An adapter of the model, see `GET /v1/models/{id}`.")
    weight: float = Field(1.0, ge=-4, le=4, description="How strongly it acts; 1 is as trained.")


class StepFields(Strict):
    """What a job and every step of a chain can say. What is left out takes the model's default."""

    task: TaskName | None = Field(
        None, description="Default: inpaint with a mask, img2img with an image, txt2img without."
    )
    model: ModelId | None = Field(None, description="An id of `GET /v1/models`. Default: the first of that list.")
    prompt: Text | None = Field(None, max_length=4000, description="What the picture shall show. txt2img needs one.")
    negative_prompt: Text | None = Field(None, max_length=4000, description="What it shall not show.")
    strength: Strength | None = Field(
        None, description="How far img2img and inpaint may go from the image. Default: the model's."
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=30, description="How closely the prompt is followed; at most 1 turns guidance off."
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=150, description="Denoising steps; with a strength int(steps x strength) of them run."
    )
    steps_mode: Literal["scaled", "exact"] | None = Field(
        None, description="`exact` runs as many steps as asked for, whatever the strength. Default: scaled."
    )
    seed: int | None = Field(
        None, ge=0, lt=SEED_LIMIT, description="Image k uses (seed + k) mod 2^32. Default: random, reported."
    )
    width: Side | None = Field(None, description="Pixels. Default: the input fitted to the model's native area.")
    height: Side | None = Field(None, description="Pixels. Default: the input fitted to the model's native area.")
    resize: Literal["fit", "fill", "pad", "stretch"] | None = Field(
        None, description="How an image of another ratio gets its size: fit (default), fill and crop, pad, stretch."
    )
    scheduler: str | None = Field(
        None, max_length=40, description=f"{', '.join(SCHEDULERS)}. Default: the checkpoint's own."
    )
    mask_mode: Literal["white_repaints", "black_repaints", "alpha"] | None = Field(
        None, description="alpha repaints what is transparent, in the mask or without one in the image."
    )
    mask_blur: int | None = Field(None, ge=0, le=64, description="Softens the mask's edge, in pixels. Default: 0.")
    mask_grow: int | None = Field(None, ge=0, le=128, description="Widens the mask, in pixels. Default: 0.")
    inpaint_area: Literal["whole", "masked"] | None = Field(
        None, description="masked develops only the mask's surroundings, at full size. Default: whole."
    )
    inpaint_padding: int | None = Field(
        None, ge=0, le=512, description="Pixels around the mask with inpaint_area masked. Default: 32."
    )
    preserve_unmasked: bool | None = Field(
        None, description="Keep every pixel outside of the grown and blurred mask as it was. Default: true."
    )
    refiner: RefinerRequest | None = Field(None, description="Polish with a second model (SDXL).")
    adapters: list[AdapterRequest] | None = Field(None, max_length=8, description="LoRAs of the model's card.")


class StepRequest(StepFields):
    """One step of a chain; what it leaves out is taken from the job's own fields."""


class JobRequest(StepFields):
    """One image edit. What is left out takes the model's default; what is unknown is refused."""

    image: ImageSource | None = Field(None, description="The picture to edit. In a multipart form: a file part.")
    mask: ImageSource | None = Field(None, description="Where inpaint repaints. In a multipart form: a file part.")
    steps: list[StepRequest] | None = Field(
        None, min_length=2, max_length=10, description="A chain: each step takes the picture of the one before."
    )
    keep: Literal["last", "all"] = Field("last", description="Of a chain: results of the last step or of all.")
    num_images: int = Field(1, ge=1, le=16, description="How many pictures, each with its own seed.")
    output: OutputRequest = Field(default_factory=OutputRequest)
    previews: bool = Field(True, description="Make previews while it runs, at most two a second.")
    priority: Lane | None = Field(None, description="Default: normal, or the highest that the key may use.")
    deadline_seconds: int = Field(
        WEEK_SECONDS, ge=1, le=WEEK_SECONDS, description="Seconds from submit after which the job fails."
    )
    deterministic: bool = Field(False, description="Share no forward pass; byte-equal on the same kind of device.")
    webhook: JobWebhookRequest | None = Field(None, description="Where to tell of this job, signed and retried.")
    tags: list[Tag] = Field(default_factory=list, max_length=10)
    metadata: dict[Tag, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="Your own keys, echoed everywhere."
    )
    external_id: ExternalId | None = Field(None, description="Your own id, echoed everywhere.")
    expires_in_seconds: int = Field(
        WEEK_SECONDS, ge=3600, le=30 * 24 * 3600, description="Life of the results in seconds, from finish."
    )

    @model_validator(mode="after")
    def _check_keep(self) -> "JobRequest":
        if self.keep == "all" and self.steps is None:
            raise PydanticCustomError("validation_error", "keep is for chains; it needs steps")
        return self
