"""Writes a web site that translates on its visitors' devices, by ONNX Runtime Web.

    index.html, app.js, style.css    the page, which is also that of the server
    backend.js, worker.js            translate on the device
    sw.js                            a service worker: use offline, threads
    onnxruntime/                     ONNX Runtime Web
    models/NAME.onnx, NAME.jpg       the generators and their samples
    site.json                        their description

Any web server can serve it; the models and the runtime are part of the folder.
"""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from warp_translate import storage
from warp_translate.errors import UserError, reason
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine, footprint
from warp_translate.serving.bundle import Bundle

DESCRIPTION = "site.json"
RUNTIME = "onnxruntime-web@1.30.0"
"""The npm package of ONNX Runtime Web, MIT license."""

_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
# The interface and its WebAssembly, for CPUs and for WebGPU.
_CPU_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_GPU_FILES = (
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs"),
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_FOLDER = "onnxruntime"
# By name on the site: the file of the page.
_PAGE = {
    **{name: name for name in ("index.html", "app.js", "style.css", "worker.js", "sw.js")},
    "backend.js": "device.js",
}
# Compiling WebAssembly needs a permission of its own.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'"
)


def write(served: Sequence[Bundle], folder: Path, *, package: Path | None = None) -> None:
    """Writes a site, or replaces an older one.

    Args:
      served: the generators, of different names and pairs of domains.
      folder: the site.
      package: the npm package `RUNTIME`, a file of ``npm pack``; None to let npm fetch it.

    Raises:
      UserError: the folder holds something else or cannot be written, the package is missing or
        another one, a bundle is of an earlier format, or two have the same name or domains.
    """
    for bundle in served:
        _check(bundle)
    for kind, names in (
        ("name", [bundle.name for bundle in served]),
        ("pair of domains", [f"{bundle.source} to {bundle.target}" for bundle in served]),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"two bundles have the {kind} {twice}: give one of them another")
    with bundles.replaced(folder, holds=DESCRIPTION, flag="--output") as partial:
        try:
            with _packed(package) as path:
                _extract(path, partial / _FOLDER, "npm" if package is None else "--runtime")
            (partial / "models").mkdir()
            described = [_add(bundle, partial) for bundle in served]
            page = resources.files("warp_translate.serving") / "page"
            for name, source in _PAGE.items():
                text = (page / source).read_text("utf-8")
                (partial / name).write_text(text, encoding="utf-8")
            _finish(partial, described)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({reason(error)}): choose another --output"
            ) from error


def _check(bundle: Bundle) -> None:
    """Raises UserError for the graph of an earlier version, which takes no RGBA."""
    inputs = engine.open_session(bundle.path(bundles.ONNX)).get_inputs()
    if len(inputs) != 3 or inputs[0].shape[-1] == 3:
        raise UserError(
            f"{bundle.folder} was exported by an earlier version, whose graph browsers cannot use: "
            "export it again"
        )


def _add(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Copies a generator; returns its description."""
    described: dict[str, Any] = {
        "name": bundle.name,
        "source": bundle.source,
        "target": bundle.target,
        "factors": bundle.factors,
        "factor": bundle.factor,
        "size": bundle.size,
        "bytesPerPixel": {
            factor: footprint.bytes_per_pixel(bundle.architecture, factor)
            for factor in bundle.factors
        },
    }
    for key, name, suffix in (("file", bundles.ONNX, "onnx"), ("sample", bundles.SAMPLE, "jpg")):
        if name in bundle.files:
            described[key] = f"models/{bundle.name}.{suffix}"
            shutil.copyfile(bundle.path(name), folder / described[key])
    return described


def _finish(folder: Path, described: Sequence[dict[str, Any]]) -> None:
    """Completes the files that depend on the others."""
    index = folder / "index.html"
    tag = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    index.write_text(index.read_text("utf-8").replace("<!-- policy -->", tag), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256(json.dumps(described).encode())
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {storage.sha256(path)}\n".encode())
    build = digest.hexdigest()[:12]
    text = json.dumps({"build": build, "runtime": RUNTIME, "generators": described}, indent=2)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    kept = ["", DESCRIPTION, *(path.relative_to(folder).as_posix() for path in files)]
    kept = [name for name in kept if name != "sw.js" and Path(name).name not in _GPU_FILES]
    worker = folder / "sw.js"
    text = worker.read_text("utf-8")
    for name, value in (
        ('"BUILD"', build),
        ('["FILES"]', kept),
        ('["LATER"]', [f"{_FOLDER}/{name}" for name in _GPU_FILES]),
        ('"POLICY"', f"{_POLICY}; frame-ancestors 'none'"),
    ):
        text = text.replace(name, json.dumps(value))
    worker.write_text(text, encoding="utf-8")


@contextmanager
def _packed(package: Path | None) -> Iterator[Path]:
    """Path of the npm package."""
    if package is not None:
        yield package
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", RUNTIME]
        remedy = f"give --runtime=FILE, which `npm pack {RUNTIME}` writes on another machine"
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise UserError(f"npm, which fetches {RUNTIME}, is not installed: {remedy}") from error
        if done.returncode:
            why = " ".join(done.stderr.split())[-200:]
            raise UserError(f"npm cannot fetch {RUNTIME} ({why}): {remedy}")
        (path,) = Path(folder).glob("*.tgz")
        yield path


def _extract(package: Path, folder: Path, origin: str) -> None:
    """Extracts the runtime's files from the package.

    Raises:
      UserError: the package is missing or another one.
    """
    try:
        digest = storage.sha256(package)
    except OSError as error:
        raise UserError(f"{origin}={package} cannot be read ({reason(error)})") from error
    if digest != _SHA256:
        raise UserError(
            f"{origin} gave another file than {RUNTIME} ({package}, SHA-256 {digest[:12]}…): get "
            f"it by `npm pack {RUNTIME}` from the public registry"
        )
    folder.mkdir()
    with tarfile.open(package) as archive:
        for name in (*_CPU_FILES, *_GPU_FILES):
            file = archive.extractfile(f"package/dist/{name}")
            assert file is not None
            (folder / name).write_bytes(file.read())
