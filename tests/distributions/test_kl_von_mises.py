"""KL between von Mises distributions on the circle, against integrals and von Mises-Fisher."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from pyro_vae.distributions import VonMisesFisher


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kappa", [0.01, 1.0, 50.0, 5000.0])
@pytest.mark.parametrize(("loc", "other"), [(0.3, 2.0), (3.0, 0.7)])
def test_kl(kappa, loc, other):
    (q_loc, p_loc), (q_kappa, p_kappa) = numbers(loc, 1.0), numbers(kappa, other)
    q, p = dist.VonMises(q_loc, q_kappa), dist.VonMises(p_loc, p_kappa)
    found = float(kl_divergence(q, p))
    # Periodic and smooth: the sum over a fine grid is exact to rounding.
    angles = np.linspace(-math.pi, math.pi, 20_001)[1:]
    log_q = stats.vonmises.logpdf(angles, kappa, loc=loc)
    log_p = stats.vonmises.logpdf(angles, other, loc=1.0)
    expected = (np.exp(log_q) * (log_q - log_p)).sum() * 2 * math.pi / 20_000
    assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)

    def on_the_circle(angle, concentration):
        return VonMisesFisher(torch.stack([angle.cos(), angle.sin()]), concentration)

    same = kl_divergence(on_the_circle(q_loc, q_kappa), on_the_circle(p_loc, p_kappa))
    assert found == pytest.approx(float(same), abs=1e-9, rel=1e-9)


def test_gradients_and_independents():
    loc, kappa = numbers(0.2, 1.0).requires_grad_(), numbers(0.5, 80.0).requires_grad_()
    p = dist.VonMises(numbers(0.0, 0.0), numbers(2.0, 3.0))
    assert torch.autograd.gradcheck(
        lambda loc, kappa: kl_divergence(dist.VonMises(loc, kappa), p), (loc, kappa)
    )
    q = dist.VonMises(loc, kappa)
    total = kl_divergence(q.to_event(1), p.to_event(1))
    torch.testing.assert_close(total, kl_divergence(q, p).sum())
    assert kl_divergence(p, p).abs().max() < 1e-12
