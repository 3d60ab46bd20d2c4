"""The power spherical and the uniform distribution: integrals, moments, derivatives, divergences."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import kl_divergence

from pyro_vae.distributions import PowerSpherical, SphericalUniform

DIMS = [2, 3, 10]
CONCENTRATIONS = [0.1, 5.0, 500.0]


def unit(*shape, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def a_distribution(dim, concentration, dtype=torch.float64):
    return PowerSpherical(unit(dim, dtype=dtype), torch.tensor(concentration, dtype=dtype))


def ring(dim):
    """The area of the points at one angle, over sin^(d-2) of it."""
    return 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_mass_one(dim, kappa):
    q = a_distribution(dim, kappa)
    log_normalizer = float(q.log_normalizer)

    def density(t):
        log_density = kappa * math.log(2 * math.cos(t / 2) ** 2) - log_normalizer
        return math.exp(log_density) * ring(dim) * math.sin(t) ** (dim - 2)

    # Beyond, cos^2(t/2) is 0 to rounding, and then so is the density or what is left of it.
    total, _ = integrate.quad(density, 0, min(math.pi, 30 / math.sqrt(kappa)), limit=500)
    assert total == pytest.approx(1, abs=1e-7)
    z = unit(20, dim)
    expected = kappa * (1 + z @ q.loc).log() - log_normalizer
    torch.testing.assert_close(q.log_prob(z), expected)


@pytest.mark.parametrize("dim", [2, 3, 10, 200])
@pytest.mark.parametrize("kappa", [0.1, 5.0, 500.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_beta_along_the_mean_direction(dim, kappa, dtype):
    q = a_distribution(dim, kappa, dtype)
    z = q.sample((20_000,))
    assert q.support.check(z).all()
    assert z.dtype == q.log_prob(z).dtype == dtype
    b = (dim - 1) / 2
    # By |z - mu|, which keeps the digits of what is near mu.
    far = ((z.double() - q.loc.double()).square().sum(-1) / 4).clamp(max=1)
    assert stats.kstest(far.numpy(), stats.beta(b, b + kappa).cdf).pvalue > 1e-4
    error = (z.double().var(0) / len(z)).sqrt()
    assert ((z.double().mean(0) - q.mean.double()).abs() < 6 * error + 1e-6).all()


def moment(power, dim, kappa):
    """E[cos^power t], by the moments of Beta(a, b) where 2 y - 1 is cos t."""
    b = (dim - 1) / 2
    a = b + kappa
    first, second = a / (a + b), a * (a + 1) / ((a + b) * (a + b + 1))
    return 2 * first - 1 if power == 1 else 4 * second - 4 * first + 1


def expectation(b, c, loc, kappa):
    """E[b.z + (c.z)^2], exact: it needs two moments of cos t."""
    dim = len(loc)
    first, second = moment(1, dim, kappa), moment(2, dim, kappa)
    along = c @ loc
    return first * (b @ loc) + second * along**2 + (1 - second) / (dim - 1) * (c @ c - along**2)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_gradients_of_expectations(dim, kappa):
    b, c = torch.randn(dim, dtype=torch.float64), torch.randn(dim, dtype=torch.float64)
    direction = unit(dim)
    n = 40_000
    raw = direction.expand(n, dim).clone().requires_grad_()
    concentration = torch.full((n,), kappa, dtype=torch.float64, requires_grad=True)
    z = PowerSpherical(raw / raw.norm(dim=-1, keepdim=True), concentration).rsample()
    (z @ b + (z @ c).square()).sum().backward()
    numbers = [v.numpy() for v in (b, c, direction)]

    def exact(kappa, direction):
        return expectation(*numbers[:2], direction / np.linalg.norm(direction), kappa)

    step = 1e-4 * kappa
    expected = (exact(kappa + step, numbers[2]) - exact(kappa - step, numbers[2])) / (2 * step)
    found = concentration.grad
    # torch's derivative of a Beta draw is an approximation with three to four digits.
    tolerance = 5 * float(found.std()) / math.sqrt(n) + 1e-3 * abs(expected)
    assert abs(float(found.mean()) - expected) < tolerance
    expected_loc = torch.tensor(
        [
            (exact(kappa, numbers[2] + 1e-5 * e) - exact(kappa, numbers[2] - 1e-5 * e)) / 2e-5
            for e in np.eye(dim)
        ]
    )
    error = raw.grad.std(0) / math.sqrt(n)
    assert ((raw.grad.mean(0) - expected_loc).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_entropy_and_divergence_from_uniform(dim, kappa):
    q = a_distribution(dim, kappa)
    uniform = SphericalUniform(torch.zeros(dim, dtype=torch.float64))
    b = (dim - 1) / 2
    a = b + kappa
    expected = math.log(2) + special.digamma(a) - special.digamma(a + b)
    entropy = float(q.log_normalizer) - kappa * expected
    assert float(q.entropy()) == pytest.approx(entropy, abs=1e-10)
    z = q.sample((40_000,))
    log_ratio = q.log_prob(z) - uniform.log_prob(z)
    error = float(log_ratio.std()) / math.sqrt(len(z))
    assert abs(float(kl_divergence(q, uniform) - log_ratio.mean())) < 5 * error + 1e-9
    parameter = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda k: kl_divergence(PowerSpherical(q.loc, k), uniform), (parameter,)
    )


@pytest.mark.parametrize("kappa", [1e-6, 1e4, 1e7])
def test_extremes_stay_finite(kappa):
    loc = unit(4, 3, dtype=torch.float32).requires_grad_()
    concentration = torch.full((4,), kappa, requires_grad=True)
    q = PowerSpherical(loc, concentration)
    z = q.rsample((1000,))
    value = (z.square() * torch.arange(3.0)).sum() + q.log_prob(z).sum() + q.entropy().sum()
    value = value + q.log_prob(-loc.detach()).sum()
    for gradient in torch.autograd.grad(value, (loc, concentration)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3, 10, 200])
def test_uniform(dim):
    p = SphericalUniform(torch.zeros(dim))
    # The volume of a ball is the area over its dimension.
    log_area = math.log(dim) + dim / 2 * math.log(math.pi) - special.gammaln(dim / 2 + 1)
    z = p.sample((20_000,))
    assert p.support.check(z).all()
    torch.testing.assert_close(p.log_prob(z), torch.full((20_000,), -log_area))
    assert float(p.entropy()) == pytest.approx(log_area, rel=1e-6)
    assert (z.mean(0).abs() < 6 / math.sqrt(dim * len(z))).all()
    torch.testing.assert_close(z.var(0), torch.full((dim,), 1 / dim), rtol=0.1, atol=0)


def test_shapes():
    q = PowerSpherical(unit(5, 3), torch.rand(5, dtype=torch.float64) + 1).expand((4, 5))
    p = SphericalUniform(torch.zeros(3, dtype=torch.float64)).expand((4, 5))
    for distribution in (q, p):
        assert distribution.rsample((2,)).shape == (2, 4, 5, 3)
        assert distribution.mean.shape == (4, 5, 3)
        assert distribution.entropy().shape == (4, 5)
        assert distribution.log_prob(unit(3)).shape == (4, 5)
        assert distribution.log_prob(unit(2, 4, 5, 3)).shape == (2, 4, 5)
    assert kl_divergence(q, p).shape == (4, 5)


def test_validation():
    with pytest.raises(ValueError, match="concentration"):
        PowerSpherical(torch.eye(3)[0], torch.tensor(-1.0))
    with pytest.raises(ValueError, match="at least 2 dimensions, got 1"):
        PowerSpherical(torch.ones(1), torch.tensor(1.0))
    with pytest.raises(ValueError, match="at least 2 dimensions, got 1"):
        SphericalUniform(torch.zeros(1))
    with pytest.raises(ValueError, match="support"):
        SphericalUniform(torch.zeros(3)).log_prob(torch.ones(3))
