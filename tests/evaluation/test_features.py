"""Feature extractors: preprocessing, crops, features and invalid files."""

import dataclasses
import hashlib
import importlib.util
import sys

import numpy as np
import onnx.parser
import pytest
from PIL import Image
from safetensors.numpy import save_file
from scipy import ndimage
from skimage import data

from warp_translate.errors import UserError
from warp_translate.evaluation import features, weights
from warp_translate.evaluation.features import FeatureExtractor, load_extractor, load_network


def _pixels(size=(5, 7), batch_size=16, view="resized"):
    """An extractor whose features are its input pixels."""
    return FeatureExtractor(
        "pixels",
        64 * "0",
        size,
        "cubic",
        lambda images: images.reshape(len(images), -1),
        batch_size,
        view,
    )


def _write_graph(path, pixels="float[n, 3, 6, 8]", axes="2, 3", features="[n, 3]"):
    """A graph whose features are the mean color plus the channel index."""
    keep = int(features.count(",") > 1)
    onnx.save(
        onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : 18]>
            mean ({pixels} pixels) => (float{features} features)
            <int64[{len(axes.split(","))}] axes = {{{axes}}},
             float[{"3, 1, 1" if keep else "3"}] offset = {{0, 1, 2}}> {{
                floats = Cast <to: int = 1> (pixels)
                means = ReduceMean <keepdims: int = {keep}> (floats, axes)
                features = Add (means, offset)
            }}"""),
        path,
    )
    return path


@pytest.mark.parametrize("size", [(24, 24), (96, 200)])
def test_images_are_resized_like_pillow(rng, size):
    # Values that Pillow does not clip after the first axis.
    images = rng.integers(80, 176, (2, *size, 3), np.uint8)
    got = _pixels((48, 40))(images).reshape(2, 48, 40, 3)
    expected = [
        np.asarray(Image.fromarray(image).resize((40, 48), Image.Resampling.BICUBIC))
        for image in images
    ]
    np.testing.assert_allclose(got, expected, atol=1.5)  # Pillow rounds after each axis.
    assert np.abs(got - np.rint(got)).max() > 0.1


def test_resized_pixels_are_clipped():
    images = np.kron(np.eye(4, dtype=np.uint8), np.full((3, 3), 255, np.uint8))[None, ..., None]
    got = _pixels((40, 40))(np.repeat(images, 3, 3))
    assert got.min() == 0 and got.max() == 255


def test_features_are_independent_of_the_batch_size(rng):
    images = rng.integers(0, 256, (11, 6, 6, 3), np.uint8)
    whole = _pixels()(images)
    assert whole.shape == (11, 105) and whole.dtype == np.float32
    for batch_size in (1, 4):
        np.testing.assert_allclose(_pixels(batch_size=batch_size)(images), whole, atol=1e-4)


def test_batches_are_padded_to_few_sizes(rng):
    seen = []

    def embed(images):
        seen.append(len(images))
        return images.mean((1, 2))

    extractor = FeatureExtractor("mean", 64 * "0", (2, 2), "linear", embed, batch_size=8)
    for count in (1, 2, 3, 5, 8, 9, 15, 19):
        extractor(rng.integers(0, 256, (count, 2, 2, 3), np.uint8))
    assert set(seen) == {1, 2, 4, 8}


@pytest.mark.parametrize(
    ("size", "tops", "lefts"),
    [
        ((5, 7), [0], [0]),
        ((10, 21), [0, 5], [0, 7, 14]),
        ((11, 15), [0, 5, 6], [0, 7, 8]),
        ((6, 13), [0, 1], [0, 6]),
    ],
)
def test_crops_are_unchanged_pixels_and_cover_the_image(rng, size, tops, lefts):
    images = rng.integers(0, 256, (3, *size, 3), np.uint8)
    got = _pixels(view="crops", batch_size=4)(images)
    assert got.dtype == np.float32
    expected = [
        image[top : top + 5, left : left + 7].ravel()
        for image in images
        for top in tops
        for left in lefts
    ]
    np.testing.assert_array_equal(got, expected)
    covered = np.zeros(size, bool)
    for top in tops:
        for left in lefts:
            covered[top : top + 5, left : left + 7] = True
    assert covered.all()


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (1, 1)])
def test_images_smaller_than_a_crop_are_an_error(size):
    message = (
        rf"pixels-crops needs images of at least 5x7 px, got {size[0]}x{size[1]} px: "
        "evaluate at a larger size, or with pixels, which resizes images"
    )
    with pytest.raises(UserError, match=message):
        _pixels(view="crops")(np.zeros((1, *size, 3), np.uint8))


def test_names_of_crops_are_unique(tmp_path):
    assert _pixels().name == "pixels" and _pixels(view="crops").name == "pixels-crops"
    path = _write_graph(tmp_path / "net-crops.onnx")
    for given in (path, f"{path}:crops"):
        with pytest.raises(UserError, match=r"'net-crops' could be confused with .* crops: rename"):
            load_extractor(given)


def test_suffix_selects_crops(rng, tmp_path):
    path = _write_graph(tmp_path / "mean.onnx")
    crops = load_extractor(f"{path}:crops")
    assert crops.view == "crops" and crops.name == "mean-crops"
    images = rng.integers(0, 256, (2, 12, 8, 3), np.uint8)
    expected = images.reshape(4, 6, 8, 3).mean((1, 2)) + np.arange(3)
    np.testing.assert_allclose(crops(images), expected, rtol=1e-5)

    packaged = load_extractor("efficientnet_lite0:crops")
    assert packaged.view == "crops" and load_extractor("efficientnet_lite0").view == "resized"
    assert packaged.protocol() == {
        "name": "efficientnet_lite0-crops",
        "weights_sha256": "579344248a93",
        "size": [224, 224],
        "crops": "full resolution, side by side, the last ones at the edge",
    }


def test_crops_detect_blur_that_the_resize_hides():
    photographs = (data.astronaut(), data.rocket(), data.coffee(), data.immunohistochemistry())
    quarters = [image[:200, :200] for image in photographs]
    sharp = np.block([[[quarters[0]], [quarters[1]]], [[quarters[2]], [quarters[3]]]])[None]
    assert sharp.shape == (1, 400, 400, 3)
    blurred = ndimage.gaussian_filter(sharp, (0, 0.6, 0.6, 0))
    changes = []
    for name in ("efficientnet_lite0", "efficientnet_lite0:crops"):
        # Small, with one program for both views.
        extractor = dataclasses.replace(load_extractor(name), size=(112, 112), batch_size=1)
        before, after = extractor(sharp), extractor(blurred)
        changes.append(np.linalg.norm(after - before) / np.linalg.norm(before))
    resized, crops = changes
    assert resized < 0.1 < crops and crops > 3 * resized


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)],
)
def test_invalid_images_are_an_error(images):
    with pytest.raises(ValueError, match=r"need uint8 images \[B, H, W, 3\], got"):
        _pixels()(images)


def test_packaged_network_and_its_safetensors_have_equal_features(rng, tmp_path):
    packaged = load_extractor("efficientnet_lite0")
    tensors = weights.read_pth(features._packaged_weights(), features._PACKAGE_SHA256)
    path = tmp_path / "mine.safetensors"
    save_file(tensors, path)
    mine = load_extractor(path)
    images = rng.integers(0, 256, (1, 40, 40, 3), np.uint8)
    got = packaged(images)
    assert got.shape == (1, 1280) and got.dtype == np.float32 and got.std() > 0.1
    np.testing.assert_array_equal(mine(images), got)
    assert packaged.protocol() == {
        "name": "efficientnet_lite0",
        "weights_sha256": "579344248a93",
        "size": [224, 224],
        "resize": "cubic, antialiased, whole picture",
    }
    assert mine.name == mine.network == "mine"
    network = load_network(path)
    assert (network.name, network.checksum) == (mine.name, mine.checksum)
    np.testing.assert_array_equal(network.params.stem.bias, load_network().params.stem.bias)
    assert mine.checksum == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_of_another_network_are_an_error(tmp_path):
    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors does not hold EfficientNet-Lite0: .*conv"):
        load_extractor(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("pixels", "axes"),
    [
        ("float[n, 3, 6, 8]", "2, 3"),
        ("float[n, 6, 8, 3]", "1, 2"),
        ("uint8[n, 3, 6, 8]", "2, 3"),
    ],
)
def test_onnx_network_gets_its_size_and_layout(rng, tmp_path, pixels, axes):
    path = _write_graph(tmp_path / "mean_color.onnx", pixels, axes)
    extractor = load_extractor(path)
    assert extractor.name == "mean_color" and extractor.size == (6, 8)
    assert extractor.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    images = rng.integers(0, 256, (5, 6, 8, 3), np.uint8)
    expected = images.mean((1, 2)) + np.arange(3)
    np.testing.assert_allclose(extractor(images), expected, rtol=1e-5)


def test_onnx_features_of_one_pixel_are_flattened(rng, tmp_path):
    path = _write_graph(tmp_path / "m.onnx", features="[n, 3, 1, 1]")
    images = rng.integers(0, 256, (3, 6, 8, 3), np.uint8)
    assert load_extractor(path)(images).shape == (3, 3)


@pytest.mark.parametrize(
    "pixels", ["float[n, 3, h, w]", "float[4, 3, 6, 8]", "float[n, 1, 6, 8]", "double[n, 3, 6, 8]"]
)
def test_onnx_network_with_invalid_input_is_an_error(tmp_path, pixels):
    path = _write_graph(tmp_path / "m.onnx", pixels)
    with pytest.raises(UserError, match=r"m\.onnx takes tensor\(.*export it with one float32 or"):
        load_extractor(path)


def test_onnx_network_with_feature_maps_is_an_error(tmp_path):
    path = _write_graph(tmp_path / "m.onnx", axes="2", features="[n, 3, 1, 8]")
    with pytest.raises(UserError, match=r"gives features of shape \[1, 3, 1, 8\]: export it"):
        load_extractor(path)(np.zeros((1, 6, 8, 3), np.uint8))


def test_invalid_onnx_file_is_an_error_in_one_line(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"m\.onnx cannot be opened as ONNX .*export it again") as e:
        load_extractor(path)
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=r"none\.onnx cannot be read"):
        load_extractor(tmp_path / "none.onnx")


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    path = _write_graph(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        UserError, match=r"needs ONNX Runtime: pip install 'warp-translate\[eval\]'"
    ):
        load_extractor(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install 'warp-translate\[eval\]'"):
        load_extractor("efficientnet_lite0")


@pytest.mark.parametrize(
    "name", ["inception", "weights.pth", "weights.pkl", "efficientnet_lite0:other"]
)
def test_unknown_names_and_file_types_are_an_error(name):
    with pytest.raises(UserError, match=f"no feature extractor '{name}': give efficientnet_lite0"):
        load_extractor(name)
    with pytest.raises(UserError, match=f"no EfficientNet-Lite0 '{name}': give efficientnet_lite0"):
        load_network(name)
