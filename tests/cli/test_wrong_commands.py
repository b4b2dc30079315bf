"""Every mistake of a user ends a command with status 2 and one line that names it."""

import random
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from tests import test_readme as pages
from tests.cli import wrong_commands, wrong_configurations, wrong_folders
from tests.cli.forked_commands import ROOT, ForkedCommands
from tests.cli.wrong import Places
from tests.serving.conftest import describe, random_generator
from warp_translate.cli.main import COMMANDS
from warp_translate.experiment.fields import TRAININGS, settings
from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import write_config

_SEED = 3
_QUICK = 12  # Of each group that is drawn from; the whole of it takes minutes.
_SECONDS = 60


@pytest.fixture(scope="module")
def run(data_dir):
    """Starts a command and waits for it."""
    # As conftest.py has it for this process, but on one device.
    flags = "--xla_backend_optimization_level=0"
    with ForkedCommands(ROOT, TFDS_DATA_DIR=data_dir, XLA_FLAGS=flags) as commands:
        yield commands


@pytest.fixture(scope="module")
def places(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    (folder / "empty.csv").write_text("")
    bundle = folder / "bundles" / "apple-pear"
    bundle.mkdir(parents=True)
    for name in (bundles.PARAMETERS, bundles.ONNX, bundles.jax_file(2)):
        (bundle / name).write_bytes(b"nothing that can be read")
    write_config(describe(bundle, random_generator()[0]))
    return Places(folder, workdir, str(bundle), str(pictures))


@pytest.fixture(scope="module")
def taken(run):
    return {command: run.flags(command) for command in COMMANDS}


@pytest.fixture(scope="module")
def wrongs(places, taken):
    """All of them, by the group."""
    rng = random.Random(_SEED)
    groups = {
        "commands": wrong_commands.commands(rng),
        "flags": wrong_commands.flags(rng, places, taken),
        **{
            group.__name__: group(rng, places)
            for group in (
                wrong_configurations.configuration,
                wrong_configurations.experiments,
                wrong_folders.runs,
                wrong_folders.bundles,
                wrong_commands.others,
            )
        },
    }
    return {name: list(group) for name, group in groups.items()}


def faults(done, wrong):
    """What is wrong with how a command answered."""
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.code != 2:
        yield f"status {done.code}"
    if "Traceback" in done.stderr:
        yield "a traceback"
    if len(said) != 1:
        yield f"{len(said)} errors"
        return
    missing = [culprit for culprit in wrong.culprits if culprit not in said[0]]
    if missing:
        yield f"{missing} not named"
    if wrong.meant and f"did you mean {wrong.meant}?" not in said[0]:
        yield f"{wrong.meant} not suggested"


def check(run, wrongs):
    found = []
    for wrong in wrongs:
        done = run(*wrong.args, timeout=_SECONDS)
        if problems := ", ".join(faults(done, wrong)):
            last = "".join(done.stderr.strip().splitlines()[-1:])
            found.append(f"warp-translate {shlex.join(wrong.args)}\n  {problems}\n  {last}")
    assert not found, f"{len(found)} of {len(wrongs)}:\n" + "\n".join(found)


def sample(name, group):
    """What is quick: of most groups some, and for each command at least one.

    All of the others, each of which is a check of its own. Of what is late one: two seconds.
    """
    early = [wrong for wrong in group if not wrong.late]
    chosen = early
    if name != "others":
        drawn = random.Random(_SEED).sample(early, len(early))
        by_command = {wrong.args[:1]: wrong for wrong in drawn}
        chosen = dict.fromkeys([*by_command.values(), *drawn[:_QUICK]])
    return [*chosen, *[wrong for wrong in group if wrong.late][:1]]


GROUPS = ("commands", "flags", "configuration", "experiments", "runs", "bundles", "others")


def test_there_are_many_and_they_are_about_everything(wrongs):
    every = [wrong for group in wrongs.values() for wrong in group]
    assert len({wrong.args for wrong in every}) > 500
    assert {wrong.args[0] for wrong in every if wrong.args} >= set(COMMANDS)
    words = " ".join(word for wrong in every for word in wrong.args)
    for kind in TRAININGS:
        wanted = set(settings(kind)) - wrong_configurations.ANY_TEXT
        assert all(f"--config.{name}=" in words for name in wanted)


@pytest.mark.parametrize("group", GROUPS)
def test_a_mistake_is_one_line_and_status_2(run, wrongs, group):
    check(run, sample(group, wrongs[group]))


@pytest.mark.full
@pytest.mark.parametrize("group", GROUPS)
def test_every_mistake_is_one_line_and_status_2(run, wrongs, group):
    check(run, wrongs[group])


def test_the_commands_of_the_pages_use_flags_that_are_taken(taken):
    for command, *words in pages.commands():
        used = {re.split(r"[=.]", word[2:])[0] for word in words if word.startswith("--")}
        assert used <= {*taken[command], *(f"no{name}" for name in taken[command])}, command
