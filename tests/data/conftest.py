"""Fixtures shared by the data tests."""

from pathlib import Path

import numpy as np
import pytest

from warp_translate.data.sources import prepare


@pytest.fixture(scope="session")
def openmoji_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with openmoji_gender at 32 px, rendered once."""
    folder = tmp_path_factory.mktemp("openmoji")
    prepare("openmoji_gender", folder, size=32)
    return folder


class ArrayPairs:
    """An in-memory PairSource whose pair i holds the value i, and i + 100 in the target."""

    def __init__(self, count: int, side: int = 8) -> None:
        self.count = count
        self.side = side
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        self.reads.append(index)
        image = np.full((self.side, self.side, 3), index, np.uint8)
        return {"source": image, "target": image + np.uint8(100)}


@pytest.fixture
def array_pairs() -> type[ArrayPairs]:
    """The class of in-memory sources."""
    return ArrayPairs


class ArrayImages:
    """An in-memory ImageSource whose image i holds the value first + i."""

    def __init__(self, count: int, first: int = 0, side: int = 8) -> None:
        self.count = count
        self.first = first
        self.side = side
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        self.reads.append(index)
        return np.full((self.side, self.side, 3), self.first + index, np.uint8)


@pytest.fixture
def array_images() -> type[ArrayImages]:
    """The class of in-memory sources of single images."""
    return ArrayImages
