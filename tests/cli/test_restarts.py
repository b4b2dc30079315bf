"""A run that is killed, or restarted with other devices, continues exactly."""

import random
import signal

import pytest

from tests.cli.jobs import assert_same_bits, complete_steps, final_state, losses, train
from warp_translate.cli import status

pytestmark = pytest.mark.core


def test_a_killed_run_resumes_bit_for_bit(tmp_path, data_dir):
    """At a random moment, on one device, without a compilation cache."""
    steps = 40
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def start(workdir, **options):
        return train(
            "paired",
            workdir,
            data_dir,
            steps=steps,
            settings=["training.save_every=5"],
            JAX_ENABLE_COMPILATION_CACHE="false",
            **options,
        )

    delay = random.uniform(0.0, 0.5)
    print(f"SIGKILL after {delay} s")
    assert start(cut, interrupt={0: f"KILL:10:{delay}"}).wait() == [-signal.SIGKILL]
    assert complete_steps(cut) and steps not in complete_steps(cut)
    for workdir in (cut, whole):
        job = start(workdir)
        assert job.wait() == [0], job.printed()
    assert_same_bits(whole, cut, steps)


def test_a_run_resumes_on_another_number_of_devices(tmp_path, data_dir):
    steps, workdir = 12, tmp_path / "run"

    def start(devices, **interrupt):
        settings = ["training.global_batch=24", "training.save_every=4"]
        return train(
            "cycle", workdir, data_dir, devices=devices, steps=steps, settings=settings, **interrupt
        )

    job = start(8, interrupt={0: "TERM:4:0"})
    assert job.wait() == [status.PREEMPTED], job.printed()
    saved = max(complete_steps(workdir))
    before = losses(workdir)
    job = start(3)
    assert job.wait() == [0], job.printed()
    assert "3 cpu device(s)" in job.printed()
    assert f"resuming from the checkpoint of step {saved} " in job.printed()
    found = losses(workdir)
    assert {step for step, _ in found} == set(range(1, steps + 1))
    assert before.items() <= found.items()
    # A pool for each device of the later run; this process reads empty ones for its others.
    assert list(final_state(workdir, steps).pool_a.count) == [2] * 3 + [0] * 5
