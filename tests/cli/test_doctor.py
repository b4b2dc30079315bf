"""The doctor on machines that lack something, and on this one."""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from warp_translate.cli import doctor
from warp_translate.cli.doctor import Finding
from warp_translate.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def versions(monkeypatch):
    """Packages that are installed in other versions, or not at all for None."""

    def install(**others):
        true = importlib.metadata.version

        def version(name):
            found = others.get(name.replace("-", "_"), "true")
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return true(name) if found == "true" else found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


def test_this_environment_has_what_the_package_asks_for():
    found = doctor.check_packages()
    assert found.state in ("ok", "note") and f"jax {jax.__version__}" in found.text


def test_a_version_out_of_bounds_is_named_with_the_bounds(versions):
    versions(optax="0.1.0")
    found = doctor.check_packages()
    assert found.state == "wrong" and "optax 0.1.0 is not <0.3,>=0.2.8" in found.text
    assert "pip install" in found.remedy


def test_what_training_needs_is_wrong_to_lack_and_other_extras_are_a_note(versions):
    versions(onnx=None)
    found = doctor.check_packages()
    assert found.state == "note" and found.remedy == "not installed: the extras onnx"
    versions(optax=None)
    found = doctor.check_packages()
    assert found.state == "wrong" and "without optax" in found.text


def test_without_the_extra_for_it_export_is_not_tried(versions):
    versions(onnx=None)
    expected = Finding("note", "not tried without onnx", "pip install 'warp-translate[onnx]'")
    assert doctor.check_export() == expected


def test_a_folder_that_cannot_be_written_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(doctor.program, "WORKDIR", SimpleNamespace(value=str(tmp_path / "a/b")))
    assert doctor.check_folders().state == "ok"

    @contextlib.contextmanager
    def refused(dir):
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    found = doctor.check_folders()
    assert found.state == "wrong" and f"{tmp_path} cannot be written (Permission den" in found.text
    assert "--workdir" in found.remedy


def test_a_full_disk_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor.program, "WORKDIR", SimpleNamespace(value=None))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    found = doctor.check_folders()
    assert found.state == "wrong" and "0.5 GiB free, 2 are needed" in found.text


@pytest.mark.parametrize(
    ("paths", "smi", "state", "said"),
    [
        (["/dev/nvidia0"], None, "wrong", "but there is an NVIDIA GPU"),
        ([], "GPU 0: NVIDIA H200 (UUID: GPU-1)\n", "wrong", "but there is NVIDIA H200"),
        (["/proc/driver/nvidia/version"], "", "note", "no GPU that this process may use"),
        ([], "No devices were found\n", "ok", ""),
    ],
)
def test_a_gpu_that_jax_does_not_use_is_wrong(monkeypatch, paths, smi, state, said):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) in paths)

    def listed(*_, **__):
        if smi is None:
            raise FileNotFoundError("nvidia-smi")
        return SimpleNamespace(stdout=smi)

    monkeypatch.setattr(doctor.subprocess, "run", listed)
    found = doctor.check_devices()
    assert found.state == state and said in found.text
    assert ("pip install 'warp-translate[cuda]'" in found.remedy) == (state == "wrong")


def test_a_device_that_computes_nonsense_is_wrong(monkeypatch):
    class Broken:
        count = 1

        def __init__(self, axes):
            pass

        initial = place_batches = staticmethod(lambda value: value)
        map = staticmethod(lambda step: lambda state, batch, root: (state, {"loss": np.nan}))

    monkeypatch.setattr("warp_translate.training.parallel.Replicas", Broken)
    monkeypatch.setattr(doctor, "_fresh_state", lambda: {})
    found = doctor.check_training()
    assert found == Finding("wrong", "after two steps loss are not finite")


def test_whatever_a_check_raises_is_what_it_found():
    def missing():
        raise ModuleNotFoundError("no", name="optax")

    def broken():
        raise RuntimeError("of\nseveral lines")

    def mistaken():
        raise UserError("the words")

    found = doctor.examine(missing)
    assert found.state == "wrong" and "pip install 'warp-translate[train]'" in found.remedy
    assert doctor.examine(broken) == Finding("wrong", "RuntimeError: of several lines")
    assert doctor.examine(mistaken) == Finding("wrong", "the words")


def test_every_line_is_said_and_what_is_wrong_ends_with_status_2(monkeypatch, capsys, call):
    monkeypatch.setattr(
        doctor,
        "_CHECKS",
        {"first": lambda: Finding("ok", "fine"), "second": lambda: Finding("wrong", "bad", "mend")},
    )
    with pytest.raises(UserError, match="second must be mended"):
        call("doctor")
    assert capsys.readouterr().out.splitlines() == [
        "ok    first      fine",
        "wrong second     bad",
        "                 mend",
    ]


@pytest.mark.full
def test_this_machine_is_well(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "warp_translate.cli.main", "doctor", f"--workdir={tmp_path}"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[-1] == "all is well"
    assert [line.split()[1] for line in said if line.startswith("ok ")][-4:] == [
        *("reading", "training", "checkpoint", "export")
    ]
    assert "two steps on 2 devices" in done.stdout and "saved and restored" in done.stdout


def test_a_bucket_for_runs_is_asked(bucket, monkeypatch):
    monkeypatch.setattr(doctor.program, "WORKDIR", SimpleNamespace(value=f"{bucket}/runs"))
    found = doctor.check_folders()
    assert found.state == "ok" and f"runs go to {bucket}/runs" in found.text
    monkeypatch.setattr(doctor.program, "WORKDIR", SimpleNamespace(value=f"{bucket}-none/runs"))
    found = doctor.check_folders()
    assert found.state == "wrong" and f"bucket {bucket}-none does not exist" in found.text
