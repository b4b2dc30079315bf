"""Where a run's numbers and pictures go, and the progress line on its terminal.

Nothing here knows what is trained. Only process 0 should write: ``open_logger(enabled=False)`` and
``Progress(stream=None)`` are what the others hold, so that the loop needs no condition.
"""

import collections
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt

Scalars = Mapping[str, float]
Images = Mapping[str, npt.NDArray[np.uint8]]

METRICS_FILE = "metrics.jsonl"
"""Name of the JSON lines file that ``open_logger`` makes in the work directory."""

_RATE_WINDOW = 50  # Updates that the rate is measured over.
_TTY_INTERVAL = 0.1  # Seconds between rewritings of a terminal's line: faster is not seen.
_FALLBACK_COLUMNS = 80


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

    ``wall_time`` is in seconds since 1970. JSON has no NaN and no infinity: they are written as the
    strings "NaN", "Infinity" and "-Infinity", which Python's ``float`` and JavaScript's ``Number``
    read. The file of a resumed run is kept and goes on: it may tell a step twice, and the later
    line wins. A last line that was cut short when the process died is removed. Pictures are not
    written.
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
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

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


def open_logger(
    workdir: str | os.PathLike[str], *, enabled: bool, start_step: int = 0
) -> MultiLogger | NullLogger:
    """The logger of a run: TensorBoard events and ``metrics.jsonl`` in its work directory.

    Args:
      workdir: folder of the run.
      enabled: whether this process writes; true for process 0 alone.
      start_step: steps done when the run was resumed.

    Returns:
      A logger that writes both, or one that writes nothing and touches no file.
    """
    if not enabled:
        return NullLogger()
    json_lines = JsonLinesLogger(Path(workdir) / METRICS_FILE)
    return MultiLogger([TensorBoardLogger(workdir, start_step=start_step), json_lines])


class Progress:
    """Prints how far a run is, how fast it goes, how long it will take, and some metrics.

        1200/20000 (6.0%)  3.41 steps/s  54.6 images/s  1:31:54 left  g_loss 2.31  d_loss 0.642

    On a terminal one line is rewritten in place; elsewhere plain lines are printed, the first and
    the last step's always and others ``min_interval`` seconds apart at least. The rate is measured
    between the updates of a moving window, the first of which comes when the first step is done:
    the time to compile it does not count, and a pause to evaluate is forgotten.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        batch_size: int,
        metric_names: Sequence[str] = (),
        stream: TextIO | None,
        clock: Callable[[], float] = time.monotonic,
        min_interval: float = 10.0,
    ):
        """Starts the clock; prints nothing yet.

        Args:
          total_steps: step at which the run ends.
          start_step: steps done when the run was resumed.
          batch_size: images in a step, over all devices and processes.
          metric_names: metrics to show, in this order; one that is not there is left out.
          stream: where to print; None prints nothing.
          clock: seconds from any origin.
          min_interval: least seconds between two plain lines.
        """
        self._total_steps = total_steps
        self._start_step = start_step
        self._batch_size = batch_size
        self._metric_names = tuple(metric_names)
        self._stream = stream
        self._clock = clock
        self._tty = stream is not None and stream.isatty()
        self._interval = min(min_interval, _TTY_INTERVAL) if self._tty else min_interval
        self._start_time = clock()
        self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RATE_WINDOW)
        self._metrics: dict[str, float] = {}
        self._printed_at: float | None = None
        self._line_length = 0  # Of what stands on the terminal's line.

    def update(self, step: int, metrics: Scalars | None = None) -> None:
        """Says that a step is done, and prints if it is time to.

        Args:
          step: training steps done.
          metrics: new values of metrics. Those that are shown are kept until they are given again;
            only when given are they read, so the loop decides when to wait for the device.
        """
        if self._stream is None:
            return
        now = self._clock()
        self._marks.append((now, step))
        for name in self._metric_names:
            if metrics is not None and name in metrics:
                self._metrics[name] = float(metrics[name])
        due = self._printed_at is None or now - self._printed_at >= self._interval
        if due or step >= self._total_steps:
            self._print(self._line(step))
            self._printed_at = now

    def say(self, line: str) -> None:
        """Prints a line of its own, which stays."""
        if self._stream is None:
            return
        end = "\n" if self._line_length else ""
        self._stream.write(f"{end}{line}\n")
        self._line_length = 0
        self._stream.flush()

    def close(self) -> None:
        """Ends the line and says how many steps were done in what time."""
        if self._stream is None:
            return
        done = self._marks[-1][1] - self._start_step if self._marks else 0
        elapsed = _hours(self._clock() - self._start_time)
        end = "\n" if self._line_length else ""
        self._stream.write(f"{end}{done} steps done in {elapsed}\n")
        self._stream.flush()
        self._stream = None

    def _steps_per_second(self) -> float | None:
        """Rate over the window; None while it is not known."""
        seconds = self._marks[-1][0] - self._marks[0][0]
        steps = self._marks[-1][1] - self._marks[0][1]
        return steps / seconds if seconds > 0 and steps > 0 else None

    def _line(self, step: int) -> str:
        share = min(step / self._total_steps, 1.0) if self._total_steps > 0 else 1.0
        # Rounded down: 100% is said when it is true.
        parts = [f"{step}/{self._total_steps} ({math.floor(1000 * share) / 10:.1f}%)"]
        rate = self._steps_per_second()
        if rate is None:
            parts.append("rate not known yet")
        else:
            parts.append(f"{_short(rate)} steps/s")
            parts.append(f"{_short(rate * self._batch_size)} images/s")
            parts.append(f"{_hours(max(self._total_steps - step, 0) / rate)} left")
        for name in self._metric_names:
            if name in self._metrics:
                parts.append(f"{name} {_short(self._metrics[name])}")
        return "  ".join(parts)

    def _print(self, line: str) -> None:
        assert self._stream is not None
        if self._tty:
            # A line that the terminal wraps could not be rewritten.
            line = line[: _columns(self._stream) - 1]
            padding = " " * (self._line_length - len(line))
            self._stream.write(f"\r{line}{padding}")
            self._line_length = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


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


def _short(value: float) -> str:
    """Three significant digits, without an exponent where whole numbers will do."""
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e7 else f"{value:.3g}"


def _hours(seconds: float) -> str:
    """Seconds as h:mm:ss, rounded up so that nothing is left only when it is so."""
    whole = math.ceil(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _columns(stream: TextIO) -> int:
    """Columns of the stream's terminal, or 80 where it does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _FALLBACK_COLUMNS
    except OSError:
        return _FALLBACK_COLUMNS
