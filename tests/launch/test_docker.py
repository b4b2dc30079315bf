import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "launch/docker"
TRAINING = {
    "cpu": {"demo", "eval"},
    "cuda": {"demo", "eval", "cuda"},
    "tpu": {"demo", "eval", "tpu"},
}
KINDS = {**TRAINING, "serve": {"serve"}}


def text(kind):
    return (FOLDER / f"{kind}.Dockerfile").read_text()


def hadolint(*words, **options):
    return subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", *words],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_there_is_one_for_each_kind():
    assert {path.name for path in FOLDER.iterdir()} == {f"{kind}.Dockerfile" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_hadolint_finds_nothing(kind):
    done = hadolint(FOLDER / f"{kind}.Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    worse = text(kind).replace("--no-cache-dir ", "")
    assert "DL3042" in hadolint("-", input=worse).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_they_install_what_setup_py_has(kind):
    extras = set(re.search(r"'\./\[(.*)\]'", text(kind))[1].split(","))
    assert extras == KINDS[kind]
    for extra in extras:
        assert f'"{extra}":' in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_what_they_copy_is_there_and_nothing_else_is_sent(kind):
    copied = {
        source
        for line in re.findall(r"^COPY (.*)$", text(kind), re.M)
        for source in line.split()[:-1]
    }
    assert {"setup.py", "warp_translate"} <= copied
    # Who trains has configurations.
    assert ("experiments" in copied) == (kind in TRAINING)
    for source in copied:
        assert (ROOT / source).exists(), source
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_through = {rule[1:] for rule in rules if rule[0] == "!"}
    assert let_through == copied | {"experiments"}
    # What setup.py reads must have been copied before it is called.
    read = set(re.findall(r'"(\w+\.md)"', (ROOT / "setup.py").read_text()))
    assert read and read <= copied


@pytest.mark.parametrize("kind", TRAINING)
def test_the_user_is_the_one_that_the_jobset_names(kind):
    (user,) = re.findall(r"^USER (\d+)$", text(kind), re.M)
    assert f"--uid={user} " in text(kind)
    assert (
        f"runAsUser: {user}, fsGroup: {user}"
        in (ROOT / "launch/kubernetes/jobset.yaml").read_text()
    )
    # Below it nothing is installed, and the entry point is the command.
    after = text(kind).partition(f"USER {user}\n")[2]
    assert "RUN" not in after
    assert after.endswith('ENTRYPOINT ["warp-translate"]\n')


def test_the_one_that_serves_can_be_reached_and_is_nobody_special():
    after = text("serve").partition("USER 1000\n")[2]
    assert "RUN" not in after
    (command,) = re.findall(r"^CMD (.*)$", after, re.M)
    assert json.loads(command) == ["serve", "--host=0.0.0.0", "/bundles"]
    (port,) = re.findall(r"^EXPOSE (\d+)$", after, re.M)
    assert f'"port", {port},' in (ROOT / "warp_translate/cli/serve.py").read_text()
