"""Starts the processes of one training on this machine.

    python -m launch.local --processes=2 --devices=4 -- train --config=... --workdir=...

Every process gets its id and the address of process 0, and its output lines are prefixed with the
id. Failed processes are not restarted.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, BinaryIO, NamedTuple

from launch import command_line
from warp_translate.cli.status import PREEMPTED
from warp_translate.errors import UserError

# The signal that the processes get for each one received. A lost terminal is a reason to save.
_FORWARDED = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}
_DRAIN_SECONDS = 5.0  # Time limit for the last lines of exited processes.

_Processes = dict[int, subprocess.Popen[bytes]]
_Events = SimpleQueue[signal.Signals | tuple[int, int]]
"""Signals to forward, and (index, exit status) of processes."""


class Child(NamedTuple):
    """Command and complete environment of one process."""

    command: Sequence[str]
    environment: Mapping[str, str]


def children(
    train_flags: Sequence[str],
    *,
    processes: int,
    devices: str,
    port: int,
    heartbeat_timeout: int,
    environment: Mapping[str, str],
) -> list[Child]:
    """Returns the processes to start, in the order of their ids.

    ``devices`` is a number of simulated CPU devices per process, or "real" for the machine's
    devices; several processes then share the NVIDIA GPUs evenly.

    Raises:
      UserError: ``devices`` is not a number, or the GPUs cannot be shared evenly.
    """
    if devices == "real":
        variables = _gpu_shares(processes, environment)
    else:
        variables = [_cpu_devices(devices, environment)] * processes
    return [
        Child(
            command=(
                *(sys.executable, "-m", "warp_translate.cli.train", *train_flags),
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={processes}",
                f"--process_id={index}",
                f"--heartbeat_timeout={heartbeat_timeout}",
            ),
            # Python would buffer the output of a pipe in blocks.
            environment={**environment, "PYTHONUNBUFFERED": "1", **variables[index]},
        )
        for index in range(processes)
    ]


def supervise(to_start: Sequence[Child], *, grace: float) -> int:
    """Starts processes, forwards output and signals, and waits until all have exited.

    SIGTERM and SIGINT are forwarded to every process, SIGHUP as SIGTERM. After the first failure,
    which the other processes cannot recover from, they are killed after ``grace`` seconds.

    Returns:
      0 if all exited with 0; 42 if some were preempted and none failed; otherwise the status of the
      first failure, 128 + n for a process ended by signal n.
    """
    # One queue for signals and exits: none can arrive unnoticed between two checks. A signal
    # handler may put into a SimpleQueue.
    events: _Events = SimpleQueue()

    def forward(number: int, _: FrameType | None) -> None:
        events.put(_FORWARDED[signal.Signals(number)])

    def report_exit(index: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        events.put((index, code if code >= 0 else 128 - code))

    previous = {
        number: signal.signal(number, forward)
        for number in _FORWARDED
        if signal.getsignal(number) is not signal.SIG_IGN  # As under nohup.
    }
    running: _Processes = {}
    readers = []
    try:
        for index, child in enumerate(to_start):
            running[index] = process = subprocess.Popen(
                child.command,
                env=dict(child.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Otherwise Ctrl-C in a terminal would reach the processes twice.
                start_new_session=True,
            )
            prefix = f"[{index}] ".encode()
            readers += [
                _thread(_prefix_lines, prefix, process.stdout, sys.stdout.buffer),
                _thread(_prefix_lines, prefix, process.stderr, sys.stderr.buffer),
            ]
            _thread(report_exit, index, process)
        status = _wait(running, events, grace)
    finally:
        for process in running.values():
            _kill_group(process)
        for number, handler in previous.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join(_DRAIN_SECONDS)
    return status


def _wait(running: _Processes, events: _Events, grace: float) -> int:
    first_failure = 0
    preempted = False
    deadline = None
    while running:
        try:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            event = events.get(timeout=timeout)
        except Empty:
            _log(f"killing {len(running)} process(es) still running after {grace:g} s")
            for process in running.values():
                _kill_group(process)
            deadline = None
            continue
        if isinstance(event, signal.Signals):
            for process in running.values():
                process.send_signal(event)
            continue
        index, status = event
        _kill_group(running.pop(index))  # Its data workers may still be running.
        if status == PREEMPTED:
            preempted = True
        elif status and not first_failure:
            first_failure = status
            deadline = time.monotonic() + grace
            _log(f"process {index} exited with status {status}")
    return first_failure or (PREEMPTED if preempted else 0)


def _thread(target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _prefix_lines(prefix: bytes, source: BinaryIO, target: BinaryIO) -> None:
    for line in source:
        try:
            # A single write per line keeps the lines of two processes apart.
            target.write(prefix + line.removesuffix(b"\n") + b"\n")
            target.flush()
        except OSError:  # The reader is gone; keep draining the pipe, or the process would block.
            os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


def _cpu_devices(devices: str, environment: Mapping[str, str]) -> dict[str, str]:
    if not re.fullmatch(r"[1-9]\d*", devices):
        raise UserError(f"--devices={devices} must be a number of CPU devices, or real")
    flag = "--xla_force_host_platform_device_count"
    others = [word for word in environment.get("XLA_FLAGS", "").split() if flag not in word]
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*others, f"{flag}={devices}"])}


def _gpu_shares(processes: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    if processes == 1:
        return [{}]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = _installed_gpus() if visible is None else [gpu for gpu in visible.split(",") if gpu]
    if not gpus:
        raise UserError(
            f"--devices=real found no NVIDIA GPU to share among {processes} processes: set "
            "CUDA_VISIBLE_DEVICES, or give a number of CPU devices"
        )
    share, rest = divmod(len(gpus), processes)
    if rest:
        raise UserError(
            f"--devices=real cannot share {len(gpus)} GPU(s) evenly among {processes} processes: "
            "choose another --processes or CUDA_VISIBLE_DEVICES"
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * share : (index + 1) * share])}
        for index in range(processes)
    ]


def _installed_gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(count)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main(argv: Sequence[str]) -> int:
    """Parses the arguments, runs the processes and returns their joint exit status."""
    parser = command_line.Parser(
        "Starts the processes of one training on this machine: ... -- train --config=... "
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument(
        "--devices", default="real", help="simulated CPU devices per process, or real"
    )
    parser.add_argument("--port", type=int, help="port of the coordinator; a free one if unset")
    parser.add_argument(
        "--heartbeat_timeout",
        type=int,
        default=30,
        help="seconds after which a silent process is lost",
    )
    parser.add_argument(
        "--grace",
        type=float,
        help="seconds from a failure until the others are killed; 10 more than the heartbeat "
        "timeout if unset",
    )
    own, train_flags = command_line.split_train(argv)
    arguments = parser.parse_args(own)
    for name in ("processes", "heartbeat_timeout"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)} must be at least 1")
    if arguments.grace is not None and arguments.grace < 0:
        raise UserError(f"--grace={arguments.grace:g} must be 0 seconds or more")
    command_line.refuse_flags(train_flags, command_line.PROCESS_FLAGS)
    grace = arguments.heartbeat_timeout + 10 if arguments.grace is None else arguments.grace
    return supervise(
        children(
            train_flags,
            processes=arguments.processes,
            devices=arguments.devices,
            port=arguments.port or _free_port(),
            heartbeat_timeout=arguments.heartbeat_timeout,
            environment=os.environ,
        ),
        grace=grace,
    )


if __name__ == "__main__":
    command_line.run(main)
