"""Where a run's numbers and pictures go.

Nothing here knows what is trained. Only process 0 should write: ``open_logger(enabled=False)`` is
what the others hold, so that the loop needs no condition.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from warp_translate import sealed, storage

Scalars = Mapping[str, float]
Images = Mapping[str, npt.NDArray[np.uint8]]

METRICS_FILE = "metrics.jsonl"
"""Name of the JSON lines file that ``open_logger`` makes in the work directory."""


class Logger(Protocol):
    """What the training loop writes to."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes numbers of one step.

        Args:
          step: training steps done.
          scalars: numbers by name; anything that ``float`` takes, a zero-dimensional array too.
        """

    def write_images(self, step: int, images: Images) -> None:
        """Writes pictures of one step.

        Args:
          step: training steps done.
          images: uint8 ``[H, W, C]`` by name, C being 1 or 3.

        Raises:
          ValueError: one of the pictures is something else.
        """

    def flush(self) -> None:
        """Returns when all that was written is on the disk."""

    def close(self) -> None:
        """Flushes and releases the files.

        Nothing may be written afterwards; flushing and closing again do nothing.
        """


class NullLogger:
    """Writes nothing: the logger of every process but the first."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Does nothing."""

    def write_images(self, step: int, images: Images) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class TensorBoardLogger:
    """Writes one TensorBoard event file, with tensorboardX and without TensorFlow.

    It uses tensorboardX's file writer and not its ``SummaryWriter``, whose ``flush`` does not wait
    for the queue to its thread: what was logged last could be lost with the process. Each write is
    one record of the file.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, start_step: int = 0):
        """Opens a new event file.

        Args:
          workdir: folder of the event files; made if it is not there.
          start_step: steps done when the run was resumed. TensorBoard then hides what an earlier
            file of the folder says of later steps, which are about to be done again.
        """
        # Here, for the import takes a second and only process 0 needs it.
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._summary, self._event_pb2 = summary, event_pb2
        Path(workdir).mkdir(parents=True, exist_ok=True)
        # The name has the time in whole seconds: two runs within one would share a file.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        prefix = os.path.join(workdir, "events")
        self._writer = event_file_writer.EventsWriter(prefix, suffix)
        self._closed = False
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(start_step + 1, session_log=start)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes one record with a value for each name."""
        self._write_summaries(
            step, [self._summary.scalar(name, float(value)) for name, value in scalars.items()]
        )

    def write_images(self, step: int, images: Images) -> None:
        """Writes one record with a PNG for each name."""
        _check_images(images)
        self._write_summaries(
            step,
            [
                self._summary.image(name, np.asarray(image), dataformats="HWC")
                for name, image in images.items()
            ],
        )

    def flush(self) -> None:
        """Returns when the event file is on the disk."""
        if not self._closed:
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        if not self._closed:
            self._writer.close()
            self._closed = True

    def _write_summaries(self, step: int, summaries: Sequence[Any]) -> None:
        """Writes the values of several tensorboardX summaries as one event."""
        if summaries:
            for other in summaries[1:]:
                summaries[0].MergeFrom(other)
            self._write(step, summary=summaries[0])

    def _write(self, step: int, **content: Any) -> None:
        event = self._event_pb2.Event(step=int(step), wall_time=time.time(), **content)
        self._writer.write_event(event)


class JsonLinesLogger:
    """Appends one JSON object per write: ``{"step": 7, "wall_time": 1.7e9, "scalars": {...}}``.

    ``wall_time`` is in seconds since 1970; "checksum" is that of `sealed.seal`. JSON has no NaN
    and no infinity: they are written as the strings "NaN", "Infinity" and "-Infinity", which
    Python's ``float`` and JavaScript's ``Number`` read. The file of a resumed run is kept and goes
    on: it may tell a step twice, and the later line wins. A last line that was cut short when the
    process died is removed. Pictures are not written.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, wall_clock: Callable[[], float] = time.time
    ):
        """Opens the file to append.

        Args:
          path: the file; made with its folder if it is not there.
          wall_clock: gives the ``wall_time``.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_cut_line(path)
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._wall_clock = wall_clock

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Appends a line, which is handed to the operating system at once."""
        line = {
            "step": int(step),
            "wall_time": self._wall_clock(),
            "scalars": {name: _json_number(float(value)) for name, value in scalars.items()},
        }
        self._file.write(json.dumps(sealed.seal(line), allow_nan=False) + "\n")

    def write_images(self, step: int, images: Images) -> None:
        """Writes nothing: pictures have no place in a file of lines."""

    def flush(self) -> None:
        """Returns when the lines are on the disk."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        self._file.close()


class MultiLogger:
    """Hands everything on to several loggers, in order."""

    def __init__(self, loggers: Sequence[Logger]):
        self._loggers = tuple(loggers)

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes the numbers to every logger."""
        # Once for all: a number that is still on its way from a device is waited for here.
        numbers = {name: float(value) for name, value in scalars.items()}
        for logger in self._loggers:
            logger.write_scalars(step, numbers)

    def write_images(self, step: int, images: Images) -> None:
        """Writes the pictures to every logger."""
        for logger in self._loggers:
            logger.write_images(step, images)

    def flush(self) -> None:
        """Flushes every logger."""
        for logger in self._loggers:
            logger.flush()

    def close(self) -> None:
        """Closes every logger, even if one of them fails to."""
        with contextlib.ExitStack() as stack:
            for logger in self._loggers:
                stack.callback(logger.close)


class TolerantLogger:
    """Goes on where a disk refuses what is logged, and says so when it begins to.

    What is flushed is written; until then a write that seems to work may only be waiting.
    """

    def __init__(self, logger: Logger, warn: Callable[[str], None], what: str):
        """Opens nothing.

        Args:
          logger: what may fail with an OSError.
          warn: is told in one line.
          what: what the line calls it.
        """
        self._logger, self._warn, self._what = logger, warn, what
        self._failing = False

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes the numbers, or loses them."""
        self._try(lambda: self._logger.write_scalars(step, scalars))

    def write_images(self, step: int, images: Images) -> None:
        """Writes the pictures, or loses them."""
        self._try(lambda: self._logger.write_images(step, images))

    def flush(self) -> None:
        """Flushes as far as the disk takes it."""
        if self._try(self._logger.flush):
            self._failing = False

    def close(self) -> None:
        """Closes, whatever the disk takes."""
        self._try(self._logger.close)

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
            return True
        except OSError as error:
            if not self._failing:
                self._warn(
                    f"warning: {self._what} cannot be written ({error.strerror or error}); until "
                    "that is mended training goes on without it"
                )
            self._failing = True
            return False


class BucketLogger:
    """Writes into a folder on the disk, and puts its whole files into a bucket when it is flushed.

    Nothing can be appended to in a bucket. What a process did not flush before it was killed is
    lost there.
    """

    def __init__(self, logger: Logger, local: Path, folder: Path):
        """Takes a logger over.

        Args:
          logger: what writes.
          local: the folder that it writes to, and nobody else.
          folder: where the files go, in a bucket.
        """
        self._logger, self._local, self._folder = logger, local, folder

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Writes the numbers to the disk."""
        self._logger.write_scalars(step, scalars)

    def write_images(self, step: int, images: Images) -> None:
        """Writes the pictures to the disk."""
        self._logger.write_images(step, images)

    def flush(self) -> None:
        """Returns when all that was written is in the bucket.

        Raises:
          OSError: the bucket refuses.
        """
        self._logger.flush()
        storage.put(self._local, self._folder)

    def close(self) -> None:
        """Flushes and releases the files."""
        self._logger.close()
        self.flush()


def open_logger(
    workdir: str | os.PathLike[str],
    *,
    enabled: bool,
    start_step: int = 0,
    warn: Callable[[str], None],
) -> Logger:
    """The logger of a run: TensorBoard events and ``metrics.jsonl`` in its work directory.

    Args:
      workdir: folder of the run.
      enabled: whether this process writes; true for process 0 alone.
      start_step: steps done when the run was resumed.
      warn: is told in one line when one of them can no longer be written, which ends nothing.

    Returns:
      A logger that writes both, or one that writes nothing and touches no file.
    """
    if not enabled:
        return NullLogger()
    folder = storage.to_path(workdir)
    in_bucket = storage.scheme(folder) is not None
    local = storage.scratch() if in_bucket else folder
    if in_bucket and (folder / METRICS_FILE).exists():
        storage.fetch(folder, local, [METRICS_FILE])
    events = TensorBoardLogger(local, start_step=start_step)
    lines = JsonLinesLogger(local / METRICS_FILE)
    logger = MultiLogger(
        [
            TolerantLogger(events, warn, f"TensorBoard's file in {workdir}"),
            TolerantLogger(lines, warn, f"{METRICS_FILE} in {workdir}"),
        ]
    )
    if in_bucket:
        return TolerantLogger(BucketLogger(logger, local, folder), warn, f"the log in {workdir}")
    return logger


def _check_images(images: Images) -> None:
    """Raises a ValueError that names a picture which is not uint8 ``[H, W, 1 or 3]``."""
    for name, image in images.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise ValueError(
                f"image {name!r} must be uint8 [H, W, 1 or 3], got {image.dtype} {image.shape}"
            )


def _json_number(value: float) -> float | str:
    """The number, or its name where JSON has no number for it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _remove_cut_line(path: Path) -> None:
    """Cuts off what follows the last line end: a line that a dying process did not finish."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
