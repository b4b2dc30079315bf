import json
import math

import pytest

from tests.damage import flip_bit
from tests.evaluation.fake_runs import (
    PROTOCOL,
    config,
    fusion_sweep,
    tiny_sheet,
    write_evaluation,
    write_run,
    write_sweep,
)
from warp_translate import sealed
from warp_translate.errors import UserError
from warp_translate.evaluation import runs
from warp_translate.training import logging


def read_one(folder):
    (run,) = runs.read([folder])
    return run


def test_run_is_read_completely(tmp_path):
    run = read_one(write_run(tmp_path / "one", config(seed=3), sheet=tiny_sheet))
    assert run.name == "one" and run.seed == 3 and run.complete
    assert run.config["method.factor"] == 2 and run.config["data.scale"] == [0.85, 1.15]
    assert run.evaluation.step == run.last_step == 2500
    assert run.evaluation.scalars["identity/l1"] == 0.0442
    assert run.evaluation.protocol["sets.extractor.weights_sha256"] == "0123456789ab"
    assert run.evaluation.cost.size == (64, 64) and 0 < run.evaluation.cost.share < 1
    assert list(run.history["test/output/ssim"]) == [500, 1000, 1500, 2000, 2500]
    assert [path.name for path in run.sheets] == ["sheet.png"]
    assert run.start["python"] == "3.11.7"
    assert run.state == "evaluated at step 2,500"


def test_later_record_of_a_step_wins_by_name(tmp_path):
    folder = write_run(tmp_path / "one")
    lines = [
        {"step": 20, "scalars": {"a": 1.0, "b": 2.0}},
        {"step": 10, "scalars": {"a": 3.0}},
        {"step": 20, "scalars": {"a": "NaN", "c": "-Infinity"}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 30, "sca')
    history = read_one(folder).history
    assert list(history["a"]) == [10, 20] and math.isnan(history["a"][20])
    assert history["b"] == {20: 2.0} and history["c"] == {20: -math.inf}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"evaluated": False}, "trained to step 2,500, not evaluated"),
        ({"evaluated": False, "steps": 700}, "stopped at step 700 of 2,500, not evaluated"),
        ({"steps": 700}, "stopped at step 700 of 2,500, evaluated at step 2,500"),
        ({"evaluated": False, "steps": 0}, "no step was logged, not evaluated"),
    ],
)
def test_state_names_missing_parts(tmp_path, changes, state):
    run = read_one(write_run(tmp_path / "one", **changes))
    assert run.state == state and not run.complete


def test_sweep_keeps_its_order_and_failures(tmp_path):
    write_run(tmp_path / "sweep" / "b0", config(seed=0))
    write_run(tmp_path / "sweep" / "b1", config(seed=1))
    variants = {"second": ["b0", "b1"], "first": ["never"]}
    failures = {"never": "train exited\nwith status 1", "b1": "lost"}
    write_sweep(tmp_path / "sweep", variants, failures=failures)
    (sweep,) = runs.read([tmp_path / "sweep"])
    assert list(sweep.variants) == ["second", "first"]
    first, second, never = runs.all_runs([sweep])
    assert first.name == "sweep/b0" and first.complete
    assert second.state == "failed: lost; trained to step 2,500, evaluated at step 2,500"
    assert not second.complete
    assert never.state == (
        "failed: train exited with status 1; never started, there is no config.json"
    )
    assert never.seed is None and never.sheets == ()
    assert sweep.seconds == 11_520 and sweep.machine == {"platform": "Linux", "cores": 2}


def refused(folder, *parts):
    with pytest.raises(UserError) as caught:
        runs.read([folder])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def test_folder_without_a_run_or_sweep_is_an_error(tmp_path):
    refused(tmp_path, str(tmp_path), "neither config.json nor sweep.json", "give the --workdir")
    refused(tmp_path / "nowhere", "nowhere is not a folder")
    with pytest.raises(UserError, match="--runs is empty"):
        runs.read([])


def test_duplicate_run_is_an_error(tmp_path):
    fusion_sweep(tmp_path / "sweep", factors=(2,), seeds=1)
    inside = tmp_path / "sweep" / "full,_factor_2,seed=0"
    for folders in ([inside, tmp_path / "sweep" / "." / inside.name], [tmp_path / "sweep", inside]):
        with pytest.raises(UserError, match="full,_factor_2,seed=0 twice"):
            runs.read(folders)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds a list"),
        ('{"step": 3, "output/l1": 0.1, "count": 9}', "'scalars' is missing"),
        ('{"step": 3, "scalars": {"a": "x"}, "protocol": {}}', "could not convert"),
        ('{"step": 3, "scalars": {}, "protocol": 5}', "evaluate"),
    ],
)
def test_invalid_evaluation_is_an_error(tmp_path, content, reason):
    folder = write_run(tmp_path / "one")
    (folder / "evaluation" / "metrics.json").write_text(content)
    refused(folder, "evaluation/metrics.json", reason)


def test_flipped_bits_are_detected_or_harmless(tmp_path):
    folder = write_run(tmp_path / "one")
    (folder / "metrics.jsonl").unlink()
    logger = logging.JsonLinesLogger(folder / "metrics.jsonl")
    for step in (1, 2):
        logger.write_scalars(step, {"loss": 0.5, "test/output/l1": math.nan})
    logger.close()
    figures = json.loads((folder / "evaluation/metrics.json").read_text())
    (folder / "evaluation/metrics.json").write_text(json.dumps(sealed.seal(figures)))
    right = repr(runs.read([folder]))
    for name in ("metrics.jsonl", "evaluation/metrics.json"):
        refusals = 0
        for number in range(0, 8 * (folder / name).stat().st_size, 37):
            flip_bit(folder / name, number)
            try:
                assert repr(runs.read([folder])) == right, (name, number)
            except UserError as error:
                assert name in str(error)
                refusals += 1
            flip_bit(folder / name, number)
        assert refusals > 25


def test_invalid_log_record_is_an_error_with_its_line(tmp_path):
    folder = write_run(tmp_path / "one")
    (folder / "metrics.jsonl").write_text('{"step": 1, "scalars": {}}\nnonsense\n')
    refused(folder, "metrics.jsonl, line 2", "remove the line")


@pytest.mark.parametrize(
    "variants", [{}, {"a": []}, {"a": ["../elsewhere"]}, {"a": ["x/y"]}], ids=str
)
def test_sweep_runs_must_be_inside_the_sweep(tmp_path, variants):
    write_sweep(tmp_path / "sweep", variants)
    refused(tmp_path / "sweep", "sweep.json is not a valid sweep record", "warp-translate ablate")


def test_sweep_without_title_is_an_error(tmp_path):
    (tmp_path / "sweep.json").write_text('{"variants": {"a": {"runs": ["b"]}}}')
    refused(tmp_path, "'title' is missing")


def test_cost_may_be_missing(tmp_path):
    folder = write_run(tmp_path / "one")
    write_evaluation(folder, {"a": 1.0}, protocol=PROTOCOL, cost={"macs": "NaN"})
    assert read_one(folder).evaluation.cost == runs.Cost(None, None, None)


def test_history_file_matches_the_training_log():
    assert runs.HISTORY_FILE == logging.METRICS_FILE
