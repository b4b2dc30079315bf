"""Which data set the files of a folder are, and what is missing where they are none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warp_translate.data import layouts, names
from warp_translate.data.inventory import Inventory
from warp_translate.data.likeness import likeness
from warp_translate.data.paired_layout import SPLITS, STRIP_SHARE, PairedLayout
from warp_translate.data.unpaired_layout import UnpairedLayout
from warp_translate.errors import UserError

STRIPS = "strips, A on the left half and B on the right"
"""What they are called that are one file for two images."""

_PAIR_SHARE = 0.5
"""Share of images with a partner of the same name that makes all of them pairs, perhaps."""
_MOST_COMPARED = 256
_DOMAINS = "classifier.domains="


@dataclass(frozen=True)
class Fit:
    """A way to train on a folder.

    Attributes:
      name: of the data set, for ``config.data.name``.
      title: what the images are taken for.
      arguments: of ``warp-translate train``, but for the folders.
      obstacles: what has to be mended before, one line each with the remedy.
      tested: how many images or pairs are tested with, of each domain; empty where it is unknown.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    obstacles: tuple[str, ...] = ()
    tested: tuple[int, ...] = ()


def fits(inventory: Inventory) -> list[Fit]:
    """What the images of a folder can be, the likeliest first; empty where it is nothing known.

    Args:
      inventory: of the folder, whose images were looked at.
    """
    parts = {part.name for part in inventory.parts()}
    if inventory.of_list:
        return _listed(inventory, parts)
    if {"trainA", "trainB"} <= parts:
        return _twins(inventory, "trainA", "trainB")
    train = {name for name in parts if name == "train" or name.startswith("train/")}
    if train == {"train/A", "train/B"}:
        return [*_twins(inventory, "train/A", "train/B"), _for_a_classifier(inventory, ["A", "B"])]
    if train:
        domains = sorted(name.removeprefix("train/") for name in train if name != "train")
        if are_strips(inventory) or not domains:
            return [_pairs(inventory, STRIPS, _odd(inventory))]
        return [_for_a_classifier(inventory, domains)]
    domains = sorted(name for name in parts if name != ".")
    return [_for_a_classifier(inventory, domains)] if len(domains) >= 2 else []


def remedy(inventory: Inventory) -> str:
    """How to lay out a folder that `fits` nothing, in a few lines."""
    if inventory.of_list:
        return "A list of domains has at least two of them."
    parts = [part.name for part in inventory.parts()]
    root = inventory.root
    here = f"{root}/*" if parts == ["."] else f"{root}/{parts[0]}/*" if parts else f"{root}/..."
    lines = []
    if len(parts) == 1:
        lines.append("All images lie in one folder. A training needs two sides:")
    if "trainA" in parts or "trainB" in parts:
        missing = "trainB" if "trainA" in parts else "trainA"
        lines.append(f"{missing}/ is missing, the other side of the images:")
        lines.append(f"  mkdir {root}/{missing}    and move its images there")
    elif parts and are_strips(inventory):
        lines.append("They are at least twice as wide as high, as strips are of two images:")
        lines.append(f"  mkdir {root}/train && mv {here} {root}/train/")
    else:
        lines.append(f"  two domains:      {root}/trainA/ and {root}/trainB/, any names")
        lines.append(f"  pairs:            {root}/trainA/ and {root}/trainB/, equal names")
        lines.append(f"  strips:           {root}/train/, A on the left half, B on the right")
        lines.append(f"  several domains:  {root}/NAME/ for each")
    return "\n".join(lines)


def are_strips(inventory: Inventory) -> bool:
    """Whether the images have the shape of strips, see `paired_layout.is_strip`."""
    return inventory.strips() >= STRIP_SHARE * max(inventory.count(), 1)


def _listed(inventory: Inventory, parts: set[str]) -> list[Fit]:
    if any("/" not in name for name in parts):
        return [_pairs(inventory, "pairs of a list", _unequal(inventory))]
    domains = sorted({str(part.domain) for part in inventory.parts()})
    if len(domains) < 2:
        return []
    found = [_for_a_classifier(inventory, domains)]
    if len(domains) == 2:
        found.insert(0, _two_domains(inventory, f", A is {domains[0]}"))
    return found


def _twins(inventory: Inventory, first: str, second: str) -> list[Fit]:
    """Pairs if most images have a partner of the same name, first if partners look alike."""
    alone = inventory.unmatched(first, second)
    parts = {part.name: part.files for part in inventory.parts()}
    if alone > (1 - _PAIR_SHARE) * (parts[first] + parts[second]):
        return [_two_domains(inventory)]
    found = likeness(inventory.looks(first, second, _MOST_COMPARED))
    obstacles, title = _unequal(inventory), "pairs, two files of the same name"
    if found is None:
        why = ": too few images can be compared to tell whether equal names mean pairs"
        return [_two_domains(inventory, why), _pairs(inventory, title, obstacles)]
    nearer = f"an image looks more like its partner than like {found.share:.0%} of the others"
    if found.telling:
        return [_pairs(inventory, f"{title}: {nearer}", obstacles), _two_domains(inventory)]
    why = f": names are equal, but {nearer}, and 50% are chance"
    return [_two_domains(inventory, why), _pairs(inventory, title, obstacles)]


def _pairs(inventory: Inventory, title: str, obstacles: Sequence[str]) -> Fit:
    fit = Fit("paired_folder", title, ("experiments/paired.py",), tuple(obstacles))
    return checked(fit, inventory.source)


def _two_domains(inventory: Inventory, why: str = "") -> Fit:
    fit = Fit("unpaired_folder", f"two domains without pairs{why}", ("experiments/cycle.py",))
    return checked(fit, inventory.source)


def _for_a_classifier(inventory: Inventory, domains: Sequence[str]) -> Fit:
    fit = Fit(
        names.LABELLED,
        f"{len(domains)} domains for a classifier",
        ("experiments/classifier.py", f"{_DOMAINS}{','.join(domains)}"),
    )
    return checked(fit, inventory.source)


def checked(fit: Fit, root: Path) -> Fit:
    """Adds what training finds in a folder or list before it reads the images.

    Args:
      fit: what it is taken for.
      root: the folder or list.
    """
    layout: PairedLayout | UnpairedLayout
    try:
        if fit.name == names.LABELLED:
            domains = fit.arguments[1].removeprefix(_DOMAINS).split(",")
            layout = layouts.scan_labelled(root, domains)
        elif fit.name == "unpaired_folder":
            layout = layouts.scan_unpaired(root)
        else:
            layout = layouts.scan_paired(fit.name, root)
    except UserError as error:
        return replace(fit, obstacles=(str(error), *fit.obstacles))
    splits = layout.splits
    tested = (len(splits[split]) for split in splits if split.startswith("test"))
    return replace(fit, tested=tuple(tested))


def _unequal(inventory: Inventory) -> list[str]:
    """Obstacles of pairs of two sizes."""
    found = []
    for split in SPLITS:
        for first, second in inventory.twins(split):
            count, pairs = inventory.unequal(first, second)
            if count:
                found.append(
                    f"{split}: {count} pairs are of two sizes, {' and '.join(pairs[0])} for "
                    "instance; make them equal or remove both"
                )
    return found


def _odd(inventory: Inventory) -> list[str]:
    """Obstacles of strips without two equal halves."""
    count = inventory.odd()
    if not count:
        return []
    return [f"{count} images have an odd width and no two equal halves; mend or remove them"]
