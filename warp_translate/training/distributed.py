"""Several processes that train together: how they find and hear of each other.

Nothing here restarts or places anything: that is the cluster's. A process that goes missing ends
the others, and the same command started again goes on from the last checkpoint.
"""

import importlib.util
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost as ocp_multihost

from warp_translate.errors import UserError
from warp_translate.interrupts import handled_by

DEFAULT_HEARTBEAT_TIMEOUT = 100
"""Seconds without a sign of life after which a process counts as lost."""

_SECONDS_FOR_THE_OTHERS = 60
_SECONDS_TO_EXIT = 2
_SECONDS_TO_MEET = 300  # As jax has it.
_SECONDS_TO_MEET_QUIETLY = 10

_exchanges = itertools.count()  # The same in all processes, since all of them take part in each.

# What an error says where a peer dies in the midst of a collective: what collectives alone say, and
# what a store says as well, so that it counts in jax's own errors only.
_OF_COLLECTIVES = ("Gloo", "NCCL")
_OF_JAX = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Connection", "barrier")

_missing = False  # Whether the other processes were looked for and not found.

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout: int = DEFAULT_HEARTBEAT_TIMEOUT,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Joins the other processes of the job, if there are any.

    To be called before anything else is asked of jax. Without arguments the environment decides:
    the variables of SLURM's srun and of Open MPI, where they tell of more than one process, and
    those of a Cloud TPU. Where none of them is there, this process is the only one.

    Args:
      coordinator: host and port of process 0, which listens there; the same for all.
      num_processes: number of processes; with a coordinator only, what the environment says.
      process_id: which one this is, from 0; with a coordinator only, what the environment says.
      heartbeat_timeout: seconds without a sign of life after which a process counts as lost, and
        the others end.
      say: is told of tasks that SLURM gave and did not start, and of waiting.

    Raises:
      UserError: the arguments do not fit together, or the others cannot be reached.
      TimeoutError: not all of them came; `is_peer_loss` takes it for what it is.
    """
    if heartbeat_timeout < 1:
        raise UserError(f"--heartbeat_timeout={heartbeat_timeout} must be at least 1 second")
    if coordinator is None:
        for flag, value in (("num_processes", num_processes), ("process_id", process_id)):
            if value is not None:
                raise UserError(f"--{flag}={value} needs --coordinator=HOST:PORT, process 0's")
        if _is_launched(os.environ):
            _initialize(heartbeat_timeout, say)
        elif tasks := _idle_tasks(os.environ):
            say(
                f"warning: SLURM gave this job {tasks} tasks, and this process is none of several: "
                f"it works alone; put srun before the command to start all {tasks}"
            )
        return

    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator} must be HOST:PORT, 10.0.0.1:1234 for instance"
        )
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
        # Each process sees the devices that its launcher left visible.
        cluster_detection_method="deactivate",
    )


def _initialize(heartbeat_timeout: int, say: Callable[[str], None], **arguments: Any) -> None:
    global _missing
    failed: list[Exception] = []

    def meet() -> None:
        try:
            jax.distributed.initialize(
                heartbeat_timeout_seconds=heartbeat_timeout,
                # Beyond the time that is waited here, after which jax would abort the process.
                initialization_timeout=2 * _SECONDS_TO_MEET,
                **arguments,
            )
        except Exception as error:
            failed.append(error)

    # In a thread, so that Ctrl-C is heard meanwhile.
    meeting = threading.Thread(target=meet, daemon=True)
    meeting.start()
    meeting.join(_SECONDS_TO_MEET_QUIETLY)
    if meeting.is_alive():
        say(f"waiting for the other processes, {_SECONDS_TO_MEET} s at most")
        meeting.join(_SECONDS_TO_MEET - _SECONDS_TO_MEET_QUIETLY)
    _missing = meeting.is_alive() or bool(failed)
    if meeting.is_alive():
        raise TimeoutError(
            f"not all processes came within {_SECONDS_TO_MEET} s: see that all were started, with "
            "srun in SLURM, and that process 0 is reached under --coordinator=HOST:PORT"
        )
    if failed and isinstance(failed[0], RuntimeError | ValueError):
        words = " ".join(str(failed[0]).split())[:300]
        raise UserError(
            f"the processes do not find each other ({words}): see that process 0 is reached under "
            "--coordinator=HOST:PORT, that nobody else listens there, and that all were started"
        ) from failed[0]
    if failed:
        raise failed[0]


def _is_launched(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one process of several, as far as jax can use it."""
    count, _ = _count_and_id(environment)
    if count is not None:
        if (
            count > 1
            and "OMPI_COMM_WORLD_SIZE" in environment
            and "OMPI_MCA_orte_hnp_uri" not in environment
        ):
            raise UserError(
                f"Open MPI started {count} processes and, from version 5 on, does not say where "
                "process 0 is: give --coordinator=HOST:PORT"
            )
        return count > 1
    # As jax itself tells a Cloud TPU from a machine that merely has libtpu installed.
    has_tpu = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return (
        has_tpu
        and importlib.util.find_spec("libtpu") is not None
        and "TPU_SKIP_MDS_QUERY" not in environment
    )


def _idle_tasks(environment: Mapping[str, str]) -> int:
    """How many tasks SLURM gave a job of which this process is all that runs; 0 where it is not.

    The shells of salloc and of an interactive step, and the script of sbatch, are one task.
    """
    given, started = environment.get("SLURM_NTASKS", ""), environment.get("SLURM_STEP_NUM_TASKS")
    alone = started == "1" or "SLURM_STEP_NODELIST" not in environment
    return int(given) if alone and given.isdigit() and int(given) > 1 else 0


def _count_and_id(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Number of processes and this one's place, where SLURM or Open MPI tell them."""
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
    """Whether there are other processes; asks no device, so that it may be called at any time."""
    return jax.distributed.is_initialized() or _missing


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error means that another process of the job is gone.

    jax has no class for it: it raises a ValueError where a computation is begun, and a
    JaxRuntimeError where its result is waited for.

    Args:
      error: raised by anything in this process.

    Returns:
      False as well where this process is the only one.
    """
    if _missing and isinstance(error, TimeoutError):
        return True
    if not is_one_of_several() or not isinstance(error, RuntimeError | ValueError):
        return False
    of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    words = _OF_COLLECTIVES + _OF_JAX if of_jax else _OF_COLLECTIVES
    return any(word in str(error) for word in words)


def is_writer() -> bool:
    """Whether this process writes what is written once: logs, pictures, the configuration."""
    return jax.process_index() == 0


def barrier(name: str, timeout: int = 3600) -> None:
    """Waits until all processes are here.

    Before the first sum over devices: the libraries that add over a network give up when one of
    the processes comes half a minute later than another, as happens when it compiles more slowly.

    Args:
      name: of the place; each may be used once.
      timeout: seconds.
    """
    if jax.process_count() > 1:
        ocp_multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * timeout)


def wait_to_leave(timeout: int = _SECONDS_FOR_THE_OTHERS) -> None:
    """Waits a while for the others to leave as well, before this process does.

    The others live by the service of process 0 and are aborted when it is gone: where all of them
    have the same reason to leave, none may be cut short before it could say so.

    Args:
      timeout: seconds, after which those that do not leave are left behind.
    """
    if _missing:
        return
    try:
        barrier("leave", timeout)
    except Exception:  # Late or lost ones: jax tells of both, and of much else, as it likes.
        return
    if is_writer():
        time.sleep(_SECONDS_TO_EXIT)


def from_first_process(value: Any) -> Any:
    """Gives every process what process 0 has, so that all decide alike.

    Args:
      value: what JSON can hold; of the other processes it is not looked at.

    Returns:
      The value of process 0, as JSON gives it back.
    """
    if jax.process_count() == 1:
        return value
    barrier(f"from_first_process/{next(_exchanges)}")
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(len(text)))
    buffer = np.zeros(int(size), np.uint8)
    if is_writer():
        buffer[:] = text
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))).decode())


class LeaveNotice:
    """Hears that the training has to leave: of SIGTERM, or of a first Ctrl-C while it trains.

    With several processes a signal to any of them is passed on by jax's coordination service, and
    all of them hear of it at the same step.

    Attributes:
      by_user: whether it was Ctrl-C.
    """

    def __init__(self) -> None:
        self.by_user = False
        self._asked = False
        self._interrupted_before = False  # And Python has lost it, or it would not have gone on.
        self._alone = jax.process_count() == 1

    def __call__(self, number: int) -> bool:
        """Whether to save now and leave.

        Args:
          number: grows by one from call to call, between steps, and is the same in all processes.
        """
        return self._asked if self._alone else multihost_utils.reached_preemption_sync_point(number)

    @contextmanager
    def terminations(self) -> Iterator[None]:
        """Listens for SIGTERM, with which clusters say that a job has to leave.

        Ctrl-C interrupts as ever; where it came in a callback of the garbage collector, in which
        Python loses it, it does when `interrupts` begins.
        """
        with ExitStack() as stack:
            if self._alone:  # Else jax listens.
                stack.enter_context(handled_by(signal.SIGTERM, self._ask))
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                stack.enter_context(handled_by(signal.SIGINT, self._interrupt_now, limit=1))
            yield

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Listens for Ctrl-C as well; the second one is answered as if nobody listened.

        Raises:
          KeyboardInterrupt: at a second one, or at once if one was lost before.
        """
        if self._interrupted_before:
            raise KeyboardInterrupt
        # In the background of a shell that passes it on to nobody it is ignored, and stays so.
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
        # Not by print, which may be what was interrupted.
        os.write(2, b"\nsaving this step, then leaving; Ctrl-C again leaves at once\n")
        if self._alone:
            self._asked = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)
