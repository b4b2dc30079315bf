"""The benchmarks in a tiny form, each in a process, as their commands run them."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import base
from experiments.benchmarks import on_gpu
from experiments.benchmarks import translation_programs as programs
from experiments.benchmarks.translation_programs import Spec

ROOT = Path(base.__file__).parents[1]


def run(name, *arguments, output):
    """Returns the finished process and the saved table."""
    # CUDA_VISIBLE_DEVICES: as on a machine without a GPU.
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.benchmarks.{name}", *arguments, f"--output={output}"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done, json.loads(output.read_text())


def test_the_page_lists_every_program():
    folder = ROOT / "experiments/benchmarks"
    ends = re.compile(r"__main__\":\n    (\w+\.run\(.*|main\(\))\n$")
    programs = {path.stem for path in folder.glob("*.py") if ends.search(path.read_text())}
    assert programs == set(re.findall(r"^\| `(\w+)` \|", (folder / "README.md").read_text(), re.M))


@pytest.fixture(scope="module")
def translated():
    """Results of every program for an image of 70 x 90 pixels, which nothing divides."""

    def result(program, factor, uint8):
        made = programs.make(
            program=program, factor=factor, uint8=uint8, height=70, width=90, tiny=True
        )()
        return np.asarray(made.output if program == "onnx" else made)

    cases = [("jax", 2, False), ("jax", 2, True), ("jax", 4, True), ("onnx", 4, False)]
    cases += [("resnet9", None, False), ("unet256", None, False)]
    return {case: result(*case) for case in cases}


def test_the_exported_graph_equals_jax(translated):
    ours, theirs = translated["jax", 4, True], translated["onnx", 4, False]
    assert ours.shape == theirs.shape == (1, 70, 90, 3) and ours.std() > 10
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    apart = np.abs(translated["jax", 2, True].astype(int) - translated["jax", 4, True])
    assert apart.max() > 1, "the factor changes nothing"
    floats = translated["jax", 2, False]
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats * 127.5 + 127.5, translated["jax", 2, True], atol=1)


def test_peers_are_padded_and_cropped(translated):
    for peer in ("resnet9", "unet256"):
        assert translated[peer, None, False].shape == (1, 3, 70, 90)
    padded = programs.operations(Spec("unet256", 70, 90, tiny=True))
    assert padded == programs.operations(Spec("unet256", 256, 256, tiny=True))


def test_memory_formats_give_the_same():
    outputs = []
    for channels_last in (False, True):
        torch.manual_seed(3)
        spec = Spec("resnet9", 70, 90, channels_last=channels_last, tiny=True)
        outputs.append(programs.make(**dataclasses.asdict(spec))())
    np.testing.assert_allclose(*outputs, atol=1e-4)


@pytest.mark.full
def test_translation_prints_its_table_and_goals(tmp_path):
    done, saved = run(
        "translation",
        *("--tiny", "--threads=1", "--nomemory", "--repeats=2", "--sizes=64x64", "--factors=4"),
        output=tmp_path / "table.json",
    )
    rows = saved["rows"]
    assert [(row["program"], row["factor"]) for row in rows] == [
        *(("jax", 4), ("onnx", 4), ("resnet9", None), ("unet256", None)),
    ]
    assert all(row["rounds"] == 2 and row["ms"] > 0 for row in rows)
    assert rows[2]["/ resnet9"] == [1, 1, 1]
    assert saved["about"]["cores_allowed"] == saved["about"]["threads"] == 1
    assert len(saved["goals"]) == 8  # None at this size.
    assert all(line.endswith("not measured") for line in saved["goals"])
    assert saved["goals"][0] in done.stdout and "64x64: round 2 of 2" in done.stderr


@pytest.mark.full
def test_translation_measures_memory_and_goals(tmp_path):
    """Tiny networks at the goals' sizes; one program exceeds the memory."""
    done, saved = run(
        "translation",
        *("--tiny", "--threads=1", "--repeats=2", "--how=jax,unet256", "--memory_gib=1.5"),
        *("--sizes=1024x1024,2160x3840", "--factors=4,8", "--uint8"),
        output=tmp_path / "table.json",
    )
    goals = saved["goals"]
    assert goals[0].endswith("not measured")  # 256 px was not requested.
    assert all(word in line for line in goals[1:3] for word in ("unet256 1024x1024", "met"))
    assert "2160x3840 factor 8, peak memory" in goals[3] and goals[3].endswith("met")
    for row in saved["rows"]:
        pixels = np.prod([int(side) for side in row["size"].split("x")])
        assert row["peak MiB"] * 2**20 > pixels, row
    assert "memory: 2 of" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("name", ["training_peers", "warp_gpu"])
def test_gpu_benchmarks_measure_nothing_without_a_gpu(name, tmp_path):
    done, saved = run(name, output=tmp_path / "none.json")
    assert "PyTorch sees no CUDA device and jax runs on cpu" in done.stdout
    assert saved["rows"] == [] and all(line.endswith("not measured") for line in saved["goals"])
    if name == "training_peers":
        assert 0 < saved["about"]["differences"]["paired"]["gradients"] < 1e-4


@pytest.mark.full
def test_training_peers_measures_on_any_device(tmp_path):
    _, saved = run(
        "training_peers",
        *("--any_device", "--size=64", "--batch=2", "--width=8", "--blocks=1", "--steps=4"),
        *("--repeats=2", "--nocompile"),
        output=tmp_path / "table.json",
    )
    assert [row["training"] for row in saved["rows"]] == ["paired", "cycle"]
    for row, line in zip(saved["rows"], saved["goals"], strict=True):
        assert row["jax images/s"] > 0 and "met" in line
    assert saved["about"]["dtype"] == "float32"
    assert not any(row["torch.compile"] for row in saved["rows"])


@pytest.mark.full
def test_warp_gpu_measures_on_any_device(tmp_path):
    _, saved = run(
        "warp_gpu",
        *("--any_device", "--shapes=2x24x32", "--translation=", "--turn=0.001", "--repeats=2"),
        output=tmp_path / "table.json",
    )
    assert [(row["field"], row["pass"]) for row in saved["rows"]] == [
        (field, name)
        for field in ("smooth", "random")
        for name in ("forward", "image", "displacement", "both", "warp and fuse")
    ]
    assert all(row["us"] > 0 and row["/ copy"][0] > 0 for row in saved["rows"])
    assert saved["goals"][2].endswith("not measured") and "met" in saved["goals"][0]


@pytest.mark.full
def test_operations_of_a_step_and_of_a_translation(tmp_path):
    config = ("--config=experiments/paired.py:runlocal", "--repeats=2", "--shown=9")
    for words in ((), ("--translate=32x48",)):
        _, saved = run("operations", *config, *words, output=tmp_path / "table.json")
        shares = [row["share"] for row in saved["rows"]]
        assert len(shares) == 9 and shares == sorted(shares, reverse=True) and sum(shares) < 1
        assert any("conv" in row["origin"] for row in saved["rows"])
        assert saved["about"]["profiled ms"] > 0


@pytest.mark.full
def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tiny = on_gpu.PARTS["translation"]
    parts = {
        "slow": dataclasses.replace(tiny, seconds=1),
        "wrong": dataclasses.replace(tiny, tiny=("--nonsense",)),
        "good": tiny,
    }
    on_gpu.run_all(parts, tmp_path, tiny=True)
    summary = (tmp_path / "summary.md").read_text()
    heads = re.findall(r"^## (\w+): (.*) after \d+ s$", summary, re.M)
    assert heads == [("slow", "stopped"), ("wrong", "failed (1)"), ("good", "done")]
    assert "Unknown command line flag 'nonsense'" in summary
    assert (tmp_path / "good.json").exists() and not (tmp_path / "slow.json").exists()
