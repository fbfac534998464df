"""The habits of the house that a machine can check; each test is one of them."""

import ast
import subprocess
import sys

import pytest

from common.domain.lifecycle import JobState
from tests.architecture.source import ROOT, imports, modules, place, tree

MAX_LINES = 300
MAX_FUNCTION_LINES = 50
# Longer files, each with its reason.
LONG_FILES = {"common/db/tables.py": "the contract between all parts; foreign keys go across it"}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "manager"}
STATE_WRITERS = {"common/db/moves.py", "common/db/jobs.py", "common/domain/lifecycle.py"}


def test_the_domain_imports_the_standard_library_only() -> None:
    for path in modules("common/domain"):
        foreign = {name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names}
        assert all(name.startswith("common.domain") for name in foreign), place(path)


def test_torch_and_its_friends_are_imported_by_the_worker_only() -> None:
    heavy = {"torch", "diffusers", "transformers", "accelerate", "numpy"}
    for path in modules("api", "client", "common", "courier", "deploy", "sweeper"):
        assert not heavy & {name.split(".")[0] for name in imports(path)}, place(path)


@pytest.mark.parametrize("module", ["api.main", "client.cli", "sweeper.main", "courier.main", "worker.launcher"])
def test_importing_a_role_loads_no_torch(module: str) -> None:
    code = f"import {module}, sys; assert not {{'torch', 'diffusers', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_client_imports_with_its_light_dependencies_only() -> None:
    code = (
        "import client.cli, client.sdk, sys; "
        "assert not {'fastapi', 'sqlalchemy', 'celery', 'pydantic', 'PIL', 'boto3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_environment_is_read_in_one_place() -> None:
    # The launchers hand their environment on to children, and the client is configured like any command.
    allowed = {"common/settings.py", "worker/launcher.py"}
    for path in modules("api", "common", "courier", "sweeper", "worker"):
        reads = [
            node
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
        ]
        assert not reads or place(path) in allowed, place(path)


def test_a_state_is_assigned_by_the_lifecycle_only() -> None:
    states = {state.name for state in JobState}
    for path in modules():
        if place(path) in STATE_WRITERS:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.keyword) and node.arg == "state":
                named = {part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute)}
                assert not named & states, f"{place(path)}:{node.lineno} assigns a state"


def test_state_words_are_not_compared_by_hand() -> None:
    words = {"queued", "running", "succeeded", "canceled"}
    for path in modules("common", "worker", "sweeper", "courier"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Compare):
                literals = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                assert not literals & words, f"{place(path)}:{node.lineno} compares with a state's word"


def test_modules_are_named_for_what_they_are() -> None:
    assert not [place(path) for path in modules() if path.stem in BANNED_NAMES]


def test_rooms_are_small() -> None:
    for path in modules():
        if place(path) in LONG_FILES:
            continue
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, place(path)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES or node.name == "__init__", f"{place(path)}: {node.name}"


def test_public_functions_and_classes_promise_something() -> None:
    for path in modules():
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{place(path)}: {node.name} has no docstring"


def test_the_generated_pages_are_true() -> None:
    subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT)})


def test_celery_tasks_carry_no_work() -> None:
    """The only task is the doorbell: nothing may hang on a message."""
    for path in modules():
        calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
        assert not [c for c in calls if c.func.attr in {"apply_async", "delay", "shared_task"}], place(path)  # type: ignore[attr-defined]
