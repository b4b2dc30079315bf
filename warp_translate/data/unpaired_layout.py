"""Finds the images of two domains in a user's own folder, before anything is decoded.

The layout is CycleGAN's: ``root/trainA`` and ``root/trainB``, ``root/testA`` and ``root/testB``,
or ``root/train/A`` and so on, hold the images of A and of B under any names, in any number; folders
inside these are searched too. Where there are no test folders, a tenth of each domain, at least one
image, is held out: those whose names have the smallest SHA-256, so always the same ones.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warp_translate.data import folder_layout
from warp_translate.errors import UserError
from warp_translate.image_io import list_images

SPLITS = ("trainA", "trainB", "testA", "testB")
"""The splits of every unpaired set, named like those of TFDS's ``cycle_gan``."""

_EXPECTED = "expected trainA/ and trainB/"


@dataclass(frozen=True)
class UnpairedLayout:
    """The images of domains.

    Attributes:
      root: the folder, absolute.
      splits: files by the names of the splits, which for two domains are `SPLITS`; sorted by the
        path below ``root``.
      held_out: whether the tests were taken from train for want of test folders.
    """

    root: Path
    splits: Mapping[str, tuple[Path, ...]]
    held_out: bool


def scan_domains(root: str | os.PathLike[str]) -> UnpairedLayout:
    """Finds the images of a folder by their suffixes alone.

    Args:
      root: the folder; the module's docstring gives the layout.

    Returns:
      What was found.

    Raises:
      UserError: there is no such folder, a folder in it is missing or holds no image, or a domain
        has too few images to hold one out.
    """
    root = folder_layout.find_root(root, f"the two domains: {_EXPECTED}")
    train = folder_layout.find_twins(root, "train")
    if train is None:
        raise UserError(
            f"{root} holds {folder_layout.contents(root)}, but {_EXPECTED}; rearrange it"
        )
    test = folder_layout.find_twins(root, "test")
    splits = {}
    for domain in (0, 1):
        kept = tuple(list_images(train[domain], recursive=True))
        if test is None:
            kept, held = _hold_out(train[domain], kept)
        else:
            held = tuple(list_images(test[domain], recursive=True))
        splits[f"train{'AB'[domain]}"], splits[f"test{'AB'[domain]}"] = kept, held
    return UnpairedLayout(root, splits, held_out=test is None)


def _hold_out(folder: Path, paths: tuple[Path, ...]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    if len(paths) < 2:
        raise UserError(
            f"{folder} holds 1 image and there is no folder of test images, but one image has to "
            "be held out for testing; add images"
        )
    return folder_layout.hold_out(
        paths, lambda path: path.relative_to(folder).as_posix(), folder_layout.HELD_OUT_SHARE
    )
