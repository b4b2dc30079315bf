"""Preparing TFDS data sets as array_record files, which takes no TensorFlow."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging
from google.protobuf import json_format
from tensorflow_datasets.core import constants

from warp_translate import storage
from warp_translate.errors import UserError

FILE_FORMAT = "array_record"
"""The only random-access format TFDS reads and writes rightly without TensorFlow."""

INFO_FILE = "dataset_info.json"
"""What every folder of a prepared version holds."""

_CHECKSUMS_FILE = "checksums.json"
_CHECKED = (INFO_FILE, "features.json")  # array_record has checksums of its own.


Build = Callable[[], tfds.core.DatasetBuilder]
"""Makes a builder, in `expand_data_dir` of the folder of prepared sets; called again to see what
another process has done."""


def is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether a set is there; TFDS itself sees none below a folder with brackets in its name."""
    return (Path(builder.data_dir) / INFO_FILE).is_file()


def prepare_by_tfds(build: Build, name: str) -> tfds.core.DatasetBuilder:
    """Prepares a set as TFDS does, one example after the other.

    Safe to call from several processes at once: each prepares into a folder of its own, the first
    to finish gives it its name, and the others use that one.

    Args:
      build: makes the builder.
      name: what messages call the set.

    Returns:
      The builder, prepared.

    Raises:
      UserError: the data are not as they should be, or the folder cannot be written.
    """
    with quiet():
        builder = build()
        if is_prepared(builder):
            return builder
    logging.info("preparing %s in %s", name, builder.data_dir)
    try:
        with quiet():
            builder.download_and_prepare(file_format=FILE_FORMAT)
        write_checksums(Path(builder.data_dir))
    except OSError as error:
        with quiet():
            overtaken = is_prepared(build())
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


def prepare_with(
    build: Build,
    name: str,
    data_dir: str | os.PathLike[str] | None,
    prepare: Callable[[Build, str], tfds.core.DatasetBuilder] = prepare_by_tfds,
) -> tfds.core.DatasetBuilder:
    """Prepares a data set unless that was done before; safe to call from several processes at once.

    From a bucket a set is copied to this machine's disk, since array_record reads from disks alone;
    one that the bucket does not have is prepared there and put into it.

    Args:
      build: makes the builder.
      name: what messages call the set.
      data_dir: the folder of prepared sets, on a disk or in a bucket; None for TFDS's own.
      prepare: makes the set on the disk where it is not there.

    Returns:
      The builder, prepared.

    Raises:
      UserError: the data are not as they should be, what was prepared is damaged, or the folder
        cannot be written.
    """
    folder = named_data_dir(data_dir)
    try:
        with quiet():
            builder = build()
    except (KeyError, ValueError, json_format.Error) as error:
        raise _damaged(name, data_dir, " ".join(str(error).split())[:200]) from error
    local = Path(builder.data_dir)
    # The folder gets its name when it is whole, and TFDS asks for no more than the folder.
    if local.is_dir() and not (local / INFO_FILE).is_file():
        raise _damaged(name, data_dir, f"{local} has no {INFO_FILE}")
    if local.is_dir() and (changed := _changed(local)):
        raise _damaged(name, data_dir, f"{local / changed} is not as it was written")
    if storage.scheme(folder) is None:
        return prepare(build, name)
    place = storage.to_path(folder) / local.relative_to(storage.cached(folder)).as_posix()
    if not is_prepared(builder):
        fetch_prepared(place)
    builder = prepare(build, name)
    try:
        if INFO_FILE not in storage.files_below(place):
            storage.put(local, place, last=(INFO_FILE,))
    except OSError as error:
        raise UserError(
            f"{name} cannot be written to {place} ({error.strerror}); choose a data folder that "
            "can be written"
        ) from error
    return builder


def write_checksums(folder: Path) -> None:
    """Writes the checksums of the files of a prepared version that have none of their own.

    Raises:
      OSError: it cannot be written.
    """
    sums = {name: storage.sha256(folder / name) for name in _CHECKED if (folder / name).is_file()}
    storage.write_whole(folder / _CHECKSUMS_FILE, json.dumps(sums, indent=2) + "\n")


def _changed(folder: Path) -> str | None:
    """A file that is not what its checksum says; None too where there are no checksums."""
    try:
        sums = json.loads((folder / _CHECKSUMS_FILE).read_bytes())
        return next(
            (name for name, known in sums.items() if known != storage.sha256(folder / name)), None
        )
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        return None if missing == _CHECKSUMS_FILE else missing
    except (OSError, ValueError, AttributeError):
        return _CHECKSUMS_FILE


def _damaged(name: str, data_dir: str | os.PathLike[str] | None, reason: str) -> UserError:
    places = dict.fromkeys((expand_data_dir(data_dir), named_data_dir(data_dir)))
    return UserError(
        f"what was prepared of {name} in {next(iter(places))} is damaged ({reason}): remove {name} "
        f"in {' and in '.join(places)}, and the next start prepares it anew"
    )


def fetch_prepared(place: Path) -> bool:
    """Copies a prepared set from a bucket to where `expand_data_dir` has it on the disk.

    Args:
      place: the folder of a version, in the bucket.

    Returns:
      Whether it is there.

    Raises:
      UserError: it cannot be read.
    """
    local = storage.cached(place)
    partial = local.with_name(f".{local.name}.{os.getpid()}.partial")
    try:
        if INFO_FILE not in storage.files_below(place):
            return False
        storage.fetch(place, partial)
        with contextlib.suppress(OSError):  # Another process was faster.
            partial.rename(local)
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}); try again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def open_version(folder: Path, remedy: str) -> tfds.core.DatasetBuilder:
    """Opens a set that was prepared, by whomever, by the folder of its version.

    Args:
      folder: of the version, on a disk.
      remedy: what an error says to do.

    Raises:
      UserError: the folder holds no prepared set, or one of another format than array_record.
    """
    try:
        with quiet():
            builder = tfds.builder_from_directory(folder)
    except (OSError, ValueError, json_format.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} holds no prepared set ({reason}); {remedy}") from error
    if changed := _changed(folder):
        raise UserError(
            f"{folder / changed} is damaged, it is not as it was written; prepare the set again"
        )
    found = builder.info.file_format
    if found is None or found.value != FILE_FORMAT:
        kind = "an unknown format" if found is None else found.value
        raise UserError(f"{folder} was prepared as {kind}, not {FILE_FORMAT}; {remedy}")
    return builder


def named_data_dir(data_dir: str | os.PathLike[str] | None) -> str:
    """The folder of prepared sets, on a disk or in a bucket; TFDS's own for None."""
    return os.path.expanduser(constants.DATA_DIR if data_dir is None else data_dir)


def expand_data_dir(data_dir: str | os.PathLike[str] | None) -> str:
    """The folder of prepared sets on this machine's disk, for a bucket that of its copies."""
    folder = named_data_dir(data_dir)
    return str(storage.cached(folder)) if storage.scheme(folder) else folder


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
