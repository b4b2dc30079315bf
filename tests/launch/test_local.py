import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local
from warp_translate.errors import UserError

ROOT = Path(__file__).parents[2]
READY_LOOP = "echo ready; while :; do sleep 0.02; done"


# The first of two processes that leaves, and how the other waits until the launcher knows.
FIRST = "echo $$ > first; "
THEN = "until read pid 2> /dev/null < first && [ ! -e /proc/$pid ]; do sleep 0.02; done; "


def driver(*scripts):
    """The command of a launcher whose processes are bash scripts."""
    code = (
        "import os, sys\n"
        "from launch import local\n"
        "start = [local.Child(('bash', '-c', script), os.environ) for script in sys.argv[1:]]\n"
        "sys.exit(local.supervise(start, grace=300))\n"
    )
    return [sys.executable, "-c", code, *scripts]


@pytest.fixture
def supervise(tmp_path, monkeypatch, capfd):
    """Runs bash scripts as the processes of a launcher, in a folder of their own."""
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


def test_the_others_are_killed_when_their_grace_is_over(supervise):
    status, _, said = supervise(f"trap '' TERM; {READY_LOOP}", "exit 3", grace=0.1)
    assert status == 3
    assert "process 1 left with status 3" in said
    assert "1 process(es) did not leave within 0.1 s" in said


def test_the_others_may_finish_within_their_grace(supervise):
    status, out, _ = supervise(f"{THEN}sleep 0.2; echo finished", f"{FIRST}exit 3")
    assert status == 3 and "[0] finished" in out


@pytest.mark.parametrize("status", [0, 42])
def test_no_time_runs_when_one_left_well(supervise, status):
    """The first process may still write the checkpoint."""
    saving = f"{THEN}sleep 0.2; echo saved; exit 42"
    found, out, _ = supervise(saving, f"{FIRST}exit {status}", grace=0.0)
    assert found == 42 and "[0] saved" in out


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "TERM"), (signal.SIGINT, "INT"), (signal.SIGHUP, "TERM")],
)
def test_signals_reach_every_process_once(number, name):
    script = f"trap 'echo told; sleep 0.2; exit 42' {name}; {READY_LOOP}"
    launcher = subprocess.Popen(
        driver(script, script),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # Whoever runs the tests may have asked to ignore it, as nohup does.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    try:
        assert {launcher.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
        launcher.send_signal(number)
        rest, _ = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert launcher.returncode == 42
    assert sorted(rest.splitlines()) == ["[0] told", "[1] told"]


def test_control_c_in_the_terminal_reaches_them_once():
    """A terminal signals the whole group; the processes are in groups of their own."""
    script = f"trap 'echo told' INT; trap 'exit 42' TERM; {READY_LOOP}"
    launcher = subprocess.Popen(
        driver(script),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert launcher.stdout.readline() == "[0] ready\n"
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.stdout.readline() == "[0] told\n"
        time.sleep(0.3)
        os.killpg(launcher.pid, signal.SIGTERM)
        rest, _ = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert (launcher.returncode, rest) == (42, "")


def test_an_ignored_hangup_stays_ignored():
    script = f"trap 'echo told; exit 42' TERM; {READY_LOOP}"
    launcher = subprocess.Popen(
        ["nohup", *driver(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert launcher.stdout.readline() == "[0] ready\n"
        launcher.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert launcher.returncode == 42


def test_the_training_goes_on_when_nobody_reads():
    script = "for i in $(seq 3000); do printf '%0100d\\n' $i; done; exit 42"
    launcher = subprocess.Popen(
        driver(script, script),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert launcher.stdout.readline()
        launcher.stdout.close()
        assert launcher.wait(300) == 42
        assert launcher.stderr.read() == ""
    finally:
        launcher.kill()


def test_lines_carry_their_process_and_are_not_mixed(supervise):
    long_lines = 'for i in $(seq 200); do echo "$0 $i $(printf %200s x)"; done'
    script = f'{long_lines}; printf "no end"; echo err >&2'
    _, out, err = supervise(script, script)
    lines = out.splitlines()
    assert len(lines) == 2 * 201
    for line in lines:
        assert re.fullmatch(r"\[[01]\] (bash \d+ {200}x|no end)", line), line
    for index in range(2):
        mine = [line for line in lines if line.startswith(f"[{index}] bash")]
        assert [int(line.split()[2]) for line in mine] == list(range(1, 201))
    assert sorted(err.splitlines()) == ["[0] err", "[1] err"]


def test_workers_that_a_process_leaves_behind_are_killed(supervise):
    status, out, _ = supervise("sleep 1000 & echo $!")
    assert status == 0
    state = Path(f"/proc/{out.split()[1]}/stat")
    deadline = time.monotonic() + 300  # A killed process is gone when it next gets a core.
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def test_every_process_gets_its_address_and_its_devices(parse_train):
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
        assert parsed.workdir == "w"
        assert parsed.coordinator == "127.0.0.1:1234"
        assert [int(parsed.num_processes), int(parsed.process_id)] == [2, index]
        assert int(parsed.heartbeat_timeout) == 7


def test_real_gpus_are_shared_evenly():
    started = children(
        processes=2, devices="real", environment={"CUDA_VISIBLE_DEVICES": "1,3,5,GPU-7"}
    )
    assert [child.environment["CUDA_VISIBLE_DEVICES"] for child in started] == ["1,3", "5,GPU-7"]
    assert "JAX_PLATFORMS" not in started[0].environment
    alone = children(processes=1, devices="real", environment={})
    assert "CUDA_VISIBLE_DEVICES" not in alone[0].environment
    with pytest.raises(UserError, match=r"share 3 GPU\(s\) evenly among 2 processes"):
        children(devices="real", environment={"CUDA_VISIBLE_DEVICES": "0,1,2"})
    with pytest.raises(UserError, match="no NVIDIA GPU to share among 2"):
        children(devices="real", environment={"CUDA_VISIBLE_DEVICES": ""})


def test_installed_gpus_are_counted(fake, monkeypatch):
    fake.add("nvidia-smi", "printf 'GPU 0: A (UUID: x)\\n  MIG 1g\\nGPU 1: A (UUID: y)\\n'")
    monkeypatch.setenv("PATH", fake.environment["PATH"])
    monkeypatch.setenv("CALLS", fake.environment["CALLS"])
    started = children(devices="real", environment={})
    assert [child.environment["CUDA_VISIBLE_DEVICES"] for child in started] == ["0", "1"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no NVIDIA GPU"):
        children(devices="real", environment={})


def test_the_command_starts_train(tmp_path):
    package = tmp_path / "warp_translate"
    (package / "cli").mkdir(parents=True)
    # All that the launcher itself needs.
    for module in ("errors.py", "cli/status.py", "cli/streams.py"):
        shutil.copy(ROOT / "warp_translate" / module, package / module)
    (package / "__init__.py").touch()
    (package / "cli/train.py").write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(42)\n")
    command = "-m launch.local --processes=2 --devices=3 -- train --config=c.py --workdir=a"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 42, done.stderr
    lines = sorted(done.stdout.splitlines())
    port = re.search(r"127\.0\.0\.1:(\d+)", lines[0])[1]
    assert lines == [
        f"[{index}] --config=c.py --workdir=a --coordinator=127.0.0.1:{port} --num_processes=2 "
        f"--process_id={index} --heartbeat_timeout=30"
        for index in range(2)
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "behind -- stands ''"),
        (["--", "evaluate"], "behind -- stands 'evaluate'"),
        (["--processes=0", "--", "train"], "--processes=0 must be at least 1"),
        (["--heartbeat_timeout=0", "--", "train"], "--heartbeat_timeout=0 must be"),
        (["--grace=-1", "--", "train"], "--grace=-1 must be 0 seconds or more"),
        (["--devices=0", "--", "train"], "--devices=0 must be a number"),
        (["--devices=many", "--", "train"], "--devices=many must be a number"),
        (["--", "train", "--process_id", "1"], "--process_id is set by the launcher"),
        (["--", "train", "--heartbeat_timeout=9"], "--heartbeat_timeout is set by the launcher"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        local.main(words)


def test_a_mistake_is_one_line_and_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "launch.local", "--process=2", "--", "train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*unrecognized arguments: --process=2.*\n", done.stderr)


def test_the_grace_is_ten_seconds_longer_than_the_heartbeat(monkeypatch):
    seen = []
    monkeypatch.setattr(local, "supervise", lambda to_start, grace: seen.append(grace) or 0)
    local.main(["--devices=1", "--heartbeat_timeout=5", "--", "train"])
    local.main(["--devices=1", "--grace=0.5", "--", "train"])
    assert seen == [15, 0.5]
