"""Every shell script of the launchers is checked by shellcheck, those inside of YAML too."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "launch").rglob("*") if path.suffix in (".sh", ".sbatch"))
TASK = yaml.safe_load((ROOT / "launch/skypilot/train.yaml").read_text())


def shellcheck(script):
    return subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "--color=never", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_scripts():
    assert {"train.sbatch", "array.sbatch", "tpu_vm.sh"} == {path.name for path in SCRIPTS}


@pytest.mark.parametrize(
    "script",
    [*(path.read_text() for path in SCRIPTS), TASK["setup"], TASK["run"]],
    ids=[*(path.name for path in SCRIPTS), "skypilot setup", "skypilot run"],
)
def test_shellcheck_finds_nothing(script):
    done = shellcheck(script)
    assert (done.returncode, done.stdout) == (0, "")
    assert "SC2154" in shellcheck(f"{script}\ncat $nowhere\n").stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_strict(path):
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
