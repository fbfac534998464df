"""The body of `POST /v1/jobs`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.schemas.base import Strict, Text, check_text
from api.schemas.images import ImageSource
from common.domain.params import MAX_SIDE, MIN_SIDE, SEED_LIMIT, SIZE_STEP

Lane = Literal["high", "normal", "low"]
TaskName = Literal["txt2img", "img2img"]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIZE_STEP)]
Tag = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_text)]
MetadataValue = Annotated[str, Field(max_length=500), AfterValidator(check_text)]

WEEK_SECONDS = 7 * 24 * 3600


class OutputRequest(Strict):
    """How results are encoded."""

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: int = Field(90, ge=1, le=100, description="For jpeg and webp.")
    metadata: bool = Field(True, description="Embed prompt, parameters, seed and model in the file, or strip all.")


class JobRequest(Strict):
    """One image edit. What is left out takes the model's default; what is unknown is refused."""

    task: TaskName | None = Field(None, description="Default: img2img with an image, txt2img without.")
    model: Text | None = Field(None, description="An id of `GET /v1/models`. Default: the first of that list.")
    prompt: Text = Field("", max_length=4000, description="What the picture shall show. txt2img needs one.")
    negative_prompt: Text = Field("", max_length=4000, description="What it shall not show.")
    image: ImageSource | None = Field(None, description="The picture to edit. In a multipart form: a file part.")
    strength: float | None = Field(
        None, gt=0, le=1, description="How far img2img may go from the image. Default: the model's."
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=30, description="How closely the prompt is followed; at most 1 turns guidance off."
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=150, description="Denoising steps; img2img runs int(steps x strength) of them."
    )
    num_images: int = Field(1, ge=1, le=16, description="How many pictures, each with its own seed.")
    seed: int | None = Field(
        None, ge=0, lt=SEED_LIMIT, description="Image k uses (seed + k) mod 2^32. Default: random, reported."
    )
    width: Side | None = Field(None, description="Pixels. Default: the input fitted to the model's native area.")
    height: Side | None = Field(None, description="Pixels. Default: the input fitted to the model's native area.")
    output: OutputRequest = Field(default_factory=OutputRequest)
    priority: Lane | None = Field(None, description="Default: normal, or the highest that the key may use.")
    deadline_seconds: int = Field(
        WEEK_SECONDS, ge=1, le=WEEK_SECONDS, description="Seconds from submit after which the job fails."
    )
    deterministic: bool = Field(False, description="Share no forward pass; byte-equal on the same kind of device.")
    tags: list[Tag] = Field(default_factory=list, max_length=10)
    metadata: dict[Tag, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="Your own keys, echoed everywhere."
    )
    external_id: Tag | None = Field(None, description="Your own id, echoed everywhere.")
    expires_in_seconds: int = Field(
        WEEK_SECONDS, ge=3600, le=30 * 24 * 3600, description="Life of the results in seconds, from finish."
    )
