import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageCms

from warp_translate.data.domains import open_domains
from warp_translate.data.unpaired_folder import unpaired_folder_config
from warp_translate.data.unpaired_layout import UnpairedLayout, scan_domains
from warp_translate.errors import UserError
from warp_translate.image_io import read_image, write_image

COUNTS = {"trainA": 4, "trainB": 2, "testA": 1, "testB": 3}


@pytest.fixture
def images(tmp_path, rng):
    """Images of several sizes and formats, by their paths below the root."""
    images = {}
    for split, count in COUNTS.items():
        (tmp_path / "root" / split).mkdir(parents=True)
        for i in range(count):
            name = f"{split}/{i}.{('png', 'jpg')[i % 2]}"
            images[name] = rng.integers(0, 256, (5 + i, 9 - i, 3), dtype=np.uint8)
            write_image(tmp_path / "root" / name, images[name])
    return images


def test_images_come_back_in_the_order_of_names(tmp_path, images):
    domains = open_domains("unpaired_folder", tmp_path / "data", root=tmp_path / "root")
    assert not domains.paired_test
    for split, count in COUNTS.items():
        source = getattr(domains, f"{split[:-1]}_{split[-1].lower()}")
        assert len(source) == count
        for i, image in enumerate(source):
            name = f"{split}/{i}.{('png', 'jpg')[i % 2]}"
            np.testing.assert_array_equal(image, read_image(tmp_path / "root" / name).rgb)
            if i % 2 == 0:
                np.testing.assert_array_equal(image, images[name])


def test_transparent_images_lie_over_white(tmp_path, images):
    clear = np.zeros((4, 4), np.uint8)
    write_image(tmp_path / "root/testA/0.png", np.zeros((4, 4, 3), np.uint8), clear)
    domains = open_domains("unpaired_folder", tmp_path / "data", root=tmp_path / "root")
    assert (domains.test_a[0] == 255).all()


def test_any_jpeg_comes_back_as_it_is_read_elsewhere(tmp_path, images, rng):
    """Gray, CMYK and turned ones, a PNG that is called JPEG, one with a color profile."""
    folder = tmp_path / "root/testB"
    grey = Image.fromarray(rng.integers(0, 256, (6, 9), dtype=np.uint8))
    grey.save(folder / "grey.jpg")
    grey.save(folder / "png.jpg", "PNG")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    grey.convert("RGB").save(folder / "turned.jpeg", exif=turned)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"_").replace(b"bXYZ", b"rXYZ").replace(b"_", b"bXYZ")
    Image.new("RGB", (9, 6), (200, 9, 20)).save(folder / "profile.jpg", icc_profile=swapped)
    domains = open_domains("unpaired_folder", tmp_path / "data", root=tmp_path / "root")
    paths = scan_domains(tmp_path / "root").splits["testB"]
    assert len(paths) == len(domains.test_b) == 8
    for path, image in zip(paths, domains.test_b, strict=True):
        np.testing.assert_array_equal(image, read_image(path).rgb)
    assert np.abs(domains.test_b[6].astype(int) - [20, 9, 200]).max() < 4
    assert domains.test_b[7].shape == (9, 6, 3)


def test_a_jpeg_is_stored_as_it_is(tmp_path, images):
    open_domains("unpaired_folder", tmp_path / "data", root=tmp_path / "root")
    (folder,) = (tmp_path / "data/unpaired_folder").glob("*/1.1.0")
    undecoded = {"image": tfds.decode.SkipDecoding()}
    records = tfds.builder_from_directory(folder).as_data_source("trainA", decoders=undecoded)
    assert records[1]["image"] == (tmp_path / "root/trainA/1.jpg").read_bytes()


def test_a_changed_folder_is_prepared_anew(tmp_path, images):
    root = tmp_path / "root"
    open_domains("unpaired_folder", tmp_path / "data", root=root)
    open_domains("unpaired_folder", tmp_path / "data", root=root)
    assert len(list((tmp_path / "data/unpaired_folder").iterdir())) == 1
    write_image(root / "trainB/0.png", 255 - images["trainB/0.png"])
    domains = open_domains("unpaired_folder", tmp_path / "data", root=root)
    np.testing.assert_array_equal(domains.train_b[0], 255 - images["trainB/0.png"])


def test_config_follows_the_splits(tmp_path, images):
    """Domains that are chosen by a table change without any file changing."""
    layout = scan_domains(tmp_path / "root")
    swapped = {
        split: layout.splits[f"{split[:-1]}{'BA'['AB'.index(split[-1])]}"] for split in COUNTS
    }
    other = UnpairedLayout(layout.root, swapped, layout.held_out)
    assert unpaired_folder_config(layout).name == unpaired_folder_config(layout).name
    assert unpaired_folder_config(layout).name != unpaired_folder_config(other).name


def test_a_bad_image_is_named_and_no_set_is_left(tmp_path, images):
    path = tmp_path / "root/trainA/2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"1 of the 10 images of .*trainA/2\.png") as error:
        open_domains("unpaired_folder", tmp_path / "data", root=tmp_path / "root")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_holding_out_is_said(tmp_path, images, caplog):
    for split in ("testA", "testB"):
        (tmp_path / "root" / split).rename(tmp_path / split)
    with caplog.at_level(logging.WARNING, logger="absl"):
        domains = open_domains("unpaired_folder", tmp_path / "data", root=tmp_path / "root")
    assert "no test folders: 1 images of A and 1 of B" in caplog.text
    assert [len(domains.train_a), len(domains.test_a)] == [3, 1]
    assert [len(domains.train_b), len(domains.test_b)] == [1, 1]
