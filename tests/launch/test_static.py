"""Checks of shell scripts and Dockerfiles that run nothing."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.conftest import ROOT, call

LAUNCH = ROOT / "launch"
SCRIPTS = {p.name: p.read_text() for p in LAUNCH.rglob("*") if p.suffix in (".sh", ".sbatch")}
DOCKERFILES = {path.stem: path.read_text() for path in LAUNCH.glob("docker/*")}
TASK = yaml.safe_load((LAUNCH / "skypilot/train.yaml").read_text())
SETUP = (ROOT / "setup.py").read_text()


def lint(program, *words, source):
    return call(Path(sys.executable).with_name(program), *words, "-", input=source).stdout


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS.values(), TASK["setup"], TASK["run"]],
    ids=[*SCRIPTS, "skypilot setup", "skypilot run"],
)
def test_shellcheck_passes(script):
    def shellcheck(source):
        return lint("shellcheck", "--shell=bash", "--color=never", source=source)

    assert shellcheck(script) == ""
    assert "SC2154" in shellcheck(f"{script}\ncat $nowhere\n")


def test_scripts_are_strict():
    assert set(SCRIPTS) == {"train.sbatch", "array.sbatch", "tpu_vm.sh"}
    for text in SCRIPTS.values():
        assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text


def test_both_sbatch_scripts_request_the_same():
    train, array = (
        dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SCRIPTS[f"{name}.sbatch"], re.M))
        for name in ("train", "array")
    )
    assert (train.pop("output"), array.pop("output")) == ("slurm-%j.log", "slurm-%A_%a.log")
    assert train == array
    # Without the prefix B: SLURM signals the tasks, not the script.
    assert train["signal"] == "TERM@120"
    assert {"requeue", "ntasks-per-node"} <= set(train)
    assert train["open-mode"] == "append"


@pytest.mark.parametrize("name", ["train", "serve"])
def test_dockerfile(name):
    text = DOCKERFILES[name]
    assert lint("hadolint", "--no-color", source=text) == ""
    worse = text.replace("--no-cache-dir ", "")
    assert "DL3042" in lint("hadolint", "--no-color", source=worse)
    # The build context contains exactly the copied files, which include those that setup.py reads.
    copied = {
        source for line in re.findall(r"^COPY (.*)$", text, re.M) for source in line.split()[:-1]
    }
    assert {"setup.py", "warp_translate", *re.findall(r'"(\w+\.md)"', SETUP)} <= copied
    assert ("experiments" in copied) == (name == "train")
    assert all((ROOT / source).exists() for source in copied)
    rules = re.findall(r"^[^#\s].*$", (ROOT / ".dockerignore").read_text(), re.M)
    included = {rule[1:] for rule in rules if rule[0] == "!"}
    assert rules[0] == "*" and included == copied | {"experiments"}
    # Nothing is installed as the unprivileged user, whom the JobSet names too.
    before, _, after = text.partition("USER 1000\n")
    assert "--uid=1000 " in before and "RUN" not in after
    assert 'ENTRYPOINT ["warp-translate"]\n' in after
    assert "runAsUser: 1000, fsGroup: 1000" in (LAUNCH / "kubernetes/jobset.yaml").read_text()


def test_serving_image_serves_its_exposed_port():
    (command,) = re.findall(r"^CMD (.*)$", DOCKERFILES["serve"], re.M)
    assert json.loads(command) == ["serve", "--host=0.0.0.0", "/bundles"]
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILES["serve"], re.M)
    assert re.search(rf'"port",\s+{port},', (ROOT / "warp_translate/cli/serve.py").read_text())


def test_installed_extras_exist():
    known = set(re.findall(r'^        "(\w+)": ', SETUP, re.M))
    texts = [*SCRIPTS.values(), *DOCKERFILES.values(), TASK["setup"]]
    found = [
        extras for text in texts for extras in re.findall(r"(?:\./?\[|EXTRAS=)([a-z0-9,]+)", text)
    ]
    assert len(found) >= 5
    for extras in found:
        assert set(extras.split(",")) <= known
