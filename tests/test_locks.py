import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from warp_translate import locks
from warp_translate.errors import UserError

ROOT = Path(__file__).parents[1]

# Holds the lock, with a child that outlives it.
HOLDER = """
import os, pathlib, sys
from warp_translate import locks
with locks.held(pathlib.Path(sys.argv[1]), "trains"):
    if os.fork():
        print("held", flush=True)
    sys.stdin.read()
"""


def test_second_holder_is_rejected(tmp_path):
    path = tmp_path / "run" / ".lock"
    with locks.held(path, "trains") as notice:
        assert notice is None
        message = rf"another command trains in {tmp_path}/run \(process \d+ on .*\): wait"
        with pytest.raises(UserError, match=message), locks.held(path, "trains", patience=0):
            pass
    with locks.held(path, "trains", patience=0):
        pass


def test_lock_ends_with_its_process_despite_a_child(tmp_path):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another command"), locks.held(path, "trains", 0):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locks.held(path, "trains"):
            pass
        holder.stdin.close()  # The child ends.


def test_file_system_without_locks_warns(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    for _ in range(2):
        with locks.held(tmp_path / ".lock", "trains") as notice:
            assert notice.startswith(f"{tmp_path} is on a file system without locks (No locks")
