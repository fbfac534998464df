"""Why a checkpoint could not be had, as a sentence that says what to do about it."""

from collections.abc import Iterator
from pathlib import Path

from common.domain.catalogue import ModelCard
from common.domain.errors import JobFailure
from worker.checkpoints.places import HubRepository

_GATED = "model {id}: {page} is gated. Visit the page, accept its terms, and set HF_TOKEN to a token of that account"
_UNKNOWN = (
    "model {id}: there is no {page} for this token. Check the repository's name, or set HF_TOKEN if it is private"
)
_REVISION = "model {id}: {page} has no revision {revision}. Correct it in the models file"
_OFFLINE = (
    "model {id}: the hub cannot be reached and {page} is not in the cache. Run `darkroom models pull {id}` online"
)
_NOT_PULLED = "model {id}: {page} is not in the cache, or not all of it. Run `darkroom models pull {id}`"
_DISABLED = "model {id}: {page} was taken down. Point the models file at a copy"
_TRUNCATED = "model {id}: a weight file in {page} is damaged or cut short. Fetch it again: `darkroom models pull {id}`"
_NO_VARIANT = "model {id}: {page} has no files of variant {variant}. Leave `variant` out of the models file"
_UNSAFE = "model {id}: {page} has no safetensors weights, and other kinds can run code, so they are not loaded"
_BROKEN = "model {id}: {page} cannot be loaded as {family}. Run `darkroom models verify {id}`"

# The first name found in the chain of causes decides; a gated repository is also one that "is not found".
_BY_NAME = (
    ("GatedRepoError", _GATED),
    ("DisabledRepoError", _DISABLED),
    ("RevisionNotFoundError", _REVISION),
    ("RevisionResolutionError", _REVISION),
    ("RepositoryNotFoundError", _UNKNOWN),
    ("OfflineModeIsEnabled", _OFFLINE),
    ("ConnectError", _OFFLINE),
    ("NetworkError", _OFFLINE),
    ("TimeoutException", _OFFLINE),
    ("ConnectionError", _OFFLINE),
    ("LocalEntryNotFoundError", _NOT_PULLED),
    ("SafetensorError", _TRUNCATED),
)
_BY_WORDS = (
    ("no such modeling files", _NO_VARIANT),
    ("incomplete metadata", _TRUNCATED),
    ("Error while deserializing header", _TRUNCATED),
    ("Unable to load weights from checkpoint file", _TRUNCATED),
    ("no file named diffusion_pytorch_model.safetensors", _UNSAFE),
    ("no file named model.safetensors", _UNSAFE),
)


def explain(error: BaseException, card: ModelCard, place: Path | HubRepository) -> JobFailure:
    """The failure that a client and an operator see instead of `error`."""
    chain = list(_causes(error))
    sentence = _find_name(chain) or _find_words(chain) or _BROKEN
    # A client reads this too, so a folder of this machine is not named.
    page, revision = (place.page, place.revision) if isinstance(place, HubRepository) else ("its folder", None)
    detail = sentence.format(id=card.id, page=page, revision=revision, variant=card.variant, family=card.family)
    return JobFailure(detail, code="model_unavailable")


def missing_folder(card: ModelCard) -> JobFailure:
    """The failure of a model whose folder is not there."""
    detail = f"model {card.id}: its folder is not there. Put the checkpoint where the models file says, or correct it"
    return JobFailure(detail, code="model_unavailable")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _find_name(chain: list[BaseException]) -> str | None:
    names = {kind.__name__ for error in chain for kind in type(error).__mro__}
    return next((sentence for name, sentence in _BY_NAME if name in names), None)


def _find_words(chain: list[BaseException]) -> str | None:
    text = "\n".join(str(error) for error in chain)
    return next((sentence for words, sentence in _BY_WORDS if words in text), None)
