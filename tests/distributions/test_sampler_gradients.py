"""Gradients of draws against derivatives of exact expectations."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from pyro_vae.distributions import (
    InteriorBeta,
    InteriorDirichlet,
    InteriorGamma,
    LogisticNormal,
    OneHots,
    SpikeAndSlab,
)

DRAWS = 200_000


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pathwise(family, f, *parameters, draws=DRAWS):
    """The mean of a draw's gradient in each parameter, and its standard error."""
    shape = (draws, *np.shape(parameters[0]))
    leaves = [torch.tensor(p).expand(shape).clone().requires_grad_() for p in parameters]
    gradients = torch.autograd.grad(f(family(*leaves).rsample()).sum(), leaves)
    return [
        (g.double().mean(0).numpy(), g.double().std(0).numpy() / draws**0.5) for g in gradients
    ]


def derivatives(expectation, *parameters):
    """Central differences of a function of arrays, parameter by parameter and element by element."""
    parameters = [np.asarray(p, float) for p in parameters]
    for i, parameter in enumerate(parameters):
        gradient = np.zeros(parameter.shape)
        for index in np.ndindex(parameter.shape):
            step = 1e-4 * max(1e-2, abs(parameter[index]))
            values = []
            for sign in (1, -1):
                moved = [p.copy() for p in parameters]
                moved[i][index] += sign * step
                values.append(expectation(*moved))
            gradient[index] = (values[0] - values[1]) / (2 * step)
        yield gradient


def assert_unbiased(found, exact):
    for (mean, error), truth in zip(found, exact, strict=True):
        np.testing.assert_array_less(np.abs(mean - truth), 5 * error + 2e-4 * np.abs(truth) + 1e-6)


@pytest.mark.parametrize("rate", [0.5, 3.0])
@pytest.mark.parametrize("concentration", [0.05, 0.3, 1.0, 30.0])
def test_gamma(concentration, rate):
    def expectation(a, b):
        y = np.linspace(-600, 8, 120_001)  # of log z
        return integrate.trapezoid(
            np.log1p(np.exp(y)) * np.exp(stats.gamma.logpdf(np.exp(y), a, scale=1 / b) + y), y
        )

    found = pathwise(InteriorGamma, torch.log1p, concentration, rate)
    assert_unbiased(found, derivatives(expectation, concentration, rate))


@pytest.mark.parametrize("concentration", [0.3, 1.0, 30.0])
def test_logarithm_of_gamma(concentration):
    """Where e^-87, the least of float32, is out of reach, the bound does not bias log z."""
    found = pathwise(InteriorGamma, torch.log, concentration, 2.0)
    assert_unbiased(
        found, derivatives(lambda a, b: special.digamma(a) - np.log(b), concentration, 2.0)
    )


@pytest.mark.parametrize("a", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("b", [0.05, 0.7, 20.0])
def test_beta(a, b):
    """At 0.05, a fifth of all draws would round to 1: bounded below it, they bias nothing."""

    def third_moment(a, b):
        return special.poch(a, 3) / special.poch(a + b, 3)

    found = pathwise(InteriorBeta, lambda z: z**3, a, b)
    assert_unbiased(found, derivatives(third_moment, a, b))


@pytest.mark.parametrize("alpha", [[0.05, 0.05, 0.05], [0.2, 1.0, 3.0], [30.0, 20.0, 5.0]])
def test_dirichlet(alpha):
    weight = np.array([1.0, -0.5, 2.0])

    def expectation(alpha):
        total = alpha.sum()
        return (weight * alpha * (alpha + 1)).sum() / (total * (total + 1))

    def f(z):
        return z.square() @ torch.tensor(weight, dtype=z.dtype)

    found = pathwise(InteriorDirichlet, f, alpha)
    assert_unbiased(found, derivatives(expectation, alpha))


@pytest.mark.parametrize("spread", [0.3, 2.0])
@pytest.mark.parametrize("logarithm", [False, True])
def test_logistic_normal(spread, logarithm):
    loc, scale = [0.3, -1.0, 0.5], [spread, 1.2 * spread, 0.7 * spread]
    nodes, weights = np.polynomial.hermite_e.hermegauss(50)
    noise = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1)
    weight = np.einsum("i,j,k", weights, weights, weights) / weights.sum() ** 3

    def expectation(loc, scale):
        log_z = special.log_softmax(loc + scale * noise, -1)[..., 0]
        return (weight * (log_z if logarithm else np.exp(2 * log_z))).sum()

    found = pathwise(
        LogisticNormal, lambda z: z[..., 0].log() if logarithm else z[..., 0] ** 2, loc, scale
    )
    assert_unbiased(found, derivatives(expectation, loc, scale))


# ---- straight through ------------------------------------------------------------------------

WEIGHT = torch.tensor([1.0, -0.5, 2.0, 0.3, 0.0, -1.0])


def test_straight_through_is_exact_for_a_linear_function():
    """E[w z] = w pi, and the draw's gradient is pi's: exact, draw by draw, without noise."""
    logits = torch.randn(2, 3, requires_grad=True)
    (exact,) = torch.autograd.grad(logits.softmax(-1).flatten() @ WEIGHT, logits)
    z = OneHots(logits, estimator="straight_through").rsample((50,))
    for draw in z:
        (found,) = torch.autograd.grad(draw @ WEIGHT, logits, retain_graph=True)
        torch.testing.assert_close(found, exact)


def test_straight_through_is_biased_for_another_function():
    """(w z)^2 = w^2 z at vertices, but its gradient there is that of a tangent."""
    logits = torch.tensor([[0.5, -0.5, 0.0], [0.2, 0.1, -1.0]], requires_grad=True)
    z = OneHots(logits, estimator="straight_through").rsample((DRAWS,))
    (found,) = torch.autograd.grad((z @ WEIGHT).square().mean(), logits)
    pi = logits.softmax(-1)
    mean = pi.flatten() @ WEIGHT
    second = (pi * WEIGHT.view(2, 3)).sum(-1)
    variance = (pi * WEIGHT.view(2, 3).square()).sum() - second.square().sum()
    (exact,) = torch.autograd.grad(mean.square() + variance, logits)
    assert (found - exact).abs().max() > 0.05


def relaxed_slope(logit, temperature):
    """d/dl E[sigmoid((l + logistic noise) / T)], the slope of a relaxed gate."""

    def integrand(u):
        soft = special.expit((logit + special.logit(u)) / temperature)
        return soft * (1 - soft) / temperature

    crossing = special.expit(-logit)
    return integrate.quad(integrand, 0, 1, points=[crossing], limit=500)[0]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("logit", [0.0, 1.5])
def test_gumbel_softmax_has_the_gradient_of_the_relaxed_mean(logit, temperature):
    """Even for a linear function it is biased, less at lower temperatures."""
    logits = torch.tensor([[logit, 0.0]]).expand(DRAWS, 1, 2).clone().requires_grad_()
    z = OneHots(logits, temperature).rsample()
    (gradient,) = torch.autograd.grad(z[..., 0].sum(), logits)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(DRAWS, 1))
    slopes = gradient[:, 0, 0].double()
    relaxed = relaxed_slope(logit, temperature)
    assert abs(float(slopes.mean()) - relaxed) < 5 * float(slopes.std()) / DRAWS**0.5
    exact = special.expit(logit) * special.expit(-logit)
    assert abs(relaxed / exact - 1) < 0.7 * temperature
    if (logit, temperature) == (0.0, 1.0):
        assert relaxed == pytest.approx(1 / 6)  # exact is 1/4


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_a_gate_has_the_gradient_of_the_relaxed_gate(temperature):
    def family(logits, loc, scale):
        return SpikeAndSlab(logits, loc, scale, temperature)

    found = pathwise(family, lambda z: z, 0.4, 1.7, 0.6)
    gamma = special.expit(0.4)
    assert_unbiased(found, [1.7 * relaxed_slope(0.4, temperature), gamma, 0.0])
    exact = 1.7 * gamma * (1 - gamma)
    assert abs(found[0][0] / exact - 1) < 0.7 * temperature


def test_slab_gradients_are_exact_for_another_function():
    logits, loc, scale = 0.4, 0.7, 0.6

    def expectation(loc, scale):
        # 1 - gamma + gamma E[cos(z)] of a normal.
        gamma = special.expit(logits)
        return 1 - gamma + gamma * math.exp(-(scale**2) / 2) * math.cos(loc)

    found = pathwise(SpikeAndSlab, torch.cos, logits, loc, scale)
    assert_unbiased(found[1:], derivatives(expectation, loc, scale))
