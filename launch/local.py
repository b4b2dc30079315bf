"""Starts the processes of one training on this machine.

    python -m launch.local --processes=2 --devices=4 -- train --config=... --workdir=...

Every process gets its id and the address of the first one. Lines of output carry the number of
their process. Nothing is started again: that is a scheduler's work.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import BinaryIO

from launch import command_line
from warp_translate.cli.status import PREEMPTED
from warp_translate.errors import UserError

# What is passed on as what: a lost terminal is a reason to save.
_SIGNALS = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}
_LINGER = 5.0  # Seconds to wait for the last lines of a process that has left.


@dataclass(frozen=True)
class Child:
    """One process to start: its command and its whole environment."""

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
    """Returns what to start, one child a process.

    Args:
      train_flags: what ``warp-translate train`` gets in every process.
      processes: how many.
      devices: how many CPU devices each process pretends to have, or "real" for what is there;
        several processes then share the NVIDIA GPUs evenly.
      port: of 127.0.0.1, where the first process coordinates.
      heartbeat_timeout: seconds after which a process that is silent counts as lost.
      environment: the environment to start from.

    Raises:
      UserError: the devices are no number, or cannot be shared.
    """
    if devices == "real":
        variables = _shares_of_gpus(processes, environment)
    else:
        variables = [_fake_devices(devices, environment)] * processes
    return [
        Child(
            command=(
                *(sys.executable, "-m", "warp_translate.cli.train", *train_flags),
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={processes}",
                f"--process_id={index}",
                f"--heartbeat_timeout={heartbeat_timeout}",
            ),
            # A pipe is buffered in blocks, and a line is wanted when it is written.
            environment={**environment, "PYTHONUNBUFFERED": "1", **variables[index]},
        )
        for index in range(processes)
    ]


def supervise(to_start: Sequence[Child], *, grace: float) -> int:
    """Starts all, passes on their output and the signals, and waits until all have left.

    SIGTERM and SIGINT reach every process, SIGHUP as SIGTERM. When one leaves with a failing
    status, the others have ``grace`` seconds before they are killed: they cannot finish without it.

    Args:
      to_start: the processes, in the order of their ids.
      grace: seconds.

    Returns:
      0 if all left with 0; 42 if some were preempted and none failed; otherwise the status of the
      first that failed, 128 + n for one that signal n ended.
    """
    # Signals and exits come through one queue, so that none can fall between two looks at it;
    # SimpleQueue may be put to from a signal handler.
    events: SimpleQueue[signal.Signals | tuple[int, int]] = SimpleQueue()

    def pass_on(number: int, _: FrameType | None) -> None:
        events.put(_SIGNALS[signal.Signals(number)])

    before = {
        number: signal.signal(number, pass_on)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN  # As nohup asks for.
    }
    running: dict[int, subprocess.Popen[bytes]] = {}
    readers: list[threading.Thread] = []
    try:
        for index, child in enumerate(to_start):
            running[index] = process = subprocess.Popen(
                child.command,
                env=dict(child.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C in a terminal would reach them directly, and then again from here.
                start_new_session=True,
            )
            readers += _pass_on_output(index, process)
            reporter = threading.Thread(
                target=_report_exit, args=(index, process, events), daemon=True
            )
            reporter.start()
        status = _wait(running, events, grace)
    finally:
        for process in running.values():
            _kill_group(process)
        for number, handler in before.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join(_LINGER)
    return status


def _wait(
    running: dict[int, subprocess.Popen[bytes]],
    events: "SimpleQueue[signal.Signals | tuple[int, int]]",
    grace: float,
) -> int:
    first_failure = 0
    preempted = False
    deadline = float("inf")
    while running:
        patience = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        try:
            event = events.get(timeout=patience)
        except Empty:
            print(
                f"{len(running)} process(es) did not leave within {grace:g} s and are killed",
                file=sys.stderr,
                flush=True,
            )
            for process in running.values():
                _kill_group(process)
            deadline = float("inf")
            continue
        if isinstance(event, signal.Signals):
            for process in running.values():
                process.send_signal(event)
            continue
        index, status = event
        _kill_group(running.pop(index))  # Its data workers, if it left any.
        if status == PREEMPTED:
            preempted = True
        elif status and not first_failure:
            first_failure = status
            deadline = time.monotonic() + grace
            print(f"process {index} left with status {status}", file=sys.stderr, flush=True)
    return first_failure or (PREEMPTED if preempted else 0)


def _report_exit(
    index: int,
    process: subprocess.Popen[bytes],
    events: "SimpleQueue[signal.Signals | tuple[int, int]]",
) -> None:
    code = process.wait()
    events.put((index, code if code >= 0 else 128 - code))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # All of it may have left.
        os.killpg(process.pid, signal.SIGKILL)


def _pass_on_output(index: int, process: subprocess.Popen[bytes]) -> list[threading.Thread]:
    assert process.stdout is not None and process.stderr is not None
    streams = [(process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer)]
    threads = [
        threading.Thread(target=_prefix_lines, args=(f"[{index}] ".encode(), *pair), daemon=True)
        for pair in streams
    ]
    for thread in threads:
        thread.start()
    return threads


def _prefix_lines(prefix: bytes, source: BinaryIO, target: BinaryIO) -> None:
    for line in source:
        # One write a line: the buffer's lock keeps the lines of two processes apart.
        try:
            target.write(prefix + line.removesuffix(b"\n") + b"\n")
            target.flush()
        except (
            OSError
        ):  # Nobody reads any more, but a process whose pipe is full would stand still.
            os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


def _fake_devices(devices: str, environment: Mapping[str, str]) -> dict[str, str]:
    if not re.fullmatch(r"[1-9]\d*", devices):
        raise UserError(f"--devices={devices} must be a number of CPU devices, or real")
    flag = "--xla_force_host_platform_device_count"
    others = [word for word in environment.get("XLA_FLAGS", "").split() if flag not in word]
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*others, f"{flag}={devices}"])}


def _shares_of_gpus(processes: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    if processes == 1:
        return [{}]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = _installed_gpus() if visible is None else [gpu for gpu in visible.split(",") if gpu]
    if not gpus:
        raise UserError(
            f"--devices=real finds no NVIDIA GPU to share among {processes} processes: set "
            "CUDA_VISIBLE_DEVICES, or give a number of CPU devices"
        )
    if len(gpus) % processes:
        raise UserError(
            f"--devices=real cannot share {len(gpus)} GPU(s) evenly among {processes} processes: "
            "choose another --processes or CUDA_VISIBLE_DEVICES"
        )
    share = len(gpus) // processes
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
        port: int = free.getsockname()[1]
        return port


def main(argv: Sequence[str]) -> int:
    """Checks the command line, starts the processes and returns their common status."""
    parser = command_line.Parser(
        "Starts the processes of one training on this machine: ... -- train --config=... "
    )
    parser.add_argument("--processes", type=int, default=2, help="how many")
    parser.add_argument(
        "--devices", default="real", help="CPU devices that each pretends to have, or real"
    )
    parser.add_argument("--port", type=int, help="where the first coordinates; a free one if unset")
    parser.add_argument(
        "--heartbeat_timeout", type=int, default=30, help="seconds until a silent process is lost"
    )
    parser.add_argument(
        "--grace",
        type=float,
        help="seconds that the others have when one failed; 10 more than the heartbeat if unset",
    )
    own, train_flags = command_line.split_train(argv)
    arguments = parser.parse_args(own)
    for name in ("processes", "heartbeat_timeout"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)} must be at least 1")
    if arguments.grace is not None and arguments.grace < 0:
        raise UserError(f"--grace={arguments.grace:g} must be 0 seconds or more")
    command_line.refuse_flags(
        train_flags,
        ["coordinator", "num_processes", "process_id", "heartbeat_timeout"],
        "leave it out behind --",
    )
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
