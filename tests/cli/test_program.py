"""The commands as a user starts them: in a process of their own."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from warp_translate.cli import program, status
from warp_translate.cli.extras import missing_package
from warp_translate.errors import UserError
from warp_translate.training import distributed

ROOT = Path(__file__).parents[2]


def start(*args, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "warp_translate.cli.main", *args],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def own_lines(stderr):
    """Standard error without the log lines of libraries."""
    return [line for line in stderr.splitlines() if line.strip() and line[:1] not in "IW"]


def test_no_command_and_an_unknown_one_list_the_commands():
    for args in ((), ("trian",)):
        done = start(*args)
        assert done.returncode == 2
        assert "train" in done.stderr and "translate" in done.stderr
    assert start("--help").returncode == 0


@pytest.mark.full
def test_a_mistake_is_one_line_and_status_2():
    """In a process of its own; tests/cli/test_wrong_commands.py has all the others."""
    done = start("train", "--config=experiments/paired.py", "--config.optim.lrr=1", "--workdir=x")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = own_lines(done.stderr)
    assert line.startswith(
        "error: --config.optim.lrr is no field of experiments/paired.py; did you"
    )


def test_a_mistake_in_the_program_itself_keeps_its_traceback():
    """Whatever its kind: none is taken for the user's."""
    for kind in ("KeyError", "TypeError", "ValueError", "AttributeError", "OSError"):
        program = f"""
from warp_translate.cli import program

def main(argv):
    raise {kind}("a bug")

program.run(main, takes=())
"""
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "Traceback" in done.stderr and "\nerror: " not in f"\n{done.stderr}"


@pytest.mark.parametrize(
    ("name", "extra"),
    [("jax.numpy", "train"), ("uvicorn", "serve"), ("onnx", "onnx"), ("matplotlib.figure", "eval")],
)
def test_a_missing_package_is_told_with_its_extra(name, extra):
    told = missing_package(ModuleNotFoundError(name=name))
    assert told.endswith(f"package {name.partition('.')[0]}: pip install 'warp-translate[{extra}]'")


@pytest.mark.parametrize("name", ["warp_translate.models.gone", "a_users_own", None])
def test_a_module_that_no_extra_brings_is_no_mistake_of_the_user(name):
    assert missing_package(ModuleNotFoundError(name=name)) is None


@pytest.mark.full
def test_of_several_processes_the_slowest_may_still_say_its_mistake():
    """The others live by the service of the first; it leaves when they have left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = """
import sys, time
from warp_translate.cli import program
from warp_translate.errors import UserError
from warp_translate.training import distributed

def main(argv):
    number = int(argv[1])
    distributed.connect(argv[2], num_processes=2, process_id=number, heartbeat_timeout=10)
    time.sleep(4 * number)
    raise UserError(f"the mistake of process {number}")

program.run(main)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number), f"127.0.0.1:{port}"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], said
    for number, words in enumerate(said):
        assert own_lines(words) == [f"error: the mistake of process {number}"]


def test_what_the_quickstart_calls_needs_nothing_of_other_extras():
    """The modules of its commands import what the README's first command installs, no more."""
    code = """
import importlib, sys
for name in ("onnx", "onnxruntime", "safetensors", "matplotlib", "jinja2", "fastapi", "uvicorn",
             "gcsfs", "s3fs", "fsspec", "google.cloud.storage", "ray", "torch", "scipy", "skimage"):
    sys.modules[name] = None
for name in ("train", "evaluate", "translate", "checkpoints", "ablate", "data", "report"):
    importlib.import_module(f"warp_translate.cli.{name}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_is_logged_looks_like_what_is_printed():
    code = (
        "from absl import logging\n"
        "from warp_translate.cli import program\n"
        "def main(argv):\n"
        "    logging.warning('%d files are left out', 3)\n"
        "    logging.info('preparing')\n"
        "program.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == "warning: 3 files are left out\npreparing\n"


def test_of_a_full_disk_one_line_is_enough():
    lost = "Task exception was never retrieved\nfuture: <Task name='Task-4' coro=<{}> exception=..>"
    where = ("async_serialize() done, defined at /lib/orbax/checkpoint/_src/a.py:126", "watch()")
    records = [logging.makeLogRecord({"msg": lost.format(each)}) for each in where]
    assert list(filter(program._without_lost_tasks, records)) == records[1:]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("UNKNOWN: Gloo AllGather\nfailed"), status.PEER_LOST, "(UNKNOWN: Gloo AllGa"),
        (jax.errors.JaxRuntimeError("barrier timed out"), status.PEER_LOST, "start all of them"),
        (ValueError("shapes (2,) (3,)"), status.CRASHED, "Traceback"),
        (UserError("Gloo is no colour"), status.USER_ERROR, "error: Gloo is no colour"),
    ],
)
def test_processes_that_lose_each_other_leave_to_be_started_again(
    monkeypatch, capsys, error, code, said
):
    def leave(code):
        raise SystemExit(code)

    def fail():
        raise error

    monkeypatch.setattr(distributed.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "wait_to_leave", lambda: None)
    monkeypatch.setattr(program.os, "_exit", leave)
    with pytest.raises(SystemExit) as left:
        program._guard(fail)
    assert left.value.code == code
    told = capsys.readouterr().err
    assert said in told and ("Traceback" in told) == (code == status.CRASHED)
