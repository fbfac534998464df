"""The families are those of the capability table, and do what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.domain.capabilities import FAMILIES, Task
from common.domain.errors import JobFailure
from tests.tiny_models import card_of
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import decoded, frame_of, latents_of
from worker.pipelines import registry, schedulers

torch = pytest.importorskip("torch")

REAL = {name: able for name, able in FAMILIES.items() if name != "stub"}
RUNS = [
    pytest.param(name, task, scheduler, id=f"{name}-{task}-{scheduler}")
    for name, able in REAL.items()
    for task in sorted(able.tasks)
    for scheduler in able.schedulers
]


def test_the_families_are_those_of_the_table() -> None:
    assert set(registry.FAMILIES) == set(REAL)


def test_every_scheduler_of_the_table_is_known() -> None:
    assert {name for able in FAMILIES.values() for name in able.schedulers} <= set(schedulers.names())


def test_two_families_of_one_name_stop_the_start() -> None:
    family = registry.FAMILIES["sdxl"]
    with pytest.raises(ValueError, match="two pipeline families are called 'sdxl'"):
        registry.register([family, family])


def test_a_model_of_an_unknown_family_is_unavailable() -> None:
    with pytest.raises(JobFailure, match="knows no family 'flux'"):
        registry.family_of(card_of(Path(), family="flux"))


def test_the_registry_loads_neither_torch_nor_diffusers() -> None:
    code = "import sys, worker.pipelines.registry; sys.exit(bool({'torch', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("name", "task", "scheduler"), RUNS)
def test_every_scheduler_of_a_family_makes_a_picture(shop: Shop, name: str, task: Task, scheduler: str) -> None:
    family, parts = registry.FAMILIES[name], shop.parts(name)
    frame = frame_of(task, scheduler=scheduler, strength=None if task is Task.TXT2IMG else 1.0)
    latents = latents_of(family, parts, [frame])
    assert torch.isfinite(latents).all()
    (picture,) = decoded(family, parts, latents)
    assert picture.size == (64, 64)
    assert picture.getbbox() is not None


@pytest.mark.parametrize("name", list(REAL))
def test_a_picture_is_made_without_guidance_too(shop: Shop, name: str) -> None:
    family = registry.FAMILIES[name]
    for task in REAL[name].tasks:
        latents = latents_of(family, shop.parts(name), [frame_of(task, guidance_scale=1.0)])
        assert torch.isfinite(latents).all()


@pytest.mark.parametrize("name", [name for name, able in REAL.items() if able.takes_latents])
def test_what_takes_latents_starts_from_them(shop: Shop, name: str) -> None:
    family = registry.FAMILIES[name]
    for task in REAL[name].takes_latents:
        frame = frame_of(task, latents=torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1)))
        assert latents_of(family, shop.parts(name), [frame]).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("name", [name for name, able in REAL.items() if able.refined_by])
def test_what_is_refined_shares_its_latents_with_its_refiner(shop: Shop, name: str) -> None:
    refiner = REAL[name].refined_by
    assert refiner in registry.FAMILIES
    assert registry.FAMILIES[str(refiner)].LATENT_RGB == registry.FAMILIES[name].LATENT_RGB


@pytest.mark.parametrize("name", list(REAL))
def test_previews_have_four_rows_of_rgb_or_none(name: str) -> None:
    rows = registry.FAMILIES[name].LATENT_RGB
    assert rows is None or [len(row) for row in rows] == [3, 3, 3, 3]
