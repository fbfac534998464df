"""Reading the catalogue: the built-in `models.toml`, or the one that the settings name."""

from pathlib import Path

from common.domain.catalogue import Catalogue, parse_catalogue
from common.settings import Settings

BUILT_IN = Path(__file__).parent / "models.toml"


def load_catalogue(settings: Settings) -> Catalogue:
    """The catalogue of this process. Raises ValueError naming the model and the field, OSError for a missing file."""
    return parse_catalogue((settings.models_file or BUILT_IN).read_text(encoding="utf-8"))
