"""The web site of generators: its files, and the site in Chromium without this package."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.serving.conftest import png, until
from warp_translate import storage
from warp_translate.cli import site as command
from warp_translate.errors import UserError
from warp_translate.image_io import decode_image, flatten, unflatten
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine, site


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the npm package."""
    path = tmp_path / "runtime.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (*site._CPU_FILES, *site._GPU_FILES, "ort.js"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    monkeypatch.setattr(site, "_SHA256", storage.sha256(path))
    return path


def test_a_site_holds_all_that_it_loads(exported, package, tmp_path):
    bundle, folder = exported[0], tmp_path / "site"
    site.write([bundle], folder, package=package)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    files = {name for name, path in found.items() if path.is_file()}
    runtime = {f"onnxruntime/{name}" for name in (*site._CPU_FILES, *site._GPU_FILES)}
    page = {"index.html", "app.js", "style.css", "backend.js", "worker.js", "sw.js", "site.json"}
    assert files == page | runtime | {"models/apple-pear.onnx"}
    assert found["models/apple-pear.onnx"].read_bytes() == bundle.path(bundles.ONNX).read_bytes()
    described = json.loads(found["site.json"].read_text())
    (generator,) = described["generators"]
    assert generator["file"] == "models/apple-pear.onnx" and generator["factors"] == [2, 4]
    policy = re.search('Content-Security-Policy" content="(.*?)"', found["index.html"].read_text())
    assert "'unsafe-eval'" not in policy[1] and policy[1].startswith("default-src 'none'")
    worker = found["sw.js"].read_text()
    kept = set(json.loads(re.search("const files = (.*);", worker)[1]))
    assert kept == {"", *files} - {"sw.js"} - {f"onnxruntime/{name}" for name in site._GPU_FILES}
    # Another description is another build, whose files replace the kept ones.
    assert json.dumps(described["build"]) in worker
    site.write([dataclasses.replace(bundle, factor=4)], folder, package=package)
    assert json.loads((folder / "site.json").read_text())["build"] != described["build"]


def test_mistakes_are_reported_and_nothing_is_written(exported, package, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    with pytest.raises(UserError, match=r"--runtime gave another file than .*setup\.py, SHA-256"):
        site.write([exported[0]], folder, package=Path(__file__).parents[2] / "setup.py")
    with pytest.raises(UserError, match=r"--runtime=.* cannot be read"):
        site.write([exported[0]], folder, package=tmp_path / "missing")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"npm, which fetches .* is not installed: give --runtime"):
        site.write([exported[0]], folder)
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(UserError, match=r"exists without site\.json"):
        site.write([exported[0]], folder, package=package)
    with pytest.raises(UserError, match="two bundles have the name apple-pear"):
        site.write([exported[0], exported[0]], folder, package=package)
    with pytest.raises(UserError, match="holds no generator"):
        command._all(str(folder))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The npm package."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    with site._packed(None) as path:
        return shutil.copy(path, tmp_path_factory.mktemp("npm"))


@pytest.fixture
def host(exported, runtime, tmp_path):
    """A site behind Python's own web server, which a test may stop."""
    folder = tmp_path / "site"
    site.write([exported[0]], folder, package=Path(runtime))
    process = subprocess.Popen(
        # Isolated: without the packages of this environment.
        [sys.executable, "-IS", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield re.search(r"\((http.*?)\)", process.stdout.readline())[1], process
    process.kill()
    process.communicate()


def picture(rng, channels, height=37, width=53):
    array = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return array, {"name": "a.png", "mimeType": "image/png", "buffer": png(array)}


@pytest.mark.full
def test_pictures_are_translated_on_the_device_also_offline(host, visit, exported, rng):
    address, server = host
    page = visit(address)
    until(page, "document.getElementById('pair').options.length === 3")
    # The headers of the service worker give WebAssembly its threads.
    assert page.evaluate("crossOriginIsolated")
    assert page.is_visible("#note")
    translator = engine.OnnxEngine(exported[0])

    def check(factor, channels=3):
        array, file = picture(rng, channels)
        if channels == 4:  # Bands of alpha; browsers round the colors of nearly transparent pixels.
            array[..., 3] = np.array([255, 128, 0])[np.arange(53) * 3 // 53]
            file["buffer"] = png(array)
        page.select_option("#factor", str(factor))
        page.set_input_files("#file", file)
        until(page, "document.getElementById('status').textContent === 'Done.'")
        assert f"53 x 37 pixels, factor {factor}, translated in" in page.text_content("#facts")
        with page.expect_download() as download:
            page.click("#download")
        found = decode_image(Path(download.value.path()).read_bytes(), "it")
        given = decode_image(png(array), "it")
        expected = translator.translate(flatten(given)[None], factor).output[0]
        if given.alpha is None:
            assert np.abs(found.rgb.astype(int) - expected).max() <= 1
            return
        np.testing.assert_array_equal(found.alpha, given.alpha)
        difference = np.abs(found.rgb.astype(int) - unflatten(expected, given.alpha))
        assert difference[given.alpha == 255].max() <= 2
        # Canvases round colors that are multiplied by alpha.
        assert difference[given.alpha == 128].max() <= 8

    check(2)
    check(4)
    check(2, channels=4)
    page.click("#inside summary")
    page.wait_for_selector("#maps figure")
    assert page.locator("#maps figure").count() == 5
    assert page.evaluate("localStorage.length") == 1
    server.kill()
    server.wait()
    page.reload()
    until(page, "document.getElementById('pair').options.length === 3")
    check(2)


@pytest.mark.full
def test_camera_is_translated_live_and_takes_pictures(host, visit):
    page = visit(host[0], 400)
    until(page, "document.getElementById('pair').options.length === 3")
    page.click("#camera")
    page.select_option("#live-size", "256")
    until(page, "document.getElementById('live-facts').textContent.includes('x 256 pixels')")
    assert "frames a second by" in page.text_content("#live-facts")
    assert page.evaluate("document.getElementById('live-picture').height") == 256
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("#shot")
    page.wait_for_selector("#result", state="visible")
    assert not page.is_visible("#live")
    assert page.get_attribute("#download", "download") == "camera.pear.jpg"
