"""Settings of all tests: eight virtual CPU devices and strict rank promotion; shared fixtures."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Tests compile much and compute little: without optimization they take a third of the time, and
    # without a separate compilation of each fusion half of that.
    + " --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
    + " --xla_cpu_parallel_codegen_split_count=1"
).strip()
# PyTorch's threads spin: with another worker on one of their cores they are fifty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_GCE_CHECK", "true")  # tfds would query an unreachable metadata server.
# Processes that a shell starts in the background ignore SIGINT, and so do their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# One compilation cache for all workers of this run; made before pytest-xdist starts them.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="warp_translate_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax
import numpy as np
import pytest

# They start training processes and share no runs.
_OF_PROCESSES = ("tests/cli/test_processes.py", "tests/cli/test_restarts.py")

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives whole files to workers, and those of tests/cli that share trained runs to one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            shares = path.startswith("tests/cli/") and path not in _OF_PROCESSES
            return "tests/cli" if shares else path

    return Scheduling(config, log)


@pytest.fixture
def in_the_checkout(monkeypatch) -> None:
    """Changes to the root of the repository."""
    monkeypatch.chdir(Path(__file__).parents[1])


@pytest.fixture(scope="module", autouse=True)
def _little_memory() -> Iterator[None]:
    """Clears jax's caches after each file; a worker would hold five gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Local emulators of S3 and Google Cloud Storage.

    Attributes:
      environment: environment variables by which a process finds them.
    """

    environment: dict[str, str]

    @staticmethod
    def new(scheme: str, name: str | None = None) -> str:
        """Creates a bucket and returns its URL."""
        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        if scheme == "s3":
            import boto3

            boto3.client("s3").create_bucket(Bucket=name)
        else:
            from google.cloud import storage

            storage.Client().create_bucket(name)
        return f"{scheme}://{name}"


@pytest.fixture(scope="session")
def buckets() -> Iterator[Buckets]:
    """Emulators on ports of this process, until the tests end."""
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    from tests.google_bucket import add_generations

    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    add_generations()
    google = create_server("127.0.0.1", port, in_memory=True)
    google.start()
    amazon = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    amazon.start()
    host, amazon_port = amazon.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{amazon_port}",
        # The first for gcsfs and Google's client, the next two for tensorstore.
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{port}",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
        "GOOGLE_CLOUD_PROJECT": "test",
        # Its service is not emulated; gcsfs would warn at every call.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield Buckets(environment)
    amazon.stop()
    google.stop()


@pytest.fixture(params=["gs", "s3"])
def bucket(request, buckets, tmp_path, monkeypatch) -> str:
    """URL of an empty bucket of either kind; the local cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return buckets.new(request.param)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium with a camera that shows a test picture, if it is installed."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Debian's package chromium")
    disabled = ["background-networking", "component-update", "sync", "gpu"]
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", *camera, *(f"--disable-{name}" for name in disabled)],
        )
        yield launched
        launched.close()
