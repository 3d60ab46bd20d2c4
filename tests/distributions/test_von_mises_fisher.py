"""The von Mises-Fisher distribution against Bessel functions, SciPy, integrals and derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.distributions import SphericalUniform, VonMisesFisher
from pyro_vae.distributions.polar_angle import PolarAngle

DIMS = [2, 3, 10]
CONCENTRATIONS = [0.1, 5.0, 500.0]


def unit(*shape, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def a_distribution(dim, concentration, dtype=torch.float64):
    return VonMisesFisher(unit(dim, dtype=dtype), torch.tensor(concentration, dtype=dtype))


def log_normalizer(dim, kappa):
    """log of the integral of exp(kappa (mu.z - 1)), with the scaled Bessel function."""
    v = dim / 2 - 1
    return dim / 2 * math.log(2 * math.pi) + math.log(special.ive(v, kappa)) - v * math.log(kappa)


@pytest.mark.parametrize("dim", [2, 3, 4, 11, 30])
@pytest.mark.parametrize("kappa", [1e-6, 1e-2, 1.0, 30.0, 1e3, 1e5])
def test_the_normaliser_and_its_derivative_are_bessel_functions(dim, kappa):
    concentration = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    q = VonMisesFisher(unit(dim), concentration)
    found = q.log_scaled_normalizer
    expected = log_normalizer(dim, kappa)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-10)
    length = special.ive(dim / 2, kappa) / special.ive(dim / 2 - 1, kappa)
    assert float(q.mean_resultant_length.detach()) == pytest.approx(length, abs=1e-12)
    found.backward()
    assert float(concentration.grad) == pytest.approx(length - 1, abs=1e-12)
    concentration.grad = None
    q.mean_resultant_length.backward()
    slope = 1 - length**2 - (dim - 1) / kappa * length
    # Here the closed form is what cancels, by (d - 1) / kappa.
    tolerance = 1e-12 * (1 + dim / kappa)
    assert float(concentration.grad) == pytest.approx(slope, abs=tolerance)


@pytest.mark.parametrize(("dim", "kappa"), [(200, 1e5), (200, 1e-6), (100, 50.0), (82, 1e3)])
def test_in_many_dimensions_it_is_the_integral(dim, kappa):
    """By the trapezoidal rule, which is exact to rounding for a density that is smooth and far from 0."""
    t = np.linspace(0, math.pi, 200_001)[1:-1]
    log_density = kappa * (np.cos(t) - 1) + (dim - 2) * np.log(np.sin(t))
    expected = special.logsumexp(log_density) + math.log(math.pi / 200_000)
    angle = PolarAngle(torch.tensor(kappa, dtype=torch.float64), dim)
    assert float(angle.log_integral) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_density_and_entropy_are_scipys(dim, kappa):
    q = a_distribution(dim, kappa)
    theirs = stats.vonmises_fisher(q.loc.numpy(), kappa)
    z = torch.cat([q.sample((20,)), unit(20, dim)])
    np.testing.assert_allclose(q.log_prob(z), theirs.logpdf(z.numpy()), rtol=1e-10, atol=1e-9)
    assert float(q.entropy()) == pytest.approx(theirs.entropy(), abs=1e-9)


@pytest.mark.parametrize("kappa", [1e-6, 0.1, 5.0, 500.0, 1e5])
def test_mass_one_on_the_circle_and_the_sphere(kappa):
    width = 60 / math.sqrt(kappa)
    for dim, ring in ((2, lambda t: 2.0), (3, lambda t: 2 * math.pi * math.sin(t))):
        q = a_distribution(dim, kappa)
        offset = float(-q.log_scaled_normalizer)

        def density(t, kappa=kappa, offset=offset, ring=ring):
            return math.exp(-2 * kappa * math.sin(t / 2) ** 2 + offset) * ring(t)

        total, _ = integrate.quad(density, 0, min(math.pi, width), limit=500)
        assert total == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("dim", [2, 3, 5, 82])
@pytest.mark.parametrize("kappa", [1e-3, 5.0, 1e4])
def test_angles_have_their_distribution(dim, kappa):
    """The inverse of F at u gives u back, and derivatives of it are differences of it."""
    u = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 0.9, 1 - 1e-3, 1 - 1e-6], dtype=torch.float64)
    angle, derivative = PolarAngle(torch.tensor(kappa, dtype=torch.float64), dim)._inverse(u)
    log_integral = float(PolarAngle(torch.tensor(kappa, dtype=torch.float64), dim).log_integral)

    def density(t):
        log_power = (dim - 2) * math.log(math.sin(t)) if dim > 2 else 0.0
        return math.exp(-2 * kappa * math.sin(t / 2) ** 2 + log_power - log_integral)

    start = float(PolarAngle(torch.tensor(kappa, dtype=torch.float64), dim)._table.start)
    total, previous = 0.0, start
    for target, found in zip(u.tolist(), angle.tolist(), strict=True):
        total += integrate.quad(density, previous + 1e-300, found, epsabs=1e-13)[0]
        previous = found
        assert total == pytest.approx(target, abs=1e-7)
    step = 1e-3 * max(kappa, 0.1)
    above, below = (
        PolarAngle(torch.tensor(kappa + s, dtype=torch.float64), dim)._inverse(u)[0]
        for s in (step, -step)
    )
    torch.testing.assert_close(
        derivative,
        (above - below) / (2 * step),
        rtol=1e-3,
        atol=float(1e-4 * derivative.abs().max()),
    )


@pytest.mark.parametrize("dim", [2, 3, 10, 200])
@pytest.mark.parametrize("kappa", [0.1, 5.0, 500.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_mean_and_are_on_the_sphere(dim, kappa, dtype):
    q = a_distribution(dim, kappa, dtype)
    z = q.sample((20_000,))
    assert q.support.check(z).all()
    assert q.log_prob(z).isfinite().all()
    assert z.dtype == q.log_prob(z).dtype == dtype
    cosine = (z.double() * q.loc.double()).sum(-1)
    length = float(q.mean_resultant_length)
    variance = max(1 - length**2 - (dim - 1) / kappa * length, 1e-12)
    assert abs(float(cosine.mean()) - length) < 5 * math.sqrt(variance / len(z)) + 1e-6
    assert float(cosine.var()) == pytest.approx(variance, rel=0.1, abs=1e-6)
    # Orthogonal to loc, all directions are alike.
    rest = z.double() - cosine[:, None] * q.loc.double()
    spread = (1 - (length**2 + variance)) / (dim - 1)
    assert (rest.mean(0).abs() < 6 * math.sqrt(spread / len(z)) + 1e-6).all()


def moment(f, dim, kappa):
    """E[f(cos t, sin t)] by quadrature, with the normaliser from the same quadrature."""
    points, weights = np.polynomial.legendre.leggauss(400)
    end = min(math.pi, 40 / math.sqrt(kappa))
    t = end * (points + 1) / 2
    density = weights * np.exp(-2 * kappa * np.sin(t / 2) ** 2) * np.sin(t) ** (dim - 2)
    return float((density * f(np.cos(t), np.sin(t))).sum() / density.sum())


def expectation(b, c, loc, kappa):
    """E[b.z + (c.z)^2], exact: it needs two moments of cos t."""
    dim = len(loc)
    first = moment(lambda cosine, _: cosine, dim, kappa)
    second = moment(lambda cosine, _: cosine**2, dim, kappa)
    along = c @ loc
    return first * (b @ loc) + second * along**2 + (1 - second) / (dim - 1) * (c @ c - along**2)


@pytest.mark.parametrize(
    ("dim", "kappa"),
    [
        pytest.param(dim, kappa, marks=[] if (dim, kappa) == (3, 5.0) else pytest.mark.slow)
        for dim in DIMS
        for kappa in CONCENTRATIONS
    ],
)
def test_gradients_of_expectations(dim, kappa):
    """In kappa and in loc, of E[b.z + (c.z)^2], against differences of the exact expectation."""
    b, c = torch.randn(dim, dtype=torch.float64), torch.randn(dim, dtype=torch.float64)
    direction = unit(dim)
    n = 40_000
    # A parameter for each draw gives each draw's own gradient, and so its standard error.
    raw = direction.expand(n, dim).clone().requires_grad_()
    concentration = torch.full((n,), kappa, dtype=torch.float64, requires_grad=True)
    loc = raw / raw.norm(dim=-1, keepdim=True)
    z = VonMisesFisher(loc, concentration).rsample()
    (z @ b + (z @ c).square()).sum().backward()

    numbers = [v.numpy() for v in (b, c, direction)]

    def exact(kappa, direction):
        return expectation(*numbers[:2], direction / np.linalg.norm(direction), kappa)

    step = 1e-3 * max(kappa, 0.1)
    expected = (exact(kappa + step, numbers[2]) - exact(kappa - step, numbers[2])) / (2 * step)
    found = concentration.grad
    assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / math.sqrt(n) + 1e-9
    assert float(found.std()) / math.sqrt(n) < 0.05 * (abs(expected) + 0.1 / (1 + kappa))

    along = np.eye(dim)
    expected_loc = [
        (exact(kappa, numbers[2] + 1e-5 * e) - exact(kappa, numbers[2] - 1e-5 * e)) / 2e-5
        for e in along
    ]
    error = raw.grad.std(0) / math.sqrt(n)
    assert ((raw.grad.mean(0) - torch.tensor(expected_loc)).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", CONCENTRATIONS)
def test_divergences(dim, kappa):
    q, p = a_distribution(dim, kappa), a_distribution(dim, 3.0)
    uniform = SphericalUniform(torch.zeros(dim, dtype=torch.float64))
    z = q.sample((40_000,))
    for other in (p, uniform):
        log_ratio = q.log_prob(z) - other.log_prob(z)
        error = float(log_ratio.std()) / math.sqrt(len(z))
        assert abs(float(kl_divergence(q, other) - log_ratio.mean())) < 5 * error + 1e-9
    assert float(kl_divergence(q, q)) == pytest.approx(0, abs=1e-10)
    assert float(kl_divergence(a_distribution(dim, 1e-4), uniform)) == pytest.approx(
        1e-8 / (2 * dim), rel=1e-2, abs=1e-13
    )


def test_gradients_of_divergences_and_entropy():
    kappa = torch.tensor([0.5, 7.0, 300.0], dtype=torch.float64, requires_grad=True)
    loc, other = unit(3, 4), a_distribution(4, 2.0)
    uniform = SphericalUniform(torch.zeros(4, dtype=torch.float64))

    def values(kappa):
        q = VonMisesFisher(loc, kappa)
        return q.entropy(), kl_divergence(q, uniform), kl_divergence(q, other), q.log_prob(loc)

    for index in range(4):
        assert torch.autograd.gradcheck(lambda kappa, i=index: values(kappa)[i], (kappa,))


def test_float32_is_rounded_float64():
    loc, kappa = unit(7, 5, dtype=torch.float32), torch.logspace(-3, 5, 7)
    ours = VonMisesFisher(loc, kappa)
    z = ours.sample((100,))
    wide = VonMisesFisher(loc.double(), kappa.double(), validate_args=False)
    torch.testing.assert_close(ours.log_prob(z), wide.log_prob(z.double()).float())
    torch.testing.assert_close(ours.entropy(), wide.entropy().float())


@pytest.mark.parametrize("kappa", [1e-30, 1e-6, 1e4, 1e9])
def test_extremes_stay_finite(kappa):
    loc = unit(4, 3, dtype=torch.float32).requires_grad_()
    concentration = torch.full((4,), kappa, requires_grad=True)
    q = VonMisesFisher(loc, concentration)
    z = q.rsample((1000,))
    value = (z.square() * torch.arange(3.0)).sum() + q.log_prob(z).sum() + q.entropy().sum()
    for gradient in torch.autograd.grad(value, (loc, concentration)):
        assert gradient.isfinite().all()


def test_expanding_computes_nothing_anew():
    q = VonMisesFisher(unit(5, 3), torch.rand(5, dtype=torch.float64) + 1)
    expanded = q.expand((4, 5))
    assert expanded.polar_angle is q.polar_angle
    assert expanded.rsample((2,)).shape == (2, 4, 5, 3)
    assert expanded.mean.shape == (4, 5, 3)
    assert expanded.entropy().shape == (4, 5)
    assert expanded.log_prob(unit(3)).shape == (4, 5)
    # One becomes several, each with its own kappa.
    one = VonMisesFisher(unit(1, 3), torch.ones(1, dtype=torch.float64)).expand((6,))
    assert one.rsample((2,)).shape == (2, 6, 3)
    kappa = torch.tensor([0.01, 1e6], dtype=torch.float64)
    z = VonMisesFisher(unit(3), kappa).expand((9, 2)).sample()
    assert (z[:, 1].std(0) < 0.01).all()
    assert (z[:, 0].std(0) > 0.1).all()


def test_a_graph_draws_what_eager_draws():
    loc, kappa = unit(6, 4, dtype=torch.float32), torch.rand(6) * 10

    def loss_and_gradients(loc, kappa):
        loc, kappa = loc.detach().requires_grad_(), kappa.detach().requires_grad_()
        q = VonMisesFisher(loc, kappa, validate_args=False).expand((3, 6))
        z = q.rsample()
        loss = (z[..., 0] - q.log_prob(z)).sum()
        return loss, *torch.autograd.grad(loss, (loc, kappa))

    graph = make_fx(loss_and_gradients, tracing_mode="fake", _allow_non_fake_inputs=True)(
        loc, kappa
    )
    torch.manual_seed(3)
    expected = loss_and_gradients(loc, kappa)
    torch.manual_seed(3)
    for mine, theirs in zip(graph(loc, kappa), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_validation():
    with pytest.raises(ValueError, match="loc"):
        VonMisesFisher(torch.ones(3), torch.tensor(1.0))
    with pytest.raises(ValueError, match="concentration"):
        VonMisesFisher(torch.eye(3)[0], torch.tensor(0.0))
    with pytest.raises(ValueError, match="at least 2 dimensions, got 1"):
        VonMisesFisher(torch.ones(1), torch.tensor(1.0))
    with pytest.raises(ValueError, match="support"):
        VonMisesFisher(torch.eye(3)[0], torch.tensor(1.0)).log_prob(torch.ones(3))
