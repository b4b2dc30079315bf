"""``warp-translate evaluate`` on all checkpoints, during training or after."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import classifier
from warp_translate.errors import UserError
from warp_translate.experiment import build, evaluate, run_config
from warp_translate.experiment.task import Report, Sheet, Task
from warp_translate.training.checkpoint import Checkpointer


class Staged:
    """A work directory with made-up checkpoints: all parameters are the number of the step."""

    def __init__(self, config, workdir):
        self.config, self.workdir = config, workdir
        self.training = build.training(config)
        self.shapes = jax.eval_shape(lambda: build.initial_state(self.training, config))
        self.writer = None

    def begin(self):
        run_config.record(self.config, self.workdir, step=0)

    def save(self, step, metrics=None, keep=9):
        self.writer = self.writer or Checkpointer(
            self.workdir, score=lambda metrics: None, keep_latest=keep
        )
        state = jax.tree.map(lambda leaf: np.full(leaf.shape, step, leaf.dtype), self.shapes)
        self.writer.save(step, state, metrics)
        self.writer.wait()

    def vanish(self, step):
        shutil.rmtree(self.workdir / "checkpoints" / str(step))


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """A run of six steps with fast made-up metrics: L1 is lowest at step 4."""
    config = classifier.get_config("runlocal")
    config.classifier.stages = 1
    config.evaluation.best_metric = "test/output/l1"
    run = Staged(config, tmp_path / "run")
    run.config.training.update(total_steps=6, log_every=2, evaluate_every=2, save_every=2)
    run.measured = []

    def measure(params, rows, progress):
        step = int(np.asarray(jax.tree.leaves(params)[0]).flat[0])
        run.measured.append(step)
        return Report({"output/l1": abs(step - 4) / 10, "output/ssim": step / 10}, "", {})

    def open_task(config, training):
        scores = "output/l1", "output/ssim"
        return Task(run.training, "", (), lambda step: iter(()), {"count": 1}, scores, 1, measure)

    monkeypatch.setattr(evaluate.tasks, "open_task", open_task)
    cost = {"macs": 1.0, "share": 1.0, "size": [1, 1], "factor": 1}
    monkeypatch.setattr(evaluate.eval_setup, "cost", lambda training, size: cost)
    run.evaluation = run.workdir / "evaluation"
    return run


def records(run):
    return [json.loads(line) for line in (run.evaluation / "steps.jsonl").read_text().splitlines()]


def test_each_step_is_measured_once_and_the_best_is_marked(call, staged, capsys):
    staged.begin()
    for step in (2, 4):
        staged.save(step)
    call("evaluate", workdir=str(staged.workdir), step="all")
    assert staged.measured == [2, 4]
    assert [(each["step"], each["best"]) for each in records(staged)] == [(2, False), (4, True)]
    assert json.loads((staged.evaluation / "metrics.json").read_text())["step"] == 4
    assert records(staged)[0]["protocol"] == {"count": 1} and records(staged)[0]["cost"]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "step 2: test/output/l1 0.2, best so far",
        "step 4: test/output/l1 0, best so far",
        "best of 2: step 4, test/output/l1 0",
    ]
    # A later step that is not better changes neither the best nor its sheet.
    staged.save(6)
    call("evaluate", workdir=str(staged.workdir), step="all")
    assert staged.measured == [2, 4, 6]
    assert [each["best"] for each in records(staged)] == [False, True, False]
    assert json.loads((staged.evaluation / "metrics.json").read_text())["step"] == 4
    call("evaluate", workdir=str(staged.workdir), step="all", best_by="test/output/ssim")
    assert staged.measured == [2, 4, 6]
    assert "best of 3: step 6, test/output/ssim 0.6" in capsys.readouterr().out


def test_records_of_another_protocol_are_kept(call, staged, monkeypatch):
    staged.begin()
    staged.save(2)
    call("evaluate", workdir=str(staged.workdir), step="all")
    before = records(staged)
    other = {"macs": 0.5, "share": 0.5, "size": [1, 1], "factor": 2}
    monkeypatch.setattr(evaluate.eval_setup, "cost", lambda training, size: other)
    call("evaluate", workdir=str(staged.workdir), step="all")
    assert staged.measured == [2, 2]
    assert [each["cost"]["factor"] for each in records(staged)] == [1, 2]
    assert records(staged)[:1] == before and all(each["best"] for each in records(staged))


def test_watching_ends_with_the_training(call, staged, capsys, monkeypatch):
    """It starts before the training; step 2 is deleted before it is read."""
    events = [
        staged.begin,
        lambda: None,  # No checkpoint yet.
        lambda: (staged.save(1), staged.save(2), staged.save(3)),
        lambda: staged.save(6),
    ]
    monkeypatch.setattr(evaluate.time, "sleep", lambda seconds: events.pop(0)())
    read = Checkpointer.restore_part

    def restore_part(self, step, target):
        if step == 2:
            staged.vanish(2)
        return read(self, step, target)

    monkeypatch.setattr(Checkpointer, "restore_part", restore_part)
    call("evaluate", workdir=str(staged.workdir), watch=True)
    assert not events and staged.measured == [1, 3, 6]
    assert [each["step"] for each in records(staged) if each["best"]] == [3]
    printed = capsys.readouterr()
    assert f"waiting for a training to start in {staged.workdir}" in printed.err
    assert "skipped step 2: the checkpoint of step 2 in" in printed.err
    assert "best of 3: step 3, test/output/l1 0.1" in printed.out


def test_ctrl_c_ends_watching(call, staged, capsys, monkeypatch):
    staged.begin()
    staged.save(2)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.time, "sleep", interrupt)
    call("evaluate", workdir=str(staged.workdir), watch=True)
    assert [each["step"] for each in records(staged)] == [2]
    assert "stopped watching; results are kept" in capsys.readouterr().err


def test_any_metric_can_choose_the_best_step(staged, call):
    staged.begin()
    for step, l1, ssim, sharpness in ((1, 0.3, 0.5, 0.9), (2, 0.1, 0.6, 0.5), (3, 0.2, 0.7, 1.5)):
        metrics = {"output/l1": l1, "output/ssim": ssim, "output/sharpness": sharpness}
        staged.save(step, {f"test/{name}": value for name, value in metrics.items()})
    for best_by in (None, "test/output/l1", "test/output/ssim", "test/output/sharpness"):
        call("evaluate", workdir=str(staged.workdir), best_by=best_by)
    assert staged.measured == [2, 2, 3, 1]


def test_a_metric_that_cannot_choose_is_named(staged, call):
    staged.begin()
    workdir = str(staged.workdir)
    with pytest.raises(UserError, match="no checkpoint in"):
        call("evaluate", workdir=workdir, step="all")
    staged.save(2, {"test/output/l1": 0.1, "test/mask/mean": 0.5})
    with pytest.raises(UserError, match=r"--best_by=test/mask/mean cannot choose .*describes"):
        call("evaluate", workdir=workdir, best_by="test/mask/mean")
    with pytest.raises(UserError, match=r"output/psnr was measured at none .*: test/output/l1$"):
        call("evaluate", workdir=workdir, best_by="test/output/psnr")
    with pytest.raises(UserError, match="--best_by=test/output/l1 is for --step=best"):
        call("evaluate", workdir=workdir, best_by="test/output/l1", step="2")
    with pytest.raises(UserError, match="--watch measures all steps, not --step=latest"):
        call("evaluate", workdir=workdir, watch=True, step="latest")
    with pytest.raises(
        UserError, match=r"test/output/psnr is not measured .*: test/output/l1, test/out"
    ):
        call("evaluate", workdir=workdir, step="all", best_by="test/output/psnr")
    staged.evaluation.mkdir()
    (staged.evaluation / "steps.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="cannot be read as measured steps"):
        call("evaluate", workdir=workdir, step="all")


def test_results_of_another_step_or_factor_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        evaluate, "write_sheet", lambda path, rows, *_, **__: path.write_text(str(rows))
    )

    def write(step, factor, keep=True):
        rows = [step, factor]
        sheet = Sheet(rows=rows, columns=(), wheel_magnitude=None, title="", footer="")
        record = {"step": step, "scalars": {}, "cost": {"factor": factor}}
        evaluate.write_results(tmp_path, record, {"sheet": sheet}, 64, keep=keep)

    for step, factor in ((2, 1), (4, 1), (4, 1), (4, 8)):
        write(step, factor)
    assert f"kept: {tmp_path}/step_2_factor_1" in capsys.readouterr().out
    write(6, 8, keep=False)  # Of the same command.
    sheets = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.png")}
    assert sheets == {
        "step_2_factor_1/sheet.png": "[2, 1]",
        "step_4_factor_1/sheet.png": "[4, 1]",
        "sheet.png": "[6, 8]",
    }
    kept = json.loads((tmp_path / "step_2_factor_1" / "metrics.json").read_text())
    assert kept["step"] == 2
