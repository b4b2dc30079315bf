import json

import jax
import numpy as np
import pytest
from PIL import Image

from warp_translate.cli import build
from warp_translate.cli.task import abstract_params
from warp_translate.data.augment import EvalCrop
from warp_translate.errors import UserError
from warp_translate.evaluation.evaluator import COLUMNS
from warp_translate.training.checkpoint import Checkpointer


def test_the_table_the_figures_and_the_sheet(call, workdir, tmp_path, capsys, tiny_config):
    call("evaluate", workdir=workdir, output=str(tmp_path), rows=3)
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["count"] == 103
    assert "output" in printed and "identity" in printed and "sheet.png" in printed

    # The identity's row needs no generator: computed here from the test pairs in float64.
    (pairs,) = build.pairs(tiny_config, "test")
    crop = EvalCrop(32)
    l1, psnr = [], []
    for index in range(len(pairs)):
        pair = crop(pairs[index])
        difference = (pair["source"].astype(float) - pair["target"].astype(float)) / 255
        l1.append(np.abs(difference).mean())
        psnr.append(min(100.0, 10 * np.log10(1 / max((difference**2).mean(), 1e-12))))
    assert figures["identity/l1"] == pytest.approx(np.mean(l1), abs=1e-6)
    assert figures["identity/psnr"] == pytest.approx(np.mean(psnr), abs=1e-3)
    assert figures["output/l1_ratio"] == pytest.approx(
        figures["output/l1"] / figures["identity/l1"]
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > len(COLUMNS) * 128
        assert sheet.height > 3 * 128


def test_a_cycle_run_has_figures_and_a_sheet_of_either_direction(
    call, cycle_run, cycle_config, tmp_path, capsys
):
    call("evaluate", workdir=cycle_run.workdir, output=str(tmp_path), rows=3, step="latest")
    printed = capsys.readouterr().out
    assert printed.index("A to B:") < printed.index("B to A:")
    assert {path.name for path in tmp_path.iterdir()} == {
        *["metrics.json", "sheet_a_to_b.png", "sheet_b_to_a.png"]
    }
    for name in ("sheet_a_to_b.png", "sheet_b_to_a.png"):
        assert f"sheet: {tmp_path / name}" in printed
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 8 * 128
            assert sheet.height > 3 * 128

    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["step"] == 4 and figures["images"] == {"a": 103, "b": 103}
    # Each generator is measured on the images of its own source: by the state that the run left.
    data = build.domains(cycle_config)
    training = build.training(cycle_config)
    target = abstract_params(training, 32)
    checkpointer = Checkpointer(cycle_run.workdir, best_metric="", read_only=True)
    saved = checkpointer.restore_part(4, {name: {"ema": ema} for name, ema in target.items()})
    translate = jax.jit(training.translate)
    crop = EvalCrop(32)
    images = {
        name: np.stack([crop({"image": source[i]})["image"] for i in range(len(source))])
        for name, source in (("a_to_b", data.test_a), ("b_to_a", data.test_b))
    }
    masks = {}
    for name, originals in images.items():
        made = translate(saved[name]["ema"], originals / np.float32(127.5) - 1)
        masks[name] = float(made.mask.mean())
        assert figures[f"{name}/mask/mean"] == pytest.approx(masks[name], abs=1e-5)
        output = (np.clip(np.asarray(made.output), -1, 1) + 1) / 2
        truth = images["b_to_a" if name == "a_to_b" else "a_to_b"] / 255
        for metric, made_of_it in (("output/l1", output), ("identity/l1", originals / 255)):
            l1 = np.abs(made_of_it - truth).mean()
            assert figures[f"{name}/{metric}"] == pytest.approx(l1, abs=1e-5)
        assert figures[f"{name}/cycle/l1"] > 0
    assert abs(masks["a_to_b"] - masks["b_to_a"]) > 1e-3


def test_a_folder_without_a_run_is_a_users_mistake(call, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        call("evaluate", workdir=str(tmp_path))
