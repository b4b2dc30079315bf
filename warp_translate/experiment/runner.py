"""Runs jobs that are several commands each, some at once; knows nothing of what they do.

A job holds a lock on its folder as long as any process of it lives. So two runners share the jobs
of a folder, and one that is started after another was killed waits for what that one left running,
in the place of a job of its own.
"""

import collections
import contextlib
import dataclasses
import datetime
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TextIO

from warp_translate import locks
from warp_translate.errors import UserError

LOG_FILE = "log.txt"
"""What a job's commands say, in its folder."""

_LOCK_FILE = ".lock"
_STATUS_SECONDS = 60.0  # Between two lines that say how far everything is.
_POLL_SECONDS = 1.0

State = Literal["done", "failed", "stopped"]


@dataclasses.dataclass(frozen=True)
class Job:
    """Commands that are run one after the other.

    Attributes:
      name: what it is called.
      folder: where its log and its lock are; made if it is not there.
      commands: each with its arguments; the next one only runs where the one before left with 0.
      done: whether there is nothing left to do.
      progress: how much of it is done, in steps.
      total: how many steps there are.
    """

    name: str
    folder: Path
    commands: tuple[tuple[str, ...], ...]
    done: Callable[[], bool]
    progress: Callable[[], int]
    total: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
      state: "done", "failed", or "stopped" before its end by a signal.
      message: of a failure: the status and the last line of the log.
    """

    state: State
    message: str = ""


class Runner:
    """Runs jobs, so many at once, and says how far they are.

    Attributes:
      outcomes: of the jobs that ended, by name.
    """

    outcomes: dict[str, Outcome]

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        at_once: int = 1,
        stream: TextIO,
        ended: Callable[[Job, Outcome], None] = lambda job, outcome: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares to run.

        Args:
          jobs: in the order in which they are begun.
          at_once: how many run at the same time; where it is more than one, each gets its share of
            the CPU cores that this process may use.
          stream: where progress is told.
          ended: told of every job that ended, one at a time.
          environment: variables that the commands get where this process has none of that name.
        """
        self.outcomes = {}
        self._jobs, self._at_once, self._stream, self._ended = jobs, at_once, stream, ended
        self._waiting = collections.deque(jobs)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**(environment or {}), **os.environ}
        self._mutex = threading.RLock()
        self._stopping = threading.Event()
        self._begin = time.monotonic()
        self._steps_before = 0

    def run(self) -> dict[str, Outcome]:
        """Runs everything that is not done, and returns how each ended.

        Raises:
          UserError: a folder cannot be written.
        """
        self._steps_before = sum(job.progress() for job in self._jobs)
        errors: list[BaseException] = []

        def work(cores: set[int] | None) -> None:
            try:
                if cores:
                    # Of this thread alone; the processes that it starts inherit it.
                    os.sched_setaffinity(0, cores)
                self._work()
            except BaseException as error:  # Raised by the thread that waits for this one.
                errors.append(error)
                self.stop()

        shares = _shares(self._at_once)
        threads = [threading.Thread(target=work, args=(cores,)) for cores in shares]
        for thread in threads:
            thread.start()
        last = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            # With a timeout, so that signals are handled in between.
            threads[0].join(_POLL_SECONDS / 10)
            for thread in threads[1:]:
                thread.join(0)
            if time.monotonic() - last > _STATUS_SECONDS:
                last = time.monotonic()
                self._say(self._status())
        if errors:
            raise errors[0]
        return self.outcomes

    def stop(self) -> None:
        """Begins nothing more and asks what runs to save and leave; a second time kills it."""
        kind = signal.SIGKILL if self._stopping.is_set() else signal.SIGTERM
        # With the lock: a process that is being started is either not started or signaled.
        with self._mutex:
            self._stopping.set()
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(kind)

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def _work(self) -> None:
        """Takes jobs until there are none; what another runner has is looked at again later."""
        while not self._stopping.is_set():
            with self._mutex:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            if not self._take(job):
                with self._mutex:
                    self._waiting.append(job)
                self._stopping.wait(_POLL_SECONDS)

    def _take(self, job: Job) -> bool:
        """Does a job, once it has ended where nobody looks after it; not if another runner does."""
        while not self._stopping.is_set():
            with _locked(job.folder) as lock:
                if lock is not None:
                    self._end(job, self._outcome(job, lock))
                    return True
            if not _is_orphaned(job.folder):
                return False
            self._stopping.wait(_POLL_SECONDS)
        return False

    def _outcome(self, job: Job, lock: int) -> Outcome:
        if job.done():
            return Outcome("done")
        self._say(f"{job.name}: begun" if not job.progress() else f"{job.name}: goes on")
        for command in job.commands:
            with open(job.folder / LOG_FILE, "ab") as log:
                with self._mutex:
                    if self._stopping.is_set():
                        return Outcome("stopped")
                    # In a session of its own: an interrupt at the terminal reaches the runner
                    # alone, which asks to save.
                    process = subprocess.Popen(
                        command,
                        env=self._environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(lock,),
                        start_new_session=True,
                    )
                    self._running[job.name] = process
                code = process.wait()
            with self._mutex:
                del self._running[job.name]
            if code:
                if self._stopping.is_set():
                    return Outcome("stopped")
                how = f"signal {-code}" if code < 0 else f"status {code}"
                said = _last_line(job.folder / LOG_FILE) or "it said nothing"
                return Outcome("failed", f"{how}: {said}")
        return Outcome("done") if job.done() else Outcome("failed", "left nothing behind")

    def _end(self, job: Job, outcome: Outcome) -> None:
        with self._mutex:
            self.outcomes[job.name] = outcome
            said = outcome.state + (f", {outcome.message}" if outcome.message else "")
            self._say(f"{job.name}: {said} ({len(self.outcomes)} of {len(self._jobs)})")
            self._ended(job, outcome)

    def _status(self) -> str:
        total = sum(job.total for job in self._jobs)
        # What failed is no longer to be waited for.
        settled = {name for name, outcome in self.outcomes.items() if outcome.state != "stopped"}
        steps = sum(job.total if job.name in settled else job.progress() for job in self._jobs)
        elapsed = time.monotonic() - self._begin
        line = f"{len(self.outcomes)} of {len(self._jobs)} runs, {steps} of {total} steps"
        running = [job for job in self._jobs if job.name in self._running]
        each = ", ".join(map(_progress_in_words, running))
        if (rate := (steps - self._steps_before) / elapsed) > 0:
            line += f", {rate:.3g} steps/s, about {_time((total - steps) / rate)} left"
        return f"{line}; {each}" if each else line

    def _say(self, line: str) -> None:
        with self._mutex:
            self._stream.write(f"[{_time(time.monotonic() - self._begin)}] {line}\n")
            self._stream.flush()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """Holds the lock of a folder; None where another process does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another --workdir"
        ) from error
    try:
        try:
            locks.try_lock(lock)
        except BlockingIOError:
            yield None
        else:
            os.truncate(lock, 0)
            os.pwrite(lock, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
            yield lock
    finally:
        os.close(lock)  # The lock itself lives on in the processes that inherited it.


def _is_orphaned(folder: Path) -> bool:
    """Whether the runner that locked a folder was one of this machine and is no more."""
    host, _, process = (folder / _LOCK_FILE).read_text().partition(" ")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError):  # Just being written, or another user's.
        return False
    return False


def _shares(count: int) -> list[set[int] | None]:
    """The cores of each of so many; None where they are not divided."""
    if count == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * count
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[share::count]) or {cores[share % len(cores)]} for share in range(count)]


def _progress_in_words(job: Job) -> str:
    """Where nothing is logged yet the last line of its own log says what it does: it compiles."""
    steps = f"{job.name} {job.progress()}/{job.total}"
    said = "" if job.progress() else _last_line(job.folder / LOG_FILE)[:60]
    return f"{steps} ({said})" if said else steps


def _last_line(path: Path) -> str:
    """The last line of a log that says something; "" where none does."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else ""


def _time(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))
