"""Training in several processes: connecting, lost peers and signals.

The cluster starts and restarts processes. A process that is lost ends the others, and the same
command resumes from the last checkpoint.
"""

import importlib.util
import itertools
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost as ocp_multihost

from warp_translate.errors import UserError, reason
from warp_translate.interrupts import handled_by

Result = TypeVar("Result")

DEFAULT_HEARTBEAT_TIMEOUT = 100
"""Seconds without a heartbeat after which a process counts as lost."""

_SECONDS_FOR_THE_OTHERS = 60
_SECONDS_TO_EXIT = 2
_SECONDS_TO_MEET = 300  # jax's default.
_SECONDS_TO_MEET_QUIETLY = 10

_PIECE = 1 << 24  # Bytes per exchange: every device holds a piece of each process.

_gathers = itertools.count()  # Equal in all processes, since all take part.

# Parts of error messages when a peer dies during a collective. Object stores raise errors with the
# second group too, so those count in jax's own errors only.
_OF_COLLECTIVES = ("Gloo", "NCCL")
_OF_JAX = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Connection", "barrier")

_missing = False  # True after the other processes were not found.

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout: int = DEFAULT_HEARTBEAT_TIMEOUT,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Joins the other processes of the job, if there are any; call it before any use of jax.

    Without arguments the environment decides: the variables of SLURM's srun and of Open MPI for
    more than one process, and those of a Cloud TPU. Without any, this process is the only one.

    Args:
      coordinator: host and port on which process 0 listens.
      num_processes: number of processes; with a coordinator, from the environment by default.
      process_id: this process, from 0; with a coordinator, from the environment by default.
      heartbeat_timeout: seconds without a heartbeat after which a process counts as lost, which
        ends the others.
      say: prints a line about SLURM tasks that were not started, and about waiting.

    Raises:
      UserError: the arguments are inconsistent, or the others cannot be reached.
      TimeoutError: not all processes connected; see `is_peer_loss`.
    """
    if heartbeat_timeout < 1:
        raise UserError(f"--heartbeat_timeout={heartbeat_timeout} must be at least 1 second")
    if coordinator is None:
        for flag, value in (("num_processes", num_processes), ("process_id", process_id)):
            if value is not None:
                raise UserError(f"--{flag}={value} needs --coordinator=HOST:PORT of process 0")
        if _is_launched(os.environ):
            _initialize(heartbeat_timeout, say)
        elif tasks := _idle_tasks(os.environ):
            say(
                f"warning: SLURM allocated {tasks} tasks, but this process runs alone: put srun "
                f"before the command to start all {tasks}"
            )
        return

    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.1:1234")
    known_count, known_id = _count_and_id(os.environ)
    count = known_count if num_processes is None else num_processes
    identity = known_id if process_id is None else process_id
    if count is None or identity is None:
        missing = "num_processes" if count is None else "process_id"
        raise UserError(f"--coordinator={coordinator} needs --{missing} as well")
    if count < 1:
        raise UserError(f"--num_processes={count} must be at least 1")
    if not 0 <= identity < count:
        raise UserError(f"--process_id={identity} must be within 0 and {count - 1}")
    _initialize(
        heartbeat_timeout,
        say,
        coordinator_address=coordinator,
        num_processes=count,
        process_id=identity,
        # Each process uses all devices that its launcher made visible.
        cluster_detection_method="deactivate",
    )


def _initialize(heartbeat_timeout: int, say: Callable[[str], None], **arguments: Any) -> None:
    global _missing
    failed: list[Exception] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(
                heartbeat_timeout_seconds=heartbeat_timeout,
                # Longer than this process waits, since jax would abort the process.
                initialization_timeout=2 * _SECONDS_TO_MEET,
                **arguments,
            )
        except Exception as error:
            failed.append(error)

    # In a thread, so that Ctrl-C works meanwhile.
    meeting = threading.Thread(target=meet, daemon=True)
    meeting.start()
    meeting.join(_SECONDS_TO_MEET_QUIETLY)
    if meeting.is_alive():
        say(f"waiting for the other processes, {_SECONDS_TO_MEET} s at most")
        meeting.join(_SECONDS_TO_MEET - _SECONDS_TO_MEET_QUIETLY)
    _missing = meeting.is_alive() or bool(failed)
    if meeting.is_alive():
        raise TimeoutError(
            f"not all processes connected within {_SECONDS_TO_MEET} s: check that all were "
            "started, with srun in SLURM, and that --coordinator=HOST:PORT reaches process 0"
        )
    if failed and isinstance(failed[0], RuntimeError | ValueError):
        raise UserError(
            f"the processes cannot connect ({reason(failed[0])}): check that "
            "--coordinator=HOST:PORT reaches process 0, that no other program uses the port, and "
            "that all were started"
        ) from failed[0]
    if failed:
        raise failed[0]


def _is_launched(environment: Mapping[str, str]) -> bool:
    """True in the environment of one of several processes that jax can connect by itself."""
    count, _ = _count_and_id(environment)
    if count is not None:
        if (
            count > 1
            and "OMPI_COMM_WORLD_SIZE" in environment
            and "OMPI_MCA_orte_hnp_uri" not in environment
        ):
            raise UserError(
                f"Open MPI started {count} processes but, from version 5 on, does not publish the "
                "address of process 0: give --coordinator=HOST:PORT"
            )
        return count > 1
    # jax's own test for a Cloud TPU, as opposed to a machine that has libtpu installed.
    has_tpu = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return (
        has_tpu
        and importlib.util.find_spec("libtpu") is not None
        and "TPU_SKIP_MDS_QUERY" not in environment
    )


def _idle_tasks(environment: Mapping[str, str]) -> int:
    """SLURM's number of tasks if only this process runs, else 0.

    That is so in the shells of salloc and of an interactive step, and in the script of sbatch.
    """
    given, started = environment.get("SLURM_NTASKS", ""), environment.get("SLURM_STEP_NUM_TASKS")
    alone = started == "1" or "SLURM_STEP_NODELIST" not in environment
    return int(given) if alone and given.isdigit() and int(given) > 1 else 0


def _count_and_id(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Number of processes and this one's index, according to SLURM or Open MPI."""
    for names, count, place in (
        (_SLURM, "SLURM_NTASKS", "SLURM_PROCID"),
        (_OPEN_MPI, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ):
        if names is _SLURM and _idle_tasks(environment):
            continue
        if all(name in environment for name in names):
            return int(environment[count]), int(environment[place])
    return None, None


def is_one_of_several() -> bool:
    """True if there are other processes; queries no device, so it can be called at any time."""
    return jax.distributed.is_initialized() or _missing


def is_peer_loss(error: BaseException) -> bool:
    """True if an error means that another process of the job is gone.

    jax has no class for it: it raises a ValueError when a computation starts and a JaxRuntimeError
    when its result is awaited.
    """
    if _missing and isinstance(error, TimeoutError):
        return True
    if not is_one_of_several() or not isinstance(error, RuntimeError | ValueError):
        return False
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    words = _OF_COLLECTIVES + _OF_JAX if of_jax else _OF_COLLECTIVES
    return any(word in str(error) for word in words)


def is_writer() -> bool:
    """True in the process that writes logs, images and the configuration."""
    return jax.process_index() == 0


def barrier(name: str, timeout: int = 3600) -> None:
    """Waits until all processes are here.

    Collectives time out if a process comes half a minute later than another, for example because it
    compiles more slowly.

    Args:
      name: a unique name.
      timeout: seconds.
    """
    if jax.process_count() > 1:
        ocp_multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * timeout)


def wait_to_leave(timeout: int = _SECONDS_FOR_THE_OTHERS) -> None:
    """Waits for the others to leave as well, before this process does.

    They depend on the service of process 0 and are aborted without it, possibly before they have
    reported why they leave.

    Args:
      timeout: seconds.
    """
    if _missing:
        return
    try:
        barrier("leave", timeout)
    except Exception:  # jax raises various errors for late and lost processes.
        return
    if is_writer():
        time.sleep(_SECONDS_TO_EXIT)


def gather(value: Any) -> list[Any]:
    """Gathers a value of every process; all processes must call this.

    Args:
      value: any picklable value.

    Returns:
      The values in the order of the processes.
    """
    if jax.process_count() == 1:
        return [value]
    barrier(f"gather/{next(_gathers)}")
    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    # As whole pieces and a rest: integers of devices have 32 bits.
    sizes = _of_all(np.array(divmod(len(mine), _PIECE), np.int32))
    lengths = [int(pieces) * _PIECE + int(rest) for pieces, rest in sizes]
    texts = [bytearray() for _ in lengths]
    for start in range(0, max(lengths), _PIECE):
        piece = np.zeros(min(_PIECE, max(lengths) - start), np.uint8)
        part = mine[start : start + len(piece)]
        piece[: len(part)] = part
        for text, received in zip(texts, _of_all(piece), strict=True):
            text += received.tobytes()
    # Safe: the pickles come from processes of this job.
    return [
        pickle.loads(memoryview(text)[:length]) for text, length in zip(texts, lengths, strict=True)
    ]


def from_first(action: Callable[[], Result]) -> Result:
    """Runs an action in the first process and returns its picklable result in all.

    Raises:
      UserError: the action raised it.
    """
    if jax.process_count() == 1:
        return action()
    done: tuple[Result | None, UserError | None] = (None, None)
    if is_writer():
        try:
            done = (action(), None)
        except UserError as error:  # Raised in all processes, or the others would wait.
            done = (None, error)
    result, mistake = gather(done)[0]
    if mistake is not None:
        raise mistake
    return result


def _of_all(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(array))


class LeaveNotice:
    """Detects that the training has to stop: SIGTERM, or a first Ctrl-C while it trains.

    With several processes jax's coordination service forwards a signal to any of them, and all of
    them see it at the same step.

    Attributes:
      by_user: True after Ctrl-C.
    """

    def __init__(self) -> None:
        self.by_user = False
        self._asked = False
        self._interrupted_before = False  # Python lost this interrupt if training continues.
        self._alone = jax.process_count() == 1

    def __call__(self, number: int) -> bool:
        """True if the training has to save and stop now.

        Args:
          number: of the call, the same in all processes.
        """
        return self._asked if self._alone else multihost_utils.reached_preemption_sync_point(number)

    @contextmanager
    def terminations(self) -> Iterator[None]:
        """Handles SIGTERM, which clusters send to stop a job.

        Ctrl-C interrupts as usual. If it comes in a callback of the garbage collector, where Python
        loses it, `interrupts` raises it.
        """
        with ExitStack() as stack:
            if self._alone:  # Else jax handles it.
                stack.enter_context(handled_by(signal.SIGTERM, self._ask))
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                stack.enter_context(handled_by(signal.SIGINT, self._interrupt_now, limit=1))
            yield

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Handles the first Ctrl-C as well.

        Raises:
          KeyboardInterrupt: at a second one, or at once if one was lost before.
        """
        if self._interrupted_before:
            raise KeyboardInterrupt
        # Shells let background jobs ignore it.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield
            return
        with handled_by(signal.SIGINT, self._interrupted, limit=2):
            yield

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _interrupt_now(self, number: int, frame: FrameType | None) -> None:
        self._interrupted_before = True
        raise KeyboardInterrupt

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.by_user:
            raise KeyboardInterrupt
        self.by_user = True
        # Not print, which the signal may have interrupted.
        os.write(2, b"\nsaving this step, then leaving; Ctrl-C again leaves at once\n")
        if self._alone:
            self._asked = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)
