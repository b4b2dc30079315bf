"""Runs every code block of the pages, in order, in a folder like a checkout.

Blocks with unavailable requirements follow a ``needs`` comment and are skipped. Experiments run as
``runlocal``. Installations are left to .ci/run.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tests.pages import BLOCKS, ROOT

# Replacements that shorten a command.
SMALLER = [
    (r"python3 -m venv .*pip install .*'\.(\[train\])?' && ", ""),
    (r"(--config=experiments/[\w/]+\.py):((?:(?!runlocal)\S)+)(?=\s|$)", r"\1:\2,runlocal"),
    (r"(--config=experiments/[\w/]+\.py)(?=\s|$)", r"\1:runlocal"),
    (r"(warp-translate ablate .*fusion\.py.*)", r"\1 --only='full, factor 2'"),
    (r"(warp-translate ablate .*heads\.py.*)", r"\1 --only='projected, 3x3, width 8'"),
    (r"--seeds=\d --jobs=\d", "--seeds=1"),
    (r"(launch/tpu_vm/tpu_vm\.sh \w+)(?!.*--dry-run)", r"\1 --dry-run"),
    (r"\| kubectl apply -f -", "> /dev/null"),
    (r"128,runlocal", "32,runlocal"),
    (r"steps=\d+,runlocal", "steps=4,runlocal"),
    (r"gs://BUCKET", "gs://bucket"),
    (r" --config\.data\.load_size=288", ""),
]


def noise(path, size, seed, light=256):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)) * light // 256
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def inverting(path):
    """Writes an ONNX graph that inverts images in [-1, 1]."""
    shape = ["N", 3, "H", "W"]
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "invert", *([x] for x in ends)
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[opset]), path)


def clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48)
        for number in range(3):
            pixels = np.full((48, 64, 3), 80 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with the checkout and the data that the pages name."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("experiments", "launch", "setup.py"):
        (folder / name).symlink_to(ROOT / name)
    inverting(folder / "teacher.onnx")
    clip(folder / "clip.mov")
    clip(folder / "clips/a.mp4")
    noise(folder / "picture.jpg", (40, 50), 1)
    noise(folder / "pictures/0.png", (40, 50), 8)
    for i in range(24):
        for number, part in enumerate(("pictures", "photos")):
            # Pairs resemble each other.
            noise(folder / f"{part}/trainA/{i}.png", (40, 50), [2, number, i])
            noise(folder / f"{part}/trainB/{i}.png", (40, 50), [2, number, i], light=128)
        noise(folder / f"pairs/train/{i}.png", (36, 72), [4, i])
        for domain in ("apple", "orange", "pear"):
            noise(folder / f"FOLDER/{domain}/{i}.png", (36, 36), [5, i, len(domain)])
        for part in ("trainA", "trainB", "testA", "testB"):
            noise(folder / f"apple2orange/{part}/{i}.jpg", (36, 40), [6, i, *map(ord, part)])
    for i in range(80):
        noise(folder / f"portraits/{i}.png", (36, 36), [7, i])
    rows = [f"{i}.png,{'male' if i % 2 else 'female'},{20 + i * 46 // 79}" for i in range(80)]
    (folder / "portraits/metadata.csv").write_text("\n".join(["file,sex,age", *rows]) + "\n")
    tools = folder / "bin"
    tools.mkdir()
    command = tools / "warp-translate"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m warp_translate.cli.main "$@"\n')
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def environment(checkout, buckets):
    buckets.new("gs", "bucket")
    return {
        **os.environ,
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TFDS_DATA_DIR": str(checkout / "prepared"),
        "XDG_CACHE_HOME": str(checkout / "cache"),
        "XLA_FLAGS": "",
    }


class Server:
    """``warp-translate serve`` on a free port."""

    def __init__(self, checkout, environment):
        self._checkout, self._environment = checkout, environment
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process = None

    def start(self, line):
        if self._process is None:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {line} --port={self.port}"],
                cwd=self._checkout,
                env=self._environment,
                stderr=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None and time.monotonic() < deadline, line
                time.sleep(0.2)

    def stop(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(30) == 0


@pytest.fixture(scope="module")
def server(checkout, environment):
    server = Server(checkout, environment)
    yield server
    server.stop()


def smaller(line):
    for pattern, replacement in SMALLER:
        line = re.sub(pattern, replacement, line)
    return line


@pytest.mark.full
@pytest.mark.pages
def test_every_block_runs(checkout, environment, server):
    """One test, since later pages use the results of earlier ones."""
    wrong = []

    def run(words, block, shown):
        done = subprocess.run(
            words, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode or "Traceback" in done.stderr:
            wrong.append(f"{block.page}: {shown}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}")

    for block in BLOCKS:
        if block.needs or block.language not in ("bash", "python"):
            continue
        if block.language == "python":
            run([sys.executable, "-c", block.code], block, block.code)
            continue
        for line in map(smaller, block.lines()):
            if line.startswith("warp-translate serve"):
                server.start(line)
            elif not re.match(r"(python3 -m venv|pip install)", line):
                here = line.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
                run(["bash", "-c", here], block, line)
    assert not wrong, "\n\n".join(wrong)


def test_every_replacement_applies():
    text = "\n".join(line for block in BLOCKS if not block.needs for line in block.lines())
    for pattern, replacement in SMALLER:
        changed = re.sub(pattern, replacement, text)
        assert changed != text, pattern
        text = changed
