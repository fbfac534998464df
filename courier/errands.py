"""The courier's errands: webhooks, images given by URL, and batch validation each add one here with their issue.

An errand looks for one piece of due work under a lease of its own, does it, and returns how many it did.
"""

from collections.abc import Callable

from common.db.engine import Database

Errand = Callable[[Database], int]

ERRANDS: tuple[Errand, ...] = ()
