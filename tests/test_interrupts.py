"""Ctrl-C while the main thread is in a library, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The hash stands for a compiler, which blocks the main thread outside Python.
PROGRAM = """
import hashlib, os, signal, sys, threading
from warp_translate import interrupts
from warp_translate.cli import program

limit, pressed, rounds = map(int, sys.argv.pop().split(","))
interrupts._SECONDS = 0.3

def compile():
    hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)

def press():
    for _ in range(pressed):
        os.kill(os.getpid(), signal.SIGINT)

def main(argv):
    if limit == 1:
        threading.Timer(0.2, press).start()
        compile()
    else:
        with interrupts.handled_by(signal.SIGINT, lambda *_: None, limit=limit):
            press()
            compile()
    print("done")

program.run(main)
"""


@pytest.mark.parametrize(
    ("limit", "pressed", "rounds", "status"),
    [(1, 1, 10**9, 130), (2, 2, 10**9, 130), (2, 1, 1000, 0), (0, 3, 1000, 0)],
)
def test_ctrl_c_ends_a_blocked_process(limit, pressed, rounds, status):
    words = f"{limit},{pressed},{rounds}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr == ("\ninterrupted; saved files are kept\n" if status else "")
    assert done.stdout == ("" if status else "done\n")
