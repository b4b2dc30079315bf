"""Finds the image pairs in a user's own folder, before anything is decoded.

Two layouts are understood, both pix2pix's:

- folders: ``root/trainA`` and ``root/trainB``, ``root/testA`` and ``root/testB`` (and ``valA``,
  ``valB``), or ``root/train/A`` and so on, hold A and B under equal names; the suffixes may differ;
- strips: ``root/train`` and ``root/test`` (and ``root/val``) hold images whose left half is A and
  whose right half is B. Images count as strips if they are at least twice as wide as high, or if
  the user says so.

Folders inside these are searched too. Where there is no test split, a tenth of the pairs of train,
at least one, is held out: those whose names have the smallest SHA-256, so always the same ones.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from warp_translate.data import folder_layout
from warp_translate.errors import UserError
from warp_translate.image_io import flatten, list_images, read_image

DIRECTIONS = ("AtoB", "BtoA")

SPLITS = ("train", "val", "test")
"""The splits that a set may have; val is never needed."""

STRIP_SHARE = 0.9
"""Share of images of a strip's shape that makes all of them strips."""

_EXPECTED = "expected train/ (strips) or trainA/ and trainB/ (equal names)"
_EXPECTED_STRIPS = "expected train/ with the strips"
_SAMPLED = 32  # Images whose shape is looked at.
_TURNED = (5, 6, 7, 8)  # EXIF's orientations that exchange width and height.


@dataclass(frozen=True)
class PairFiles:
    """Where one pair is stored.

    Attributes:
      name: path below the split's folder, without suffix.
      a: the file of A, or the strip.
      b: the file of B, or None for a strip.
    """

    name: str
    a: Path
    b: Path | None


@dataclass(frozen=True)
class PairedLayout:
    """The pairs of a folder.

    Attributes:
      root: the folder, absolute.
      splits: pairs by split, sorted by name; "train" and "test" always, "val" where there is one.
      held_out: whether "test" was taken from train.
    """

    root: Path
    splits: Mapping[str, tuple[PairFiles, ...]]
    held_out: bool


def scan_pairs(root: str | os.PathLike[str], *, strips: bool = False) -> PairedLayout:
    """Finds the pairs of a folder by names, and strips by their shape.

    Args:
      root: the folder; the module's docstring gives the layouts.
      strips: the user says that the images in it are strips, whatever their shape.

    Returns:
      What was found.

    Raises:
      UserError: there is no such folder, neither or both layouts are there, names have no partner
        or are ambiguous, images may be no strips, or there are too few pairs to hold some out.
    """
    expected = _EXPECTED_STRIPS if strips else _EXPECTED
    root = folder_layout.find_root(root, f"the pairs: {expected}")
    in_train = (root / "train").is_dir()
    beside = (root / "trainA").is_dir() or (root / "trainB").is_dir()
    if in_train and beside:
        raise UserError(f"{root} holds both train/ and trainA/ or trainB/; remove one layout")
    find = _find_strips
    if not strips and folder_layout.find_twins(root, "train"):
        find = _find_matches
    elif not in_train:
        raise UserError(
            f"{root} holds {folder_layout.contents(root)}, but {expected}; rearrange it"
        )
    splits = {split: pairs for split in SPLITS if (pairs := find(root, split))}
    if find is _find_strips and not strips:
        _check_evident(root, [pair.a for pair in splits["train"]])
    held_out = "test" not in splits
    if held_out:
        splits["train"], splits["test"] = _hold_out(root, splits["train"])
    return PairedLayout(root, splits, held_out)


def fingerprint(layout: PairedLayout) -> str:
    """Digests what the preparation depends on; see `folder_layout.fingerprint_files`."""
    files = {
        split: [path for pair in pairs for path in (pair.a, pair.b) if path is not None]
        for split, pairs in layout.splits.items()
    }
    return folder_layout.fingerprint_files(layout.root, files)


def load_pair(files: PairFiles, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one pair, over white where it is transparent.

    Args:
      files: where it is stored.
      direction: "AtoB" if A is the source, "BtoA" if B is.

    Returns:
      Source and target, uint8 [H, W, 3] of equal size.

    Raises:
      UserError: a file cannot be read, a strip's width is odd, or the sizes differ.
    """
    a = flatten(read_image(files.a))
    if files.b is None:
        width = a.shape[1]
        if width % 2:
            raise UserError(
                f"{files.a} is {width} pixels wide, but a strip of two equal halves has an even "
                "width; mend or remove it"
            )
        a, b = a[:, : width // 2], a[:, width // 2 :]
    else:
        b = flatten(read_image(files.b))
        if a.shape != b.shape:
            raise UserError(
                f"{files.a} is {a.shape[1]}x{a.shape[0]} pixels, but its partner {files.b} is "
                f"{b.shape[1]}x{b.shape[0]}; make them equal or remove both"
            )
    source, target = (a, b) if direction == "AtoB" else (b, a)
    return np.ascontiguousarray(source), np.ascontiguousarray(target)


def is_strip(width: int, height: int) -> bool:
    """Whether an image has the shape of two square or wide images side by side.

    One pixel less counts as well: preparation says that it is missing.
    """
    return width + 1 >= 2 * height


def _check_evident(root: Path, paths: list[Path]) -> None:
    """Raises a UserError unless images are strips by their shape, as far as they can be read."""
    sampled = paths[:: math.ceil(len(paths) / _SAMPLED)]
    sizes = [(path, size) for path in sampled if (size := _size(path))]
    others = [(path, size) for path, size in sizes if not is_strip(*size)]
    if len(others) > (1 - STRIP_SHARE) * len(sizes):
        path, (width, height) = others[0]
        raise UserError(
            f"{root / 'train'} holds single images by their shape, {path.relative_to(root)} of "
            f"{width}x{height} for instance; put the pairs into trainA/ and trainB/, or, if each "
            "file is two images side by side, say so with the data set paired_strips"
        )


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height by the header; None of what cannot be read, which is told elsewhere."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(0x0112) in _TURNED else (width, height)
    except Exception:  # Pillow's readers have no base of errors in common.
        return None


def _find_strips(root: Path, split: str) -> tuple[PairFiles, ...]:
    folder = root / split
    if not folder.is_dir():
        return ()
    return tuple(PairFiles(name, path, None) for name, path in _by_name(folder).values())


def _find_matches(root: Path, split: str) -> tuple[PairFiles, ...]:
    twins = folder_layout.find_twins(root, split)
    if twins is None:
        return ()
    folder_a, folder_b = twins
    files_a, files_b = _by_name(folder_a), _by_name(folder_b)
    unmatched = [f"{folder_a.relative_to(root)}/{name}" for name in files_a.keys() - files_b.keys()]
    unmatched += [
        f"{folder_b.relative_to(root)}/{name}" for name in files_b.keys() - files_a.keys()
    ]
    if unmatched:
        raise UserError(
            f"{root}: {len(unmatched)} images have no partner of the same name: "
            f"{folder_layout.some(sorted(unmatched))}; add the partners or remove them"
        )
    return tuple(PairFiles(name, path, files_b[key][1]) for key, (name, path) in files_a.items())


def _by_name(folder: Path) -> dict[str, tuple[str, Path]]:
    """The images of a folder by `folder_layout.name_of`: their names as they are, and paths.

    They are sorted by the names as they are, from which it also follows which are held out.
    """
    by_name: dict[str, tuple[str, Path]] = {}
    for path in list_images(folder, recursive=True):
        below = path.relative_to(folder)
        key = folder_layout.name_of(below)
        if key in by_name:
            raise UserError(
                f"{by_name[key][1]} and {path.name} differ in the suffix only, or in the Unicode "
                "form of the name; remove one of them"
            )
        by_name[key] = (below.with_suffix("").as_posix(), path)
    return dict(sorted(by_name.items(), key=lambda item: item[1]))


def _hold_out(
    root: Path, pairs: tuple[PairFiles, ...]
) -> tuple[tuple[PairFiles, ...], tuple[PairFiles, ...]]:
    """Splits pairs into those that stay in train and those held out for test."""
    if len(pairs) < 2:
        raise UserError(
            f"{root} holds {len(pairs)} pair and no test split, but one pair has to be held out "
            "for testing; add pairs"
        )
    return folder_layout.hold_out(pairs, lambda pair: pair.name, folder_layout.HELD_OUT_SHARE)
