"""Commands of launch/README.md are parsed by their programs; nothing is started.

tests/test_readme_blocks.py runs the others.
"""

import pytest
import yaml

from launch import command_line, timed, topology
from launch.kubernetes import render
from launch.ray import translate_job
from tests.pages import ROOT, lines
from warp_translate.errors import UserError

COMMANDS = lines("launch/README.md")
TPU_VM = "launch/tpu_vm/tpu_vm.sh"
MODULES = ("local", "sweep", "timed", "kubernetes.render", "plan", "ray.translate_job")


def commands_of(*beginning):
    found = [words for words in COMMANDS if words[: len(beginning)] == list(beginning)]
    assert found, beginning
    return [words[len(beginning) :] for words in found]


def test_train(parse_train):
    for words in COMMANDS:
        if "warp-translate" in words:
            parse_train(words[words.index("warp-translate") + 1 :])


def test_kubernetes(capsys, parse_train):
    accelerators = set()
    for words in commands_of("python", "-m", "launch.kubernetes.render"):
        assert render.main(words) == 0
        jobset = yaml.safe_load(capsys.readouterr().out)
        pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        accelerators |= set(container["resources"]["limits"])
        parse_train([word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["args"]])
    assert accelerators == {"nvidia.com/gpu", "google.com/tpu"}


def test_slurm(parse_train):
    for words in commands_of("sbatch"):
        script = next(index for index, word in enumerate(words) if not word.startswith("--"))
        assert (ROOT / words[script]).is_file()
        parse_train(["train", *words[script + 1 :]])


def test_skypilot():
    (words,) = commands_of("sky", "jobs", "launch")
    task = yaml.safe_load((ROOT / words[0]).read_text())
    given = [word for word in words[1:] if word != "--env"]
    assert {word.partition("=")[0] for word in given} <= set(task["envs"])


def test_timed(parse_train):
    for words in commands_of("python", "-m", "launch.timed"):
        own, train = command_line.split_train(words)
        assert timed.parser().parse_args(own).minutes == 9
        parse_train(["train", *train])


def test_plan(parse_train):
    for words in commands_of("python", "-m", "launch.plan"):
        flags = dict(word.removeprefix("--").split("=", 1) for word in words)
        kind, _, shape = flags["topology"].partition(":")
        assert kind == topology.LOCAL or shape in topology.CHIPS[kind].slices
        fields = {name: value for name, value in flags.items() if name.startswith("config.")}
        known = {"config", "topology", "batch_per_chip", "translate", "json"}
        assert flags.keys() - fields.keys() <= known
        overrides = [f"--{name}={value}" for name, value in fields.items()]
        parse_train(["train", f"--config={flags['config']}", "--workdir=runs/x", *overrides])


def test_ray_job(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in commands_of("python", "-m", "launch.ray.translate_job"):
        with pytest.raises(UserError, match="bundles/dull-bright holds no bundle"):
            translate_job.main(words)


def test_ray_serve(monkeypatch, tmp_path):
    pytest.importorskip("ray")
    from launch.ray import serve_app

    (words,) = commands_of("serve", "run")
    assert words[0] == "launch.ray.serve_app:app"
    (tmp_path / "bundles").mkdir()
    monkeypatch.chdir(tmp_path)
    assert serve_app.app(dict(word.split("=") for word in words[1:]))
    (deployed,) = (words for words in COMMANDS if words[1:3] == ["serve", "deploy"])
    assert (ROOT / deployed[3]).is_file()


def test_other_commands():
    tested = ["warp-translate", "python", "sbatch", TPU_VM, "serve", "sky"]
    others = [words for words in COMMANDS if not set(words[:2]) & set(tested)]
    assert {words[0] for words in others} == {"pip", "docker", "PYTHONPATH=."}
    modules = {words[1] for words in commands_of("python")}
    assert modules == {f"launch.{name}" for name in MODULES}
    for words in commands_of("docker", "build"):
        assert (ROOT / words[0].removeprefix("--file=")).is_file() and words[-1] == "."
