"""The options of `darkroom submit` that stand for fields of a job request, with the names of the API where they can."""

from pathlib import Path
from typing import Annotated

import typer

_Readable = {"exists": True, "dir_okay": False, "readable": True}

File = Annotated[Path | None, typer.Argument(**_Readable, help="The picture; none for txt2img.")]
Prompt = Annotated[str | None, typer.Option(help="What the picture should become.")]
Request = Annotated[
    Path | None,
    typer.Option(**_Readable, metavar="FILE.json", help="A whole job request; other options override its members."),
]
ImageUrl = Annotated[str | None, typer.Option(help="Address of the picture, in place of a file.")]
Mask = Annotated[Path | None, typer.Option(**_Readable, help="The mask of inpaint: white is repainted.")]
MaskMode = Annotated[str | None, typer.Option(help="white_repaints, black_repaints or alpha.")]
MaskBlur = Annotated[int | None, typer.Option(help="Soften the mask's edge, in pixels.")]
MaskGrow = Annotated[int | None, typer.Option(help="Widen the mask, in pixels.")]
InpaintArea = Annotated[str | None, typer.Option(help="whole, or masked for its surroundings at full size.")]
Model = Annotated[str | None, typer.Option(help="Model of the catalogue; default: the server's.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What it should not become.")]
Strength = Annotated[float | None, typer.Option(help="How much may change, above 0 up to 1.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same picture.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps.")]
StepsMode = Annotated[str | None, typer.Option(help="exact runs all steps, whatever the strength; default: scaled.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="How strictly the prompt is followed.")]
Scheduler = Annotated[str | None, typer.Option(help="euler, ddim, …; default: the checkpoint's own.")]
NumImages = Annotated[int | None, typer.Option(help="How many pictures, each with its own seed.")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; default: fitted to the model.")]
Resize = Annotated[str | None, typer.Option(help="fit, fill, pad or stretch, where the ratio differs.")]
Format = Annotated[str | None, typer.Option(help="png, jpeg or webp.")]
Quality = Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp.")]
Grid = Annotated[bool, typer.Option("--grid", help="Also fetch the input beside all results.")]
