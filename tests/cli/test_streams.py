"""Commands whose output is closed while they print, or cannot write a name."""

import os
import subprocess
import sys

import pytest

from tests.cli.test_program import ROOT
from warp_translate.cli.main import COMMANDS

COMMAND = "from warp_translate.cli import main; main.main()"
PROGRAM = """
from warp_translate.cli import program
from warp_translate.errors import UserError

def main(argv):
    {}

program.run(main, takes=())
"""


def closed(code, *args, both=False):
    """Runs a program whose standard output, or error too, nobody reads; status and what it says."""
    receiver, sender = os.pipe()
    os.close(receiver)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=sender,
            stderr=sender if both else subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(sender)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("code", "args", "both"),
    [
        (COMMAND, ["--help"], False),
        (PROGRAM.format("print('one line, which is flushed at the end')"), [], False),
        (PROGRAM.format("[print(number) for number in range(10_000)]"), [], False),
        (PROGRAM.format("raise UserError('nobody hears of it')"), [], True),
    ],
)
def test_a_reader_that_leaves_ends_a_command_silently(code, args, both):
    assert closed(code, *args, both=both) == (141, None if both else "")


def test_another_pipe_that_breaks_is_told():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("raise BrokenPipeError('of a worker')")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "BrokenPipeError: of a worker" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_silent(command):
    assert closed(COMMAND, command, "--help") == (141, "")


def test_a_name_that_is_no_text_is_printed():
    code = PROGRAM.format("print('caf\\udce9')")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "caf\\udce9\n"), done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "--help"],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    line = "error: standard output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, line)
