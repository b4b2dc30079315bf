"""Sets prepared elsewhere with TFDS: ``tfds_folder`` and TFDS's own ``cycle_gan/*``.

A set suits if its records hold ``source`` and ``target`` of equal size, with the splits train and
test, or ``image``, with the splits trainA, trainB, testA and testB. It must be prepared as
array_record, which needs no TensorFlow to read.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils.version import list_all_versions

from warp_translate import storage
from warp_translate.data.builders import FILE_FORMAT
from warp_translate.data.folders import UNPAIRED_SPLITS
from warp_translate.data.preparation import (
    INFO_FILE,
    fetch_prepared,
    named_data_dir,
    open_version,
)
from warp_translate.data.preparation import is_prepared as is_prepared
from warp_translate.data.records import UnreadableRecord, read_record
from warp_translate.errors import UserError

PAIR = ("source", "target")
IMAGE = ("image",)

_SPLITS = {PAIR: ("train", "test"), IMAGE: UNPAIRED_SPLITS}


def open_tfds_folder(
    folder: str | os.PathLike[str] | None, features: tuple[str, ...] | None = None
) -> tfds.core.DatasetBuilder:
    """Opens a prepared set.

    Args:
      folder: of its version, for example ``~/tensorflow_datasets/mine/1.0.0``.
      features: required features, `PAIR` or `IMAGE`; None for either.

    Raises:
      UserError: the folder holds no prepared set, or one of other features or splits.
    """
    if folder is None:
        raise UserError("tfds_folder needs a root, the folder of a prepared version; give one")
    path = storage.mirrored(folder).expanduser().resolve()
    if not is_prepared(path):
        raise UserError(
            f"{path} holds no prepared set ({INFO_FILE} is missing); name the folder of a version, "
            "such as .../my_set/1.0.0"
        )
    builder = open_version(path, f"prepare it with --file_format={FILE_FORMAT}")
    held = held_features(builder)
    if held is None or (features is not None and held != features):
        needs = " or ".join(
            f"{' and '.join(each)} with the splits {', '.join(_SPLITS[each])}"
            for each in ([features] if features else _SPLITS)
        )
        raise UserError(
            f"{path} holds {', '.join(sorted(builder.info.features))} with the splits "
            f"{', '.join(sorted(builder.info.splits))}, but this training needs {needs}"
        )
    return builder


def open_cycle_gan(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    """Opens the newest prepared version of a TFDS set, such as "cycle_gan/horse2zebra".

    Preparing it takes TensorFlow and a download, which happen elsewhere.

    Raises:
      UserError: the set is not prepared, or not as array_record.
    """
    remedy = (
        "on a machine with TensorFlow and internet run: "
        f"tfds build {name} --file_format={FILE_FORMAT}, and copy the result there"
    )
    folder = named_data_dir(data_dir)
    place = storage.to_path(folder) / name
    versions = list_all_versions(place)
    if not versions:
        raise UserError(f"{name} is not prepared in {place}; {remedy}")
    newest = local = place / str(versions[-1])
    if storage.scheme(folder) is not None:
        local = storage.cached(newest)
        if not local.exists():
            fetch_prepared(newest)
    builder = open_version(local, remedy)
    if missing := [split for split in UNPAIRED_SPLITS if split not in builder.info.splits]:
        raise UserError(f"{newest} lacks the splits {', '.join(missing)}; {remedy}")
    return builder


def held_features(builder: tfds.core.DatasetBuilder) -> tuple[str, ...] | None:
    """`PAIR` or `IMAGE` if the records hold it with its splits, otherwise None."""
    for features, splits in _SPLITS.items():
        if set(features) <= set(builder.info.features) and set(splits) <= set(builder.info.splits):
            return features
    return None


@dataclass(frozen=True)
class SplitFound:
    """Contents of a split."""

    name: str
    records: int
    unreadable: tuple[str, ...]  # The first ones, with the reason.
    lost: int  # Number of unreadable records.
    widths: tuple[int, int, int] | None  # Smallest, median and largest in pixels, if readable.
    heights: tuple[int, int, int] | None


def look(
    builder: tfds.core.DatasetBuilder, advance: Callable[[int], None], *, most_named: int
) -> list[SplitFound]:
    """Reads every record of a set; names the first unreadable ones of each split.

    ``advance`` is called with 1 after each record.
    """
    features = held_features(builder)
    assert features is not None
    found = []
    for split in sorted(builder.info.splits):
        records = builder.as_data_source(split)
        shapes: list[tuple[int, ...]] = []
        problems: list[str] = []
        for number in range(len(records)):
            try:
                shapes.append(read_record(records, number)[features[0]].shape)
            except UnreadableRecord as error:
                problems.append(error.what if len(problems) < most_named else "")
            advance(1)
        unreadable = tuple(problems[:most_named])
        heights, widths = (_spread([shape[axis] for shape in shapes]) for axis in (0, 1))
        found.append(SplitFound(split, len(records), unreadable, len(problems), widths, heights))
    return found


def _spread(sides: Sequence[int]) -> tuple[int, int, int] | None:
    return (min(sides), int(statistics.median(sides)), max(sides)) if sides else None
