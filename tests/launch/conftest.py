"""Fixtures of the launchers' tests: train's flag parser, and fake commands."""

import copy
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from warp_translate.cli import train

ROOT = Path(__file__).parents[2]


def call(*words, **options):
    """Runs a command in the checkout and returns its status and output."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300, **options}
    return subprocess.run(words, check=False, **options)


@pytest.fixture
def parse_train(monkeypatch):
    """Parses the arguments of ``warp-translate`` as the real command does and returns its flags."""
    assert train.COMMAND  # The module defines the flags.

    def parse(words):
        assert words[0] == "train", words
        values = flags.FlagValues()
        for name in flags.FLAGS:
            # Short names come with the long ones.
            if name == flags.FLAGS[name].name and name.partition(".")[0] != "config":
                values[name] = copy.deepcopy(flags.FLAGS[name])
        config_flags.DEFINE_config_file("config", None, flag_values=values, lock_config=True)
        monkeypatch.chdir(ROOT)
        # config_flags reads sys.argv to define the overridden fields.
        monkeypatch.setattr(sys, "argv", list(words))
        assert values(sys.argv) == ["train"], f"not all of {words} are flags"
        assert values.config is not None and values.workdir, words
        return values

    return parse


@pytest.fixture
def fake(tmp_path):
    """Creates commands from bash scripts; ``fake.environment`` has them first on PATH."""
    return Fake(tmp_path)


class Fake:
    def __init__(self, folder):
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.log = folder / "calls"
        self.environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CALLS": str(self.log),
        }

    def add(self, name, script="", path=None):
        """Adds a command that logs its arguments to ``calls`` and runs the script."""
        path = path or self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        record = f'printf "%s\\0" {name} "$@" "" >> "$CALLS"; printf "\\n" >> "$CALLS"'
        path.write_text(f"#!/bin/bash\n{record}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, name):
        """Returns the arguments of every call of a command."""
        text = self.log.read_text() if self.log.exists() else ""
        found = [call.split("\0") for call in text.split("\0\0\n")]
        return [words[1:] for words in found if words[0] == name]
