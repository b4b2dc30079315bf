"""The benchmarks that compare with others, run small: each in a process, as its command says."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import base
from experiments.benchmarks import translation_programs as programs
from experiments.benchmarks.translation_programs import Spec
from warp_translate.image_io import write_image

ROOT = Path(base.__file__).parents[1]


def run(name, *arguments, output):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # As on a machine without one.
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.benchmarks.{name}", *arguments, f"--output={output}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done, json.loads(output.read_text())


@pytest.fixture(scope="module")
def translated():
    """What every program makes of the same small image whose sides nothing divides."""
    fields = {"height": 70, "width": 90, "tiny": True}
    return {
        (how, factor, uint8): np.asarray(
            programs.make(how=how, factor=factor, uint8=uint8, **fields).run().output
            if how == "onnx"
            else programs.make(how=how, factor=factor, uint8=uint8, **fields).run()
        )
        for how, factor, uint8 in (
            *(("jax", 2, False), ("jax", 2, True), ("jax", 4, True), ("onnx", 4, False)),
            *(("resnet9", None, False), ("unet256", None, False)),
        )
    }


def test_the_exported_graph_is_the_same_computation(translated):
    ours, theirs = translated["jax", 4, True], translated["onnx", 4, False]
    assert ours.shape == theirs.shape == (1, 70, 90, 3) and ours.std() > 10
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    apart = np.abs(translated["jax", 2, True].astype(int) - translated["jax", 4, True])
    assert apart.max() > 1, "the factor changes nothing"
    floats = translated["jax", 2, False]
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats * 127.5 + 127.5, translated["jax", 2, True], atol=1)


def test_the_peers_are_padded_and_cropped(translated):
    for peer in ("resnet9", "unet256"):
        assert translated[peer, None, False].shape == (1, 3, 70, 90)
    padded = programs.operations(Spec("unet256", 70, 90, tiny=True))
    assert padded == programs.operations(Spec("unet256", 256, 256, tiny=True))


def test_a_donated_image_is_made_anew_for_every_call(translated):
    program = programs.make(how="jax", height=70, width=90, factor=2, donate=True, tiny=True)
    plain = translated["jax", 2, False]
    for _ in range(2):
        program.prepare()
        np.testing.assert_array_equal(program.run(), plain)
    with pytest.raises(IndexError):
        program.run()  # Its image is gone.
    assert program.compiled.memory_analysis().alias_size_in_bytes == plain.nbytes


def test_layouts_give_the_same(translated):
    spec = Spec("resnet9", 70, 90, tiny=True)
    torch.manual_seed(3)
    plain = programs.make(**dataclasses.asdict(spec)).run()
    torch.manual_seed(3)
    last = programs.make(**dataclasses.asdict(dataclasses.replace(spec, channels_last=True))).run()
    np.testing.assert_allclose(plain, last, atol=1e-4)


@pytest.mark.full
def test_translation_prints_its_table_and_goals(tmp_path):
    done, saved = run(
        "translation",
        *("--tiny", "--threads=1", "--nomemory", "--repeats=2", "--sizes=64x64", "--factors=4"),
        f"--plot={tmp_path / 'cost.png'}",
        output=tmp_path / "table.json",
    )
    rows = saved["rows"]
    assert [(row["what"], row["factor"]) for row in rows] == [
        *(("jax", 4), ("onnx", 4), ("resnet9", None), ("unet256", None)),
    ]
    assert all(row["turns"] == 2 and row["ms here"] > 0 for row in rows)
    assert rows[2]["/ resnet9"] == [1, 1, 1]
    assert rows[0]["compiled MiB"] > 0 and rows[0]["compiled GMAC"] > rows[0]["GMAC"]
    assert saved["about"]["cores_allowed"] == saved["about"]["threads"] == 1
    # None of these sizes is a goal's, and nothing is claimed.
    assert len(saved["goals"]) == 8
    assert all(line.endswith("not measured") for line in saved["goals"])
    assert saved["goals"][0] in done.stdout and "64x64: done" in done.stderr
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.full
def test_translation_measures_memory_and_the_goals_at_their_sizes(tmp_path):
    """Small networks at the goals' sizes, with a budget that one program does not keep."""
    done, saved = run(
        "translation",
        *("--tiny", "--threads=1", "--repeats=2", "--how=jax,unet256", "--memory_gib=1.5"),
        *("--sizes=1024x1024,2160x3840", "--factors=4,8", "--donate", "--uint8"),
        output=tmp_path / "table.json",
    )
    goals = saved["goals"]
    assert goals[0].endswith("not measured")  # 256 px were not asked for.
    assert all(word in line for line in goals[1:3] for word in ("unet256 at 1024x1024", "met"))
    assert "2160x3840 at factor 8, peak memory" in goals[3] and goals[3].endswith("met")
    for row in saved["rows"]:
        pixels = np.prod([int(side) for side in row["size"].split("x")])
        assert row["peak MiB"] * 2**20 > pixels, row
    assert "memory: 2 of" in done.stderr and "s left" in done.stderr


@pytest.mark.full
def test_training_peers_compares_first_and_measures_on_request(tmp_path):
    _, saved = run("training_peers", "--kinds=paired", output=tmp_path / "none.json")
    assert saved["rows"] == [] and saved["goals"][0].endswith("not measured")
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
        assert row["jax images/s here"] > 0 and "met" in line
    assert saved["about"]["dtype"] == "float32"
    assert not any(row["torch.compile"] for row in saved["rows"])


@pytest.mark.full
def test_warp_gpu_measures_nothing_without_a_gpu(tmp_path):
    done, saved = run("warp_gpu", output=tmp_path / "none.json")
    assert "not measured: PyTorch sees no CUDA device and jax runs on cpu" in done.stdout
    assert saved["rows"] == [] and all(line.endswith("not measured") for line in saved["goals"])


@pytest.mark.full
def test_warp_gpu_measures_all_on_request(tmp_path):
    _, saved = run(
        "warp_gpu",
        *("--any_device", "--shapes=2x24x32", "--translation=", "--turn=0.001", "--repeats=2"),
        output=tmp_path / "table.json",
    )
    assert [(row["field"], row["what"]) for row in saved["rows"]] == [
        (field, what)
        for field in ("smooth", "random")
        for what in (
            *("forward", "gradient of the image", "gradient of the displacement"),
            *("both gradients", "warp and fuse"),
        )
    ]
    assert all(row["us here"] > 0 and row["/ copy"][0] > 0 for row in saved["rows"])
    assert saved["goals"][2].endswith("not measured") and "met" in saved["goals"][0]


def test_preparation_tells_pictures_a_second(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.full((9, 7, 3), 80 * number, np.uint8))
    _, saved = run(
        "preparation",
        *(f"--root={tmp_path}", "--repeats=2", f"--scratch={tmp_path}"),
        output=tmp_path / "table.json",
    )
    first = saved["rows"][0]
    assert first["threads"] == "1" and first["pictures"] == 3
    assert first["pictures/s"][0] > 0 and first["times one"] == [1, 1, 1]
    assert not list(tmp_path.glob("tmp*"))


@pytest.mark.full
def test_preparation_goes_all_the_way_with_tiny_files(tmp_path):
    _, saved = run(
        "preparation", "--files=60", f"--scratch={tmp_path}", output=tmp_path / "table.json"
    )
    assert [row["step"] for row in saved["rows"]] == ["scan", "inventory", "prepare", "open"]
    assert all(row["files/s"] > 0 and row["peak MiB"] > 10 for row in saved["rows"])
