"""The report in Chromium, if it is installed."""

import pytest

from tests.evaluation.fake_runs import fusion_sweep, tiny_sheet
from warp_translate.evaluation import report, runs

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report.write(folder, report.build(runs.read([fusion_sweep(folder / "s", sheet=tiny_sheet)])))
    return (folder / "report.html").as_uri()


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(browser, address, request):
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    yield page
    page.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [address]


# Elements beyond the window that are in no scrolling container.
_BEYOND = """() => [...document.querySelectorAll('body *')].filter(each =>
    each.getBoundingClientRect().right > innerWidth + 1
    && !each.closest('.scroll, pre, svg, caption')
).map(each => each.outerHTML.slice(0, 120))"""


def test_only_tables_and_code_scroll_sideways(page):
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(_BEYOND) == []


def test_charts_keep_a_legible_size(page):
    scales = page.evaluate("""() => [...document.querySelectorAll('.panel img')].map(
        each => each.getBoundingClientRect().width / each.naturalWidth)""")
    assert len(scales) > 10 and min(scales) > 0.75


def test_numbers_are_aligned_and_not_wrapped(page):
    edges = page.evaluate("""() => [...document.querySelectorAll(
        '#results > .table tbody tr')].map(row => {
        const range = document.createRange();
        range.selectNodeContents(row.querySelector('td.number'));
        return range.getBoundingClientRect().right;
    })""")
    broken = page.evaluate("""() => [...document.querySelectorAll('td.number, td.spread')].filter(
        each => !each.querySelector('small') && each.firstChild && each.checkVisibility()
            && new Set((range => (range.selectNodeContents(each), [...range.getClientRects()]
                .map(box => Math.round(box.bottom / 8))))(document.createRange())).size > 1
    ).map(each => each.textContent)""")
    assert broken == []
    assert len(edges) == 12 and max(edges) - min(edges) < 1


def test_images_load_and_details_open(page):
    assert page.evaluate(
        "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
    )
    fold = page.locator("details", has_text="Every score").first
    assert not fold.locator("table").first.is_visible()
    fold.locator("summary").click()
    assert fold.locator("table").first.is_visible()


def test_print_shows_details_and_fits_the_page(browser, address):
    page = browser.new_page(viewport={"width": 695, "height": 900})  # A4 less its margins.
    page.goto(address)
    page.emulate_media(media="print")
    assert page.locator("details table").first.evaluate("each => each.getClientRects().length > 0")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    assert page.pdf(prefer_css_page_size=True)[:4] == b"%PDF"
    page.close()
