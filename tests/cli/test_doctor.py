"""The checks of a machine, on machines that lack something and on this one."""

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.cli.conftest import COMMAND, start
from warp_translate.cli import doctor
from warp_translate.errors import UserError
from warp_translate.experiment import machine_checks
from warp_translate.experiment.machine_checks import Finding


@pytest.fixture
def versions(monkeypatch):
    """Pretends other versions of packages; None for a missing package."""

    def install(**others):
        true = importlib.metadata.version

        def version(name):
            found = others.get(name.replace("-", "_"), "true")
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return true(name) if found == "true" else found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


def test_this_environment_has_the_packages():
    found = machine_checks.packages()
    assert found.state in ("ok", "note") and f"jax {jax.__version__}" in found.text


@pytest.mark.parametrize(
    ("others", "state", "text", "remedy"),
    [
        ({"optax": "0.1.0"}, "wrong", "optax 0.1.0 is not <0.3,>=0.2.8", "pip install"),
        ({"optax": None}, "wrong", "optax is not installed", "pip install"),
        ({"onnx": None}, "note", "", "extras that are not installed: onnx"),
    ],
)
def test_only_training_needs_its_packages(versions, others, state, text, remedy):
    versions(**others)
    found = machine_checks.packages()
    assert found.state == state and text in found.text and remedy in found.remedy


def test_export_is_skipped_without_its_extra(versions):
    versions(onnx=None)
    expected = Finding("note", "skipped without onnx", "pip install 'warp-translate[onnx]'")
    assert machine_checks.export() == expected


def test_a_folder_that_cannot_be_written_or_is_full_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    workdir = str(tmp_path / "a/b")
    assert machine_checks.folders(workdir).state == "ok"
    monkeypatch.setattr(
        machine_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29)
    )
    found = machine_checks.folders(workdir)
    assert found.state == "wrong" and "0.5 GiB free, at least 2 are needed" in found.text

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine_checks.tempfile, "TemporaryFile", refused)
    found = machine_checks.folders(workdir)
    assert found.state == "wrong" and f"{tmp_path} cannot be written (Permission den" in found.text
    assert "--workdir" in found.remedy


def test_a_bucket_for_runs_is_looked_up(bucket):
    found = machine_checks.folders(f"{bucket}/runs")
    assert found.state == "ok" and f"runs in {bucket}/runs" in found.text
    found = machine_checks.folders(f"{bucket}-none/runs")
    assert found.state == "wrong" and f"bucket {bucket}-none does not exist" in found.text


@pytest.mark.parametrize(
    ("paths", "smi", "state", "text"),
    [
        (["/dev/nvidia0"], None, "wrong", "but this machine has an NVIDIA GPU"),
        ([], "GPU 0: NVIDIA H200 (UUID: GPU-1)\n", "wrong", "but this machine has NVIDIA H200"),
        (["/proc/driver/nvidia/version"], "", "note", "no GPU that this process may use"),
        ([], "No devices were found\n", "ok", ""),
    ],
)
def test_a_gpu_that_jax_does_not_use_is_wrong(monkeypatch, paths, smi, state, text):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in paths)

    def run(*_, **__):
        if smi is None:
            raise FileNotFoundError("nvidia-smi")
        return SimpleNamespace(stdout=smi)

    monkeypatch.setattr(machine_checks.subprocess, "run", run)
    found = machine_checks.devices()
    assert found.state == state and text in found.text
    assert ("pip install 'warp-translate[cuda]'" in found.remedy) == (state == "wrong")


def test_a_device_that_computes_nan_is_wrong(monkeypatch):
    class Broken:
        count = 1

        def __init__(self, axes):
            pass

        initial = place_batches = staticmethod(lambda value: value)
        map = staticmethod(lambda step: lambda state, batch, root: (state, {"loss": np.nan}))

    monkeypatch.setattr("warp_translate.training.parallel.Replicas", Broken)
    monkeypatch.setattr(machine_checks, "_initial_state", lambda: {})
    assert machine_checks.training() == Finding("wrong", "not finite after two steps: loss")


@pytest.mark.parametrize(
    ("error", "text", "remedy"),
    [
        (ModuleNotFoundError("no", name="optax"), "optax is not installed", "pip install"),
        (RuntimeError("of\nseveral lines"), "RuntimeError: of several lines", ""),
        (UserError("the message"), "the message", ""),
    ],
)
def test_an_exception_is_a_finding(error, text, remedy):
    def check():
        raise error

    found = doctor.examine(check)
    assert (found.state, found.text) == ("wrong", text) and remedy in found.remedy


def test_every_finding_is_printed_and_a_wrong_one_is_an_error(monkeypatch, capsys, call):
    checks = {"first": Finding("ok", "fine"), "second": Finding("wrong", "bad", "fix it")}
    monkeypatch.setattr(
        doctor, "_CHECKS", {name: (lambda found=found: found) for name, found in checks.items()}
    )
    with pytest.raises(UserError, match="failed: second; see above"):
        call("doctor")
    assert capsys.readouterr().out.splitlines() == [
        "ok    first      fine",
        "wrong second     bad",
        "                 fix it",
    ]


@pytest.mark.full
def test_this_machine_passes(tmp_path):
    devices = "--xla_force_host_platform_device_count=2"
    done = start(COMMAND, "doctor", f"--workdir={tmp_path}", XLA_FLAGS=devices)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "all is well"
    assert [line.split()[1] for line in lines if line.startswith("ok ")][-4:] == [
        *("reading", "training", "checkpoint", "export")
    ]
    assert "two steps on 2 devices" in done.stdout and "saved and restored" in done.stdout
