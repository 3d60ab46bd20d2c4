"""Gamma, beta and Dirichlet draws against NumPy's and SciPy's, from corners to near a point."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from pyro_vae.compilation import trace
from pyro_vae.distributions import InteriorBeta, InteriorDirichlet, InteriorGamma
from pyro_vae.distributions.constrained import _LogGamma, _LogSpaceDirichlet

DRAWS = 20_000
CONCENTRATIONS = [1e-3, 1e-2, 0.1, 1.0, 30.0, 1e3]
LEVEL = 1e-5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return np.random.default_rng(1)


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_logarithms_of_gamma_draws(concentration):
    """SciPy's distribution of log G holds where G itself underflows."""
    a = torch.full((DRAWS,), concentration, dtype=torch.float64)
    draws = _LogGamma.apply(a).numpy()
    assert stats.kstest(draws, stats.loggamma(concentration).cdf).pvalue > LEVEL


def assert_same_law(ours, theirs, dtype, least=0.0):
    """Two samples in one type, both cut off where ours are, or at `least`."""
    limits = np.finfo(dtype)
    least = max(least, limits.tiny)
    theirs = theirs.astype(dtype).clip(least, 1 - limits.eps)
    ours = ours.numpy().clip(least, 1 - limits.eps)
    assert ours.dtype == dtype
    assert stats.ks_2samp(ours, theirs).pvalue > LEVEL
    for value in (0.5, 1 / 3):
        assert (ours == dtype(value)).mean() < 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("b", CONCENTRATIONS)
@pytest.mark.parametrize("a", CONCENTRATIONS)
def test_beta_draws_are_numpys(a, b, dtype, generator):
    parameters = torch.from_numpy(np.full((2, DRAWS), [[a], [b]], dtype))
    assert_same_law(InteriorBeta(*parameters).sample(), generator.beta(a, b, DRAWS), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "alpha", [*([a] * 3 for a in CONCENTRATIONS), [1e-3, 1.0, 1e3], [1e-3, 2e-3, 5e-3]]
)
def test_dirichlet_draws_are_numpys(alpha, dtype, generator):
    ours = InteriorDirichlet(torch.from_numpy(np.array(alpha, dtype))).sample((DRAWS,))
    theirs = generator.dirichlet(alpha, DRAWS)
    torch.testing.assert_close(ours.sum(-1), torch.ones_like(ours[:, 0]))
    for i in range(3):
        # NumPy breaks a stick: after the first, coordinates are products of 1 - v, 0 below 1e-16.
        assert_same_law(ours[:, i], theirs[:, i], dtype, least=1e-15 if i else 0.0)
    # Of the joint law, the largest coordinate and which one it is.
    assert_same_law(ours.amax(-1), theirs.max(-1), dtype)
    shares = np.stack([np.bincount(z.argmax(-1), minlength=3) for z in (ours.numpy(), theirs)])
    shares = shares[:, shares.sum(0) > 0]
    assert shares.shape[1] == 1 or stats.chi2_contingency(shares).pvalue > LEVEL


@pytest.mark.parametrize("rate", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("concentration", [0.05, 1.0, 1e3])
def test_gamma_draws_are_scipys_whatever_the_rate(concentration, rate):
    """Underflow is of the draw, not of the standard variable that the rate divides."""
    parameters = torch.tensor([concentration, rate]).expand(DRAWS, 2).unbind(-1)
    draws = InteriorGamma(*parameters).sample().sort().values.double().numpy()
    law = stats.gamma(concentration, scale=1 / rate)
    points = np.append(draws[draws > 1.2e-38][::100], np.finfo(np.float32).tiny)
    found = np.searchsorted(draws, points * (1 + 1e-7), side="right") / DRAWS
    np.testing.assert_array_less(np.abs(found - law.cdf(points)), 0.02)


@pytest.mark.parametrize("a", [1e-3, 0.05, 1.0, 30.0, 1e3])
def test_gradients_of_log_gamma_are_implicit(a):
    """dt/da of t = log F^-1(u; a), by central differences of SciPy's quantile."""
    concentration = torch.full((500,), a, dtype=torch.float64, requires_grad=True)
    draws = _LogGamma.apply(concentration)
    (found,) = torch.autograd.grad(draws.sum(), concentration)
    t, step = draws.detach().numpy(), 1e-4 * a
    # Far below 0, F = g^a / Gamma(a + 1), and log F is what differences keep their digits in.
    u = stats.loggamma(a).cdf(t)
    small = t < -30
    exact = (stats.loggamma.ppf(u, a + step) - stats.loggamma.ppf(u, a - step)) / (2 * step)
    exact[small] = (special.digamma(a + 1) - t[small]) / a
    usable = small | ((u > 1e-9) & (u < 1 - 1e-6))
    assert usable.mean() > 0.99
    np.testing.assert_allclose(found.numpy()[usable], exact[usable], rtol=1e-3)


@pytest.mark.parametrize("a", [0.05, 1.0, 1e3])
@pytest.mark.parametrize("b", [0.05, 2.0, 50.0])
def test_gradients_of_beta_are_implicit(a, b):
    """dz/da of z = F^-1(u; a, b), by central differences of SciPy's quantile."""
    parameters = torch.tensor([a, b], dtype=torch.float64).repeat(300, 1).requires_grad_()
    z = _LogSpaceDirichlet.apply(parameters)[..., 0]
    found = torch.autograd.grad(z.sum(), parameters)[0][:, 0].numpy()
    u, step = stats.beta.cdf(z.detach().numpy(), a, b), 1e-4 * a
    exact = (stats.beta.ppf(u, a + step, b) - stats.beta.ppf(u, a - step, b)) / (2 * step)
    usable = (u > 1e-6) & (u < 1 - 1e-6)
    np.testing.assert_allclose(found[usable], exact[usable], rtol=2e-3, atol=1e-9 + 1e-6 / a)


def test_gradients_of_tiny_concentrations_are_finite():
    a = torch.tensor([1e-6, 1e-3, 1.0, 1e6], requires_grad=True)
    for p in (InteriorDirichlet(a), InteriorBeta(a, a.flip(0)), InteriorGamma(a, a.flip(0))):
        z = p.rsample((5000,))
        loss = z.log().mean() + z.square().sum().log()
        (gradient,) = torch.autograd.grad(loss, a)
        assert gradient.isfinite().all()


def test_draws_and_gradients_can_be_traced():
    def step(raw):
        a = raw.detach().exp().requires_grad_()
        draws = [
            p.rsample()
            for p in (
                InteriorGamma(a, a, validate_args=False),
                InteriorBeta(a, a + 1, validate_args=False),
                InteriorDirichlet(a, validate_args=False),
            )
        ]
        loss = sum((z.log().sum() for z in draws), torch.zeros(()))
        return loss, torch.autograd.grad(loss, a)[0]

    raw = torch.linspace(-3, 3, 24).view(6, 4)
    traced = trace(step, raw)
    results = []
    for function in (step, traced):
        torch.manual_seed(7)
        results.append(function(raw))
    torch.testing.assert_close(*results)
