"""The names of the data sets, by the training that they suit."""

import difflib

from warp_translate.errors import UserError

TFDS_FOLDER = "tfds_folder"
"""Prepared with TFDS by somebody: pairs or two domains, as it says itself."""

STRIPS = "paired_strips"
"""Pairs in one file each, side by side, by the word of the user and not by their shape."""

PAIRED = ("openmoji_gender", "paired_folder", STRIPS, TFDS_FOLDER)
LABELLED = "domain_folders"
"""Folders by the names of their domains, for a classifier alone."""

ROOTED = ("paired_folder", STRIPS, "unpaired_folder", "portraits", TFDS_FOLDER, LABELLED)
"""Those that are a user's own images, somewhere."""

UNPAIRED = ("openmoji_gender_unpaired", "unpaired_folder", "portraits", TFDS_FOLDER)

CYCLE_GAN = "cycle_gan/"
"""What the names of TFDS's own unpaired sets begin with; they hold a trainA and a trainB."""


def check_paired(name: str) -> None:
    """Raises a UserError unless ``name`` is a set for paired training."""
    if name not in PAIRED and (name in UNPAIRED or name.startswith(CYCLE_GAN)):
        raise UserError(
            f"data set {name!r} has two domains without pairs, but paired training needs pairs; "
            f"use one of {', '.join(PAIRED)}"
        )
    _check_not_labelled(name, "paired training needs pairs", PAIRED)
    _check_known(name, PAIRED)


def check_unpaired(name: str) -> None:
    """Raises a UserError unless ``name`` is a set for unpaired training."""
    fitting = (*UNPAIRED, f"{CYCLE_GAN}horse2zebra")
    _check_not_labelled(name, "unpaired training needs two domains", fitting)
    if name in PAIRED and name not in UNPAIRED:
        raise UserError(
            f"data set {name!r} is of pairs, but unpaired training needs two domains; use one of "
            f"{', '.join(fitting)}"
        )
    if not name.removeprefix(CYCLE_GAN) or not name.startswith(CYCLE_GAN):
        _check_known(name, fitting)


def _check_not_labelled(name: str, needs: str, fitting: tuple[str, ...]) -> None:
    if name == LABELLED:
        raise UserError(
            f"data set {name!r} is for a classifier, but {needs}; use one of {', '.join(fitting)}"
        )


def _check_known(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        raise UserError(f"there is no data set {name!r}; {hint}")


def domain_names(name: str, domains: str | None) -> tuple[str, str] | None:
    """What the two domains of a data set are called, or None where only its user knows.

    Args:
      name: of the data set.
      domains: which two of it, for "portraits".

    Returns:
      The names of A, or the source, and of B, or the target.
    """
    if name.startswith("openmoji_gender"):
        return "man", "woman"
    first, second = "", ""
    if name == "portraits" and domains:
        first, _, second = domains.partition("_")
    if name.startswith(CYCLE_GAN):
        first, _, second = name.removeprefix(CYCLE_GAN).partition("2")
    return (first, second) if first and second else None
