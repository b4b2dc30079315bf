"""Prepared data sets by name, and random access to their pairs.

Everything goes through TFDS with array_record files, which needs no TensorFlow.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from warp_translate.data import lists
from warp_translate.data.folder_preparation import prepare_folder, remedy_by_list
from warp_translate.data.layouts import scan_paired
from warp_translate.data.names import TFDS_FOLDER, check_paired
from warp_translate.data.openmoji_gender import OpenmojiGender, openmoji_config
from warp_translate.data.pair import Pair
from warp_translate.data.paired_folder import PairedFolder, paired_folder_config
from warp_translate.data.preparation import FILE_FORMAT, expand_data_dir, prepare_with
from warp_translate.data.records import read_record
from warp_translate.data.tfds_folder import PAIR, open_tfds_folder
from warp_translate.errors import UserError


def prepare(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    size: int | None = None,
    root: str | os.PathLike[str] | None = None,
    direction: str = "AtoB",
) -> tfds.core.DatasetBuilder:
    """Prepares a set of pairs unless that was done before.

    Args:
      name: "openmoji_gender", "paired_folder", "paired_strips" or "tfds_folder", which is prepared
        already.
      data_dir: folder of prepared sets; None for TFDS's own, ``~/tensorflow_datasets`` unless
        ``TFDS_DATA_DIR`` says otherwise.
      size: openmoji_gender only, and needed there: side of the images in pixels.
      root: paired_folder's folder with the pairs, or a list of them; paired_strips' folder;
        tfds_folder's version.
      direction: paired_folder and paired_strips only: "AtoB" or "BtoA".

    Returns:
      The builder, prepared.

    Raises:
      UserError: unknown name, an argument is missing or belongs to the other set, the data are
        not as they should be, or ``data_dir`` cannot be written.
    """
    check_paired(name)
    if name == TFDS_FOLDER:
        if direction != "AtoB":
            raise UserError(
                f"tfds_folder says itself what is source and target, got direction {direction}; "
                "leave it out"
            )
        return open_tfds_folder(root, PAIR)
    if name == "openmoji_gender":
        return prepare_with(_openmoji_builder(data_dir, size, root), name, data_dir)
    return _prepare_pairs(name, data_dir, size, root, direction)


class PreparedPairs:
    """Random access to one split of a prepared data set; safe to read from several threads."""

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self._records = records

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self._records)

    def __getitem__(self, index: int) -> Pair:
        """Decodes pair ``index``: source and target, uint8 [H, W, 3].

        Raises:
          IndexError: ``index`` is not within 0 to len(self) - 1.
          UnreadableRecord: its bytes are damaged, or their file is gone.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not within the {len(self)} pairs")
        record = read_record(self._records, index)
        return {"source": record["source"], "target": record["target"]}


def open_pairs(builder: tfds.core.DatasetBuilder, split: str) -> PreparedPairs:
    """Opens one split of a prepared data set.

    Args:
      builder: from `prepare`.
      split: "train" or "test"; "val" where the set has one.

    Returns:
      The pairs, in a fixed order.

    Raises:
      UserError: the set has no such split.
    """
    if split not in builder.info.splits:
        raise UserError(
            f"{builder.info.full_name} has no split {split!r}; use one of "
            f"{', '.join(sorted(builder.info.splits))}"
        )
    return PreparedPairs(builder.as_data_source(split=split))


def _openmoji_builder(
    data_dir: str | os.PathLike[str] | None,
    size: int | None,
    root: str | os.PathLike[str] | None,
) -> Callable[[], tfds.core.DatasetBuilder]:
    if size is None:
        raise UserError("openmoji_gender needs a size in pixels; give one, 128 for instance")
    if root is not None:
        raise UserError(f"openmoji_gender takes no root, got {root}; use paired_folder for it")
    config = openmoji_config(size)
    return lambda: OpenmojiGender(
        config=config, data_dir=expand_data_dir(data_dir), file_format=FILE_FORMAT
    )


def _prepare_pairs(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    size: int | None,
    root: str | os.PathLike[str] | None,
    direction: str,
) -> tfds.core.DatasetBuilder:
    if root is None:
        raise UserError(f"{name} needs a root, the folder with the pairs; give one")
    if size is not None:
        raise UserError(
            f"{name} keeps the images' own sizes, got size {size}; leave it to the augmentation"
        )
    root = lists.on_disk(root)
    layout = scan_paired(name, root)
    if layout.held_out:
        logging.warning(
            "%s has no test split: %d of its %d pairs are held out for testing",
            layout.root,
            len(layout.splits["test"]),
            len(layout.splits["train"]) + len(layout.splits["test"]),
        )
    config = paired_folder_config(layout, direction)
    strips = any(pair.b is None for pair in layout.splits["train"])
    # A list names two files for a pair.
    remedy = "mend or remove them" if strips else remedy_by_list(root, "paired_folder")
    return prepare_with(
        lambda: PairedFolder(
            config=config, data_dir=expand_data_dir(data_dir), file_format=FILE_FORMAT
        ),
        name,
        data_dir,
        functools.partial(prepare_folder, remedy=remedy),
    )
