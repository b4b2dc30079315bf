"""The web page in Chromium, if it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.serving.conftest import colored, copy_as, png, until
from warp_translate.image_io import decode_image
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(exported, tmp_path):
    running = []

    def start(*pairs, classifier=None, sample=None, **environment):
        root = tmp_path / "served"
        if classifier is not None:
            shutil.copytree(classifier.folder, root / classifier.name)
        copy_as(exported[0], root, *pairs)
        for folder in root.iterdir() if sample else ():
            (folder / bundles.SAMPLE).write_bytes(sample)
            bundles.write_config(bundles.read(folder))
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "warp_translate.cli.main", "serve", str(root)],
                *["--port=0", "--budget_ms=10000", "--most_megapixels=0.1"],
            ],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        for line in process.stderr:
            if line.startswith("listening on "):
                return line.split()[2].rstrip(",")
        raise AssertionError("the server did not start")

    yield start
    for process in running:
        process.kill()
        process.communicate()


def random_image(rng, height=21, width=34):
    array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return array, file_of(array)


def file_of(array):
    return {"name": "my.cat.png", "mimeType": "image/png", "buffer": png(array)}


def size_of(page, selector):
    shown = f"document.querySelector('{selector}')"
    until(page, f"{shown}.complete && {shown}.naturalWidth > 0")
    return page.evaluate(f"[{shown}.naturalHeight, {shown}.naturalWidth]")


def test_image_is_translated_at_its_own_size(serve, visit, exported, rng):
    page = visit(serve(("apple", "plum")))
    array, file = random_image(rng)
    page.set_input_files("#file", file)
    page.wait_for_selector("#result", state="visible")
    assert size_of(page, "#after") == size_of(page, "#before") == [21, 34]
    facts = page.text_content("#facts")
    assert facts.startswith("apple to plum, 34 x 21 pixels, factor 2, translated in ")
    page.click("#inside summary")  # Computed on demand.
    page.wait_for_selector("#maps figure")
    assert page.locator("#maps figure").count() == 5
    assert size_of(page, "#maps figure:nth-child(1) img") == [11, 17]
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "my.cat.plum.png"
    found = decode_image(Path(download.value.path()).read_bytes(), "it").rgb.astype(int)
    expected = engine.OnnxEngine(exported[0]).translate(array[None], 2).output[0]
    assert np.abs(found - expected).max() <= 1


def test_images_and_samples_are_translated_in_turn(serve, visit, rng):
    page = visit(serve(("apple", "plum"), sample=png(random_image(rng)[0], "JPEG")), allowed=1)
    small, large = (random_image(rng, side, side)[0] for side in (16, 300))
    bad = {"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}
    photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": png(large, "JPEG")}
    page.set_input_files("#file", [file_of(small), bad, photo])
    others = page.locator("#others button")
    until(page, "document.getElementById('others').children.length === 2")
    assert others.all_text_contents() == ["my.cat.png", "photo.jpg"]
    assert "bad.png: " in page.text_content("#error")
    assert page.get_attribute("#download", "download") == "photo.plum.jpg"
    assert size_of(page, "#after") == [300, 300]
    # Larger than in training, 32 pixels with factor 2, by more than the factor 4 makes up for.
    assert "trained on pictures of 32 pixels with factor 2" in page.text_content("#hint")
    others.first.click()
    assert size_of(page, "#after") == [16, 16] and not page.is_visible("#hint")
    page.click("#sample-buttons button")
    until(page, "document.getElementById('facts').textContent.includes('34 x 21 pixels')")
    assert others.count() == 3 and not page.is_visible("#error")


def test_user_chooses_if_the_request_is_ambiguous(serve, visit, rng):
    page = visit(serve(("apple", "pear"), ("apple", "plum"), ("plum", "pear")))
    page.set_input_files("#file", random_image(rng)[1])
    page.wait_for_selector("#choices", state="visible")
    buttons = page.locator("#choice-buttons button")
    assert buttons.all_text_contents() == ["apple to pear", "apple to plum", "plum to pear"]
    assert not page.is_visible("#result")
    # The first button has the focus; Tab leads to the second.
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result", state="visible")
    assert page.text_content("#facts").startswith("apple to plum,")
    assert not page.is_visible("#choices")
    page.select_option("#pair", label="plum to pear")
    page.select_option("#factor", "4")
    page.click("#go")
    until(page, "document.getElementById('facts').textContent.startsWith('plum')")
    assert "factor 4" in page.text_content("#facts")


def test_classified_images_follow_the_claims(serve, visit, classified, rng):
    """The patent's four cases, and an image of an unknown domain."""
    pairs = [("apple", "pear"), ("apple", "plum"), ("plum", "pear")]
    page = visit(serve(*pairs, classifier=classified[0]), allowed=1)

    def show(domain):
        page.set_input_files("#file", file_of(colored(rng, domain, 20, 28)))

    def facts(start):
        until(page, f"document.getElementById('facts').textContent.startsWith('{start}')")
        assert page.is_visible("#result") and not page.is_visible("#choices")

    show("plum")  # Claim 5: one generator.
    facts("plum (recognized) to pear,")
    show("apple")  # Claim 6: several.
    page.wait_for_selector("#choices", state="visible")
    title = "document.getElementById('choices-title').textContent"
    assert page.evaluate(title) == "The image looks like apple. Translate it to"
    buttons = page.locator("#choice-buttons button")
    assert buttons.all_text_contents() == ["apple to pear", "apple to plum"]
    buttons.nth(1).click()
    facts("apple to plum,")
    # The choice was for that image only.
    show("plum")
    facts("plum (recognized) to pear,")
    page.select_option("#pair", label="to plum")  # Claim 3: one generator.
    page.click("#go")
    facts("apple to plum,")
    page.select_option("#pair", label="to pear")  # Claim 4: two generators.
    page.click("#go")
    facts("plum (recognized) to pear,")
    show("apple")
    facts("apple (recognized) to pear,")
    page.select_option("#pair", label="Automatic")
    page.set_input_files(
        "#file",
        file_of(np.hstack([colored(rng, each, 20, 14) for each in ("apple", "pear")])),
    )
    page.wait_for_selector("#choices", state="visible")
    question = page.evaluate(title)
    assert question.startswith("The image looks like none of the known domains (apple ")
    assert question.endswith("%). Translate it as")
    assert buttons.count() == 3 and not page.is_visible("#result")
    show("pear")  # Known, but without a generator.
    until(page, f"{title}.startsWith('No generator translates this image')")
    buttons.nth(2).click()
    facts("plum to pear,")


@pytest.mark.parametrize("width", [320, 1100])
def test_slider_compares_before_and_after(serve, visit, rng, width):
    page = visit(serve(("apple", "plum")), width)
    page.set_input_files("#file", random_image(rng)[1])
    page.wait_for_selector("#result", state="visible")

    def line():
        box, bar = (page.locator(name).bounding_box() for name in ("#compare", "#line"))
        return (bar["x"] - box["x"]) / box["width"]

    assert line() == pytest.approx(0.5, abs=0.01)
    page.focus("#slider")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert line() == pytest.approx(0.6, abs=0.01)
    clip = page.evaluate("document.getElementById('before').style.clipPath")
    assert clip.replace(" ", "") in ("inset(0px40%0px0px)", "inset(040%00)")
    box = page.locator("#compare").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert line() == pytest.approx(0.25, abs=0.02)
    # Nothing overflows the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_errors_are_shown_until_the_next_image(serve, visit, rng):
    page = visit(serve(("apple", "plum")), allowed=2)
    bad = {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.set_input_files("#file", bad)
    page.wait_for_selector("#error", state="visible")
    assert "is not a JPEG, PNG, WebP" in page.text_content("#error")
    page.set_input_files("#file", random_image(rng, 400, 400)[1])
    until(page, "document.getElementById('error').textContent.includes('pixels')")
    assert not page.is_visible("#result")
    page.set_input_files("#file", random_image(rng)[1])
    page.wait_for_selector("#result", state="visible")
    assert not page.is_visible("#error")


def test_api_key_is_requested_and_remembered(serve, visit, rng):
    sample = png(random_image(rng)[0], "JPEG")
    address = serve(("apple", "plum"), sample=sample, WARP_TRANSLATE_API_KEY="secret")
    page = visit(address, allowed=2)
    page.wait_for_selector("#key-field", state="visible")
    assert "requires an API key" in page.text_content("#error")
    page.set_input_files("#file", random_image(rng)[1])
    until(page, "document.getElementById('error').textContent.startsWith('my.cat.png: ')")
    page.fill("#key", "secret")
    page.keyboard.press("Tab")
    until(page, "document.getElementById('pair').options.length === 3")
    page.click("#go")  # The image is kept.
    page.wait_for_selector("#result", state="visible")
    page.reload()
    until(page, "document.getElementById('pair').options.length === 3")
    assert size_of(page, "#sample-buttons img") == [21, 34]


def test_unreachable_server_is_reported(serve, visit, rng):
    address = serve(("apple", "plum"))
    page = visit(address, allowed=1)
    page.route("**/v1/translate*", lambda route: route.abort())
    page.set_input_files("#file", random_image(rng)[1])
    page.wait_for_selector("#error", state="visible")
    assert "cannot be reached" in page.text_content("#error")
