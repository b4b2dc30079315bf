from pathlib import Path

import pytest
from absl import flags

from warp_translate import storage
from warp_translate.cli import translate
from warp_translate.errors import UserError
from warp_translate.evaluation.features import load_extractor
from warp_translate.experiment import experiment_file


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_home_folder_is_meant_by_its_sign(home):
    assert translate  # Its import defines the flags.
    for name in ("workdir", "output", "bundle", "input"):
        parse = flags.FLAGS[name].parser.parse
        assert [parse(value) for value in ("~", "~/a b", "./~", "-")] == [
            *(str(home), f"{home}/a b", "./~", "-")
        ]


def test_it_is_where_no_flag_tells_that_it_is_a_path(home):
    """Fields of configurations, lists of folders, and words without a flag."""
    assert storage.to_path("~/runs") == storage.disk_path("~/runs", "FOLDER") == home / "runs"
    (home / "text").write_text("")
    with pytest.raises(UserError, match=f"{home}/text is a file"):
        storage.check_folder("~/text/run", "--workdir")
    (home / "mine.py").write_text("def get_config(arg=None):\n    return arg\n")
    assert experiment_file.load("~/mine.py").get_config(3) == 3
    with pytest.raises(UserError, match=str(home / "none.onnx")):
        load_extractor("~/none.onnx")
    assert storage.to_path("~nobody_of_this_name/x") == Path("~nobody_of_this_name/x")
