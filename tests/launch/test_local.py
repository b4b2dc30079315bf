import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local
from tests.launch.conftest import ROOT, call
from warp_translate.errors import UserError

READY_LOOP = "echo ready; while :; do sleep 0.02 & wait $!; done"  # Traps run at once.

# The first of two processes to exit, and the other's wait until the launcher has noticed.
FIRST = "echo $$ > first; "
THEN = "until read pid 2> /dev/null < first && [ ! -e /proc/$pid ]; do sleep 0.02; done; "


class Launcher(subprocess.Popen):
    """A launcher process whose children are bash scripts."""

    def __init__(self, *scripts, prefix=(), **options):
        code = (
            "import os, sys\n"
            "from launch import local\n"
            "start = [local.Child(('bash', '-c', script), os.environ) for script in sys.argv[1:]]\n"
            "sys.exit(local.supervise(start, grace=300))\n"
        )
        words = [*prefix, sys.executable, "-c", code, *scripts]
        super().__init__(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)

    def __exit__(self, *raised):
        self.kill()
        super().__exit__(*raised)


@pytest.fixture
def supervise(tmp_path, monkeypatch, capfd):
    """Runs bash scripts under the launcher, in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*scripts, grace=300.0):
        started = [local.Child(("bash", "-c", script), os.environ) for script in scripts]
        status = local.supervise(started, grace=grace)
        return status, *capfd.readouterr()

    return run


def children(*words, environment, processes=2, devices="4"):
    return local.children(
        words,
        processes=processes,
        devices=devices,
        port=1234,
        heartbeat_timeout=7,
        environment=environment,
    )


@pytest.mark.parametrize(
    ("scripts", "status"),
    [
        (["exit 0", "exit 0"], 0),
        (["exit 42", "exit 0"], 42),
        ([f"{FIRST}exit 42", f"{THEN}exit 3"], 3),
        ([f"{THEN}exit 5", f"{FIRST}exit 4"], 4),
        (["exit 0", "kill -9 $$"], 137),
    ],
)
def test_status(supervise, scripts, status):
    assert supervise(*scripts)[0] == status


def test_others_are_killed_after_the_grace_period(supervise):
    status, _, err = supervise(f"trap '' TERM; {READY_LOOP}", "exit 3", grace=0.1)
    assert status == 3
    assert "process 1 exited with status 3" in err
    assert "killing 1 process(es) still running after 0.1 s" in err


@pytest.mark.parametrize(("status", "grace"), [(3, 300.0), (0, 0.0), (42, 0.0)])
def test_others_may_finish(supervise, status, grace):
    """Within the grace period after a failure, and without limit after success or preemption."""
    saving = f"{THEN}sleep 0.2; echo saved; exit 42"
    found, out, _ = supervise(saving, f"{FIRST}exit {status}", grace=grace)
    assert found == (status or 42) and "[0] saved" in out


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "TERM"), (signal.SIGINT, "INT"), (signal.SIGHUP, "TERM")],
)
def test_signals_reach_every_process_once(number, name):
    script = f"trap 'echo signaled; sleep 0.2; exit 42' {name}; {READY_LOOP}"
    # The tests themselves may run under nohup.
    unignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
    with Launcher(script, script, **unignore) as launcher:
        assert {launcher.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
        launcher.send_signal(number)
        rest = launcher.stdout.read()  # Unlike communicate, includes buffered lines.
        launcher.wait(300)
    assert launcher.returncode == 42
    assert sorted(rest.splitlines()) == ["[0] signaled", "[1] signaled"]


def test_terminal_signals():
    """Ctrl-C signals the terminal's process group, so children need their own; nohup is kept."""
    group = "read -r _ _ _ _ group _ < /proc/$$/stat; echo $((group == $$))"
    script = f"{group}; trap 'echo signaled' INT; trap 'exit 42' TERM; {READY_LOOP}"
    options = {"start_new_session": True, "stderr": subprocess.DEVNULL}
    with Launcher(script, prefix=["nohup"], **options) as launcher:
        assert [launcher.stdout.readline() for _ in range(2)] == ["[0] 1\n", "[0] ready\n"]
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.stdout.readline() == "[0] signaled\n"
        launcher.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        rest = launcher.stdout.read()
        launcher.wait(300)
    assert (launcher.returncode, rest) == (42, "")


def test_training_continues_when_the_output_is_closed():
    script = "for i in $(seq 3000); do printf '%0100d\\n' $i; done; exit 42"
    with Launcher(script, script, stderr=subprocess.PIPE) as launcher:
        assert launcher.stdout.readline()
        launcher.stdout.close()
        assert launcher.wait(300) == 42
        assert launcher.stderr.read() == ""


def test_lines_are_prefixed_and_not_interleaved(supervise):
    long_lines = 'for i in $(seq 200); do echo "$0 $i $(printf %200s x)"; done'
    script = f'{long_lines}; printf "no end"; echo err >&2'
    _, out, err = supervise(script, script)
    lines = out.splitlines()
    assert len(lines) == 2 * 201
    for line in lines:
        assert re.fullmatch(r"\[[01]\] (bash \d+ {200}x|no end)", line), line
    for index in range(2):
        numbers = [int(n) for n in re.findall(rf"^\[{index}\] bash (\d+)", out, re.M)]
        assert numbers == list(range(1, 201))
    assert sorted(err.splitlines()) == ["[0] err", "[1] err"]


def test_orphaned_workers_are_killed(supervise):
    status, out, _ = supervise("sleep 1000 & echo $!")
    assert status == 0
    state = Path(f"/proc/{out.split()[1]}/stat")
    deadline = time.monotonic() + 300
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it is still running"
        time.sleep(0.05)


def test_every_process_gets_its_id_address_and_devices(parse_train):
    environment = {"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=9", "KEEP": "me"}
    flags = ["--config=experiments/paired.py", "--workdir=w"]
    started = children(*flags, environment=environment)
    assert len(started) == 2
    for index, child in enumerate(started):
        assert list(child.command[:3]) == [sys.executable, "-m", "warp_translate.cli.train"]
        assert child.environment["JAX_PLATFORMS"] == "cpu"
        assert child.environment["KEEP"] == "me"
        expected = "--a=1 --xla_force_host_platform_device_count=4"
        assert child.environment["XLA_FLAGS"] == expected
        parsed = parse_train(["train", *child.command[3:]])
        assert (parsed.workdir, parsed.coordinator) == ("w", "127.0.0.1:1234")
        assert [int(parsed.num_processes), int(parsed.process_id)] == [2, index]
        assert int(parsed.heartbeat_timeout) == 7


def test_gpus_are_shared_evenly(fake, monkeypatch):
    def shares(processes, environment):
        started = children(processes=processes, devices="real", environment=environment)
        assert "JAX_PLATFORMS" not in started[0].environment
        return [child.environment.get("CUDA_VISIBLE_DEVICES") for child in started]

    assert shares(2, {"CUDA_VISIBLE_DEVICES": "1,3,5,GPU-7"}) == ["1,3", "5,GPU-7"]
    assert shares(1, {}) == [None]
    with pytest.raises(UserError, match=r"share 3 GPU\(s\) evenly among 2 processes"):
        shares(2, {"CUDA_VISIBLE_DEVICES": "0,1,2"})
    with pytest.raises(UserError, match="no NVIDIA GPU to share among 2"):
        shares(2, {"CUDA_VISIBLE_DEVICES": ""})
    # Without the variable, the installed GPUs are counted.
    fake.add("nvidia-smi", "printf 'GPU 0: A (UUID: x)\\n  MIG 1g\\nGPU 1: A (UUID: y)\\n'")
    monkeypatch.setenv("CALLS", fake.environment["CALLS"])
    monkeypatch.setenv("PATH", fake.environment["PATH"])
    assert shares(2, {}) == ["0", "1"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no NVIDIA GPU"):
        shares(2, {})


def test_command_starts_train(monkeypatch):
    calls = []
    monkeypatch.setattr(local, "supervise", lambda *args, **kw: calls.append((*args, kw)) or 42)
    train = ["--", "train", "--config=c.py", "--workdir=a"]
    assert local.main(["--processes=2", "--devices=3", *train]) == 42
    assert local.main(["--devices=1", "--heartbeat_timeout=5", *train]) == 42
    assert local.main(["--devices=1", "--grace=0.5", *train]) == 42
    assert [kw["grace"] for _, kw in calls] == [40, 15, 0.5]
    words = [" ".join(child.command[3:]) for child in calls[0][0]]
    port = re.search(r"127\.0\.0\.1:(\d+)", words[0])[1]
    assert words == [
        f"--config=c.py --workdir=a --coordinator=127.0.0.1:{port} --num_processes=2 "
        f"--process_id={index} --heartbeat_timeout=30"
        for index in range(2)
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected 'train' after --, got ''"),
        (["--", "evaluate"], "expected 'train' after --, got 'evaluate'"),
        (["--processes=0", "--", "train"], "--processes=0 must be at least 1"),
        (["--heartbeat_timeout=0", "--", "train"], "--heartbeat_timeout=0 must be"),
        (["--grace=-1", "--", "train"], "--grace=-1 must be 0 seconds or more"),
        (["--devices=0", "--", "train"], "--devices=0 must be a number"),
        (["--devices=many", "--", "train"], "--devices=many must be a number"),
        (["--", "train", "--process_id", "1"], "--process_id is set by the launcher"),
        (["--", "train", "--heartbeat_timeout=9"], "--heartbeat_timeout is set by the launcher"),
    ],
)
def test_user_errors(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        local.main(words)


def test_user_error_is_one_line_and_status_2():
    done = call(sys.executable, "-m", "launch.local", "--process=2", "--", "train")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*unrecognized arguments: --process=2.*\n", done.stderr)
