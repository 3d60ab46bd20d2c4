"""The page in a browser, opened from disk: it draws, answers mouse and keyboard, and loads nothing.

The browser is Debian's chromium, or the one that the variable CHROMIUM names.
"""

import base64
import hashlib
import io
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from analysis.html_report.chart import Chart, library_script, script, style

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.slow

SCHEMES = ("light", "dark")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# Violations of the policy, which the console also reports.
RECORDER = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        problem = "no chromium: apt-get install chromium, or set CHROMIUM to a browser"
        # A gate that skips these tests would pass without them.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(browser, path, *, viewport=DESKTOP, scheme="light", settled="charts"):
    """A page from disk; at the end there was no error, no violation and no request."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
    context.add_init_script(RECORDER)
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.evaluate(f"async () => {{ await window.{settled}; }}")
    yield page
    assert not errors, errors
    assert page.evaluate("() => window.violations") == []
    assert [url for url in requests if url != path.as_uri() and not url.startswith("data:")] == []
    context.close()


def picture(page, **options):
    """A screenshot as numbers from 0 to 255, of the axes row, column, channel."""
    from PIL import Image

    return np.asarray(
        Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB"), np.float64
    )


def check_accessibility(page):
    """Run axe; a page without violations passes."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    problems = [
        f"{each['id']}: {node['html'][:200]}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]
    assert problems == []


# A page of charts alone, under the policy of a report.


def source(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def page_of(charts: dict[str, Chart]) -> str:
    library = library_script()
    assert library is not None
    own = (
        ":root { color-scheme: light dark; } body { margin: 1rem; font-family: sans-serif;"
        " background: light-dark(#ffffff, #161616); color: light-dark(#1b1b1b, #ececec); }"
    )
    styles, scripts = [own, style()], [library, script()]
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src {' '.join(map(source, styles))}; script-src {' '.join(map(source, scripts))}"
    )
    return "".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,"><title>Charts</title>',
            *(f"<style>{each}</style>" for each in styles),
            "</head><body><main><h1>Charts</h1>",
            *(each.html(name) for name, each in charts.items()),
            "</main>",
            *(f"<script>{each}</script>" for each in scripts),
            "</body></html>",
        ]
    )


@pytest.fixture(scope="module")
def charts_page(tmp_path_factory, every_chart):
    path = tmp_path_factory.mktemp("charts") / "charts.html"
    path.write_text(page_of(every_chart), encoding="utf-8")
    return path


def values_shown(page, name):
    box = page.locator(f"#chart-{name} .chart-values")
    return box.inner_text() if "shown" in box.get_attribute("class").split() else None


def test_every_chart_is_drawn_and_has_its_text(browser, charts_page, every_chart):
    with opened(browser, charts_page) as page:
        for name, chart in every_chart.items():
            plot = page.locator(f"#chart-{name} .chart-plot")
            assert plot.get_attribute("aria-label") == chart.alt
            assert plot.locator("svg path").count() > 3, name
            box = plot.locator("svg").bounding_box()
            assert box["width"] > 400
            assert box["height"] > 100
        check_accessibility(page)


def test_values_are_shown_by_mouse_and_by_keyboard(browser, charts_page, every_chart):
    rows = every_chart["khat"].spec["data"]["values"]
    with opened(browser, charts_page) as page:
        plot = page.locator("#chart-khat .chart-plot")
        plot.scroll_into_view_if_needed()
        assert values_shown(page, "khat") is None
        plot.locator(".mark-symbol.role-mark path").first.hover()
        assert f"k-hat: {rows[0]['khat']:.2f}" in values_shown(page, "khat").replace("\u2212", "-")
        page.mouse.move(0, 0)
        assert values_shown(page, "khat") is None
        plot.focus()
        page.keyboard.press("Home")
        lowest = min(rows, key=lambda row: row["log_evidence"])
        assert f"row: {lowest['row']}" in values_shown(page, "khat")
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        before_last = sorted(rows, key=lambda row: row["log_evidence"])[-2]
        assert f"row: {before_last['row']}" in values_shown(page, "khat")
        page.keyboard.press("Escape")
        assert values_shown(page, "khat") is None


def test_colours_follow_the_scheme_and_the_width_follows_the_window(browser, charts_page):
    colours, brightness = {}, {}
    for scheme in SCHEMES:
        with opened(browser, charts_page, scheme=scheme) as page:
            label = page.locator("#chart-khat .role-axis-label text").first
            colours[scheme] = label.evaluate("(element) => getComputedStyle(element).fill")
            brightness[scheme] = picture(page).mean()
    assert colours == {"light": "rgb(27, 27, 27)", "dark": "rgb(236, 236, 236)"}
    assert brightness["light"] > 200
    assert brightness["dark"] < 80
    with opened(browser, charts_page) as page:
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(200)
        assert page.locator("#chart-khat svg").first.bounding_box()["width"] <= PHONE["width"]
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
