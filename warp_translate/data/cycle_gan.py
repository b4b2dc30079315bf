"""TFDS's own ``cycle_gan/*`` data sets, such as horse2zebra, where they were prepared elsewhere.

Preparing them takes TensorFlow and a download; reading them takes neither.
"""

import os
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils.version import list_all_versions

from warp_translate.data.preparation import FILE_FORMAT, expand_data_dir, quiet
from warp_translate.data.unpaired_layout import SPLITS
from warp_translate.errors import UserError


def open_cycle_gan(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    """Opens a prepared set; never downloads.

    Args:
      name: "cycle_gan/horse2zebra" or another of TFDS's names.
      data_dir: folder of prepared sets; None for TFDS's own.

    Returns:
      The builder of the newest version that was prepared.

    Raises:
      UserError: the set is not there, or was prepared in another format than array_record.
    """
    folder = Path(expand_data_dir(data_dir)) / name
    versions = list_all_versions(folder)
    if not versions:
        raise UserError(f"{name} is not prepared in {folder}; {_remedy(name)}")
    newest = folder / str(versions[-1])
    try:
        with quiet():
            builder = tfds.builder_from_directory(newest)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{newest} holds no prepared set ({reason}); {_remedy(name)}") from error
    found = builder.info.file_format
    if found is None or found.value != FILE_FORMAT:
        kind = "an unknown format" if found is None else found.value
        raise UserError(f"{newest} was prepared as {kind}, not {FILE_FORMAT}; {_remedy(name)}")
    missing = [split for split in SPLITS if split not in builder.info.splits]
    if missing:
        raise UserError(f"{newest} lacks the splits {', '.join(missing)}; {_remedy(name)}")
    return builder


def _remedy(name: str) -> str:
    return (
        "on a machine with TensorFlow and internet run: "
        f"tfds build {name} --file_format={FILE_FORMAT}, and copy the result there"
    )
