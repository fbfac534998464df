"""The deployment files, checked without an engine: they run real commands, set real settings, and nothing as root."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from client.cli import app
from common.settings import Settings
from tests.architecture.source import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OURS = {"migrate", "api", "courier", "sweeper", "worker", "worker-gpu"}
USER = "10001"


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def pod_specs() -> Iterator[dict[str, Any]]:
    for document in documents():
        if document["kind"] in {"Deployment", "Job"}:
            yield document["spec"]["template"]["spec"]


def check_command(words: list[str]) -> None:
    """Fails unless `darkroom` has this command with these options."""
    assert words[0] == "darkroom", words
    group = typer.main.get_command(app)
    command = group.commands[words[1]]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words[2:] if word.startswith("--")} <= known, words


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_darkroom_as_an_ordinary_user(path: Path) -> None:
    steps = instructions(path)
    last_stage = max(index for index, (word, _) in enumerate(steps) if word == "FROM")
    assert [value for word, value in steps if word == "USER"] == [f"{USER}:{USER}"]
    assert ("STOPSIGNAL", "SIGTERM") in steps
    assert any(word == "HEALTHCHECK" for word, _ in steps)
    commands = [value for word, value in steps if word == "CMD"]
    assert commands
    for command in commands:
        check_command(yaml.safe_load(command))
    assert not any(word == "ENTRYPOINT" for word, _ in steps)
    assert any(word == "CMD" for word, _ in steps[last_stage:])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_copy_what_there_is(path: Path) -> None:
    for word, value in instructions(path):
        if word == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), f"{path.name} copies {source}"


def test_the_worker_image_has_a_target_for_processors_and_one_for_gpus() -> None:
    stages = {value.split(" AS ")[-1] for word, value in instructions(DEPLOY / "worker.Dockerfile") if word == "FROM"}
    assert {"cpu", "cuda"} <= stages


def test_health_checks_of_images_are_commands_that_exist() -> None:
    for path in DOCKERFILES:
        for word, value in instructions(path):
            if word == "HEALTHCHECK":
                words = yaml.safe_load(value[value.index("[") :])
                assert words[0] == "python" or check_command(words) is None


def test_compose_starts_every_part_of_the_full_deployment() -> None:
    assert set(COMPOSE["services"]) == OURS | {"postgres", "redis", "store"}
    for name in OURS:
        check_command(COMPOSE["services"][name]["command"])


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_compose_services_are_locked_down_and_stop_in_peace(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == "120s"
    assert "privileged" not in service
    if "build" in service:
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_compose_publishes_on_loopback_unless_told_otherwise() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", ()):
            assert re.match(r"\$\{\w+_BIND:-127\.0\.0\.1\}:", port), port


def test_compose_waits_for_the_migration_and_the_migration_for_its_services() -> None:
    assert set(COMPOSE["services"]["migrate"]["depends_on"]) == {"postgres", "redis", "store"}
    for name in OURS - {"migrate"}:
        condition = COMPOSE["services"][name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully", name
    for name in ("postgres", "redis", "store"):
        assert COMPOSE["services"][name]["healthcheck"]["test"]


def test_every_secret_of_compose_must_be_given() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    named = set(re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|ACCESS)\w*)", text))
    example = (ROOT / ".env.example").read_text()
    for name in named:
        assert f"${{{name}:?" in text, name
        assert f"{name}=" in example, name


def test_pods_are_locked_down_and_stop_in_peace() -> None:
    specs = list(pod_specs())
    assert len(specs) == 5
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == int(USER)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            check_command(container["command"])
    lasting = [document for document in documents() if document["kind"] == "Deployment"]
    assert all(document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120 for document in lasting)


def test_the_kustomization_names_every_manifest() -> None:
    (kustomization,) = (document for document in documents() if document["kind"] == "Kustomization")
    others = {path.name for path in MANIFESTS} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == others


def test_every_variable_of_the_deployment_is_a_setting() -> None:
    settings = {f"DARKROOM_{name.upper()}" for name in Settings.model_fields}
    for path in [*DOCKERFILES, *MANIFESTS, *DEPLOY.glob("*.*"), ROOT / ".env.example"]:
        named = set(re.findall(r"DARKROOM_[A-Z_]*[A-Z]", path.read_text()))
        assert named <= settings, f"{path.name}: {sorted(named - settings)}"


def test_the_drain_ends_before_the_container_is_killed() -> None:
    drains = re.findall(
        r'DARKROOM_DRAIN_SECONDS: "(\d+)"', "".join(path.read_text() for path in DEPLOY.rglob("*.yaml"))
    )
    assert drains
    assert all(int(seconds) <= 100 for seconds in drains)
