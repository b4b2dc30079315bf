"""Commands in processes of their own: errors, exit statuses, streams and logs."""

import logging
import os
import socket
import subprocess
import sys

import jax
import pytest

from tests.cli.conftest import COMMAND, ROOT, start
from warp_translate.cli import program, status
from warp_translate.cli.extras import missing_package
from warp_translate.errors import UserError
from warp_translate.training import distributed

PROGRAM = """
import sys
from absl import logging
from warp_translate.cli import program
from warp_translate.errors import UserError

def main(argv):
    {}

program.run(main)
"""


def test_without_a_known_command_the_commands_are_listed():
    for args in ((), ("trian",)):
        done = start(COMMAND, *args)
        assert done.returncode == 2
        assert "train" in done.stderr and "translate" in done.stderr


@pytest.mark.parametrize("kind", ["KeyError", "TypeError", "ValueError", "OSError"])
def test_a_bug_keeps_its_traceback(kind):
    done = start(PROGRAM.format(f"raise {kind}('a bug')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "\nerror: " not in f"\n{done.stderr}"


@pytest.mark.parametrize(
    ("name", "extra"),
    [("jax.numpy", "train"), ("uvicorn", "serve"), ("onnx", "onnx"), ("matplotlib.figure", "eval")],
)
def test_a_missing_package_is_named_with_its_extra(name, extra):
    message = missing_package(ModuleNotFoundError(name=name))
    package = name.partition(".")[0]
    assert message.endswith(f"package {package}: pip install 'warp-translate[{extra}]'")


@pytest.mark.parametrize("name", ["warp_translate.models.gone", "a_users_own", None])
def test_a_missing_module_that_no_extra_brings_is_a_bug(name):
    assert missing_package(ModuleNotFoundError(name=name)) is None


@pytest.mark.full
def test_every_process_prints_its_own_error():
    """The first process, which the others depend on, exits last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = """
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
            [sys.executable, "-c", code, str(number), f"127.0.0.1:{port}"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        printed = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], printed
    for number, text in enumerate(printed):
        errors = [line for line in text.splitlines() if line.startswith("error")]
        assert errors == [f"error: the mistake of process {number}"]


def test_the_quickstart_needs_only_the_packages_of_its_extras():
    code = """
import importlib, pkgutil, sys
for name in ("onnx", "onnxruntime", "safetensors", "matplotlib", "jinja2", "fastapi", "uvicorn",
             "gcsfs", "s3fs", "fsspec", "google.cloud.storage", "ray", "torch", "scipy", "skimage"):
    sys.modules[name] = None
for name in ("cli.translate", "cli.checkpoints", "cli.report", "cli.run_flags", "cli.config_flag",
             "experiment.train", "experiment.evaluate", "experiment.ablation",
             "experiment.data_report", "experiment.run_translator"):
    importlib.import_module(f"warp_translate.{name}")
"""
    done = start(code)
    assert done.returncode == 0, done.stderr


def test_log_records_are_printed_like_messages():
    done = start(PROGRAM.format("logging.warning('%d files skipped', 3); logging.info('reading')"))
    assert done.stderr == "warning: 3 files skipped\nreading\n"


def test_tasks_that_orbax_has_lost_are_not_logged():
    lost = "Task exception was never retrieved\nfuture: <Task name='Task-4' coro=<{}> exception=..>"
    where = ("async_serialize() done, defined at /lib/orbax/checkpoint/_src/a.py:126", "watch()")
    records = [logging.makeLogRecord({"msg": lost.format(each)}) for each in where]
    assert list(filter(program._drop_lost_tasks, records)) == records[1:]


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (ValueError("UNKNOWN: Gloo AllGather\nfailed"), status.PEER_LOST, "(UNKNOWN: Gloo AllGa"),
        (jax.errors.JaxRuntimeError("barrier timed out"), status.PEER_LOST, "restart all process"),
        (ValueError("shapes (2,) (3,)"), status.CRASHED, "Traceback"),
        (UserError("Gloo is no color"), status.USER_ERROR, "error: Gloo is no color"),
    ],
)
def test_the_status_tells_lost_processes_from_other_errors(
    monkeypatch, capsys, error, code, printed
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
    stderr = capsys.readouterr().err
    assert printed in stderr and ("Traceback" in stderr) == (code == status.CRASHED)


def closed(code, *args, both=False):
    """Runs a program whose standard output nobody reads; returns its status and stderr."""
    receiver, sender = os.pipe()
    os.close(receiver)
    try:
        done = start(code, *args, stdout=sender, stderr=sender if both else subprocess.PIPE)
    finally:
        os.close(sender)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("code", "args", "both"),
    [
        (COMMAND, ["--help"], False),
        (PROGRAM.format("print('one line, flushed at the end')"), [], False),
        (PROGRAM.format("[print(number) for number in range(10_000)]"), [], False),
        (PROGRAM.format("raise UserError('unread')"), [], True),
        (COMMAND, ["train", "--help"], False),
    ],
)
def test_a_closed_output_ends_a_command_silently(code, args, both):
    assert closed(code, *args, both=both) == (status.BROKEN_PIPE, None if both else "")


def test_a_broken_pipe_of_the_program_is_a_bug():
    done = start(PROGRAM.format("raise BrokenPipeError('of a worker')"))
    assert done.returncode == 1 and "BrokenPipeError: of a worker" in done.stderr


def test_a_name_that_is_not_unicode_is_printed_escaped():
    done = start(PROGRAM.format("print('caf\\udce9')"))
    assert (done.returncode, done.stdout) == (0, "caf\\udce9\n"), done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_a_full_disk_is_a_one_line_error():
    with open("/dev/full", "wb") as full:
        done = start(COMMAND, "--help", stdout=full)
    line = "error: cannot write to standard output (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_failures_are_listed_on_lines_of_their_own(capsys):
    with pytest.raises(SystemExit):
        program._fail("2 of 3 images failed:\n  a.png is no image\n  b\x07.png is no image")
    printed = capsys.readouterr().err
    assert printed == (
        "error: 2 of 3 images failed:\n  a.png is no image\n  b\\x07.png is no image\n"
    )
