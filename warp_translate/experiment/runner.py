"""Runs jobs of several commands, some in parallel.

A job locks its folder while any of its processes lives. So two runners share the jobs of a folder,
and a runner that replaces a killed one waits for the jobs which that one left running.
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

from warp_translate import locks, storage

LOG_FILE = "log.txt"
"""Output of a job's commands, in its folder."""

_LOCK_FILE = ".lock"
_STATUS_SECONDS = 60.0  # Between two status lines.
_POLL_SECONDS = 1.0

State = Literal["done", "failed", "stopped"]


@dataclasses.dataclass(frozen=True)
class Job:
    """Commands that run in sequence until one fails.

    Attributes:
      name: its name.
      folder: folder of its log and lock; created if missing.
      commands: the commands with their arguments.
      done: returns True if the job is complete.
      progress: returns the steps done.
      total: number of steps.
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
      state: "done", "failed", or "stopped" by a signal.
      message: of a failure, the exit status and the last line of the log.
    """

    state: State
    message: str = ""


class Runner:
    """Runs jobs in parallel and reports their progress.

    Attributes:
      outcomes: outcomes of the jobs that ended, by name.
    """

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
          jobs: in the order in which they start.
          at_once: number of parallel jobs; several divide the CPU cores of this process.
          stream: stream for progress.
          ended: called with every job that ended, one at a time.
          environment: defaults of environment variables for the commands.
        """
        self.outcomes: dict[str, Outcome] = {}
        self._jobs, self._at_once, self._stream, self._ended = jobs, at_once, stream, ended
        self._waiting = collections.deque(jobs)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**(environment or {}), **os.environ}
        self._mutex = threading.RLock()
        self._stopping = threading.Event()
        self._begin = time.monotonic()
        self._steps_before = 0

    def run(self) -> dict[str, Outcome]:
        """Runs all jobs that are not done, and returns their outcomes.

        Raises:
          UserError: a folder cannot be written.
        """
        self._steps_before = sum(job.progress() for job in self._jobs)
        errors: list[BaseException] = []

        def work(cores: set[int] | None) -> None:
            try:
                if cores:
                    # Of this thread only; its child processes inherit it.
                    os.sched_setaffinity(0, cores)
                self._work()
            except BaseException as error:  # Raised again below.
                errors.append(error)
                self.stop()

        shares = _shares(self._at_once)
        threads = [threading.Thread(target=work, args=(cores,)) for cores in shares]
        for thread in threads:
            thread.start()
        last = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            threads[0].join(_POLL_SECONDS / 10)  # Signals are handled in between.
            if time.monotonic() - last > _STATUS_SECONDS:
                last = time.monotonic()
                self._say(self._status())
        if errors:
            raise errors[0]
        return self.outcomes

    def stop(self) -> None:
        """Starts no more jobs and terminates the running ones; a second call kills them."""
        kind = signal.SIGKILL if self._stopping.is_set() else signal.SIGTERM
        # Under the lock a process that is just starting is either signaled or not started.
        with self._mutex:
            self._stopping.set()
            for process in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(kind)

    def _work(self) -> None:
        """Runs jobs until there are none; requeues those that another runner has."""
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
        """Runs a job, after waiting for an orphaned run of it; False if another runner has it."""
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
        self._say(f"{job.name}: {'resumed' if job.progress() else 'started'}")
        for command in job.commands:
            with open(job.folder / LOG_FILE, "ab") as log:
                with self._mutex:
                    if self._stopping.is_set():
                        return Outcome("stopped")
                    # In a new session, so that Ctrl-C reaches the runner only.
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
                last = _last_line(job.folder / LOG_FILE) or "no output"
                return Outcome("failed", f"{how}: {last}")
        return Outcome("done") if job.done() else Outcome("failed", "incomplete results")

    def _end(self, job: Job, outcome: Outcome) -> None:
        with self._mutex:
            self.outcomes[job.name] = outcome
            how = outcome.state + (f", {outcome.message}" if outcome.message else "")
            self._say(f"{job.name}: {how} ({len(self.outcomes)} of {len(self._jobs)})")
            self._ended(job, outcome)

    def _status(self) -> str:
        total = sum(job.total for job in self._jobs)
        # Failed jobs count as complete.
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
    """Holds the lock of a folder; yields None if another process holds it."""
    with storage.writing(folder, "--workdir"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
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
        os.close(lock)  # Processes that inherited the lock still hold it.


def _is_orphaned(folder: Path) -> bool:
    """True if the runner that locked a folder ran on this machine and is gone."""
    host, _, process = (folder / _LOCK_FILE).read_text().partition(" ")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, PermissionError):  # Being written, or another user's.
        pass
    return False


def _shares(count: int) -> list[set[int] | None]:
    """Divides the CPU cores among ``count`` jobs; None where they are not divided."""
    if count == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * count
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[share::count]) or {cores[share % len(cores)]} for share in range(count)]


def _progress_in_words(job: Job) -> str:
    """Steps done, and before the first step the last line of the log."""
    steps = f"{job.name} {job.progress()}/{job.total}"
    last = "" if job.progress() else _last_line(job.folder / LOG_FILE)[:60]
    return f"{steps} ({last})" if last else steps


def _last_line(path: Path) -> str:
    """The last line of a log that is not empty; "" without one."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _time(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))
