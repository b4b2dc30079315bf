"""Several processes train as one: equal results, orderly exits, exact resumption."""

import json
import random
import signal

import numpy as np
import pytest

from tests.cli.conftest import write_images
from tests.cli.jobs import (
    Processes,
    assert_same_bits,
    complete_steps,
    final_state,
    losses,
    train,
)
from warp_translate.cli import status

STEPS = 4


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory, data_dir):
    """A paired run on four devices of one process."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    job = train("paired", workdir, data_dir, devices=4, steps=STEPS)
    assert job.wait() == [0], job.printed()
    assert "4 cpu device(s)" in job.printed()
    return workdir


@pytest.mark.core
def test_two_processes_of_two_devices_equal_one_of_four(four_devices, tmp_path, data_dir):
    """Up to the order of sums over devices, whose effect grows with every step."""
    workdir = tmp_path / "run"
    job = train("paired", workdir, data_dir, processes=2, devices=2, steps=STEPS)
    assert job.wait() == [0, 0], job.printed()
    assert "4 cpu device(s) of 2 processes" in job.printed()
    # One writer: the other process leaves no file of its own.
    assert len(list(workdir.glob("events*"))) == 1
    expected, found = losses(four_devices), losses(workdir)
    assert found.keys() == expected.keys() and len(found) > 4 * STEPS
    for (step, name), value in expected.items():
        np.testing.assert_allclose(
            found[step, name], value, rtol=2e-4, atol=2e-6, err_msg=f"{name} of step {step}"
        )


def evaluate(workdir, output, processes, devices, *further):
    flags = [f"--workdir={workdir}", f"--output={output}", *further]
    job = Processes("evaluate", flags, output, processes=processes, devices=devices)
    assert job.wait() == [0] * processes, job.printed()
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.core
def test_processes_share_an_evaluation(four_devices, tmp_path):
    """103 test images in chunks of 8: the second of two processes has fewer than the first.

    The devices of one process give the same bits (tests/cli/test_evaluate.py); a program that is
    compiled for two processes may round differently.
    """
    alone = evaluate(four_devices, tmp_path / "1", 1, 1, "--rows=3", "--step=all")
    together = evaluate(four_devices, tmp_path / "2", 2, 4, "--rows=3", "--step=all")
    assert alone["scalars"].keys() == together["scalars"].keys()
    for name, value in alone["scalars"].items():
        np.testing.assert_allclose(together["scalars"][name], value, rtol=5e-6, atol=1e-7)
    assert together["protocol"] == alone["protocol"] and together["step"] == alone["step"]
    names = [{path.name for path in (tmp_path / folder).iterdir()} for folder in "12"]
    assert names[0] == names[1] >= {"metrics.json", "steps.jsonl", "sheet.png"}


@pytest.mark.core
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_an_error_of_one_process_ends_all(command, four_devices, tmp_path, data_dir):
    if command == "evaluate":  # Only the first process writes.
        (tmp_path / "file").write_text("")
        flags = [f"--workdir={four_devices}", f"--output={tmp_path / 'file'}"]
        job = Processes("evaluate", flags, tmp_path / "log", processes=2, devices=1)
    else:  # Only the first process reads the recorded configuration.
        job = train("paired", four_devices, data_dir, processes=2, steps=2, log=tmp_path / "log")
    assert job.wait() == [status.USER_ERROR] * 2, job.printed()
    assert job.printed().count("error: ") == 2 and "Traceback" not in job.printed()
    if command == "train":
        assert job.printed().count("total_steps was 4 and is now 2") == 2


@pytest.mark.core
def test_stopped_and_killed_processes_resume_bit_for_bit(tmp_path, data_dir):
    """SIGTERM to one process, then SIGKILL to the other at a random moment."""
    steps, every = 40, 4
    settings = [f"training.save_every={every}", f"training.log_every={every}"]
    settings += ["training.parallel=shard_map"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def start(workdir, **interrupt):
        return train(
            "cycle", workdir, data_dir, processes=2, steps=steps, settings=settings, **interrupt
        )

    job = start(whole)
    assert job.wait() == [0, 0], job.printed()

    # Both processes save the same step and exit.
    job = start(cut, interrupt={1: f"TERM:{every}:0"})
    assert job.wait() == [status.PREEMPTED] * 2, job.printed()
    saved = max(complete_steps(cut))
    assert job.printed().count(f"preempted: saved step {saved};") == 2 and saved < steps

    delay = random.uniform(0.0, 0.5)
    print(f"SIGKILL after {delay} s")
    job = start(cut, interrupt={0: f"KILL:{saved + every - saved % every}:{delay}"})
    killed, survivor = job.wait()
    assert f"resuming from the checkpoint of step {saved} " in job.printed()
    assert killed == -signal.SIGKILL, job.printed()
    assert survivor not in (0, status.USER_ERROR, status.PREEMPTED), job.printed()
    assert max(complete_steps(cut)) >= saved and steps not in complete_steps(cut)
    saved = max(complete_steps(cut))

    job = start(cut)
    assert job.wait() == [0, 0], job.printed()
    assert f"resuming from the checkpoint of step {saved} " in job.printed()
    assert list(final_state(whole, steps).pool_a.count)[:2] == [2] * 2
    assert_same_bits(whole, cut, steps)


@pytest.mark.full
def test_fewer_images_than_processes_are_measured(tmp_path, data_dir, rng):
    """One pair on two processes of two devices: one process has nothing to measure."""
    write_images(tmp_path / "pairs", rng, trainA=4, trainB=4, testA=1, testB=1)
    settings = ["data.name=paired_folder", f"data.root={tmp_path / 'pairs'}"]
    workdir = tmp_path / "run"
    job = train("paired", workdir, data_dir, processes=2, devices=2, steps=1, settings=settings)
    assert job.wait() == [0, 0], job.printed()
    alone, together = (evaluate(workdir, tmp_path / f"{n}", n, n) for n in (1, 2))
    assert alone == together and alone["protocol"]["count"] == 1
