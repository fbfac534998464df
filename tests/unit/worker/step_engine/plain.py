"""What somebody would write with diffusers and nothing else, for every kind of job."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from common.domain.capabilities import Task
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import generator
from tests.unit.worker.step_engine.cases import Case

_KINDS = {
    "stable_diffusion": "StableDiffusion",
    "stable_diffusion_inpaint": "StableDiffusion",
    "sdxl": "StableDiffusionXL",
    "sdxl_inpaint": "StableDiffusionXL",
    "sdxl_refiner": "StableDiffusionXL",
    "kandinsky": "KandinskyV22",
    "kandinsky_inpaint": "KandinskyV22",
}
_CALLS = {Task.TXT2IMG: "Pipeline", Task.IMG2IMG: "Img2ImgPipeline", Task.INPAINT: "InpaintPipeline"}
_UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}
# The classes that diffusers' documentation names, with what the configuration of another scheduler does not say.
_SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class Plain:
    """Plain calls on the checkpoints of a shop, in one number format. Its pipelines share nothing with any engine."""

    def __init__(self, shop: Shop, dtype: Any) -> None:
        self._shop = shop
        self._dtype = dtype
        self._pipelines: dict[tuple[str, str], Any] = {}
        self._schedulers: dict[int, Any] = {}

    def latents(self, case: Case) -> Any:
        """What the call leaves: (4, height / 8, width / 8)."""
        return self._run(case, output_type="latent")[0]

    def picture(self, case: Case) -> Image.Image:
        """The picture that it makes."""
        picture: Image.Image = self._run(case)[0]
        return picture

    def _run(self, case: Case, **how: Any) -> Any:
        pipeline = self._load(_KINDS[case.family] + _CALLS[case.task], case.weights)
        pipeline.scheduler = _scheduler(case, self._schedulers.setdefault(id(pipeline), pipeline.scheduler))
        return pipeline(**self._given(case), **how).images

    def _given(self, case: Case) -> dict[str, Any]:
        given = arguments_of(case)
        if not case.family.startswith("kandinsky"):
            return given
        texts = {name: given.pop(name) for name in ("prompt", "negative_prompt")}
        return given | self._embeddings(texts, case.seed) | {"width": case.size, "height": case.size}

    def _embeddings(self, texts: dict[str, str], seed: int) -> dict[str, Any]:
        made = self._load("KandinskyV22PriorPipeline", "kandinsky_prior")(**texts, generator=generator(seed))
        return {"image_embeds": made.image_embeds, "negative_image_embeds": made.negative_image_embeds}

    def _load(self, kind: str, weights: str) -> Any:
        import diffusers

        if (kind, weights) not in self._pipelines:
            own = _UNCHECKED if weights.startswith("stable_diffusion") else {}
            made = self._shop.plain(getattr(diffusers, kind), weights, dtype=self._dtype, **own)
            self._pipelines[kind, weights] = made
        return self._pipelines[kind, weights]


def arguments_of(case: Case) -> dict[str, Any]:
    """What one passes to the call, but for Kandinsky's embeddings."""
    given: dict[str, Any] = {
        "prompt": case.prompt,
        "negative_prompt": case.negative_prompt,
        "generator": generator(case.seed),
        "num_inference_steps": case.steps,
        "guidance_scale": case.guidance_scale,
    }
    given |= {} if case.picture is None else {"image": case.picture}
    given |= {} if case.mask is None else {"mask_image": case.mask}
    given |= {} if case.strength is None else {"strength": case.strength}
    return given | ({} if case.task is Task.IMG2IMG else {"width": case.size, "height": case.size})


def _scheduler(case: Case, own: Any) -> Any:
    import diffusers

    if case.scheduler is None:
        return type(own).from_config(own.config)
    name, extra = _SCHEDULERS[case.scheduler]
    config = dict(own.config)
    if case.scheduler != "ddpm":
        config.pop("variance_type", None)  # Kandinsky predicts a variance, of which only DDPM knows
    return getattr(diffusers, name).from_config(config, **extra)
