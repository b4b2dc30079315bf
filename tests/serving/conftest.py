"""Bundles of small networks with random parameters, and HTTP clients of a server."""

import contextlib
import dataclasses
import io
import json
import shutil
import threading

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.models.random_params import random_params
from warp_translate import sealed
from warp_translate.models import DomainClassifier, Generator
from warp_translate.serving import bundle as bundles
from warp_translate.serving import export, server
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.bundle import Bundle, ClassifierBundle
from warp_translate.serving.registry import Registry
from warp_translate.serving.service import Service
from warp_translate.training.classifier_step import ClassifierTraining


def random_generator(head="projected", **fields):
    """A module and random parameters, all different from their initial values."""
    generator = Generator(width=4, blocks=1, head=head, max_displacement=3.0, **fields)
    return generator, random_params(generator)


def architecture_of(generator, mask_weights="pretranslated", fusion="full", sampling="bilinear"):
    fields = {
        field.name: getattr(generator, field.name)
        for field in dataclasses.fields(Architecture)
        if hasattr(generator, field.name)
    }
    return Architecture(**fields, mask_weights=mask_weights, fusion=fusion, sampling=sampling)


def describe(folder, generator, **fields):
    known = {
        "name": folder.name,
        "source": "apple",
        "target": "pear",
        "architecture": architecture_of(generator),
        "factors": (2, 4),
        "factor": 2,
        "size": 32,
        "provenance": {"step": 7, "figures": {"test/output/l1": 0.25}},
        "files": {},
    }
    return Bundle(folder=folder, **(known | fields))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A bundle, its module, its parameters and its parities."""
    generator, params = random_generator()
    folder = tmp_path_factory.mktemp("bundles") / "apple-pear"
    image = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    found = export.write_bundle(describe(folder, generator), generator, params, [image])
    return bundles.read(folder), generator, params, found


@pytest.fixture
def copied(exported, tmp_path):
    """A writable copy of the bundle's folder."""
    return shutil.copytree(exported[0].folder, tmp_path / "bundles" / "apple-pear")


def rewrite(folder, **changes):
    """Changes fields of a ``config.json`` and its checksum."""
    path = folder / bundles.CONFIG
    content = json.loads(path.read_text()) | changes
    del content[sealed.KEY]
    path.write_text(sealed.dumps(content))


def copy_as(bundle, root, *pairs):
    """Copies a bundle under other domains."""
    for source, target in pairs:
        made = shutil.copytree(bundle.folder, root / f"{source}-{target}")
        rewrite(made, name=made.name, source=source, target=target)
    return root


def png(array, form="PNG", **options):
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


@contextlib.contextmanager
def clients(folder, cache):
    """Builds clients of a folder, with options of the service and the server."""
    with contextlib.ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))

        def make(
            *, queue=None, budget=1000.0, most_pixels=1 << 20, seconds=20.0, root=folder, **options
        ):
            registry = Registry(root)
            registry.scan()
            service = Service(
                registry,
                Batcher(**(queue or {})),
                budget_milliseconds=budget,
                most_pixels=most_pixels,
                seconds=seconds,
            )
            log = io.StringIO()
            options = {"most_bytes": 1 << 20, "most_requests": 16, "log": log} | options
            app = server.build(service, **options)
            client = running.enter_context(TestClient(app, raise_server_exceptions=False))
            client.service, client.log = service, log
            return client

        yield make


@pytest.fixture
def serve(folder, tmp_path):
    """Builds clients of the module's ``folder`` for tests that change or close the service."""
    with clients(folder, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def client(folder, tmp_path_factory):
    """The shared client of the module's ``folder``, for requests only."""
    with clients(folder, tmp_path_factory.mktemp("cache")) as make:
        yield make()


class Held:
    """Blocks an engine's translations until ``go`` is set; runs functions in threads."""

    def __init__(self, engine):
        self.go, self.busy = threading.Event(), threading.Event()
        self.images, self.results, self._threads = [], [], []
        translate = engine.translate

        def held(images, *arguments, **options):
            self.images.extend(images)
            self.busy.set()
            assert self.go.wait(20)
            return translate(images, *arguments, **options)

        engine.translate = held

    def begin(self, function):
        """Calls a function in a thread, and waits until the engine is busy."""
        thread = threading.Thread(target=lambda: self.results.append(function()))
        thread.start()
        self._threads.append(thread)
        assert self.busy.wait(20)

    def finish(self):
        """Unblocks the engine, and returns the results."""
        self.go.set()
        for thread in self._threads:
            thread.join(20)
        return self.results


COLORS = ("apple", "pear", "plum")
"""Domains of red, green and blue images, which the tests' classifier distinguishes."""


def colored(rng, domain, *shape):
    """An image of a domain: noise with one strong channel; gray noise for None."""
    image = rng.integers(0, 100, (*shape, 3), dtype=np.uint8)
    if domain is not None:
        image[..., COLORS.index(domain)] += 150
    return image


@pytest.fixture(scope="session")
def classified(tmp_path_factory):
    """The bundle of a classifier trained for seconds, its module and its parameters."""
    module = DomainClassifier(domains=3, width=8, stages=2)
    training = ClassifierTraining(classifier=module, optimizer=optax.adam(1e-2), ema_decay=0.9)
    root, chance = jax.random.key(0), np.random.default_rng(3)
    state, step = jax.jit(training.init, static_argnums=1)(root, 16), jax.jit(training.step)
    for _ in range(80):
        images = [[colored(chance, each, 16, 16) for each in COLORS] for _ in range(8)]
        state, _ = step(state, {"images": np.array(images)}, root)
    params = jax.device_get(state.classifier.ema)
    bundle = ClassifierBundle(
        folder=tmp_path_factory.mktemp("bundles") / "colors",
        name="colors",
        size=16,
        provenance={"step": 80, "figures": {"test/accuracy": 1.0}},
        files={},
        domains=COLORS,
        threshold=0.8,
    )
    images = [colored(chance, each, 40, 30) for each in COLORS]
    export.write_classifier(bundle, module, params, images)
    return bundles.read_any(bundle.folder), module, params


@pytest.fixture
def visit(browser):
    """Opens a page; it must log no errors and send no requests to other hosts."""
    opened = []

    def go(address, width=1100, *, allowed=0):
        # A context of its own, without the storage of others.
        page = browser.new_context().new_page()
        page.set_viewport_size({"width": width, "height": 800})
        lines, urls = [], []
        page.on("console", lambda message: lines.append(message.text))
        page.on("pageerror", lambda error: lines.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        page.goto(address)
        page.wait_for_load_state("networkidle")
        opened.append((page, lines, urls, address, allowed))
        return page

    yield go
    for page, lines, urls, address, allowed in opened:
        # The browser itself logs 4xx responses, and that it has no GPU.
        quiet = ("Failed to load resource", "No available adapters")
        errors = [line for line in lines if not any(each in line for each in quiet)]
        assert errors == [], lines
        assert sum(quiet[0] in line for line in lines) <= allowed, lines
        local = (address, "blob:", "data:")
        assert all(url.startswith(local) for url in urls), urls
        page.context.close()


def until(page, expression):
    """Waits for a JavaScript condition; the page's policy forbids playwright's own wait."""
    for _ in range(1500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{expression} did not become true: {page.text_content('body')}")
