"""The logistic and Student's t against SciPy, and gradients of draws against exact expectations."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae.distributions import Logistic, StudentT

FAR = np.array([-1e4, -300.0, -40.0, -3.0, 0.0, 0.7, 25.0, 1e4])


def test_logistic_is_scipys():
    ours = Logistic(torch.tensor(0.5), torch.tensor(1.7))
    theirs = scipy.stats.logistic(0.5, 1.7)
    value = torch.tensor(FAR, dtype=torch.float32)
    np.testing.assert_allclose(ours.log_prob(value), theirs.logpdf(FAR), rtol=1e-5)
    np.testing.assert_allclose(ours.cdf(value), theirs.cdf(FAR), rtol=1e-4, atol=1e-38)
    quantiles = np.array([0.01, 0.3, 0.9])
    np.testing.assert_allclose(
        ours.icdf(torch.tensor(quantiles)), theirs.ppf(quantiles), rtol=1e-5
    )
    for mine, yours in ((ours.mean, theirs.mean()), (ours.variance, theirs.var())):
        assert float(mine) == pytest.approx(yours, rel=1e-5)
    assert float(ours.entropy()) == pytest.approx(theirs.entropy(), rel=1e-5)


@pytest.mark.parametrize("df", [0.5, 1.0, 5.0, 1e3, 1e6])
def test_student_t_is_scipys(df):
    ours = StudentT(torch.tensor(df), torch.tensor(0.5), torch.tensor(1.7))
    theirs = scipy.stats.t(df, 0.5, 1.7)
    value = torch.tensor(FAR, dtype=torch.float32)
    np.testing.assert_allclose(ours.log_prob(value), theirs.logpdf(FAR), rtol=2e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Logistic(torch.tensor(0.5), torch.tensor(1.7)), scipy.stats.logistic(0.5, 1.7)),
        (StudentT(0.7, torch.tensor(0.5), torch.tensor(1.7)), scipy.stats.t(0.7, 0.5, 1.7)),
        (StudentT(5.0, torch.tensor(0.5), torch.tensor(1.7)), scipy.stats.t(5.0, 0.5, 1.7)),
    ],
    ids=["logistic", "student 0.7", "student 5"],
)
def test_draws_follow_the_distribution(ours, theirs):
    draws = ours.rsample((50_000,))
    assert scipy.stats.kstest(draws.numpy(), theirs.cdf).pvalue > 1e-3
    assert ours.expand((3, 2)).rsample((4,)).shape == (4, 3, 2)
    assert ours.expand((3, 2)).log_prob(torch.zeros(3, 2)).shape == (3, 2)


def expectation(distribution) -> float:
    """E cos(z), on a fine grid of quantiles."""
    u = (np.arange(400_000) + 0.5) / 400_000
    return float(np.cos(distribution.ppf(u)).mean())


@pytest.mark.parametrize("name", ["df", "loc", "scale"])
def test_gradients_of_student_draws_are_those_of_the_expectation(name):
    values = {"df": 3.0, "loc": 0.4, "scale": 0.8}
    parameters = {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()}
    parameters[name] = parameters[name].expand(400_000).clone().requires_grad_()
    draws = StudentT(**parameters).rsample()
    (gradients,) = torch.autograd.grad(draws.cos().sum(), parameters[name])
    step = 0.05
    up, down = ({**values, name: values[name] + s} for s in (step, -step))
    exact = expectation(scipy.stats.t(**up)) - expectation(scipy.stats.t(**down))
    error = float(gradients.std()) / math.sqrt(len(gradients))
    assert float(gradients.mean()) == pytest.approx(exact / (2 * step), abs=5 * error + 5e-4)


@pytest.mark.parametrize("name", ["loc", "scale"])
def test_gradients_of_logistic_draws_are_those_of_the_expectation(name):
    values = {"loc": 0.4, "scale": 0.8}
    parameters = {k: torch.full((400_000,), v).double() for k, v in values.items()}
    parameters[name].requires_grad_()
    (gradients,) = torch.autograd.grad(
        Logistic(**parameters).rsample().cos().sum(), parameters[name]
    )
    step = 0.02
    up, down = ({**values, name: values[name] + s} for s in (step, -step))
    exact = expectation(scipy.stats.logistic(**up)) - expectation(scipy.stats.logistic(**down))
    error = float(gradients.std()) / math.sqrt(len(gradients))
    assert float(gradients.mean()) == pytest.approx(exact / (2 * step), abs=5 * error + 5e-4)


@pytest.mark.parametrize("df", [0.01, 1.001, 1e4])
def test_extreme_degrees_of_freedom_stay_finite(df):
    parameters = [torch.full((1000,), v, requires_grad=True) for v in (df, 1e4, 1e-5)]
    q = StudentT(*parameters)
    z = q.rsample()
    assert z.isfinite().all()
    for gradient in torch.autograd.grad(q.log_prob(z).sum(), parameters):
        assert gradient.isfinite().all()
