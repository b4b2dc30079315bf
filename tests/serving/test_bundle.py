import json

import pytest

from tests.serving.conftest import describe
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
        ({"format": 2}, "format 2 is not 1"),
        ({"name": "../up"}, r"name '\.\./up' must be"),
        ({"source": ""}, "source '' must be"),
        ({"factor": True}, "factor is True"),
        ({"factor": 3}, "factor 3"),
        ({"factors": [0]}, r"factors are \[0\]"),
        ({"factors": [2, "4"]}, "factors are"),
        ({"size": "32"}, "size is '32'"),
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
    [("width", 0), ("blocks", 1.5), ("head", "both"), ("max_displacement", "far"), ("new", 1)],
)
def test_an_architecture_that_cannot_be_is_refused_by_its_field(copied, field, value):
    known = json.loads((copied / bundles.CONFIG).read_text())["architecture"]
    edit(copied, architecture=known | {field: value})
    refused(copied, rf"architecture\.{field} ")


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "[" * 100_000, '{"a": 1}'])
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
