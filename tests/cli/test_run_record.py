"""``run.json``: how a run was made."""

import json
import subprocess
from pathlib import Path

import pytest

from warp_translate.errors import UserError
from warp_translate.experiment import run_record


def test_a_run_has_a_record(workdir):
    record = json.loads((Path(workdir) / "run.json").read_text())
    assert record["command"][:2] == ["warp-translate", "train"]
    assert record["versions"]["jax"] and record["versions"]["flax"]
    assert record["starts"][-1] == record["started"]  # Other tests may start it again.
    assert record["devices"] and record["python"] and record["platform"]


def test_the_record_keeps_starts_and_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_mine")
    monkeypatch.setenv("API_KEY", "secret")
    run_record.write(tmp_path, step=0, changes={})
    assert "changes" not in json.loads((tmp_path / "run.json").read_text())
    run_record.write(tmp_path, step=70, changes={"optim.lr": (0.5, 0.25)})
    run_record.write(tmp_path, step=90, changes={})
    text = (tmp_path / "run.json").read_text()
    record = json.loads(text)
    assert len(record["starts"]) == 3
    assert record["starts"][-1] == record["started"]
    (change,) = record["changes"]
    assert change["step"] == 70 and change["fields"] == {"optim.lr": [0.5, 0.25]}
    assert record["environment"]["XLA_FLAGS"] == "--xla_of_mine" and "secret" not in text


DAMAGED = ["", "[]", '{"starts": 1}', '{"starts": ["a"], "checksum": "0123456789abcdef"}']


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_record_is_replaced_and_kept(tmp_path, damaged):
    (tmp_path / "run.json").write_text(damaged)
    notice = run_record.write(tmp_path, step=0, changes={})
    assert f"{tmp_path}/run.json is damaged" in notice and "run.json.damaged" in notice
    assert (tmp_path / "run.json.damaged").read_text() == damaged
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1
    assert run_record.write(tmp_path, step=0, changes={}) is None


def test_the_commit_is_marked_if_files_have_changed(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    source = tmp_path / "package" / "cli" / "run_record.py"
    source.parent.mkdir(parents=True)
    source.write_text("1")
    monkeypatch.setattr(run_record, "__file__", str(source))
    assert run_record.commit() is None, "there is no checkout"
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    head = git("rev-parse", "HEAD")[:12]
    assert run_record.commit() == head
    source.write_text("2")
    assert run_record.commit() == f"{head}+"
    monkeypatch.setenv("PATH", "")
    assert run_record.commit() is None, "there is no git"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --workdir"):
        run_record.write(tmp_path / "file", step=0, changes={})
