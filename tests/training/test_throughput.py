import jax
import jax.numpy as jnp
import pytest

from warp_translate.training.throughput import (
    StepClock,
    StepProfiler,
    peak_flops,
    peak_memory,
)


class Time:
    """A manual clock."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


def spend(clock, time, part, seconds):
    with clock.measure(part):
        time.passes(seconds)


def test_parts_add_up_to_the_step():
    time = Time()
    clock = StepClock(8, clock=time)
    for _ in range(2):
        spend(clock, time, "data", 0.1)
        spend(clock, time, "dispatch", 0.02)
        time.passes(0.03)
        clock.count(1)
    spend(clock, time, "wait", 0.7)
    found = clock.report()
    expected = {
        "time/data_ms": 100,
        "time/dispatch_ms": 20,
        "time/host_ms": 30,
        "time/wait_ms": 350,
        "time/step_ms": 500,
        "rate/steps_per_second": 2,
        "rate/images_per_second": 16,
    }
    assert found == pytest.approx(expected)
    assert clock.report() == {}


def test_pause_is_not_counted_and_a_report_is():
    time = Time()
    clock = StepClock(1, clock=time)
    spend(clock, time, "data", 1.0)
    clock.count(1)
    clock.report()
    time.passes(0.25)  # Writing the report.
    clock.pause()
    time.passes(1000.0)  # An evaluation.
    spend(clock, time, "dispatch", 0.5)
    clock.count(1)
    found = clock.report()
    assert found["time/step_ms"] == pytest.approx(750)
    assert found["time/host_ms"] == pytest.approx(250)


def test_mfu_is_per_device():
    time = Time()
    clock = StepClock(4, flops_per_step=197e12, devices=4, device_kind="TPU v5 lite", clock=time)
    spend(clock, time, "wait", 0.5)
    clock.count(1)
    found = clock.report()
    assert found["rate/mfu"] == pytest.approx(0.5)
    assert found["rate/gflops_per_device"] == pytest.approx(98.5e3)
    time = Time()
    clock = StepClock(4, flops_per_step=1e9, device_kind="cpu", clock=time)
    spend(clock, time, "wait", 0.5)
    clock.count(1)
    assert "rate/mfu" not in clock.report()


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),
        ("cpu", None),
    ],
)
def test_longest_matching_kind_gives_the_peak(kind, flops):
    assert peak_flops(kind) == flops


def test_host_memory_is_plausible():
    found = peak_memory()["memory/host_peak_gib"]
    assert 0.05 < found < 1000


def test_profile_of_some_steps(tmp_path):
    profiler = StepProfiler(str(tmp_path / "profile"), start=2, count=2)
    said = [profiler(0), profiler(1), profiler(2)]
    assert not (tmp_path / "profile").exists()
    jax.block_until_ready(jnp.ones(3) + 1)
    said += [profiler(3), profiler(4), profiler(5)]
    assert [line for line in said if line] == [f"profile of steps 2 to 4 in {tmp_path}/profile"]
    assert said[4] is not None
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    none = StepProfiler(str(tmp_path / "none"), start=0, count=0)
    assert [none(step) for step in range(3)] == [None] * 3
    assert not (tmp_path / "none").exists()
