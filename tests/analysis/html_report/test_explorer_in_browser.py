"""The explorer in a browser: what it computes, in each support of the code and kind of data."""

import base64
import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.html_report.explorer import explorer_payload, explorer_script, explorer_style
from pyro_vae import build, fit
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.latent_paths import latent_path
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.runs.trained_run import TrainedRun

pytestmark = pytest.mark.slow


def payload_of(dataset, **options):
    """The explorer of a run of one epoch."""
    options = {"latent_dim": 3, "kind": dataset.kind, "levels": dataset.levels, **options}
    vae = build(dataset.event_shape, **options)
    fit(vae, dataset, epochs=1, progress=False)
    data = PreparedData(dataset, vae.likelihood.support)
    run = TrainedRun(RunDirectory(Path("run")), vae.eval(), data, "test", torch.device("cpu"), "")
    return explorer_payload(run, points=40, neighbours=40)


@pytest.fixture
def explored(browser, tmp_path):
    """Open a page with an explorer alone, under the policy of a report."""

    @contextmanager
    def explored(payload):
        def source(text):
            digest = hashlib.sha256(text.encode()).digest()
            return f"'sha256-{base64.b64encode(digest).decode()}'"

        style, script = explorer_style(), explorer_script()
        path = tmp_path / "page.html"
        path.write_text(
            '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            f"img-src data:; style-src {source(style)}; script-src {source(script)}"
            f'"><title>Explorer</title><style>{style}</style>'
            '<main><h1>Report</h1><section id="explorer"><h2>Explorer</h2></section></main>'
            f'<script type="application/json" id="explorer-data">{payload}</script>'
            f"<script>{script}</script>"
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(5000)
        errors = []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        page.evaluate("() => window.explorer.ready")
        yield page
        assert errors == []
        page.close()

    return explored


def numbers(page, expression):
    return np.array(page.evaluate(f"() => Array.from({expression})"), np.float64)


@pytest.fixture(scope="module")
def image_payload():
    return payload_of(digits())


@pytest.fixture(scope="module")
def other():
    """The explorer of another model of the same shapes."""
    return json.loads(payload_of(digits(), prior="laplace"))


def test_a_wrong_decoder_shows_no_pictures(explored, image_payload, other):
    payload = json.loads(image_payload)
    payload["decoder"] = other["decoder"]
    with explored(json.dumps(payload)) as page:
        assert "differs from the trained one" in page.evaluate("() => explorer.state.error")
        assert "differs from the trained one" in page.locator(".explorer-error").text_content()
        assert page.locator("canvas").count() == 0


def test_a_wrong_encoder_leaves_the_decoder(explored, image_payload, other):
    payload = json.loads(image_payload)
    payload["encoder"] = other["encoder"]
    with explored(json.dumps(payload)) as page:
        assert page.evaluate("() => [explorer.state.error, explorer.encode]") == [None, None]
        assert page.get_by_text("cannot be edited").count() == 1


def test_the_reason_is_shown(explored):
    with explored(json.dumps({"unavailable": "<i>one</i>"})) as page:
        assert page.locator(".explorer-error").text_content().endswith("<i>one</i>")


def test_pixels_are_drawn_and_erased(explored, image_payload):
    with explored(image_payload) as page:
        before = numbers(page, "explorer.state.x")
        box = page.locator(".explorer-pad").bounding_box()
        empty = int(np.flatnonzero(before == 0)[20])
        row, column = divmod(empty, 8)
        page.get_by_label("Brush").fill("0")
        where = {
            "x": (column + 0.5) / 8 * box["width"],
            "y": (row + 0.5) / 8 * box["height"],
        }
        page.locator(".explorer-pad").click(position=where)
        drawn = numbers(page, "explorer.state.x")
        assert np.flatnonzero(drawn != before).tolist() == [empty]
        z = numbers(page, "explorer.encode(explorer.state.x)")
        np.testing.assert_allclose(numbers(page, "explorer.state.z"), z)
        assert "edited" in page.locator(".explorer-about").text_content()
        page.locator("select", has_text="erase").select_option("erase")
        page.locator(".explorer-pad").click(position=where)
        np.testing.assert_array_equal(numbers(page, "explorer.state.x"), before)
        page.get_by_role("button", name="Clear").click()
        assert not numbers(page, "explorer.state.x").any()


@pytest.mark.parametrize("path", ["straight", "spherical"])
def test_paths_between_codes(explored, image_payload, path):
    with explored(image_payload) as page:
        for number, end in ((3, "Start"), (8, "End")):
            page.get_by_label("0 to 39").fill(str(number))
            page.keyboard.press("Tab")
            page.get_by_role("button", name=f"{end} at the current code").click()
        page.get_by_label(path).check()
        a, b = numbers(page, "explorer.state.start"), numbers(page, "explorer.state.end")
        assert not np.allclose(a, b)
        page.get_by_label("Position on the path").fill("0.25")
        expected = 0.75 * a + 0.25 * b
        if path == "spherical":
            w = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            expected = (np.sin(0.75 * w) * a + np.sin(0.25 * w) * b) / np.sin(w)
        np.testing.assert_allclose(numbers(page, "explorer.state.z"), expected, atol=1e-6)


SUPPORTS = {
    "spherical_uniform": ("power_spherical", lambda z: np.isclose(np.linalg.norm(z), 1)),
    "dirichlet": ("dirichlet", lambda z: np.isclose(z.sum(), 1) and (z >= 0).all()),
    "beta": ("beta", lambda z: (z >= 0).all() and (z <= 1).all()),
    "log_normal": ("log_normal", lambda z: (z > 0).all()),
}


@pytest.mark.parametrize("prior", SUPPORTS)
def test_codes_stay_in_the_support(explored, prior):
    posterior, inside = SUPPORTS[prior]
    with explored(payload_of(digits(), prior=prior, posterior=posterior)) as page:
        plane = page.locator(".explorer-plane")
        box = plane.bounding_box()
        seen = set()
        for x, y in ((0.02, 0.02), (0.98, 0.03), (0.5, 0.97), (0.99, 0.99)):
            plane.click(position={"x": x * box["width"], "y": y * box["height"]})
            plane.press("Shift+ArrowRight")
            z = numbers(page, "explorer.state.z")
            assert inside(z)
            seen.add(tuple(z))
        assert len(seen) > 1
        if prior == "spherical_uniform":
            a, b = numbers(page, "explorer.state.start"), numbers(page, "explorer.state.end")
            page.get_by_label("Position on the path").fill("0.5")
            middle = latent_path(a[None], b[None], 3, "sphere")[0, 1]
            np.testing.assert_allclose(numbers(page, "explorer.state.z"), middle, atol=1e-5)


def test_a_code_of_one_dimension(explored):
    with explored(payload_of(digits(), latent_dim=1)) as page:
        for key in ("ArrowRight", "ArrowUp"):
            before = numbers(page, "explorer.state.z")
            page.locator(".explorer-plane").press(key)
            assert numbers(page, "explorer.state.z") > before
        page.get_by_label("Vertical value").fill("0.5")
        assert numbers(page, "explorer.state.z") == 0.5


def test_dimensions_change_places(explored, image_payload):
    with explored(image_payload) as page:
        i, j = numbers(page, "explorer.state.dimensions").astype(int)
        page.get_by_label("Horizontal dimension").select_option(str(j))
        assert numbers(page, "explorer.state.dimensions").tolist() == [j, i]
        z = numbers(page, "explorer.state.z")
        slider = page.get_by_label("Vertical value")
        z[i] = float(slider.get_attribute("max")) / 2
        slider.fill(str(z[i]))
        np.testing.assert_allclose(numbers(page, "explorer.state.z"), z)


def test_neighbours_are_the_nearest(explored, image_payload):
    with explored(image_payload) as page:
        payload = json.loads(image_payload)
        codes = page.evaluate(
            "(stored) => graphInterpreter.decode(stored).then((a) => Array.from(a))",
            payload["train"]["codes"],
        )
        distances = np.linalg.norm(
            np.reshape(codes, (-1, 3)) - numbers(page, "explorer.state.z"), axis=1
        )
        found = numbers(page, "explorer.state.neighbours.map((each) => each.distance)")
        np.testing.assert_allclose(found, np.sort(distances)[:6], rtol=1e-5)


@pytest.fixture(scope="module")
def table_payload():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 3)) * [1, 1e5, 1e-4] + [0, 3e6, 0]
    factors = np.stack([rng.integers(3, size=120), rng.normal(size=120)], 1)
    dataset = Dataset.from_array(
        values, event_names=["<b>age</b>", "pay", "rate"], labels=factors, name="people"
    )
    return payload_of(dataset, latent_dim=2)


def test_a_table(explored, table_payload):
    with explored(table_payload) as page:
        assert page.locator(".explorer-table tbody th").all_text_contents() == [
            *("<b>age</b>", "pay", "rate")
        ]
        before = numbers(page, "explorer.state.z")
        page.get_by_label("pay of the input").fill("4e6")
        page.keyboard.press("Tab")
        assert numbers(page, "explorer.state.x")[1] == 4e6
        assert not np.allclose(numbers(page, "explorer.state.z"), before)
        page.get_by_label("Colour by").select_option("1")
        assert page.locator(".explorer-legend li").count() == 3


def test_counts_by_their_largest_elements(explored):
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 4, 100)
    names = [f"word {k}" for k in range(100)]
    counts = Dataset.from_array(
        rng.poisson(rates, (120, 100)), support="counts", event_names=names
    )
    payload = payload_of(counts, likelihood="poisson")
    with explored(payload) as page:
        means = numbers(page, "explorer.state.mean")
        listed = page.locator(".explorer-table tbody th").all_text_contents()
        assert listed == [names[k] for k in np.argsort(-means, kind="stable")[:20]]
        page.get_by_label("Elements with").select_option("difference")
        assert page.locator(".explorer-table tbody th").all_text_contents() != listed
