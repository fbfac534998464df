"""The folder as a store: what the contract cannot see from outside."""

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.storage.local import LocalStore
from common.storage.port import StoreUnavailable

PNG = "image/png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "objects"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def test_the_folder_is_made_when_it_is_missing(store: LocalStore, root: Path) -> None:
    assert root.is_dir()


def test_a_link_to_a_file_outside_is_refused(store: LocalStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    for use in (store.get, store.stream, store.head, store.delete):
        with pytest.raises(ValueError, match="leads out"):
            use("link.png")
    with pytest.raises(ValueError, match="leads out"):
        store.put("link.png", b"overwritten", PNG)
    assert (tmp_path / "secret.png").read_bytes() == b"secret"


def test_a_link_to_a_folder_outside_is_refused_and_not_listed(store: LocalStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(b"secret")
    (root / "inputs").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="leads out"):
        store.get("inputs/a.png")
    with pytest.raises(ValueError, match="leads out"):
        store.put("inputs/b.png", b"1", PNG)
    assert list(store.list()) == []
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["a.png"]


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "alias")
    store.put("a/b.png", b"1", PNG)
    assert store.get("a/b.png") == b"1"


@pytest.mark.parametrize("if_absent", [True, False])
def test_a_full_disk_leaves_nothing_and_is_worth_another_try(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, if_absent: bool
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreUnavailable, match="No space left") as caught:
        store.put("a/b.png", b"1", PNG, if_absent=if_absent)
    assert caught.value.key == "a/b.png"
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_if_absent_works_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", unsupported)
    store.put("a.png", b"first", PNG, if_absent=True)
    store.put("a.png", b"second", PNG, if_absent=True)
    assert store.get("a.png") == b"first"


def test_nothing_but_the_object_stays_after_a_write(store: LocalStore, root: Path) -> None:
    store.put("a/b.png", b"1", PNG)
    store.put("a/b.png", b"2", PNG, if_absent=True)
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["b.png"]


def test_what_a_crash_left_half_written_is_no_object(store: LocalStore, root: Path) -> None:
    (root / ".0123456789abcdef.part").write_bytes(b"half")
    assert list(store.list()) == []


def test_empty_folders_go_with_their_last_object(store: LocalStore, root: Path) -> None:
    store.put("a/b/c.png", b"1", PNG)
    store.put("a/d.png", b"1", PNG)
    store.delete("a/b/c.png")
    assert [path.name for path in root.rglob("*")] == ["a", "d.png"]
    store.delete("a/d.png")
    assert list(root.iterdir()) == []


def test_puts_and_deletes_of_neighbours_do_not_disturb_each_other(store: LocalStore) -> None:
    failures: list[Exception] = []

    def put_and_delete(name: str) -> None:
        try:
            for _ in range(300):
                store.put(f"a/b/{name}.png", b"1", PNG)
                store.delete(f"a/b/{name}.png")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=put_and_delete, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_object_cannot_be_a_folder_of_another(store: LocalStore) -> None:
    store.put("a/b", b"1", PNG)
    with pytest.raises(ValueError, match="folder"):
        store.put("a", b"2", PNG)
    with pytest.raises(ValueError, match="folder"):
        store.put("a/b/c", b"2", PNG)
    assert store.get("a/b") == b"1"


def test_a_process_with_a_local_store_loads_no_boto3(tmp_path: Path) -> None:
    program = (
        "import sys; from common.storage.open import open_store; open_store(sys.argv[1]);"
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore')))"
    )
    subprocess.run([sys.executable, "-c", program, (tmp_path / "store").as_uri()], check=True)
