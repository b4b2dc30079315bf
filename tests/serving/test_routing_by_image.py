"""The four cases of the patent over HTTP, with a classifier that looks at the image."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.serving.conftest import coloured, copy_as
from warp_translate import image_io
from warp_translate.serving import server
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.registry import Registry
from warp_translate.serving.service import Service


@pytest.fixture(scope="module")
def client(exported, classified, tmp_path_factory):
    """From apple to pear and to plum, and from plum to pear; apples are red, plums blue."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(classified[0].folder, root / "colours")
    copy_as(exported[0], root, ("apple", "pear"), ("apple", "plum"), ("plum", "pear"))
    registry = Registry(root)
    registry.scan()
    service = Service(
        registry, Batcher(), budget_milliseconds=1e4, most_pixels=1 << 16, seconds=20.0
    )
    app = server.build(service, most_bytes=1 << 20, most_requests=4, log=None)
    with TestClient(app) as client:
        yield client


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def ask(client, rng, domain, path="translate", **fields):
    image = coloured(rng, domain, 20, 28)
    if domain is None:  # Red beside green: half an apple, half a pear.
        image[:, :14], image[:, 14:] = (coloured(rng, d, 20, 14) for d in ("apple", "pear"))
    return client.post(f"/v1/{path}", content=png(image), params=fields)


def test_claim_3_a_target_to_which_one_generator_leads(client, rng):
    for domain in ("apple", "pear", None):
        found = ask(client, rng, domain, target="plum")
        assert (found.status_code, found.headers["x-bundle"]) == (200, "apple-plum")
        assert "x-recognised" not in found.headers  # Nothing depends on what it is.


@pytest.mark.parametrize("domain", ["apple", "plum"])
def test_claim_4_a_target_to_which_several_lead_from_the_domain_of_the_image(client, rng, domain):
    found = ask(client, rng, domain, target="pear")
    assert (found.status_code, found.headers["x-bundle"]) == (200, f"{domain}-pear")
    assert found.headers["x-recognised"] == domain


def test_claim_5_no_target_and_one_generator_from_the_domain_of_the_image(client, rng):
    found = ask(client, rng, "plum")
    assert (found.status_code, found.headers["x-bundle"]) == (200, "plum-pear")
    assert found.headers["x-recognised"] == "plum"


def test_claim_6_no_target_and_several_are_offered(client, rng):
    found = ask(client, rng, "apple")
    assert found.status_code == 300
    said = found.json()
    assert said["recognised"] == "apple" and said["probabilities"]["apple"] >= 0.8
    offered = [{"source": "apple", "target": "pear"}, {"source": "apple", "target": "plum"}]
    assert said["choices"] == offered
    assert "looks like apple" in said["error"]
    chosen = ask(client, rng, "apple", **said["choices"][1])
    assert (chosen.status_code, chosen.headers["x-bundle"]) == (200, "apple-plum")


@pytest.mark.parametrize(("fields", "count"), [({}, 3), ({"target": "pear"}, 2)])
def test_an_image_of_no_domain_leaves_the_choice_to_the_user(client, rng, fields, count):
    found = ask(client, rng, None, **fields)
    assert found.status_code == 300
    said = found.json()
    assert said["recognised"] is None and len(said["choices"]) == count
    assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "looks like none of the domains that are known" in said["error"]


def test_what_was_said_is_not_classified(client, rng):
    found = ask(client, rng, "plum", source="apple", target="pear")
    assert found.headers["x-bundle"] == "apple-pear" and "x-recognised" not in found.headers


def test_an_image_from_which_nothing_leads_is_said(client, rng):
    found = ask(client, rng, "pear")
    assert found.status_code == 404
    assert "looks like pear, but no generator leads from there" in found.json()["error"]
    assert [each["source"] for each in found.json()["choices"]] == ["apple", "apple", "plum"]
    assert "choices" not in ask(client, rng, "pear", target="fig").json()


def test_the_probabilities_are_told(client, rng):
    found = ask(client, rng, "pear", "classify")
    assert found.status_code == 200
    said = found.json()
    assert said["recognised"] == "pear"
    assert said["probabilities"].keys() == {"apple", "pear", "plum"}
    assert ask(client, rng, None, "classify").json()["recognised"] is None
    assert client.post("/v1/classify", content=b"no image").status_code == 400
    told = client.get("/v1/generators").json()["classifier"]
    assert told["name"] == "colours" and told["domains"] == ["apple", "pear", "plum"]


def test_an_image_that_cannot_be_read_is_one_mistake_whatever_is_asked(client):
    for fields in ({}, {"target": "plum"}, {"target": "pear"}, {"source": "apple"}):
        found = client.post("/v1/translate", content=b"no image", params=fields)
        assert found.status_code == 400, fields
        assert "is not a JPEG, PNG, WebP" in found.json()["error"]


def test_transparent_images_are_classified_as_they_are_seen(client, rng):
    """Over white: what hides below does not count, and red that is half hidden stays red."""
    image = np.dstack([coloured(rng, "plum", 20, 28), np.zeros((20, 28), np.uint8)])
    hidden = client.post("/v1/classify", content=png(image)).json()
    white = np.full((20, 28, 3), 255, np.uint8)
    shown = client.post("/v1/classify", content=png(white)).json()
    assert hidden == shown


def test_an_image_is_read_and_laid_over_white_once(client, rng, monkeypatch):
    called = []
    for name in ("decode_image", "flatten"):
        function = getattr(image_io, name)
        monkeypatch.setattr(
            image_io,
            name,
            lambda *a, name=name, function=function, **k: called.append(name) or function(*a, **k),
        )
    assert ask(client, rng, "plum").headers["x-recognised"] == "plum"
    assert called == ["decode_image", "flatten"]
