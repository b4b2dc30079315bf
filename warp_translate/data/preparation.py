"""Preparing TFDS data sets as array_record files, which takes no TensorFlow."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import constants

from warp_translate.errors import UserError

FILE_FORMAT = "array_record"
"""The only random-access format TFDS reads and writes rightly without TensorFlow."""


def prepare_with(
    build: Callable[[], tfds.core.DatasetBuilder], name: str
) -> tfds.core.DatasetBuilder:
    """Prepares a data set unless that was done before.

    Safe to call from several processes at once: each prepares into a folder of its own, the first
    to finish gives it its name, and the others use that one.

    Args:
      build: makes the builder; called again to see what another process has done.
      name: what messages call the set.

    Returns:
      The builder, prepared.

    Raises:
      UserError: the data are not as they should be, or the folder cannot be written.
    """
    with quiet():
        builder = build()
        if builder.is_prepared():
            return builder
    logging.info("preparing %s in %s", name, builder.data_dir)
    try:
        with quiet():
            builder.download_and_prepare(file_format=FILE_FORMAT)
    except OSError as error:
        with quiet():
            overtaken = build().is_prepared()
        # Where another process was faster the name is taken, and its result serves as well.
        if not overtaken:
            reason = error.strerror or " ".join(str(error).split())
            raise UserError(
                f"{name} cannot be prepared in {builder.data_dir} ({reason}); choose a data "
                "folder that can be written and has space"
            ) from error
    # Opened afresh, because a builder that was overtaken knows nothing of the result.
    with quiet():
        return build()


def expand_data_dir(data_dir: str | os.PathLike[str] | None) -> str:
    """The folder of prepared sets, TFDS's own for None, with ``~`` replaced."""
    return os.path.expanduser(constants.DATA_DIR if data_dir is None else data_dir)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS from printing about downloads that do not happen, and bars into log files."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.set_verbosity(verbosity)
