"""A site's translations in Chromium: milliseconds, difference from the engine, camera frames.

    apt-get install chromium
    python -m experiments.benchmarks.browser --photos=FOLDER --output=browser.json

Pictures are mosaics of photographs as PNG, translated by WebAssembly with threads and, where the
browser has an adapter, by WebGPU; `--software_gpu` gives it one without a GPU. The first
translation does not count. Of the others the table has two medians: the time of the runtime, and
the time until the picture is on the page. The camera is Chromium's test picture.
"""

import contextlib
import functools
import http.server
import io
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image
from playwright.sync_api import Error, Page, sync_playwright

from experiments.benchmarks import measure
from experiments.benchmarks.measure import Table
from warp_translate.serving import bundle as bundles
from warp_translate.serving import site
from warp_translate.serving.engine import OnnxEngine

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of square photographs.", required=True)
_BUNDLE = flags.DEFINE_string("bundle", "retouch", "Bundle.")
_RUNTIME = flags.DEFINE_string("runtime", None, f"File of `npm pack {site.RUNTIME}`.")
_SIZES = flags.DEFINE_list("sizes", ["512x512", "3000x4000"], "Heights and widths.")
_FACTORS = flags.DEFINE_list("factors", ["4", "16"], "A factor for each size.")
_BACKENDS = flags.DEFINE_list("backends", ["wasm"], "wasm, webgpu.")
_SOFTWARE_GPU = flags.DEFINE_bool("software_gpu", False, "Let WebGPU run on the cores.")
_CAMERA_SECONDS = flags.DEFINE_float("camera_seconds", 8.0, "For each camera size; 0 skips it.")
_CHROMIUM = flags.DEFINE_string("chromium", "/usr/bin/chromium", "The browser.")

_QUIET = ("background-networking", "component-update", "sync")
_TILE = 500


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *unused: Any) -> None:
        pass


def _mosaic(height: int, width: int) -> np.ndarray:
    paths = sorted(Path(_PHOTOS.value).rglob("*.jpg"))
    image = Image.new("RGB", (width, height))
    columns = -(-width // _TILE)
    for place in range(columns * -(-height // _TILE)):
        tile = Image.open(paths[place % len(paths)]).resize((_TILE, _TILE))
        image.paste(tile, (place % columns * _TILE, place // columns * _TILE))
    return np.asarray(image)


def _wait(page: Page, condition: str, seconds: float = 900) -> None:
    """Playwright's own wait needs a permission that the site's policy refuses."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if page.evaluate(condition):
            return
        time.sleep(0.005)
    raise TimeoutError(f"{condition}: {page.text_content('main')}")


def _translated(page: Page, path: Path, image: np.ndarray, factor: int, repeats: int) -> Any:
    """The milliseconds of runs, those until they are seen, and the last output."""
    page.select_option("#factor", str(factor))
    own, seen = [], []
    for _ in range(repeats + 1):
        page.evaluate("document.getElementById('status').textContent = ''")
        begin = time.perf_counter()
        page.set_input_files("#file", path)
        done = "document.getElementById('status').textContent === 'Done.'"
        _wait(page, f"{done} || !document.getElementById('error').hidden")
        page.evaluate("document.getElementById('after').decode()")
        seen.append(1e3 * (time.perf_counter() - begin))
        if page.is_visible("#error"):
            raise RuntimeError(page.text_content("#error"))
        facts = page.text_content("#facts") or ""
        found = re.search(r"translated in (\d+) ms by (.*?),", facts)
        assert found is not None, facts
        own.append(float(found[1]))
    with page.expect_download() as download:
        page.click("#download")
    output = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    return statistics.median(own[1:]), statistics.median(seen[1:]), found[2], np.asarray(output)


def _pictures(page: Page, folder: Path, repeats: int) -> Iterator[dict[str, Any]]:
    engine = OnnxEngine(bundles.find(_BUNDLE.value))
    for size, factor in zip(_SIZES.value, map(int, _FACTORS.value), strict=True):
        height, width = map(int, size.split("x"))
        image = _mosaic(height, width)
        path = folder / "picture.png"
        Image.fromarray(image).save(path, compress_level=1)
        own, seen, by, output = _translated(page, path, image, factor, repeats)
        expected = engine.translate(image[None], factor).output[0]
        levels = np.abs(output[..., :3].astype(int) - expected)
        begin = time.perf_counter()
        engine.translate(image[None], factor)
        python = 1e3 * (time.perf_counter() - begin)
        yield {
            "size": size,
            "factor": factor,
            "by": by,
            "milliseconds": round(own),
            "until_seen": round(seen),
            "python_milliseconds": round(python),
            "largest_difference": int(levels.max()),
            "frames_a_second": None,
        }


def _camera(page: Page) -> Iterator[dict[str, Any]]:
    page.click("#camera")
    for side in (256, 512):
        for factor in (4, 8):
            page.select_option("#live-size", str(side))
            page.select_option("#factor", str(factor))
            time.sleep(_CAMERA_SECONDS.value)
            facts = page.text_content("#live-facts") or ""
            found = re.search(r"(\d+) x (\d+) pixels.*: ([\d.]+) frames a second by (.*)", facts)
            assert found is not None, facts
            yield {
                "size": f"camera {found[2]}x{found[1]}",
                "factor": factor,
                "by": found[4],
                "milliseconds": None,
                "until_seen": None,
                "python_milliseconds": None,
                "largest_difference": None,
                "frames_a_second": float(found[3]),
            }


def benchmark(repeats: int) -> Table:
    """Measures pictures on every backend, and the camera on the first."""
    rows: list[dict[str, Any]] = []
    given = [f"--disable-{name}" for name in _QUIET]
    given += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if _SOFTWARE_GPU.value:
        given += ["--enable-unsafe-webgpu", "--enable-features=Vulkan"]
        given += ["--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader"]
    else:
        given.append("--disable-gpu")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        runtime = Path(_RUNTIME.value) if _RUNTIME.value else None
        site.write([bundles.find(_BUNDLE.value)], folder / "site", package=runtime)
        handler = functools.partial(_Handler, directory=str(folder / "site"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(
            executable_path=_CHROMIUM.value, args=["--no-sandbox", *given]
        )
        version = browser.version
        for number, backend in enumerate(_BACKENDS.value):
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/?backend={backend}")
            # It loads once more, for its threads.
            with contextlib.suppress(Error):
                _wait(page, "crossOriginIsolated", 30)
            _wait(page, "document.getElementById('pair').options.length > 1")
            rows += _pictures(page, folder, repeats)
            if number == 0 and _CAMERA_SECONDS.value:
                rows += _camera(page)
            page.close()
        browser.close()
        server.shutdown()
    notes = {"chromium": version, "runtime": site.RUNTIME}
    return Table(rows, packages=("onnxruntime", "playwright"), notes=notes)


if __name__ == "__main__":
    measure.run(benchmark, repeats=3)
