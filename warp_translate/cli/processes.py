"""The flags by which the processes of one command find each other, where no cluster tells them."""

import sys

from absl import flags

from warp_translate.training import distributed

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, where no cluster tells it: see launch/README.md.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes that work together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout",
    distributed.DEFAULT_HEARTBEAT_TIMEOUT,
    "Seconds without a sign of life after which a process counts as lost and the others end.",
)


FLAGS = (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _HEARTBEAT_TIMEOUT)


def connect() -> None:
    """Joins the other processes that the flags or the environment tell of.

    To be called before anything is asked of jax.

    Raises:
      UserError: see `distributed.connect`.
    """
    distributed.connect(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        _HEARTBEAT_TIMEOUT.value,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
