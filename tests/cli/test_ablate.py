import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.ablations import bases
from tests.evaluation.fake_runs import fusion_sweep, tiny_sheet
from warp_translate import storage
from warp_translate.cli import ablate, status
from warp_translate.errors import UserError
from warp_translate.experiment.runner import LOG_FILE, Outcome
from warp_translate.experiment.sweep import read_sweep

ROOT = Path(__file__).parents[2]

# Stands for Python with the two commands: trains by writing a line, measures by writing a file.
FAKE = """#!/bin/bash
for word in "$@"; do
  case "$word" in --workdir=*) folder=${word#--workdir=};; esac
done
mkdir -p "$folder/evaluation"
echo "$@" >> "$folder/called"
echo "${XLA_PYTHON_CLIENT_PREALLOCATE:-none}" > "$folder/preallocate"
[ -d "$JAX_COMPILATION_CACHE_DIR" ] && echo "$JAX_COMPILATION_CACHE_DIR" > "$folder/compiled"
case "$2" in
  *train) case "$folder" in *bad*) echo "error: it diverged" >&2; exit 2;; esac
          echo '{"step": 7, "wall_time": 1, "scalars": {}}' >> "$folder/metrics.jsonl";;
  *evaluate) echo '{"step": 7}' > "$folder/evaluation/metrics.json";;
esac
"""


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def swept(tmp_path):
    """Writes an experiment with these variants, and reads its sweep."""

    def write(variants, seeds=None):
        path = tmp_path / "swept.py"
        path.write_text(
            '"""A title.\n\nClaim: it holds."""\n'
            "from experiments import paired\n"
            "get_config = paired.get_config\n"
            f"def get_sweep(arg=None):\n  return {variants}\n"
        )
        return read_sweep(str(path), seeds=seeds)

    return write


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a sweep with the fake commands, and returns what was said."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setattr(ablate.sys, "executable", str(fake))

    def run(sweep, folder, only=(), at_once=1):
        chosen = ablate.choose(sweep, only, {})
        jobs = [
            ablate.job(folder / each.name, each.flags("x.py", str(folder)), 7) for each in chosen
        ]
        said = io.StringIO()
        record = ablate.Record(folder, sweep, "x.py")
        failed = ablate.run_all(jobs, record, at_once=at_once, stream=said)
        return failed, said.getvalue()

    return run


def test_every_run_is_trained_and_then_measured_at_its_last_step(swept, run, tmp_path):
    folder = tmp_path / "out"
    run(swept({"a": {"optim.lr": 0.5}, "b c": {}}, seeds=2), folder)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        *["a_seed=0", "a_seed=1", "b_c_seed=0", "b_c_seed=1"]
    ]
    train, evaluate = (folder / "a_seed=1" / "called").read_text().splitlines()
    assert train == (
        f"-m warp_translate.cli.train --config=x.py --workdir={folder}/a_seed=1 "
        "--config.optim.lr=0.5 --config.seed=1"
    )
    assert evaluate == (f"-m warp_translate.cli.evaluate --workdir={folder}/a_seed=1 --step=latest")


def test_what_is_complete_is_not_repeated_and_what_is_not_goes_on(swept, run, tmp_path):
    folder, sweep = tmp_path / "out", swept({"a": {}, "b": {"seed": 3}})
    run(sweep, folder)
    (folder / "b" / "evaluation" / "metrics.json").write_text('{"step": 5}')
    failed, said = run(sweep, folder)
    assert "b: resumed" in said and not failed
    assert len((folder / "a" / "called").read_text().splitlines()) == 2
    assert len((folder / "b" / "called").read_text().splitlines()) == 4


def test_a_failure_is_told_and_recorded_and_the_others_are_run(swept, run, tmp_path):
    folder, sweep = tmp_path / "out", swept({"bad": {}, "good": {"seed": 3}})
    assert run(sweep, folder)[0] == ["bad"]
    assert (folder / "good" / "evaluation" / "metrics.json").exists()
    assert "it diverged" in (folder / "bad" / LOG_FILE).read_text()
    record = json.loads((folder / "sweep.json").read_text())
    assert record["failures"] == {"bad": "status 2: error: it diverged"}
    # A second try that goes well is no failure any more.
    (folder / "bad").rename(folder / "b@d")
    other = swept({"better": {}, "good": {"seed": 3}})
    run(other, folder, only=["good"])
    assert json.loads((folder / "sweep.json").read_text())["failures"] == record["failures"]


def test_runs_at_once_leave_each_other_memory_of_a_gpu(swept, run, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    sweep = swept({"one": {}, "two": {"seed": 1}})

    def found(folder, at_once):
        run(sweep, tmp_path / folder, at_once=at_once)
        return {(tmp_path / folder / name / "preallocate").read_text() for name in ("one", "two")}

    assert found("alone", 1) == {"none\n"}
    assert found("shared", 2) == {"false\n"}
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    assert found("as the user has it", 2) == {"true\n"}


def test_the_runs_share_what_they_compile_while_they_run(swept, run, tmp_path, monkeypatch):
    sweep = swept({"one": {}, "two": {"seed": 1}})

    def found(folder):
        run(sweep, tmp_path / folder)
        (only,) = {(tmp_path / folder / each / "compiled").read_text() for each in ("one", "two")}
        return Path(only.rstrip())

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert found("as the user has it") == tmp_path
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert not found("of its own").exists(), "it is left behind"


def test_the_record_tells_the_report_what_was_run(swept, run, tmp_path):
    folder = tmp_path / "out"
    sweep = swept({"a": {"optim.lr": 0.5}, "b": {}}, seeds=2)
    run(sweep, folder, only=["a"])
    first = json.loads((folder / "sweep.json").read_text())
    assert (first["title"], first["claim"]) == ("A title.", "Claim: it holds.")
    assert first["experiment"] == "x.py"
    assert first["variants"] == {
        "a": {"overrides": {"optim.lr": 0.5}, "runs": ["a_seed=0", "a_seed=1"]},
        "b": {"overrides": {}, "runs": ["b_seed=0", "b_seed=1"]},
    }
    run(sweep, folder)
    second = json.loads((folder / "sweep.json").read_text())
    assert second["seconds"] > first["seconds"] > 0, "the time of both starts together"


@pytest.mark.full
def test_what_was_measured_becomes_a_table_and_a_page(tmp_path, capsys):
    fusion_sweep(tmp_path / "out", factors=(2,), seeds=1, sheet=tiny_sheet)
    ablate.collect(f"{tmp_path}/out/")
    said = capsys.readouterr()
    assert said.out.startswith("| ") and "full, factor 2" in said.out
    assert (tmp_path / "out" / "report" / "report.html").stat().st_size > 10_000
    assert f"--runs={tmp_path}/out/" in (tmp_path / "out" / "report" / "report.md").read_text()


def test_a_signal_lets_what_runs_save_and_says_how_to_go_on(swept, run, tmp_path, monkeypatch):
    fake = Path(sys.executable)
    fake.write_text("#!/bin/bash\ntrap 'exit 42' TERM\ntouch up\nwhile :; do sleep 0.02; done\n")
    monkeypatch.chdir(tmp_path)

    def interrupt():
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(SystemExit) as left:
        run(swept({"a": {}, "b": {"seed": 3}}), tmp_path / "out")
    assert left.value.code == status.INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("only", "further", "message"),
    [
        (["c"], {}, "--only=c is no variant; there are: a; b"),
        ([], {"optim.lr": 1.0}, "--config.optim.lr is set by the sweep itself"),
        ([], {"seed": 1}, "--config.seed is set by the sweep itself"),
    ],
)
def test_mistakes_of_the_call_are_one_line(swept, only, further, message):
    sweep = swept({"a": {"optim.lr": 0.5}, "b": {}}, seeds=2)
    with pytest.raises(UserError, match=message):
        ablate.choose(sweep, only, further)


def test_a_variant_that_cannot_be_built_is_named_before_anything_runs(swept, tiny_config):
    sweep = swept({"fine": {}, "odd": {"method.factor": -1}})
    with pytest.raises(
        UserError, match=r"the variant 'odd' cannot be run: config\.method\.factor is -1"
    ):
        ablate.prepare(tiny_config, sweep, {"fine", "odd"})
    sweep = swept({"small": {"method.factor": 16}})
    with pytest.raises(UserError, match="the variant 'small' cannot be run: "):
        ablate.prepare(tiny_config, sweep, {"small"})


def test_a_folder_keeps_to_its_sweep(swept, tmp_path):
    folder, sweep = tmp_path / "out", swept({"a": {}})
    ablate.Record(folder, sweep, "x.py")
    ablate.Record(folder, sweep, "x.py")
    with pytest.raises(UserError, match=r"holds the sweep of x\.py, not of y\.py: choose another"):
        ablate.Record(folder, sweep, "y.py")
    (folder / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="is no record of a sweep"):
        ablate.Record(folder, sweep, "x.py")


def test_of_two_runners_neither_forgets_what_the_other_saw_fail(swept, tmp_path):
    folder, sweep = tmp_path / "out", swept({"a": {}, "b": {"seed": 3}})
    one, other = (ablate.Record(folder, sweep, "x.py") for _ in range(2))
    jobs = [ablate.job(folder / name, [], 7) for name in "ab"]
    for record, job in zip((one, other), jobs, strict=True):
        record.ended(job, Outcome("failed", "it"))
    assert json.loads((folder / "sweep.json").read_text())["failures"] == {"a": "it", "b": "it"}


def test_a_folder_that_cannot_be_written_is_the_users_mistake(swept, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --workdir"):
        ablate.Record(tmp_path / "file" / "out", swept({"a": {}}), "x.py")


@pytest.mark.full
def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_figures(tmp_path, data_dir):
    """For real: two variants of the smallest pairs, two at once, the runner killed once."""

    def command(folder, *further):
        words = ["--config=experiments/ablations/fusion.py:runlocal", f"--workdir={folder}"]
        words += ["--seeds=1", "--jobs=2", f"--config.data.dir={data_dir}", *further]
        words += ["--only=full, factor 2", "--only=warped only, factor 2"]
        return [sys.executable, "-m", "warp_translate.cli.ablate", *words]

    def figures(folder):
        names = ("full_factor_2_seed=0", "warped_only_factor_2_seed=0")
        return [
            json.loads((folder / name / "evaluation" / "metrics.json").read_text())
            for name in names
        ]

    assert bases.get_config("runlocal").training.total_steps == 4
    whole = tmp_path / "whole"
    subprocess.run(command(whole), check=True, timeout=900)

    cut = tmp_path / "cut"
    process = subprocess.Popen(command(cut))
    saved = cut / "full_factor_2_seed=0" / "checkpoints" / "2"
    for _ in range(3000):
        if saved.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    subprocess.run(command(cut), check=True, timeout=900)
    assert figures(cut) == figures(whole)
    assert [each["step"] for each in figures(cut)] == [4, 4]


def test_a_run_in_a_bucket_is_judged_there_and_locked_here(bucket, swept, tmp_path):
    folder = storage.to_path(f"{bucket}/sweep")
    record = ablate.Record(folder, swept({"a": {}}), "swept.py")
    job = ablate.job(folder / "a", ["--x"], 7)
    assert job.folder.is_relative_to(tmp_path / "cache")
    assert f"--workdir={bucket}/sweep/a" in job.commands[1]
    assert not job.done() and job.progress() == 0
    storage.write_whole(folder / "a/metrics.jsonl", '{"step": 5}\n{"step": 7}\n{"st')
    storage.write_whole(folder / "a/evaluation/metrics.json", '{"step": 7}')
    assert job.done() and job.progress() == 7
    storage.write_whole(job.folder / LOG_FILE, "it diverged")
    record.ended(job, Outcome("failed", "status 2"))
    assert (folder / "a" / LOG_FILE).read_text() == "it diverged"
    again = ablate.Record(folder, swept({"a": {}}), "swept.py")
    again.write()
    assert json.loads((folder / "sweep.json").read_text())["failures"] == {"a": "status 2"}
