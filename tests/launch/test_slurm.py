import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = ["--config=experiments/paired.py", "--workdir=runs/two words"]
# Drops srun's own flags and runs the task, as many times as there are tasks.
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
    return subprocess.run(
        ["bash", f"launch/slurm/{script}", *words],
        cwd=ROOT,
        env={**fake.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("status", [0, 1, 2, 42, 134])
def test_only_42_is_queued_again_and_every_status_is_passed_on(slurm, status):
    slurm.add("warp-translate", f"exit {status}")
    done = sbatch(slurm, *TRAIN)
    assert done.returncode == status, done.stderr
    assert slurm.calls("scontrol") == ([["requeue", "77"]] if status == 42 else [])
    assert ("job 77 is queued again" in done.stdout) == (status == 42)
    # Who has saved waits for the others, so that none is stopped while it leaves.
    assert slurm.calls("sleep") == ([["5"]] if status == 42 else [])


def test_all_arguments_reach_train(slurm, parse_train):
    slurm.add("warp-translate")
    assert sbatch(slurm, *TRAIN, "--config.optim.lr=1e-3").returncode == 0
    (words,) = slurm.calls("warp-translate")
    assert words == ["train", *TRAIN, "--config.optim.lr=1e-3"]
    parsed = parse_train(words)
    assert parsed.workdir == "runs/two words"
    assert parsed.config.optim.lr == 1e-3


def test_srun_is_told_to_stop_all_and_to_show_all_gpus(slurm):
    slurm.add("warp-translate")
    sbatch(slurm, *TRAIN, SLURM_CPUS_PER_TASK="7")
    (words,) = slurm.calls("srun")
    assert words[: words.index("bash")] == ["--kill-on-bad-exit=1", "--gpu-bind=none"]
    slurm.add("srun", 'echo "cpus ${SRUN_CPUS_PER_TASK:-unset}"')
    assert "cpus 7" in sbatch(slurm, *TRAIN, SLURM_CPUS_PER_TASK="7").stdout
    assert "cpus unset" in sbatch(slurm, *TRAIN).stdout


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "expected"),
    [(1, 1, 8, ["0,1,2,3,4,5,6,7"]), (4, 2, 4, ["0,1", "2,3"]), (2, 1, 2, ["0", "1"])],
)
def test_tasks_share_the_gpus_of_their_node(slurm, tasks, nodes, gpus, expected):
    slurm.add("warp-translate", 'echo "ids=$JAX_LOCAL_DEVICE_IDS"')
    done = sbatch(
        slurm,
        *TRAIN,
        SLURM_NTASKS=str(tasks),
        SLURM_JOB_NUM_NODES=str(nodes),
        SLURM_GPUS_ON_NODE=str(gpus),
    )
    assert re.findall("ids=(.*)", done.stdout)[: tasks // nodes] == expected


def test_without_gpus_nothing_is_chosen(slurm):
    slurm.add("warp-translate", 'echo "ids=${JAX_LOCAL_DEVICE_IDS-unset}"')
    assert "ids=unset" in sbatch(slurm, *TRAIN).stdout


def test_gpus_that_cannot_be_shared_are_a_mistake(slurm):
    done = sbatch(slurm, *TRAIN, SLURM_NTASKS="3", SLURM_GPUS_ON_NODE="8")
    assert done.returncode == 2
    assert re.fullmatch("error: 8 GPUs cannot be shared evenly by 3 tasks a node.*\n", done.stderr)
    assert not slurm.calls("srun")


def test_no_arguments_are_a_mistake(slurm):
    done = sbatch(slurm)
    assert done.returncode == 2
    assert re.fullmatch("error: no arguments.*\n", done.stderr)
    assert not slurm.calls("srun")


@pytest.mark.parametrize("whole_group", [True, False])
def test_the_shells_survive_sigterm(slurm, tmp_path, whole_group):
    """SLURM tells every process of a task, and may tell the script itself."""
    ready, told = tmp_path / "ready", tmp_path / "told"
    slurm.add(
        "warp-translate",
        f"trap 'touch {told}' TERM; touch {ready}; "
        f"while [[ ! -e {told} ]]; do /bin/sleep 0.02; done; exit 42",
    )
    # The real one outlives the signal and goes on to wait for its tasks.
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
            told.touch()
        assert script.wait(20) == 42
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
    assert slurm.calls("scontrol") == [["requeue", "77"]]


def test_a_task_of_the_array_trains_with_its_line(slurm, tmp_path):
    slurm.add("warp-translate", "exit 42")
    tasks = tmp_path / "tasks.txt"
    lines = ["--config=a.py --workdir=b", "'--config=a b.py' '--workdir=it'\"'\"'s $(x) `y` \\z'"]
    tasks.write_text("\n".join(lines) + "\n")
    call = {"script": "array.sbatch", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "1"}
    assert sbatch(slurm, str(tasks), **call).returncode == 42
    expected = ["train", "--config=a b.py", "--workdir=it's $(x) `y` \\z"]
    assert slurm.calls("warp-translate") == [expected]
    # Not by its own number: that of the last task is the whole array's.
    assert slurm.calls("scontrol") == [["requeue", "70_1"]]
    call["SLURM_ARRAY_TASK_ID"] = "0"
    assert sbatch(slurm, str(tasks), **call).returncode == 42
    assert slurm.calls("warp-translate")[1] == ["train", "--config=a.py", "--workdir=b"]
    call["SLURM_ARRAY_TASK_ID"] = "2"
    done = sbatch(slurm, str(tasks), **call)
    assert done.returncode == 2
    assert done.stderr == f"error: {tasks} has no task 2: it has 2 lines\n"


def test_an_array_needs_its_file_and_its_number(slurm, tmp_path):
    for words, environment in [
        ([], {"SLURM_ARRAY_TASK_ID": "0"}),
        ([str(tmp_path / "missing")], {"SLURM_ARRAY_TASK_ID": "0"}),
        ([str(ROOT / "setup.py")], {}),
    ]:
        done = sbatch(slurm, *words, script="array.sbatch", **environment)
        assert done.returncode == 2
        assert re.fullmatch("error: no file of tasks.*\n", done.stderr)


def test_both_scripts_ask_for_the_same():
    asked = []
    for name in ("train.sbatch", "array.sbatch"):
        text = (ROOT / "launch/slurm" / name).read_text()
        asked.append(dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M)))
    outputs = [flags.pop("output") for flags in asked]
    assert asked[0] == asked[1]
    assert outputs == ["slurm-%j.log", "slurm-%A_%a.log"]
    # Without B: before it the signal goes to the tasks and not to the script.
    assert asked[0]["signal"] == "TERM@120"
    assert {"requeue", "open-mode", "ntasks-per-node"} <= set(asked[0])
    assert asked[0]["open-mode"] == "append"
