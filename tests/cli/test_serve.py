"""``warp-translate serve`` as a process: requests over the network, and signals."""

import concurrent.futures
import fcntl
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib import metadata

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from tests.cli.conftest import ROOT, WITHOUT_JAX
from tests.cli.conftest import start as run
from tests.serving.conftest import describe, random_generator
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine, export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    generator, params = random_generator()
    root = tmp_path_factory.mktemp("served")
    image = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    bundle = describe(root / "apple-pear", generator, factors=(2,))
    export.write_bundle(bundle, generator, params, [image])
    return root


def start(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_JAX, "serve", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def address(process):
    printed = []
    for line in process.stderr:
        printed.append(line)
        if found := re.match(r"listening on (http://\S+),", line):
            return found[1], printed
    raise AssertionError("".join(printed))


def ask(url, data=None, **headers):
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data=data, headers=headers), timeout=30
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def png(rng, *shape):
    buffer = io.BytesIO()
    array = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(array).save(buffer, "PNG")
    return array, buffer.getvalue()


def test_it_serves_without_jax_and_completes_accepted_requests(folder, rng):
    translate = engine.OnnxEngine(bundles.read(folder / "apple-pear")).translate
    images = [png(rng, 20 + n % 3, 40) for n in range(24)]
    process = start(str(folder), "--port=0", "--most_requests=64")
    try:
        url, printed = address(process)
        assert f"apple to pear: {folder}/apple-pear\n" in printed
        # Local by default.
        assert url.startswith("http://127.0.0.1:")
        status, body = ask(f"{url}/health/ready")
        assert (status, json.loads(body)["generators"]) == (200, 1)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            pending = [
                pool.submit(ask, f"{url}/v1/translate?target=pear&factor=2", data)
                for _, data in images
            ]
            while sum(each.done() for each in pending) < 3:
                time.sleep(0.001)
            process.send_signal(signal.SIGTERM)
            answered = 0
            for (array, _), each in zip(images, pending, strict=True):
                if isinstance(each.exception(60), urllib.error.URLError | ConnectionError):
                    continue  # It arrived after the signal.
                status, body = each.result()
                assert status == 200, body
                with Image.open(io.BytesIO(body)) as image:
                    found = np.asarray(image).astype(int)
                assert np.abs(found - translate(array[None], 2).output[0]).max() <= 1
                answered += 1
        assert process.wait(60) == 0
        lines = process.stderr.read().splitlines()
        assert lines[-1] == "stopped"
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        # Every answer is logged, and no accepted request was dropped.
        assert sum(line["path"] == "/v1/translate" for line in logged) == answered >= 3
        assert {line["status"] for line in logged} == {200}
    finally:
        process.kill()


def test_the_key_is_in_the_environment_and_hosts_are_flags(folder):
    flags = ["--host=::1", "--allow_host=my.example", "--allow_origin=https://app.example"]
    process = start(str(folder), "--port=0", *flags, WARP_TRANSLATE_API_KEY="secret")
    try:
        url, _ = address(process)
        assert url.startswith("http://[::1]:")
        assert ask(f"{url}/v1/generators")[0] == 401
        key = {"X-API-Key": "secret"}
        assert ask(f"{url}/v1/generators", **key)[0] == 200
        assert ask(f"{url}/v1/generators", Host="my.example", **key)[0] == 200
        status, body = ask(f"{url}/v1/generators", Host="evil.example", **key)
        assert status == 403 and b"--allow_host" in body
        for origin, status in (("https://app.example", 404), ("https://evil.example", 403)):
            assert ask(f"{url}/v1/translate?target=fig", b"a", Origin=origin, **key)[0] == status
    finally:
        process.kill()


@pytest.mark.core
def test_a_log_that_nobody_reads_blocks_nothing(folder):
    process = start(str(folder), "--port=0")
    try:
        url, _ = address(process)
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        for _ in range(100):  # A line of each has a hundred bytes.
            connection.request("HEAD", "/health/live")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read() == b""
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("command", "package"),
    [
        (["train", "--workdir=x"], "ml_collections"),
        (["export", "--workdir=x", "--output={folder}"], "jax"),
        (["translate", "--workdir=runs/x", "--input={picture}", "--output={folder}"], "jax"),
    ],
)
def test_without_jax_its_extra_is_named(command, package, tmp_path, rng):
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(rng, 8, 8)[1])
    filled = [word.format(picture=picture, folder=tmp_path / "out") for word in command]
    done = run(WITHOUT_JAX, *filled)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: this needs the package {package}: pip install 'warp-translate[train]'"
    ]


def test_the_extra_that_serves_brings_no_jax():
    """Direct dependencies; .ci/run looks at the indirect ones."""
    training = {"jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "onnx"}

    def required(extra):
        found = [Requirement(line) for line in metadata.requires("warp-translate")]
        return {
            each.name for each in found if not each.marker or each.marker.evaluate({"extra": extra})
        }

    assert not required("serve") & training
    for extra in ("train", "demo", "eval", "test", "cuda", "tpu"):
        assert required(extra) > training - {"onnx"}, extra
