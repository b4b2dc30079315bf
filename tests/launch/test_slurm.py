import os
import re
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import ROOT, call

TRAIN = ["--config=experiments/paired.py", "--workdir=runs/two words"]
# Drops srun's flags and runs the command once per task.
SRUN = """
while [[ $1 == --* ]]; do shift; done
worst=0
for ((SLURM_LOCALID = 0; SLURM_LOCALID < SLURM_NTASKS; SLURM_LOCALID++)); do
  export SLURM_LOCALID
  status=0
  "$@" || status=$?
  ((status > worst)) && worst=$status
done
exit "$worst"
"""


@pytest.fixture
def slurm(fake):
    fake.add("srun", SRUN)
    fake.add("scontrol")
    fake.add("sleep")
    fake.environment.update(SLURM_JOB_ID="77", SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1")
    return fake


def sbatch(fake, *words, script="train.sbatch", **environment):
    return call("bash", f"launch/slurm/{script}", *words, env={**fake.environment, **environment})


@pytest.mark.parametrize("status", [0, 1, 42, 134])
def test_only_status_42_is_requeued_and_every_status_is_returned(slurm, parse_train, status):
    slurm.add("warp-translate", f"exit {status}")
    done = sbatch(slurm, *TRAIN, "--config.optim.lr=1e-3")
    assert done.returncode == status, done.stderr
    assert slurm.calls("scontrol") == ([["requeue", "77"]] if status == 42 else [])
    assert ("requeuing job 77" in done.stdout) == (status == 42)
    # A task that has saved waits, so that srun does not signal the others while they exit.
    assert slurm.calls("sleep") == ([["5"]] if status == 42 else [])
    (words,) = slurm.calls("warp-translate")
    parsed = parse_train(words)
    assert (parsed.workdir, parsed.config.optim.lr) == ("runs/two words", 1e-3)


def test_srun_flags_and_cpus(slurm):
    slurm.add("srun", 'echo "cpus ${SRUN_CPUS_PER_TASK:-unset}"')
    assert "cpus unset" in sbatch(slurm, *TRAIN).stdout
    assert "cpus 7" in sbatch(slurm, *TRAIN, SLURM_CPUS_PER_TASK="7").stdout
    words = slurm.calls("srun")[0]
    assert words[: words.index("bash")] == ["--kill-on-bad-exit=1", "--gpu-bind=none"]


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "expected"),
    [
        (1, 1, 8, ["0,1,2,3,4,5,6,7"]),
        (4, 2, 4, ["0,1", "2,3"]),
        (2, 1, 2, ["0", "1"]),
        (1, 1, 0, ["unset"]),
    ],
)
def test_tasks_share_the_gpus_of_their_node(slurm, tasks, nodes, gpus, expected):
    slurm.add("warp-translate", 'echo "ids=${JAX_LOCAL_DEVICE_IDS-unset}"')
    counts = {"NTASKS": tasks, "JOB_NUM_NODES": nodes, "GPUS_ON_NODE": gpus}
    done = sbatch(slurm, *TRAIN, **{f"SLURM_{name}": str(n) for name, n in counts.items()})
    assert re.findall("ids=(.*)", done.stdout)[: tasks // nodes] == expected


def test_user_errors(slurm):
    done = sbatch(slurm, *TRAIN, SLURM_NTASKS="3", SLURM_GPUS_ON_NODE="8")
    assert done.returncode == 2
    assert re.fullmatch(
        "error: 8 GPUs cannot be shared evenly by 3 tasks per node.*\n", done.stderr
    )
    array = {"script": "array.sbatch"}
    for words, options, message in [
        ([], {}, "no arguments"),
        ([], {**array, "SLURM_ARRAY_TASK_ID": "0"}, "no task file"),
        (["missing"], {**array, "SLURM_ARRAY_TASK_ID": "0"}, "no task file"),
        (["setup.py"], array, "no task file"),
    ]:
        done = sbatch(slurm, *words, **options)
        assert done.returncode == 2
        assert re.fullmatch(f"error: {message}.*\n", done.stderr)
    assert not slurm.calls("srun")


@pytest.mark.parametrize("whole_group", [True, False])
def test_shells_survive_sigterm(slurm, tmp_path, whole_group):
    """SLURM signals every process of a task, and may signal the script itself.

    If a signal reaches all processes of a group at once, Bash 5.2 loses the status of a process
    that it waits for in 4 of 100 cases, so a second and a third attempt count as well.
    """
    statuses = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        statuses.append(_status_after_sigterm(slurm, folder, whole_group))
        if statuses[-1] == 42:
            break
    assert statuses[-1] == 42, statuses
    assert slurm.calls("scontrol") == [["requeue", "77"]]


def _status_after_sigterm(slurm, tmp_path, whole_group):
    ready, signaled = tmp_path / "ready", tmp_path / "signaled"
    slurm.add(
        "warp-translate",
        f"trap 'touch {signaled}' TERM; touch {ready}; "
        f"while [[ ! -e {signaled} ]]; do /bin/sleep 0.02; done; trap '' TERM; exit 42",
    )
    # The real srun survives the signal and keeps waiting for its tasks.
    slurm.add("srun", 'trap : TERM; while [[ $1 == --* ]]; do shift; done; "$@"')
    script = subprocess.Popen(
        ["bash", "launch/slurm/train.sbatch", *TRAIN],
        cwd=ROOT,
        env=slurm.environment,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if whole_group:
            os.killpg(script.pid, signal.SIGTERM)
        else:
            os.kill(script.pid, signal.SIGTERM)
            time.sleep(0.2)
            assert script.poll() is None
            signaled.touch()
        return script.wait(20)
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)


def test_array_tasks_train_with_their_lines(slurm, tmp_path):
    slurm.add("warp-translate", "exit 42")
    tasks = tmp_path / "tasks.txt"
    lines = ["--config=a.py --workdir=b", "'--config=a b.py' '--workdir=it'\"'\"'s $(x) `y` \\z'"]
    tasks.write_text("\n".join(lines) + "\n")

    def run(task):
        job = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": task}
        return sbatch(slurm, str(tasks), script="array.sbatch", **job)

    assert [run("0").returncode, run("1").returncode] == [42, 42]
    assert slurm.calls("warp-translate") == [
        ["train", "--config=a.py", "--workdir=b"],
        ["train", "--config=a b.py", "--workdir=it's $(x) `y` \\z"],
    ]
    # Not the job's own id: that of the last task names the whole array.
    assert slurm.calls("scontrol") == [["requeue", "70_0"], ["requeue", "70_1"]]
    done = run("2")
    assert done.returncode == 2
    assert done.stderr == f"error: {tasks} has no task 2: it has 2 lines\n"
