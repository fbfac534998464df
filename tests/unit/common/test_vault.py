"""Secrets at rest: what is stored opens with the keys of this server, and with nothing else."""

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.domain.errors import Unavailable
from common.settings import Settings
from common.vault import Vault, open_vault

KEY, OTHER = "k" * 40, "o" * 40


def settings(folder: Path, **changes: str) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **changes)  # type: ignore[arg-type]


def test_what_was_encrypted_comes_back_and_is_never_the_same_twice() -> None:
    vault = Vault([KEY])
    first, second = vault.encrypt("whsec_abc"), vault.encrypt("whsec_abc")

    assert vault.decrypt(first) == vault.decrypt(second) == "whsec_abc"
    assert first != second
    assert b"abc" not in first


def test_keys_can_be_replaced_one_after_the_other() -> None:
    old, both, new = Vault([KEY]), Vault([OTHER, KEY]), Vault([OTHER])
    before = old.encrypt("whsec_abc")

    assert both.decrypt(before) == "whsec_abc"
    assert new.decrypt(both.encrypt("whsec_abc")) == "whsec_abc"
    with pytest.raises(Unavailable, match="DARKROOM_SECRET_KEY"):
        new.decrypt(before)


def test_a_full_deployment_without_a_key_has_a_vault_that_says_so(tmp_path: Path) -> None:
    vault = open_vault(settings(tmp_path, database_url="postgresql://x@127.0.0.1/none"))

    for use in (lambda: vault.encrypt("x"), lambda: vault.decrypt(b"x")):
        with pytest.raises(Unavailable, match="DARKROOM_SECRET_KEY"):
            use()
    assert not list(tmp_path.iterdir())


def test_the_embedded_stack_makes_a_key_of_its_own_that_nobody_else_may_read(tmp_path: Path) -> None:
    token = open_vault(settings(tmp_path)).encrypt("whsec_abc")

    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert open_vault(settings(tmp_path)).decrypt(token) == "whsec_abc"


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    vaults: list[Vault] = []
    threads = [threading.Thread(target=lambda: vaults.append(open_vault(settings(tmp_path / "new")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    token = vaults[0].encrypt("whsec_abc")
    assert [vault.decrypt(token) for vault in vaults] == ["whsec_abc"] * 8
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_key_of_the_settings_comes_before_the_file(tmp_path: Path) -> None:
    vault = open_vault(settings(tmp_path, secret_key=f"{OTHER}, {KEY}"))

    assert vault.decrypt(Vault([KEY]).encrypt("x")) == Vault([OTHER]).decrypt(vault.encrypt("x")) == "x"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keys", ["{long},short", "short,{long}", "a" * 16 + "," + "b" * 16])
def test_every_key_of_the_settings_is_long_enough(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ValidationError, match="32") as caught:
        settings(tmp_path, secret_key=keys.format(long=KEY))
    assert KEY not in str(caught.value)
