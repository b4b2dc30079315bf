import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from warp_translate.data.sources import open_pairs, prepare
from warp_translate.errors import UserError
from warp_translate.image_io import read_image, write_image


@pytest.fixture
def strips(tmp_path, rng):
    """Strips of several sizes, by their paths below the root."""
    images = {
        f"{split}/{i}.png": rng.integers(0, 256, (4 + i, 2 * (4 + i), 3), dtype=np.uint8)
        for split, count in (("train", 5), ("test", 2))
        for i in range(count)
    }
    for name, image in images.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "root" / name, image)
    return images


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_pairs_come_back_bit_equal_in_the_order_of_names(tmp_path, strips, direction):
    builder = prepare(
        "paired_folder", tmp_path / "data", root=tmp_path / "root", direction=direction
    )
    assert set(builder.info.splits) == {"train", "test"}
    for split, count in (("train", 5), ("test", 2)):
        pairs = open_pairs(builder, split)
        assert len(pairs) == count
        for i in range(count):
            halves = np.split(strips[f"{split}/{i}.png"], 2, axis=1)
            source, target = halves if direction == "AtoB" else halves[::-1]
            np.testing.assert_array_equal(pairs[i]["source"], source)
            np.testing.assert_array_equal(pairs[i]["target"], target)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_jpegs_of_their_own_are_stored_as_they_are(tmp_path, rng, direction):
    for name in ("trainA/0.jpg", "trainB/0.png", "trainA/1.jpg", "trainB/1.jpeg"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    builder = prepare(
        "paired_folder", tmp_path / "data", root=tmp_path / "root", direction=direction
    )
    undecoded = {name: tfds.decode.SkipDecoding() for name in ("source", "target")}
    stored = [
        record
        for split in ("train", "test")
        for record in builder.as_data_source(split, decoders=undecoded)
    ]
    decoded = [*open_pairs(builder, "train"), *open_pairs(builder, "test")]
    assert len(stored) == len(decoded) == 2
    of_a, of_b = ("source", "target") if direction == "AtoB" else ("target", "source")
    kept = {path.read_bytes(): path for path in (tmp_path / "root").rglob("*.jp*g")}
    by_a = {kept[record[of_a]].stem: record[of_b] for record in stored}
    assert kept[by_a["1"]].name == "1.jpeg"
    assert by_a["0"].startswith(b"\x89PNG")
    shown = {pair[of_a].tobytes(): pair[of_b] for pair in decoded}
    for name, suffix in (("0", "png"), ("1", "jpeg")):
        a = read_image(tmp_path / f"root/trainA/{name}.jpg").rgb
        b = read_image(tmp_path / f"root/trainB/{name}.{suffix}").rgb
        np.testing.assert_array_equal(shown[a.tobytes()], b)


def test_a_changed_folder_is_prepared_anew(tmp_path, strips):
    root = tmp_path / "root"
    first = prepare("paired_folder", tmp_path / "data", root=root)
    again = prepare("paired_folder", tmp_path / "data", root=root)
    assert again.data_dir == first.data_dir
    write_image(root / "train" / "0.png", 255 - strips["train/0.png"])
    changed = prepare("paired_folder", tmp_path / "data", root=root)
    assert changed.data_dir != first.data_dir
    np.testing.assert_array_equal(
        open_pairs(changed, "train")[0]["source"], 255 - strips["train/0.png"][:, :4]
    )


def test_bad_pairs_leave_nothing_behind(tmp_path, strips):
    for split in ("train", "test"):  # Of either split there is one shard.
        path = tmp_path / "root" / split / f"{3 if split == 'train' else 1}.png"
        path.write_bytes(path.read_bytes()[:60])
    for _ in range(2):
        with pytest.raises(UserError, match=r"train/3\.png") as error:
            prepare("paired_folder", tmp_path / "data", root=tmp_path / "root")
        assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("AtoB*"))


def test_direction(tmp_path, strips):
    with pytest.raises(UserError, match="AtoC"):
        prepare("paired_folder", tmp_path / "data", root=tmp_path / "root", direction="AtoC")
