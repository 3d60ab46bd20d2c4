"""The page in a browser, opened from disk: it draws, answers mouse and keyboard, and loads nothing.

The browser is Debian's chromium, or the one that the variable CHROMIUM names.
"""

import base64
import hashlib
import io
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.html_report.chart import Chart, library_script, script, style
from analysis.html_report.page import run_page, write_report
from analysis.html_report.stored_run import StoredRun
from pyro_vae import load

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[2] / "scripts"
SHORT = ("--max-steps", "200", "--compile", "off")
SCHEMES = ("light", "dark")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# Violations of the policy, which the console also reports.
RECORDER = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


@contextmanager
def opened(browser, path, *, viewport=DESKTOP, scheme="light"):
    """A page from disk; at the end there was no error, no violation and no request."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
    context.add_init_script(RECORDER)
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("async () => { await window.charts; await window.explorer?.ready; }")
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


# The page of a run.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training run with its diagnosis and its page."""
    folder = tmp_path_factory.mktemp("page") / "run"
    execute("svi_train.py", *SHORT, "--out", folder)
    execute("diagnose.py", folder, "--images", "100", "--samples", "50")
    return folder


def execute(script, *arguments):
    subprocess.run([sys.executable, SCRIPTS / script, *arguments], check=True)


@pytest.fixture(scope="module")
def report(run):
    return run / "report.html"


def code(page):
    return np.array(page.evaluate("() => Array.from(window.explorer.state.z)"))


def mean_shown(page):
    """The decoder's output in the page."""
    return np.array(page.evaluate("() => Array.from(window.explorer.state.mean)"))


def output(page):
    return page.locator(".explorer-panel", has_text="Mean of p(x | z)").locator("canvas").first


def check_decoded(page, run):
    """What the page shows for its code is what the trained decoder gives."""
    vae = load(run)
    with torch.no_grad():
        expected = (
            vae.decode(torch.tensor(code(page), dtype=torch.float32)[None]).flatten().numpy()
        )
    np.testing.assert_allclose(mean_shown(page), expected, atol=1e-2)


def test_the_page_has_a_verdict_charts_and_an_explorer(browser, report):
    for scheme in SCHEMES:
        with opened(browser, report, scheme=scheme) as page:
            verdict = page.locator("main section").first
            assert verdict.bounding_box()["y"] < DESKTOP["height"] / 2
            assert "per image" in verdict.inner_text()
            assert "datum" not in verdict.inner_text()
            names = set(page.evaluate("async () => Object.keys(await window.charts)"))
            assert {f"chart-{name}" for name in ("learning_elbo", "codes", "khat")} <= names
            assert page.evaluate("() => window.explorer.state.error") is None
            check_accessibility(page)


def test_the_mouse_moves_the_explorer(browser, report, run):
    with opened(browser, report) as page:
        plane = page.locator(".explorer-plane")
        plane.scroll_into_view_if_needed()
        check_decoded(page, run)
        before, pixels = code(page), output(page).screenshot()
        box = plane.bounding_box()
        x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 0.2 * box["width"], y - 0.2 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_timeout(100)
        assert np.abs(code(page) - before).max() > 0.1
        assert output(page).screenshot() != pixels
        check_decoded(page, run)


def test_the_keyboard_moves_the_explorer(browser, report, run):
    with opened(browser, report) as page:
        before, pixels = code(page), output(page).screenshot()
        page.locator(".explorer-plane").focus()
        for _ in range(5):
            page.keyboard.press("Shift+ArrowRight")
        first = page.evaluate("() => window.explorer.state.dimensions[0]")
        moved = code(page) - before
        assert moved[first] > 0
        assert np.abs(np.delete(moved, first)).max() == 0
        assert output(page).screenshot() != pixels
        check_decoded(page, run)
        page.keyboard.press("Home")
        np.testing.assert_array_equal(code(page), before)


def test_a_phone_and_paper_show_the_whole_page(browser, report, tmp_path):
    with opened(browser, report, viewport=PHONE) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
        check_accessibility(page)
    with opened(browser, report, scheme="dark") as page:
        dark = picture(page).mean()
        assert dark < 90
        # Paper is white, whatever the colours of the screen.
        page.emulate_media(media="print")
        assert picture(page).mean() > 200
        content = page.pdf(path=tmp_path / "report.pdf")
        assert content.startswith(b"%PDF")
        assert content.count(b"/Type /Page\n") > 2


def test_a_page_without_a_diagnosis_opens(browser, run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    shutil.rmtree(copied / "diagnosis")
    (copied / "inference_data.nc").unlink()
    with opened(browser, write_report(copied)) as page:
        assert page.locator("h1").count() == 1
        check_accessibility(page)


def test_a_comparison_opens(browser, run, tmp_path):
    execute("svi_train.py", *SHORT, "--prior", "vamp", "--out", tmp_path / "vamp")
    names = ["--only", "evidence", "--samples", "50", "--out", tmp_path / "both"]
    execute("compare.py", run, tmp_path / "vamp", *names)
    with opened(browser, tmp_path / "both" / "report.html") as page:
        names = page.evaluate("async () => Object.keys(await window.charts)")
        assert sorted(names) == ["chart-differences", "chart-rate_distortion"]
        check_accessibility(page)


def test_buttons_copy_enlarge_and_change_colours(browser, report):
    with opened(browser, report) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        button = page.locator("button[data-copy]").first
        button.focus()
        page.keyboard.press("Enter")
        command = page.locator(f"[id='{button.get_attribute('data-copy')}']").text_content()
        sync_api.expect(page.locator("#status")).to_have_text("copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == command
        page.locator("button[data-enlarge]:visible").first.click()
        assert page.locator("dialog[open] img").get_attribute("src").startswith("data:image/png")
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        before = picture(page).mean()
        page.locator("#theme").click()
        page.mouse.move(0, 0)
        assert picture(page).mean() < before - 50
        check_accessibility(page)
        page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() > 0


def test_names_that_are_html_stay_text(browser, run, tmp_path):
    stored = StoredRun.read(run)
    assert stored.contract is not None
    name = "</script><img src=x onerror=alert(1)>"
    contract = replace(stored.contract, name=name, label_names=(name,) * 10)
    path = tmp_path / "report.html"
    path.write_text(run_page(replace(stored, contract=contract)), encoding="utf-8")
    with opened(browser, path) as page:
        assert name in page.locator("#data").inner_text()
        assert page.locator("img[src=x]").count() == 0
