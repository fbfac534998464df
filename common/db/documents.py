"""Documents of many new jobs as JSON, fast: what most of them share is written once."""

import json
from functools import lru_cache
from json.encoder import encode_basestring
from operator import attrgetter
from typing import Any, Final

from common.domain.job import InputRef
from common.domain.params import EditParams

_OWN: Final = ("prompt", "seed")
_SHAPE: Final = attrgetter(*(name for name in EditParams.__dataclass_fields__ if name not in _OWN))
_SHAPES_KEPT: Final = 256

encode_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
"""Any document as JSON."""


class JsonText(str):
    """A document that is JSON already, for `common.db.bulk`."""

    __slots__ = ()


class ParamsWriter:
    """`EditParams.as_dict` as JSON, for many that differ in little but their prompts and seeds."""

    def __init__(self) -> None:
        self._ends: dict[Any, str] = {}

    def write(self, params: EditParams) -> JsonText:
        """The document. Equal numbers of another type, as 1 and 1.0, may be written as one was before."""
        shape = _SHAPE(params)
        end = self._ends.get(shape)
        if end is None:
            if len(self._ends) >= _SHAPES_KEPT:
                self._ends.clear()
            members = {name: value for name, value in params.as_dict().items() if name not in _OWN}
            end = self._ends[shape] = encode_json(members)[1:]
        return JsonText(f'{{"prompt":{encode_basestring(params.prompt)},"seed":{params.seed},{end}')


@lru_cache(maxsize=1024)
def input_text(role: str, reference: InputRef) -> JsonText:
    """The column `inputs` of a job with this one input."""
    return JsonText(encode_json({role: reference.as_dict()}))
