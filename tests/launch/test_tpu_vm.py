import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.launch.conftest import ROOT, call

SCRIPT = "launch/tpu_vm/tpu_vm.sh"
PLACE = ["--name=pod", "--zone=us-west4-a"]
TRAIN = ["train", "--config=experiments/paired.py", "--workdir=/mnt/runs/two words"]
# A gcloud that runs the command for the workers in the fake home.
WORKER = """
for word in "$@"; do
  if [[ $word == --command=* ]]; then cd "$HOME"; exec bash -c "${word#--command=}"; fi
done
"""


def tpu_vm(fake, *words):
    return call(f"./{SCRIPT}", *words, env=fake.environment)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["create", "--type=v5litepod-16", "--runtime=v2-alpha-tpuv5-lite", "--spot"],
            "queued-resources create pod --zone=us-west4-a --node-id=pod "
            "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot",
        ),
        (
            ["create", "--type=a", "--runtime=b", "--project=p"],
            "queued-resources create pod --zone=us-west4-a --project=p --node-id=pod "
            "--accelerator-type=a --runtime-version=b",
        ),
        (["status"], "queued-resources describe pod --zone=us-west4-a '--format=value(state)'"),
        (
            ["stop"],
            "tpu-vm ssh pod --zone=us-west4-a --worker=all "
            "'--command=kill -TERM $(cat warp_translate/train.pid)'",
        ),
        (["delete"], "queued-resources delete pod --zone=us-west4-a --force --quiet"),
    ],
)
def test_gcloud_calls(fake, words, expected):
    fake.add("gcloud")
    expected = ["compute", "tpus", *shlex.split(expected)]
    done = tpu_vm(fake, words[0], *PLACE, *words[1:])
    assert done.returncode == 0, done.stderr
    assert fake.calls("gcloud") == [expected]
    dry = tpu_vm(fake, words[0], *PLACE, *words[1:], "--dry-run")
    assert shlex.split(dry.stdout) == ["gcloud", *expected]
    assert len(fake.calls("gcloud")) == 1, "a dry run must call nothing"


def test_install_copies_the_committed_state(fake):
    fake.add("gcloud")
    fake.add("git")
    done = tpu_vm(fake, "install", *PLACE)
    assert done.returncode == 0, done.stderr
    (archive,) = fake.calls("git")
    file = archive[2].removeprefix("--output=")
    assert archive == ["archive", "--format=tar.gz", f"--output={file}", "HEAD"]
    assert not Path(file).exists(), "the archive is not removed"
    copied, installed = fake.calls("gcloud")
    assert copied[2:] == [
        *("tpu-vm", "scp", file, "pod:warp_translate.tar.gz", "--zone=us-west4-a"),
        "--worker=all",
    ]
    command = installed[-1].removeprefix("--command=")
    subprocess.run(["bash", "-n", "-c", command], check=True)


def test_run_trains_on_the_workers_until_stop(fake, parse_train):
    fake.add("gcloud", WORKER)
    program = fake.folder.parent / "warp_translate/.venv/bin/warp-translate"
    script = "trap 'exit 42' TERM; echo trained; touch ready; while :; do sleep 0.02; done"
    fake.add("warp-translate", script, path=program)
    running = subprocess.Popen(
        [f"./{SCRIPT}", "run", *PLACE, "--", *TRAIN],
        cwd=ROOT,
        env=fake.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not list(fake.folder.parent.rglob("ready")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert tpu_vm(fake, "stop", *PLACE).returncode == 0
        output = running.communicate(timeout=300)[0].splitlines()
    finally:
        running.kill()
    assert (running.returncode, output) == (42, ["trained", "exited with status 42"])
    (words,) = fake.calls("warp-translate")
    assert words == TRAIN
    assert parse_train(words).workdir == "/mnt/runs/two words"
    assert "--worker=all" in fake.calls("gcloud")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command"),
        (["begin"], "unknown command begin"),
        (["status", "--zone=z"], "--name is missing"),
        (["status", "--name=n"], "--zone is missing"),
        (["status", *PLACE, "--type", "a"], "unknown flag --type"),
        (["create", *PLACE, "--type=a"], "create needs --type and --runtime"),
        (["run", *PLACE], "run needs -- train"),
        (["run", *PLACE, "--", "evaluate"], "run needs -- train"),
        (["stop", *PLACE, "--", "train"], "stop takes no arguments after --"),
    ],
)
def test_user_errors(fake, words, message):
    fake.add("gcloud")
    done = tpu_vm(fake, *words)
    assert done.returncode == 2
    assert re.fullmatch(f"error: {message}.*; see --help\n", done.stderr)
    assert not fake.calls("gcloud")


def test_usage_lists_every_command_and_flag(fake):
    done = tpu_vm(fake, "--help")
    assert done.returncode == 0
    source = (ROOT / SCRIPT).read_text()
    commands = re.search(r"^  ([a-z| ]+)\) ;;$", source, re.M)[1].split(" | ")
    flags = re.findall(r"^    (--[a-z-]+)=?\*?\) ", source, re.M)
    assert len(commands) == 6 and len(flags) == 7
    for word in (*commands, *flags):
        assert re.search(rf"^  {word}\b", done.stdout, re.M), word
