"""Finds the images of any number of domains in a user's own folder, before anything is decoded.

``root/train/DOMAIN`` and ``root/test/DOMAIN`` hold the images of each domain under any names, and
folders inside these are searched too. Or ``root/DOMAIN`` alone does, and a tenth of it, at least
one image, is held out: those whose names have the smallest SHA-256, so always the same ones.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from warp_translate.data import folder_layout
from warp_translate.data.unpaired_layout import UnpairedLayout
from warp_translate.errors import UserError
from warp_translate.image_io import list_images


def scan_domain_folders(root: str | os.PathLike[str], domains: Sequence[str]) -> UnpairedLayout:
    """Finds the images of domains by their suffixes alone.

    Args:
      root: the folder; the module's docstring gives the layout.
      domains: names of the folders.

    Returns:
      What was found: "train0" and "test0" are the splits of the first domain, and so on.

    Raises:
      UserError: there is no such folder, a folder in it is missing or holds no image, or a domain
        has too few images to hold one out.
    """
    expected = f"{', '.join(f'{domain}/' for domain in domains)}"
    root = folder_layout.find_root(root, f"the domains: {expected}")
    parted = (root / "train").is_dir()
    splits = {}
    for place, domain in enumerate(domains):
        if parted:
            train, test = (_images(root / split, domain) for split in ("train", "test"))
        else:
            train, test = _hold_out(root, domain)
        splits[f"train{place}"], splits[f"test{place}"] = train, test
    return UnpairedLayout(root, splits, held_out=not parted)


def _images(folder: Path, domain: str) -> tuple[Path, ...]:
    if not folder.is_dir() or not (folder / domain).is_dir():
        holds = folder_layout.contents(folder) if folder.is_dir() else "nothing"
        raise UserError(
            f"{folder} holds {holds}, but no folder {domain}/; add it, or name other domains"
        )
    return tuple(list_images(folder / domain, recursive=True))


def _hold_out(root: Path, domain: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    paths = _images(root, domain)
    if len(paths) < 2:
        raise UserError(
            f"{root / domain} holds 1 image, but one has to be held out for testing; add images"
        )
    return folder_layout.hold_out(
        paths,
        lambda path: path.relative_to(root / domain).as_posix(),
        folder_layout.HELD_OUT_SHARE,
    )
