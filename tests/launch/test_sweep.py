import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from experiments import quickstart
from launch import sweep
from warp_translate.errors import UserError

ROOT = Path(__file__).parents[2]
QUICKSTART = "experiments/quickstart.py"
MANIFEST = ["--image=a", "--queue=b", "--claim=c"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def experiment(tmp_path):
    """Writes an experiment like paired.py with a sweep of its own."""

    def write(runs, head=""):
        path = tmp_path / "swept.py"
        path.write_text(
            f"from experiments import paired\n{head}\n"
            f"def get_config(arg=None):\n  return paired.get_config(arg)\n"
            f"def get_sweep(arg=None):\n  return {runs}\n"
        )
        return str(path)

    return write


def test_the_quickstarts_sweep(capsys, parse_train):
    assert sweep.main([f"--config={QUICKSTART}:runlocal", "--workdir=two words/"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = quickstart.get_sweep()
    assert len(lines) == len(expected) == 6
    workdirs = set()
    for line, overrides in zip(lines, expected, strict=True):
        program, *words = shlex.split(line)
        assert program == "warp-translate"
        parsed = parse_train(words)
        assert parsed.config.seed == overrides["seed"]
        assert parsed.config.method.fusion == overrides["method.fusion"]
        assert parsed.config.training.total_steps == 4, "the argument of the experiment is lost"
        workdirs.add(parsed.workdir)
    assert len(workdirs) == 6
    assert "two words/method.fusion=full,seed=0" in workdirs


def test_values_of_every_kind_arrive_as_they_are(experiment, parse_train):
    runs = [
        {
            "seed": -3,
            "optim.lr": 1e-5,
            "optim.b1": 1,
            "data.flip": False,
            "data.scale": (0.5, 2.0),
            "data.name": "it's $HOME a/b",
            "data.root": "of a placeholder",
        }
    ]
    (run,) = sweep.expand(experiment(runs), "runs", ["--config.training.keep_latest=7"])
    parsed = parse_train(shlex.split(shlex.join(["train", *run.flags])))
    config = parsed.config
    assert (config.seed, config.optim.lr, config.optim.b1) == (-3, 1e-5, 1.0)
    assert (config.data.flip, config.data.scale) == (False, (0.5, 2.0))
    assert (config.data.name, config.data.root) == ("it's $HOME a/b", "of a placeholder")
    assert config.training.keep_latest == 7
    assert re.fullmatch(r"[\w.+=,-]+", run.name)
    assert parsed.workdir == f"runs/{run.name}"


def test_names_are_stable():
    forth, back = {"seed": 1, "optim.lr": 1e-4}, {"optim.lr": 0.0001, "seed": 1}
    assert sweep.run_name(forth) == sweep.run_name(back) == "optim.lr=0.0001,seed=1"
    assert sweep.run_name({}) == "unchanged"
    assert sweep.run_name({"data.flip": True}) == "data.flip=true"
    with pytest.raises(UserError, match="has a name of 210 characters, 200 are possible"):
        sweep.run_name({"data.root": "a" * 200})
    assert len(sweep.run_name({"data.root": "a" * 190})) == 200


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([{"optim.lrr": 1.0}], "overrides 'optim.lrr', no field; the nearest: optim.lr"),
        ([{"sed": 1}], "overrides 'sed', no field; the nearest: seed"),
        ([{"optim": 1}], "overrides 'optim', no field"),
        ([{"seed": 1.0}], "overrides 'seed' by 1.0; it must be int"),
        ([{"seed": True}], "overrides 'seed' by True; it must be int"),
        ([{"data.flip": 1}], "overrides 'data.flip' by 1; it must be bool"),
        ([{"data.name": 1}], "overrides 'data.name' by 1; it must be str"),
        ([{"data.root": None}], "overrides 'data.root' by None; it must be str"),
        ([{"data.name": "a\nb"}], "no line breaks"),
        ([{"seed": 1}, {"seed": 1}], "both be the run 'seed=1'"),
        ([{"data.name": "a b"}, {"data.name": "a/b"}], "both be the run 'data.name=a_b'"),
        ([{"data.name": "a"}, {"data.name": "A"}], "both be the run 'data.name=A'"),
        ([], "get_sweep returns []"),
        (["seed"], "get_sweep returns ['seed'], it must return a dictionary"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_mistakes_in_the_sweep(experiment, runs, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        sweep.expand(experiment(runs), "runs")
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_call(experiment, tmp_path):
    for words, message in [
        ([f"--config={tmp_path}/missing.py"], "missing.py is no file"),
        (["--config=experiments/paired.py"], "has no get_sweep"),
        ([f"--config={QUICKSTART}:size=3"], "ValueError: unknown argument 'size'"),
        ([f"--config={experiment([], 'def broken(:')}"], "SyntaxError: invalid syntax"),
        ([f"--config={QUICKSTART}", "--queue=a"], "--queue is for --format=jobset only"),
        ([f"--config={QUICKSTART}", "--", "--workdir=b"], "--workdir is set by the launcher"),
        ([f"--config={QUICKSTART}", "--", "--config.seed=3"], "--config.seed is set by the"),
        ([f"--config={QUICKSTART}", "--format=jobset"], "--image is missing"),
        ([f"--config={QUICKSTART}", "--format=jobset", *MANIFEST], "below --mount=/runs"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            sweep.main(["--workdir=runs", *words])


def test_a_slurm_array_has_a_line_for_each_run(tmp_path, capsys, fake, parse_train):
    folder = tmp_path / "two words"
    sweep.main([f"--config={QUICKSTART}", f"--workdir={folder}", "--format=slurm"])
    program, array, script, tasks = shlex.split(capsys.readouterr().out)
    assert (program, array) == ("sbatch", "--array=0-5")
    assert (ROOT / script).is_file()
    lines = Path(tasks).read_text().splitlines()
    assert len(lines) == 6
    parsed = parse_train(["train", *shlex.split(lines[4])])
    assert parsed.config.seed == 1
    assert parsed.config.method.fusion == "pretranslated"
    assert parsed.workdir == f"{folder}/method.fusion=pretranslated,seed=1"


def test_a_jobset_for_each_run(capsys, parse_train):
    words = [f"--config={QUICKSTART}", "--workdir=/mnt/s", "--format=jobset", "--name=tune"]
    further = ["--", "--config.training.keep_latest=3"]
    sweep.main([*words, *MANIFEST, "--hosts=2", "--mount=/mnt", *further])
    jobsets = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [jobset["metadata"]["name"] for jobset in jobsets] == [f"tune-{i}" for i in range(6)]
    for jobset, overrides in zip(jobsets, quickstart.get_sweep(), strict=True):
        job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert job["completions"] == 2
        arguments = job["template"]["spec"]["containers"][0]["args"]
        numbered = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in arguments]
        parsed = parse_train(numbered)
        assert parsed.config.seed == overrides["seed"]
        assert parsed.config.training.keep_latest == 3
        assert os.path.dirname(parsed.workdir) == "/mnt/s"
