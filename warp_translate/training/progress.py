"""How far a training is, told on its terminal, in a log, or as JSON lines for programs.

Only process 0 should tell: ``Progress(stream=None)`` is what the others hold, so that the loop
needs no condition.
"""

import collections
import datetime
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TextIO

Format = Literal["auto", "lines", "json"]
"""On a terminal "auto" is one line that is rewritten, elsewhere "lines"."""

FORMATS: tuple[Format, ...] = ("auto", "lines", "json")

_RATE_WINDOW = 50  # Updates that the rate is measured over.
_TTY_INTERVAL = 0.1  # Seconds between rewritings of a terminal's line: faster is not seen.
_FALLBACK_COLUMNS = 80
_SECONDS_OF_FIRST_ESTIMATE = 10.0  # Of steps that it is made of.
_DAY = 86400.0


class Progress:
    """Prints how far a run is, how fast it goes, how long it will take, and some metrics.

        1200/20000 (6.0%)  3.41 steps/s  54.6 images/s  1:31:54 left  g_loss 2.31  d_loss 0.642

    On a terminal one line is rewritten in place; elsewhere plain lines are printed, the first and
    the last step's always and others ``min_interval`` seconds apart at least. The rate is measured
    between the updates of a moving window, the first of which comes when the first step is done:
    the time to compile it does not count, and a pause to evaluate is forgotten. Where the first
    estimate is of more than a day, a warning says so.

    As "json" every line is an object with ``time`` (ISO 8601, UTC) and ``event``: "progress" with
    ``step``, ``total_steps``, ``steps_per_second``, ``images_per_second`` and ``seconds_left``, all
    three null while they are not known, and ``metrics``; "message" with ``text``; "end" with
    ``steps_done`` and ``seconds``. What JSON has no number for is null.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        batch_size: int | None = None,
        noun: str = "steps",
        metric_names: Sequence[str] = (),
        stream: TextIO | None,
        format: Format = "auto",
        if_long: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        min_interval: float = 10.0,
    ):
        """Starts the clock; prints nothing yet.

        Args:
          total_steps: step at which the run ends.
          start_step: steps done when the run was resumed.
          batch_size: images in a step, over all devices and processes; None where steps are images.
          noun: what the steps are called.
          metric_names: metrics to show, in this order; one that is not there is left out.
          stream: where to print; None prints nothing.
          format: how.
          if_long: what to do where the first estimate is of more than a day; "" warns of none.
          clock: seconds from any origin.
          wall_clock: seconds since 1970.
          min_interval: least seconds between two plain lines.
        """
        self._total_steps = total_steps
        self._start_step = start_step
        self._batch_size = batch_size
        self._noun = noun
        self._metric_names = tuple(metric_names)
        self._stream = stream
        self._clock = clock
        self._wall_clock = wall_clock
        self._json = format == "json"
        self._tty = format == "auto" and stream is not None and stream.isatty()
        self._interval = min(min_interval, _TTY_INTERVAL) if self._tty else min_interval
        self._start_time = clock()
        self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=_RATE_WINDOW)
        self._metrics: dict[str, float] = {}
        self._printed_at: float | None = None
        self._line_length = 0  # Of what stands on the terminal's line.
        self._closed = False
        self._if_long = if_long

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Says that a step is done, and prints if it is time to.

        Args:
          step: training steps that the devices have finished.
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
            self._print(self._object(step) if self._json else self._line(step))
            self._printed_at = now
        if self._if_long and now - self._marks[0][0] >= _SECONDS_OF_FIRST_ESTIMATE:
            self._warn_if_long(step)

    def say(self, text: str) -> None:
        """Prints a line of its own, which stays; also when all is done."""
        if self._stream is None:
            return
        if self._json:
            self._print(self._event("message", text=text))
            return
        end = "\n" if self._line_length else ""
        self._stream.write(f"{end}{text}\n")
        self._line_length = 0
        self._stream.flush()

    def close(self) -> None:
        """Ends the line and says how many steps were done in what time; once."""
        if self._stream is None or self._closed:
            return
        self._closed = True
        done = self._marks[-1][1] - self._start_step if self._marks else 0
        elapsed = self._clock() - self._start_time
        if self._json:
            self._print(self._event("end", steps_done=done, seconds=round(elapsed, 3)))
        else:
            self.say(f"{done} {self._noun} done in {_hours(elapsed)}")

    def _steps_per_second(self) -> float | None:
        """Rate over the window; None while it is not known."""
        seconds = self._marks[-1][0] - self._marks[0][0]
        steps = self._marks[-1][1] - self._marks[0][1]
        return steps / seconds if seconds > 0 and steps > 0 else None

    def _warn_if_long(self, step: int) -> None:
        rate = self._steps_per_second()
        if rate is None:
            return
        left = (self._total_steps - step) / rate
        if left > _DAY:
            self.say(
                f"warning: about {left / _DAY:.1f} days are left at this rate; {self._if_long}"
            )
        self._if_long = ""

    def _shown(self) -> dict[str, float]:
        return {name: self._metrics[name] for name in self._metric_names if name in self._metrics}

    def _line(self, step: int) -> str:
        share = min(step / self._total_steps, 1.0) if self._total_steps > 0 else 1.0
        # Rounded down: 100% is said when it is true.
        parts = [f"{step}/{self._total_steps} ({math.floor(1000 * share) / 10:.1f}%)"]
        rate = self._steps_per_second()
        if rate is None:
            parts.append("rate not known yet")
        else:
            parts.append(f"{_short(rate)} {self._noun}/s")
            if self._batch_size is not None:
                parts.append(f"{_short(rate * self._batch_size)} images/s")
            parts.append(f"{_hours(max(self._total_steps - step, 0) / rate)} left")
        parts += [f"{name} {_short(value)}" for name, value in self._shown().items()]
        return "  ".join(parts)

    def _object(self, step: int) -> str:
        rate = self._steps_per_second()
        return self._event(
            "progress",
            step=step,
            total_steps=self._total_steps,
            steps_per_second=rate,
            images_per_second=rate and self._batch_size and rate * self._batch_size,
            seconds_left=rate and max(self._total_steps - step, 0) / rate,
            metrics={
                name: value if math.isfinite(value) else None
                for name, value in self._shown().items()
            },
        )

    def _event(self, event: str, **fields: Any) -> str:
        now = datetime.datetime.fromtimestamp(self._wall_clock(), datetime.UTC)
        return json.dumps(
            {"time": now.isoformat(timespec="milliseconds"), "event": event, **fields}
        )

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
