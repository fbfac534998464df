"""What the errands work with."""

import threading
from dataclasses import dataclass, field
from typing import Protocol

from common.db.engine import Database
from common.domain.catalogue import Catalogue
from common.images.untrusted import DecodedImage
from common.outbound.fetching import Outbound
from common.paces import Paces
from common.settings import Settings
from common.storage.port import ObjectStore
from common.vault import Vault
from courier.batch_stumbles import Stumbles


class Decoder(Protocol):
    """What decodes untrusted images, see `common.images.sandbox.ImageDecoder`."""

    def decode(self, data: bytes) -> DecodedImage:
        """Raises `ImageRejected` or `DecoderUnavailable`."""


class Bell(Protocol):
    """What wakes workers, see `common.queue.doorbell`. Never blocks, never raises."""

    def ring(self, pool: str, jobs: int = 1) -> None:
        """There are `jobs` new jobs in this pool."""


@dataclass(frozen=True, slots=True)
class Tools:
    """One set per process, used by all its threads; `worker_id` is fresh for every process and names its leases.

    Once `stop` is set, an errand that takes long ends where it can be taken up again. So many threads as `batch_turns`
    lets through tend batches at a time; `stumbles` tells over which of them this process falls again and again.
    """

    settings: Settings
    database: Database
    store: ObjectStore
    decoder: Decoder
    outbound: Outbound
    vault: Vault
    doorbell: Bell
    catalogue: Catalogue
    paces: Paces
    worker_id: str
    stop: threading.Event = field(default_factory=threading.Event)
    batch_turns: threading.Semaphore = field(default_factory=threading.Semaphore)
    stumbles: Stumbles = field(default_factory=Stumbles)
