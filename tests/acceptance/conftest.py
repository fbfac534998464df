"""One deployment with every built-in model, for all stories that are told of it."""

from collections.abc import Iterator

import pytest

from tests.acceptance.studio import Studio, photo, studio


@pytest.fixture(scope="package")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Somebody in front of an embedded deployment of tiny checkpoints."""
    with studio(tmp_path_factory.mktemp("studio")) as made:
        yield made


@pytest.fixture(scope="package")
def photo_there(user: Studio) -> dict[str, str]:
    """The source of an uploaded `photo()` of 64x64."""
    return user.upload(photo())
