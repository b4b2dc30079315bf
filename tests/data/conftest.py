"""Fixtures of the data tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warp_translate.data.inventory import Inventory
from warp_translate.data.sources import prepare


@pytest.fixture(scope="session")
def openmoji_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with openmoji_gender at 32 px."""
    folder = tmp_path_factory.mktemp("openmoji")
    prepare("openmoji_gender", folder, size=32)
    return folder


@pytest.fixture
def inspected() -> Iterator[Callable[..., Inventory]]:
    """Makes inventories of inspected images."""
    made = []

    def make(
        root: Path,
        store: str | Path = ":memory:",
        workers: int = 0,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Inventory:
        made.append(Inventory(root, store))
        made[-1].scan()
        made[-1].look(workers, advance)
        return made[-1]

    yield make
    for inventory in made:
        inventory.close()
