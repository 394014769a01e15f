"""The report as a reader meets it: in a browser that is offline, on a phone and a desktop, light and dark, by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from analysis.plotting import ON_DARK, ON_LIGHT

pytestmark = pytest.mark.browser

Open = Callable[..., Page]

CONTRAST = """(onColour) => {
  // Contrast (WCAG 2) of every text against the first opaque colour behind it, after all colours are computed.
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const paper = parse(getComputedStyle(document.body).backgroundColor);
  const behind = (node) => {
    for (let at = node; at && at !== document; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return paper;
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (["SCRIPT", "STYLE", "TITLE", "DESC"].includes(node.tagName.toUpperCase())) continue;
    const drawing = node.closest("svg");
    const style = getComputedStyle(node);
    if (drawing && onColour.includes(style.fill)) continue; // numbers on a coloured cell: the cell is behind them
    const ink = parse(drawing ? (style.fill === "none" ? style.color : style.fill) : style.color);
    const [a, b] = [light(ink), light(behind(drawing ? drawing.parentElement : node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walk.currentNode.textContent.trim().slice(0, 40), node.tagName]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture
def opened(browser: Browser, page_path: Path) -> Iterator[Open]:
    """Open the report; the test fails on any request but for the file, and on any word on the console."""
    contexts, trouble = [], []

    def open_page(width: int = 1280, scheme: str = "light", **options: object) -> Page:
        height = 844 if width < 600 else 900
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, **options)
        contexts.append(context)

        def only_the_file(route) -> None:
            if route.request.url == page_path.as_uri() or route.request.url.startswith("data:"):
                route.continue_()
            else:
                trouble.append(f"request for {route.request.url}")
                route.abort()

        context.route("**/*", only_the_file)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.goto(page_path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def cells_of(page: Page, column: int) -> list[str]:
    return page.locator(f"#trial-table tbody tr:visible > :nth-child({column})").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_is_legible(opened: Open, screenshots: Path, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    page.screenshot(path=screenshots / f"report_{width}_{scheme}_top.png")
    page.screenshot(path=screenshots / f"report_{width}_{scheme}.png", full_page=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    on_colour = [f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})" for colour in (ON_DARK, ON_LIGHT)]
    found = page.evaluate(CONTRAST, on_colour)
    assert len(found) > 500, "the page has words to measure"
    assert found[0][0] >= 4.5, found[:5]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_lines_are_short_enough_to_read(opened: Open) -> None:
    widths = opened(1280).eval_on_selector_all(
        "main p, main li",
        """(nodes) => nodes.filter((node) => node.checkVisibility()).map((node) => {
             const zero = document.createElement("span");
             zero.textContent = "0"; node.append(zero);
             const em = zero.getBoundingClientRect().width; zero.remove();
             return node.getBoundingClientRect().width / em;
           })""",
    )
    assert widths
    assert max(widths) <= 75.5


def test_what_is_wide_scrolls_in_its_own_frame(opened: Open) -> None:
    page = opened(390)
    region = page.locator("#trial-table")
    assert region.evaluate("(node) => node.scrollWidth > node.clientWidth")
    assert region.get_attribute("tabindex") == "0"
    assert region.get_attribute("aria-label") == "All trials"
    top = page.locator("#trial-table thead th").first.bounding_box()
    region.evaluate("(node) => { node.scrollTop = 60; }")
    assert page.locator("#trial-table thead th").first.bounding_box() == top, "the heading stays while rows scroll"


def test_the_first_stop_skips_to_the_answer(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_trial_table_by_keyboard(opened: Open) -> None:
    page = opened()
    before = cells_of(page, 2)
    page.locator("#trials-heading").scroll_into_view_if_needed()
    page.evaluate(
        "document.querySelector('#training').setAttribute('tabindex', '-1'); document.querySelector('#training').focus()"
    )
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if page.evaluate("Boolean(document.activeElement.closest('thead'))"):
            break
    assert {"trial-text", "trial-status", "trial-table"} <= set(reached)
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus can be seen"

    page.keyboard.press("Tab")  # the second column: the seed, a number
    heading = page.locator("#trial-table thead th").nth(1)
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert cells_of(page, 2) == sorted(before)
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert cells_of(page, 2) == sorted(before, reverse=True)
    others = [found.get_attribute("aria-sort") for found in page.locator("#trial-table thead th").all()]
    assert others.count("none") == len(others) - 1


def test_the_filter_narrows_and_says_how_far(opened: Open) -> None:
    page = opened()
    count = page.locator("#trial-controls output")
    assert count.get_attribute("aria-live") == "polite"
    assert count.inner_text() == "8 of 8 shown"
    page.get_by_label("Show rows that contain").fill("noise_injection=1 reconstruction=0")
    assert count.inner_text() == "2 of 8 shown"
    assert set(cells_of(page, 1)) == {"noise_injection=1 reconstruction=0"}
    page.get_by_label("Show rows that contain").fill("")
    page.get_by_label("Status").select_option("completed")
    assert count.inner_text() == "8 of 8 shown"


def test_numbers_are_sorted_as_numbers(opened: Open) -> None:
    page = opened()
    headings = [text.lower() for text in page.locator("#trial-table thead th").all_inner_texts()]
    column = next(place for place, text in enumerate(headings) if text.startswith("fd dataset"))
    page.locator("#trial-table thead button").nth(column).click()
    values = [float(text) for text in cells_of(page, column + 1)]
    assert values == sorted(values)
    assert len({len(str(int(value))) for value in values}) >= 1


def test_the_contents_lead_to_every_section(opened: Open) -> None:
    page = opened()
    links = page.locator("nav[aria-label=Contents] a")
    targets = [link.get_attribute("href")[1:] for link in links.all()]
    assert targets == [section.get_attribute("id") for section in page.locator("main > section").all()]
    links.last.click()
    expect(links.last).to_have_attribute("aria-current", "true")
    expect(page.locator("nav a[aria-current]")).to_have_count(1)
    phone = opened(390)
    assert not phone.locator("nav a").first.is_visible()
    phone.locator("nav summary").focus()
    phone.keyboard.press("Enter")
    assert phone.locator("nav a").first.is_visible()


def test_without_a_script_everything_can_be_read(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("#trial-table tbody tr").count() == 8
    assert page.locator("#trial-table thead button").count() == 0
    assert not page.locator("#trial-controls").is_visible(), "what would do nothing is not shown"
    assert page.locator("nav a").first.is_visible()
    page.locator("details.more > summary").first.click()
    assert page.locator("details.more figure").first.is_visible()


def test_every_picture_has_words(opened: Open) -> None:
    page = opened()
    assert page.locator("img").count() > 5
    assert all(
        page.eval_on_selector_all("img", "(nodes) => nodes.map((node) => node.alt.length > 10 && node.naturalWidth > 0)")
    )
    assert all(page.eval_on_selector_all("main svg", "(nodes) => nodes.map((node) => node.getAttribute('role') === 'img')"))
    levels = page.eval_on_selector_all("h1, h2, h3", "(nodes) => nodes.map((node) => node.tagName)")
    assert levels.count("H1") == 1


def test_it_prints_on_white_with_everything_open(opened: Open) -> None:
    page = opened(1280, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.more:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.more[open]").count() == 0
