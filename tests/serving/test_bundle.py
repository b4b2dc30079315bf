import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import describe
from warp_translate import sealed
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles


def refused(folder, match, **options):
    with pytest.raises(UserError, match=match) as error:
        bundles.read(folder, **options)
    assert "\n" not in str(error.value)


def edit(folder, **changes):
    path = folder / bundles.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_says_what_it_is(exported):
    bundle, generator, _, _ = exported
    expected = describe(bundle.folder, generator, files=bundle.files)
    assert bundle == expected
    assert set(bundle.files) == {
        *("model.safetensors", "model.onnx", "model_float.onnx", "parity.json"),
        *("factor2.jaxexport", "factor4.jaxexport"),
    }
    assert {path.name for path in bundle.folder.iterdir()} == {
        *bundle.files,
        "config.json",
        "README.md",
    }


def test_the_card_is_for_people_to_write_on(copied):
    card = copied / bundles.CARD
    assert card.read_text().startswith("---\nlibrary_name: flax\npipeline_tag: image-to-image\n")
    card.write_text("mine")
    assert bundles.read(copied).name == "apple-pear"


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "factor4.jaxexport"])
def test_a_damaged_file_is_found(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    refused(copied, rf"{name} is damaged")
    assert bundles.read(copied, verify=False).name == "apple-pear"
    (copied / name).unlink()
    refused(copied, rf"{name} cannot be read", verify=False)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 3}, "format 3 is not 2"),
        ({"format": True}, "format True is not 2"),
        ({"name": "../up"}, r"name '\.\./up' must be"),
        ({"source": ""}, "source '' must be"),
        ({"factor": True}, "factor is True"),
        ({"factor": 3}, "factor 3"),
        ({"factors": [0]}, r"factors are \[0\]"),
        ({"factors": [2, "4"]}, "factors are"),
        ({"factors": [2, 10**6]}, r"factors are \[2, 1000000\], not 1 to 64 each"),
        ({"size": "32"}, "size is '32'"),
        ({"size": 10**6}, "size is 1000000, not 1 to"),
        ({"size": 10**400}, r"it holds the number 1000000000\.\.\., which is too large"),
        ({"name": "x" * 1000}, r"name 'xxx\S+xxx' must be"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "file '../../etc/passwd'"),
        ({"files": {"model.onnx": "0" * 64}}, "model.safetensors is not among"),
        ({"architecture": {}}, "is missing"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_field(copied, changes, match):
    edit(copied, **changes)
    refused(copied, match)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", 0), ("width", 10**19), ("blocks", 1.5), ("blocks", 10**6), ("head", "both")),
        *(("max_displacement", "far"), ("max_displacement", float("inf")), ("mask_bias", -1e200)),
        ("new", 1),
    ],
)
def test_an_architecture_that_cannot_be_is_refused_by_its_field(copied, field, value):
    known = json.loads((copied / bundles.CONFIG).read_text())["architecture"]
    edit(copied, architecture=known | {field: value})
    refused(copied, rf"architecture\.{field} ")


def test_no_flipped_bit_of_a_config_changes_a_bundle(copied):
    path, chance = copied / bundles.CONFIG, random.Random(0)
    whole, known = path.read_bytes(), bundles.read(copied)
    for place in (0, *chance.sample(range(8 * len(whole)), 150)):
        spoilt = bytearray(whole)
        spoilt[place // 8] ^= 1 << place % 8
        path.write_bytes(spoilt)
        try:
            assert bundles.read(copied, verify=False) == known  # Of white space.
        except UserError as error:
            assert str(path) in str(error)


def test_an_earlier_export_is_read_with_a_warning(copied, caplog):
    path, known = copied / bundles.CONFIG, bundles.read(copied)
    assert not caplog.text
    edit(copied, format=1, provenance={"figures": {"psnr": float("inf")}})
    found = bundles.read(copied)
    assert found.files == known.files and found.provenance == {"figures": {"psnr": "Infinity"}}
    assert f"{path} is of an earlier export" in caplog.text


@pytest.mark.parametrize("name", ["config.json", "model.onnx"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "large"])
def test_only_regular_files_of_a_bounded_size_are_read(copied, name, what):
    path = copied / name
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    reason = "it has more than" if what == "large" else "it is no regular file"
    refused(copied, rf"{name} cannot be read \({reason}")


def test_files_may_be_links_as_in_the_caches_of_model_hubs(copied, tmp_path):
    for path in list(copied.iterdir()):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(tmp_path / "blobs" / path.name)
    assert bundles.read(copied).name == "apple-pear"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[1]", "{", "null", "[" * 100_000, '{"a": 1}', '{"format": 2, "format": 2}'),
        *('{"format": NaN}', '{"format": 1e999}', "\ufeff{}"),
    ],
)
def test_what_is_no_config_is_refused(copied, text):
    (copied / bundles.CONFIG).write_text(text)
    refused(copied, "config.json")


def test_no_bundle_is_a_mistake(tmp_path):
    refused(tmp_path / "none", "holds no bundle")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "a" / "one"
    for text in ("first", "second"):
        with bundles.replaced(folder) as partial:
            (partial / bundles.CONFIG).write_text(text)
            assert not folder.exists() or (folder / bundles.CONFIG).read_text() == "first"
        assert (folder / bundles.CONFIG).read_text() == text
    with pytest.raises(ZeroDivisionError), bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text("third")
        raise ZeroDivisionError
    assert (folder / bundles.CONFIG).read_text() == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_one_that_cannot_take_its_place_leaves_the_older_one(tmp_path, monkeypatch):
    folder = tmp_path / "one"
    with bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text("first")
    rename = type(folder).rename

    def refuse(path, target):
        if path.name.endswith(".partial"):
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", refuse)
    with pytest.raises(OSError), bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text("second")
    assert (folder / bundles.CONFIG).read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_is_no_bundle_is_left_alone(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is no bundle"), bundles.replaced(tmp_path / "one"):
        pass
    assert (tmp_path / "one" / "thesis.txt").read_text() == "precious"


# Replaces a bundle, and is killed before it does the last of so many things.
KILLED = """
import os, pathlib, shutil, sys
from warp_translate.serving import bundle
left = int(sys.argv[2])
def or_die(action):
    def act(*arguments, **options):
        global left
        left -= 1
        if not left:
            os._exit(9)
        return action(*arguments, **options)
    return act
pathlib.Path.rename, shutil.rmtree = or_die(pathlib.Path.rename), or_die(shutil.rmtree)
with bundle.replaced(pathlib.Path(sys.argv[1])) as partial:
    (partial / "config.json").write_text("second")
"""


@pytest.mark.parametrize(
    ("left", "expected", "back"),
    [
        *((1, "first", []), (2, "first", ["one"]), (3, "second", []), (4, "second", [])),
        (2, "first", None),
    ],
)
def test_what_a_killed_export_left_is_put_right(tmp_path, left, expected, back):
    folder = tmp_path / "one"
    with bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text("first")
    command = [sys.executable, "-c", KILLED, str(folder), str(left)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 9 and len(list(tmp_path.iterdir())) > 1
    if back is not None:
        assert bundles.recover(tmp_path) == back
    else:  # The next export does it.
        with pytest.raises(ZeroDivisionError), bundles.replaced(tmp_path / "another"):
            raise ZeroDivisionError
    assert (folder / bundles.CONFIG).read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_a_living_export_writes_is_left_alone(tmp_path):
    folder = tmp_path / "one"
    with bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text("first")
        assert bundles.recover(tmp_path) == []
        with bundles.replaced(tmp_path / "two") as other:
            (other / bundles.CONFIG).write_text("first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_what_earlier_versions_left_is_cleared_away_and_nothing_else(tmp_path):
    (tmp_path / ".one.0a1b2c3d.older").mkdir()
    (tmp_path / ".one.0a1b2c3d.partial").mkdir()
    (tmp_path / ".one.0a1b2c3d.text").mkdir()
    (tmp_path / ".one.partial").mkdir()
    assert bundles.recover(tmp_path) == ["one"]
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".one.0a1b2c3d.text", ".one.partial", "one"]


def test_provenance_is_json_whatever_was_measured(copied):
    found = bundles.provenance({"a": (1, 2)}, 3, {"nan": float("nan"), "inf": float("inf")})
    assert found["figures"] == {"nan": "NaN", "inf": "Infinity"} and found["config"]["a"] == [1, 2]
    content = json.loads((copied / bundles.CONFIG).read_text())
    del content[sealed.KEY]
    assert sealed.is_intact(sealed.loads(sealed.dumps(content | {"provenance": found}).encode()))
