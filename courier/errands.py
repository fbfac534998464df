"""The courier's errands: images that jobs await, and batches. Webhooks go by `courier.dispatch`.

An errand looks for one piece of due work under a lease of its own, does it, and returns how many it did.
"""

from collections.abc import Callable

from courier.batches import tend_batch
from courier.intake import fetch_image
from courier.tools import Tools

Errand = Callable[[Tools], int]

ERRANDS: tuple[Errand, ...] = (fetch_image, tend_batch)
