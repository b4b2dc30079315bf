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


def assert_rejected(folder, match, **options):
    with pytest.raises(UserError, match=match) as error:
        bundles.read_any(folder, **options)
    assert "\n" not in str(error.value)


def edit(folder, **changes):
    path = folder / bundles.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_read_returns_the_exported_description(exported):
    bundle, generator, _, _ = exported
    assert bundle == describe(bundle.folder, generator, files=bundle.files)
    assert set(bundle.files) == {
        *("model.safetensors", "model.onnx", "parity.json"),
        *("factor2.jaxexport", "factor4.jaxexport"),
    }
    there = {path.name for path in bundle.folder.iterdir()}
    assert there == {*bundle.files, "config.json", "README.md"}


def test_no_file_names_a_folder_of_the_machine(exported):
    bundle, *_ = exported
    package = str(Path(bundles.__file__).parents[2]).encode()
    for path in bundle.folder.iterdir():
        assert package not in path.read_bytes(), path.name


def test_card_has_the_hub_header_and_may_be_edited(copied):
    card = copied / bundles.CARD
    assert card.read_text().startswith("---\nlibrary_name: flax\npipeline_tag: image-to-image\n")
    card.write_text("mine")
    assert bundles.read(copied).name == "apple-pear"


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "factor4.jaxexport"])
def test_damaged_and_missing_files_are_named(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    assert_rejected(copied, rf"{name} is damaged")
    assert bundles.read(copied, verify=False).name == "apple-pear"
    (copied / name).unlink()
    assert_rejected(copied, rf"{name} cannot be read", verify=False)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 3}, "format must be 2, got 3"),
        ({"format": True}, "format must be 2, got True"),
        ({"kind": "oracle"}, "kind must be one of generator, classifier, got 'oracle'"),
        ({"name": "../up"}, r"name must be .* got '\.\./up'"),
        ({"name": "x" * 1000}, r"name must be .* got 'xxx\S+xxx'"),
        ({"source": ""}, "source must be .* got ''"),
        ({"factor": True}, "factor must be an integer from 1 to 64, got True"),
        ({"factor": 3}, r"factor must be one of its factors \[2, 4\], got 3"),
        ({"factors": [0]}, r"factors must be .* got \[0\]"),
        ({"factors": [2, "4"]}, "factors must be a list of integers"),
        ({"factors": []}, "factors must be a list of integers"),
        ({"factors": [2, 10**6]}, r"integers from 1 to 64, got \[2, 1000000\]"),
        ({"size": "32"}, "size must be an integer from 1 to 16384, got '32'"),
        ({"size": 10**6}, "size must be .* got 1000000"),
        ({"size": 10**400}, r"it holds the number 1000000000\.\.\., which is too large"),
        ({"provenance": []}, r"provenance must be an object, got \[\]"),
        ({"files": {f"f{n}": "0" * 64 for n in range(65)}}, "files must be .* at most 64 files"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "file '../../etc/passwd'"),
        ({"files": {"model.onnx": "0"}}, "file 'model.onnx' with checksum '0'"),
        ({"files": {"model.onnx": "0" * 64}}, "model.safetensors is not among"),
        ({"architecture": {}}, r"architecture\.width is missing"),
    ],
)
def test_invalid_fields_are_named(copied, changes, match):
    edit(copied, **changes)
    assert_rejected(copied, match)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", 0), ("width", 10**19), ("blocks", 1.5), ("blocks", 10**6), ("head", "both")),
        *(("max_displacement", "far"), ("max_displacement", float("inf")), ("mask_bias", -1e200)),
        ("displacement_threshold", -0.1),
        *(("new", 1), ("head_kernel", 4), ("color_modulation", 1), ("synthesis", "both")),
    ],
)
def test_invalid_architecture_fields_are_named(copied, field, value):
    known = json.loads((copied / bundles.CONFIG).read_text())["architecture"]
    edit(copied, architecture=known | {field: value})
    assert_rejected(copied, rf"architecture\.{field} ")


def test_flipped_bits_of_a_config_are_detected(copied):
    path, chance = copied / bundles.CONFIG, random.Random(0)
    whole, known = path.read_bytes(), bundles.read(copied)
    for place in (0, *chance.sample(range(8 * len(whole)), 150)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert bundles.read(copied, verify=False) == known  # In white space.
        except UserError as error:
            assert str(path) in str(error)


def test_format_1_is_read_with_a_warning(copied, caplog):
    path, known = copied / bundles.CONFIG, bundles.read(copied)
    assert not caplog.text
    edit(copied, format=1, provenance={"figures": {"psnr": float("inf")}})
    found = bundles.read(copied)
    assert found.files == known.files and found.provenance == {"figures": {"psnr": "Infinity"}}
    assert f"{path} is of an earlier format" in caplog.text


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
    assert_rejected(copied, rf"{name} cannot be read \({reason}")


def test_files_may_be_links_as_in_hub_caches(copied, tmp_path):
    (tmp_path / "blobs").mkdir()
    for path in list(copied.iterdir()):
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
def test_malformed_configs_are_rejected(copied, text):
    (copied / bundles.CONFIG).write_text(text)
    assert_rejected(copied, "config.json")


def test_missing_bundle_is_rejected(tmp_path):
    assert_rejected(tmp_path / "none", "holds no bundle")


def replace(folder, text):
    with bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_is_replaced_atomically(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "one"
    for text in ("first", "second"):
        with bundles.replaced(folder) as partial:
            (partial / bundles.CONFIG).write_text(text)
            assert not folder.exists() or (folder / bundles.CONFIG).read_text() == "first"
        assert (folder / bundles.CONFIG).read_text() == text
    with pytest.raises(ZeroDivisionError), bundles.replaced(folder) as partial:
        (partial / bundles.CONFIG).write_text("third")
        raise ZeroDivisionError
    rename = type(folder).rename

    def refuse(path, target):
        if path.name.endswith(".partial"):
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", refuse)
    with pytest.raises(OSError):
        replace(folder, "fourth")
    assert (folder / bundles.CONFIG).read_text() == "second"
    assert names(folder.parent) == ["one"]


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"exists without config\.json"):
        replace(tmp_path / "one", "first")
    assert (tmp_path / "one" / "thesis.txt").read_text() == "precious"


# Replaces a bundle, and dies before the last of so many file operations.
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
def test_recover_cleans_up_after_a_killed_export(tmp_path, left, expected, back):
    folder = tmp_path / "one"
    replace(folder, "first")
    command = [sys.executable, "-c", KILLED, str(folder), str(left)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 9 and len(names(tmp_path)) > 1
    if back is not None:
        assert bundles.recover(tmp_path) == back
    else:  # The next export recovers, too.
        with pytest.raises(ZeroDivisionError), bundles.replaced(tmp_path / "another"):
            raise ZeroDivisionError
    assert (folder / bundles.CONFIG).read_text() == expected
    assert names(tmp_path) == ["one"]


def test_recover_leaves_running_exports_and_other_files_alone(tmp_path):
    with bundles.replaced(tmp_path / "one") as partial:
        (partial / bundles.CONFIG).write_text("first")
        assert bundles.recover(tmp_path) == []
        replace(tmp_path / "two", "first")
    for kind in ("older", "partial", "text"):
        (tmp_path / f".three.0a1b2c3d.{kind}").mkdir()
    (tmp_path / ".three.partial").mkdir()
    assert bundles.recover(tmp_path) == ["three"]
    assert names(tmp_path) == [".three.0a1b2c3d.text", ".three.partial", "one", "three", "two"]


def test_provenance_is_json_for_any_metrics(copied):
    found = bundles.provenance({"a": (1, 2)}, 3, {"nan": float("nan"), "inf": float("inf")})
    assert found["figures"] == {"nan": "NaN", "inf": "Infinity"} and found["config"]["a"] == [1, 2]
    content = json.loads((copied / bundles.CONFIG).read_text())
    del content[sealed.KEY]
    assert sealed.is_intact(sealed.loads(sealed.dumps(content | {"provenance": found}).encode()))
