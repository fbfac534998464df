"""What every request schema shares: strict types, no unknown fields, text that every part can hold."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

UNFIT: Final = re.compile("[\0\ud800-\udfff]")
"""What a database or a tokenizer cannot hold: NUL and lone surrogates."""


class Strict(BaseModel):
    """A request object: unknown fields, NaN, infinities and look-alike types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def check_text(text: str) -> str:
    """Refuse text with characters that are `UNFIT`."""
    if UNFIT.search(text):
        raise PydanticCustomError("validation_error", "text may not contain NUL or unpaired surrogates")
    return text


Text = Annotated[str, AfterValidator(check_text)]
