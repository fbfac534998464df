"""Checkpoints: where a model's weights are, loading them, and checking and fetching them beforehand."""

from worker.checkpoints.fetching import pull
from worker.checkpoints.loading import load_components, load_pipeline
from worker.checkpoints.places import HubRepository, Shelf, locate
from worker.checkpoints.verifying import verify

__all__ = ["HubRepository", "Shelf", "load_components", "load_pipeline", "locate", "pull", "verify"]
