"""Paths between codes and grids of codes: known answers, supports, and every program."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae import build, fit
from pyro_vae.data import Dataset, digits
from pyro_vae.evidence import evaluate
from pyro_vae.latent_paths import latent_path, path_along_codes
from pyro_vae.priors import PRIORS
from pyro_vae.programs import clustering, conditional, hierarchical, missing, semi_supervised

RNG = np.random.default_rng(0)
IMAGES = digits()


def trained(program):
    """A program with a contract, after one step."""
    fit(program, IMAGES, max_steps=1)
    return program


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    program = build((1, 8, 8), 3)
    fit(program, IMAGES, epochs=3)
    return program


def test_spherical_paths_of_orthogonal_codes():
    a, b = np.array([[3.0, 0, 0]]), np.array([[0, 1.0, 0]])
    (path,) = latent_path(a, b, 5, path="spherical")
    t = np.linspace(0, 1, 5)
    # Norms in even steps, angles in even steps of a right angle.
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 3 - 2 * t)
    np.testing.assert_allclose(np.arctan2(path[:, 1], path[:, 0]), t * math.pi / 2, atol=1e-12)
    np.testing.assert_array_equal(path[[0, -1]], [a[0], b[0]])
    # A code at the origin has no direction.
    (path,) = latent_path(0 * a, b, 3, path="spherical")
    np.testing.assert_allclose(path, [[0, 0, 0], [0, 0.5, 0], [0, 1, 0]])
    # In many dimensions the norm is that of draws, where the line's is smaller.
    a, b = RNG.normal(size=(2, 50, 100))
    for kind, norm in (("straight", math.sqrt(50)), ("spherical", 10)):
        middle = latent_path(a, b, 3, path=kind)[:, 1]
        assert abs(np.linalg.norm(middle, axis=1).mean() - norm) < 0.3


def test_a_path_along_the_data_stays_on_their_circle():
    angle = np.sort(RNG.uniform(0, 1.5 * math.pi, 500))
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    ends = circle[[0]], circle[[-1]]
    (path,) = path_along_codes(circle, *ends, 31)
    assert np.abs(np.linalg.norm(path, axis=1) - 1).max() < 0.01
    # The long way, as no codes lie on the short one; at even lengths.
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert abs(steps.sum() - (angle[-1] - angle[0])) < 0.05
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)
    np.testing.assert_array_equal(path[[0, -1]], np.concatenate(ends))
    # Equal codes are joined, and two groups far apart become so.
    groups = np.concatenate([np.zeros((30, 2)), np.ones((30, 2))])
    (path,) = path_along_codes(groups, *groups[[[0], [-1]]], 3)
    np.testing.assert_allclose(path, [[0, 0], [0.5, 0.5], [1, 1]], atol=1e-9)
    poles = np.array([[0, 1.0, 0], [0, -1.0, 0]])
    (path,) = path_along_codes(poles, poles[:1], poles[1:], 5, "sphere")
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1)
    np.testing.assert_allclose(path[:, 1], np.cos(np.linspace(0, math.pi, 5)), atol=0.02)


@pytest.mark.parametrize("support", ["real", "positive", "unit", "simplex", "sphere"])
@pytest.mark.parametrize("kind", ["straight", "spherical", "data"])
def test_paths_stay_in_the_support_or_are_refused(support, kind):
    codes = RNG.normal(size=(60, 4))
    codes = {
        "real": codes,
        "positive": np.exp(codes),
        "unit": 1 / (1 + np.exp(-codes)),
        "simplex": np.exp(codes) / np.exp(codes).sum(1, keepdims=True),
        "sphere": codes / np.linalg.norm(codes, axis=1, keepdims=True),
    }[support]
    if kind == "spherical" and support in ("unit", "simplex"):
        with pytest.raises(ValueError, match=f"leaves the support {support}.*straight or data"):
            latent_path(codes[:2], codes[2:4], 9, support, kind)
        return
    path = latent_path(codes[:5], codes[5:10], 9, support, kind, codes)
    assert path.shape == (5, 9, 4)
    np.testing.assert_allclose(path[:, 0], codes[:5])
    np.testing.assert_allclose(path[:, -1], codes[5:10])
    if support in ("positive", "unit", "simplex"):
        assert path.min() > 0
    if support == "unit":
        assert path.max() < 1
    if support == "simplex":
        np.testing.assert_allclose(path.sum(-1), 1)
    if support == "sphere":
        np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 1)


def test_rows_of_a_traversal_are_sorted_by_rate(vae):
    x = IMAGES.test.numpy()
    found = vae.traverse(x, steps=5, seed=0)
    closed = evaluate(vae, vae.prepare(x), num_samples=25).kl_by_dimension
    np.testing.assert_allclose(found.rates, closed[list(found.dimensions)], rtol=1e-4)
    assert (np.diff(found.rates) <= 0).all()
    for row, j in zip(found.codes, found.dimensions, strict=True):
        others = np.delete(row, j, axis=1)
        np.testing.assert_array_equal(others, np.tile(others[0], (5, 1)))
        assert (np.diff(row[:, j]) > 0).all()
    # 98 % of draws from the guide are between the ends.
    with torch.no_grad():
        draws = vae.posterior(vae.prepare(x)).sample((50,)).flatten(0, 1).numpy()
    for row, j in zip(found.codes, found.dimensions, strict=True):
        inside = (draws[:, j] > row[0, j]) & (draws[:, j] < row[-1, j])
        assert abs(inside.mean() - 0.98) < 0.01
    # In the units of the data, with the code of one row as the base.
    one = vae.traverse(x, dimensions=[2], steps=3, base=4, seed=0)
    code = vae.embed(x).numpy()[4]
    np.testing.assert_allclose(np.delete(one.codes[0, 0], 2), np.delete(code, 2), rtol=1e-5)
    np.testing.assert_allclose(one.examples[0], vae.generate(one.codes[0]))


@pytest.mark.parametrize(("prior", "exact"), [("gaussian_mixture", False), ("laplace", False)])
def test_rates_under_other_priors(prior, exact):
    """Of the mixture by draws, of Laplace's in torch's closed form: both as by quadrature."""
    torch.manual_seed(0)
    program = trained(build((1, 8, 8), 2, prior=prior))
    x = IMAGES.test.numpy()[:50]
    found = program.traverse(x, steps=3, seed=0)
    with torch.no_grad():
        q, p = program.posterior(program.prepare(x)).base_dist, program.prior()
        grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
        for j, rate in zip(found.dimensions, found.rates, strict=True):
            log_q = q.log_prob(grid[:, None, None].float()).double()[..., j]
            if prior == "laplace":
                log_p = p.base_dist.log_prob(grid[:, None].float()).double()[:, j]
            else:
                parts = stats.norm.pdf(grid[:, None], p.loc[:, j], p.scale[:, j])
                log_p = torch.as_tensor(np.log(parts @ p.logits.softmax(-1).numpy()))
            terms = log_q.exp() * (log_q - log_p[:, None])
            assert abs(torch.trapezoid(terms, grid, dim=0).mean() - rate) < 0.02


def test_a_manifold_is_at_quantiles_of_the_prior(vae):
    found = vae.manifold(size=4, dimensions=(2, 0))
    quantiles = stats.norm.ppf([0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(found.codes[1, :, 2], quantiles, rtol=1e-5)
    np.testing.assert_allclose(found.codes[:, 1, 0], quantiles, rtol=1e-5)
    np.testing.assert_allclose(found.codes[..., 1], 0, atol=1e-6)
    np.testing.assert_allclose(
        found.examples.reshape(16, 1, 8, 8), vae.generate(found.codes.reshape(16, 3))
    )
    x = IMAGES.test.numpy()
    found = vae.manifold(x, size=4)
    np.testing.assert_allclose(found.codes[1, :, 0], quantiles, rtol=1e-5)
    median = np.median(vae.embed(x).numpy()[:, 2])
    np.testing.assert_allclose(found.codes[..., 2], median, rtol=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_has_grids_or_says_why_not(prior):
    torch.manual_seed(0)
    support = PRIORS[prior].support
    posterior = {
        "real": "diagonal_normal",
        "positive": "gamma",
        "unit": "beta",
        "simplex": "logistic_normal",
        "sphere": "power_spherical",
        "one_hot": "one_hot",
        "sparse": "spike_and_slab",
    }[support]
    program = trained(build((1, 8, 8), 4, prior=prior, posterior=posterior))
    x = IMAGES.test.numpy()[:40]
    if support in ("simplex", "sphere", "one_hot"):
        for grid in (lambda: program.traverse(x), program.manifold):
            with pytest.raises(ValueError, match=f"leave the support {support}"):
                grid()
        return
    found = program.traverse(x, steps=3, seed=0)
    assert found.examples.shape == (4, 3, 1, 8, 8)
    assert np.isfinite(found.examples).all()
    assert (found.rates is None) == (prior in ("flow", "autoregressive_flow", "spline_flow"))
    for given in (None, x):
        grid = program.manifold(given, size=3, seed=0)
        assert np.isfinite(grid.examples).all()
        if support in ("positive", "unit"):
            assert grid.codes.min() >= 0


@pytest.mark.parametrize("prior", ["vamp", "flow", "gaussian_mixture"])
def test_samples_are_of_the_learned_prior(prior):
    torch.manual_seed(0)
    program = build((1, 8, 8), 2, prior=prior)
    fit(program, IMAGES, epochs=2)
    seen = []
    program.likelihood.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    program.sample(4000, seed=0)
    with torch.no_grad():
        draws = program.prior().sample((40_000,))
    error = draws.std(0) / math.sqrt(4000)
    assert ((seen[0].mean(0) - draws.mean(0)).abs() < 5 * error).all()
    # It is not N(0, I).
    assert max(draws.mean(0).abs().max(), (draws.std(0) - 1).abs().max()) > 0.05


def test_programs_move_and_generate_their_codes():
    torch.manual_seed(0)
    x, y = IMAGES.test.numpy()[:30], IMAGES.labels["train"]
    shape = (1, 8, 8)
    for program in (clustering.build(shape, 3), missing.build(shape, 3)):
        trained(program)
        assert program.traverse(x, steps=3).rates is not None
    two = trained(hierarchical.build(shape, 4))
    found = two.traverse(x, steps=3)
    assert found.rates is None
    assert found.examples.shape == (4, 3, *shape)
    assert two.manifold(size=3).codes.shape == (3, 3, 4)
    semi = trained(semi_supervised.build(shape, 3, train_labels=y))
    found = semi.traverse(x, steps=3)
    assert found.codes.shape == (3, 3, 13)
    assert found.rates.shape == (3,)
    with pytest.raises(ValueError, match="need the class y"):
        semi.manifold(size=3)
    assert semi.manifold(size=3, y=7).codes.shape == (3, 3, 3)
    given = trained(conditional.build(shape, 3, train_labels=y))
    for wrong in (lambda: given.traverse(x), lambda: given.manifold(size=3)):
        with pytest.raises(ValueError, match="needs the covariates y"):
            wrong()
    seven = given.traverse(x, steps=3, y=7)
    assert seven.rates is not None
    np.testing.assert_allclose(
        given.generate(seven.codes[0], y=7), given.decode(seven.codes[0], 7).detach()
    )
    ends = given.interpolate(x[0], x[1], y=7, steps=3)
    np.testing.assert_allclose(ends[:1], given.reconstruct(x[:1], 7), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, x: v.interpolate(x[0], x[1], path="data"), "path data needs data"),
        (lambda v, x: v.interpolate(x[0], x[1], y=1), "VAE has no covariates, got y=1"),
        (lambda v, x: v.traverse(x, steps=1), "steps must be a whole number of at least 2"),
        (lambda v, x: v.traverse(x, dimensions=[3]), "dimensions must be from 0 to 2, got 3"),
        (lambda v, x: v.traverse(x, base=360), "base must be a row from 0 to 359, got 360"),
        (lambda v, x: v.manifold(size=1), "size must be a whole number"),
        (lambda v, x: v.manifold(dimensions=(1, 1)), "must be two coordinates, got"),
    ],
)
def test_mistakes_are_one_line(vae, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(vae, IMAGES.test.numpy())
    assert "\n" not in str(error.value)


def test_a_path_along_the_data_in_their_units(vae):
    x = IMAGES.test.numpy()
    path = vae.interpolate(x[0], x[1], path="data", data=IMAGES.train, steps=7)
    for end, row in ((0, 0), (-1, 1)):
        alone = vae.reconstruct(x[[row]])[0]
        np.testing.assert_allclose(path[end], alone, rtol=1e-4, atol=1e-6)
    dollars = 1e4 + 10 * RNG.normal(size=(200, 2))
    table = build((2,), 2, likelihood="normal")
    fit(table, Dataset.from_array(dollars), epochs=1)
    for found in (
        table.traverse(dollars, steps=3).examples,
        table.manifold(dollars, size=3).examples,
        table.interpolate(dollars[0], dollars[1], path="spherical"),
    ):
        assert abs(found.mean() - 1e4) < 100
