"""``warp-translate checkpoints`` on a finished run."""

import shutil
from pathlib import Path

import pytest

from tests.damage import flip_bit
from warp_translate.errors import UserError
from warp_translate.experiment.restore import open_run_in
from warp_translate.training.checkpoint import DamagedCheckpoint


@pytest.fixture
def copied(workdir, tmp_path):
    return Path(shutil.copytree(workdir, tmp_path / "run"))


def steps(folder):
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_the_list_has_sizes_and_the_best_step(call, copied, capsys):
    call("checkpoints", workdir=str(copied))
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "MB", "test/output/l1"]
    assert {row.split()[0] for row in rows} == steps(copied) == {"2", "4"}
    taken = [float(row.split()[1]) for row in rows]
    files = [path for path in (copied / "checkpoints").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) / 1e6 == pytest.approx(sum(taken), abs=0.2)
    assert float(total.split()[1]) == pytest.approx(sum(taken), abs=0.11)
    assert sum("best" in row for row in rows) == 1 and "latest" in rows[-1]


def test_other_steps_are_removed(call, copied, capsys):
    call("checkpoints", workdir=str(copied), keep=["latest"])
    assert steps(copied) == {"4"}
    printed = capsys.readouterr()
    assert "removed 1 of 2" in printed.err and len(printed.out.splitlines()) == 3
    call("checkpoints", workdir=str(copied), keep=["best", "4"])
    assert steps(copied) == {"4"}


def test_an_unknown_step_removes_nothing(call, copied):
    with pytest.raises(UserError, match=r"no checkpoint of step 3 .*there are: 2, 4"):
        call("checkpoints", workdir=str(copied), keep=["latest", "3"])
    assert steps(copied) == {"2", "4"}


def damage(folder, step):
    """Flips a bit of the largest file of a step."""
    files = [path for path in (folder / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    flip_bit(max(files, key=lambda path: path.stat().st_size), 12345)


def test_verify_finds_damage(call, copied, capsys):
    call("checkpoints", workdir=str(copied), verify=True)
    rows = capsys.readouterr().out.splitlines()
    assert len([row for row in rows if row.endswith("verified")]) == 2
    damage(copied, 4)
    call("checkpoints", workdir=str(copied))
    with pytest.raises(UserError, match=r"1 of 2 checkpoints are damaged: .*step 4 in .*checksum"):
        call("checkpoints", workdir=str(copied), verify=True)
    assert "damaged" in capsys.readouterr().out
    with pytest.raises(UserError, match="step 4"):
        call("checkpoints", workdir=str(copied), keep=["4"])
    call("checkpoints", workdir=str(copied), keep=["latest"])
    assert steps(copied) == {"2"}


def test_a_damaged_step_is_not_restored(copied, caplog):
    damage(copied, 4)
    with open_run_in(str(copied)) as run:
        assert run.restore(run.step("latest")).step == 2
        with pytest.raises(DamagedCheckpoint, match=r"step 4 in .* is damaged"):
            run.restore(run.step(4))
    assert "step 2 is used instead" in caplog.text
