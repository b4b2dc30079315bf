"""What the READMEs tell users to type exists; the two set-up commands are run by .ci/run."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from warp_translate.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
READMES = [
    "README.md",
    "experiments/README.md",
    "launch/README.md",
    "experiments/COOKBOOK.md",
    "warp_translate/METHOD.md",
]


def blocks(language, pages=READMES):
    for name in pages:
        text = (ROOT / name).read_text(encoding="utf-8")
        yield from re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands():
    """Every ``warp-translate ...`` as a list of words."""
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "warp-translate" in words:
                yield words[words.index("warp-translate") + 1 :]


def test_every_command_is_shown():
    """That their flags exist is tested in tests/cli/test_mistakes.py."""
    assert {words[0] for words in commands()} == set(COMMANDS)


def test_overridden_fields_and_experiment_files_exist():
    overridden = 0
    for words in commands():
        config = None
        for word in words:
            if word.startswith("--config="):
                path, _, arg = word.removeprefix("--config=").partition(":")
                assert (ROOT / path).is_file(), path
                module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
                config = module.get_config(arg)  # Its own arguments are checked here.
            elif word.startswith("--config."):
                assert config is not None, f"{' '.join(words)}: --config comes first"
                section, name = word.removeprefix("--config.").split("=")[0].split(".")
                assert name in config[section], word
                overridden += 1
    assert overridden


def test_linked_files_exist():
    for name in READMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


@pytest.mark.full
@pytest.mark.parametrize("code", list(blocks("python", READMES[:1])))
def test_python_blocks_run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 333, 517, 3) (1, 333, 517, 1) (1, 333, 517, 2)" in done.stdout
