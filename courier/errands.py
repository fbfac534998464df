"""The courier's errands: images given by URL; webhooks and batch validation each add one here with their issue.

An errand looks for one piece of due work under a lease of its own, does it, and returns how many it did.
"""

from collections.abc import Callable

from courier.intake import fetch_image
from courier.tools import Tools

Errand = Callable[[Tools], int]

ERRANDS: tuple[Errand, ...] = (fetch_image,)
