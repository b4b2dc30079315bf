"""Fixtures of the data tests."""

from pathlib import Path

import pytest

from warp_translate.data.sources import prepare


@pytest.fixture(scope="session")
def openmoji_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with openmoji_gender at 32 px."""
    folder = tmp_path_factory.mktemp("openmoji")
    prepare("openmoji_gender", folder, size=32)
    return folder
