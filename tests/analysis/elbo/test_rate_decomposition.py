"""The rate taken apart, against closed forms, quadrature and the estimators of a batch."""

import math
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.elbo.rate_decomposition import RateDecomposition, decompose_rate
from analysis.result import UndefinedCheckError
from pyro_vae import build, posteriors, priors
from pyro_vae.log_densities import log_densities
from pyro_vae.model import VAE
from pyro_vae.mutual_information import mutual_information
from pyro_vae.objectives.total_correlation import decomposition
from pyro_vae.rng import evaluation_mode


class Unused(nn.Module):
    """A likelihood that ignores z."""

    support = "real"

    def forward(self, z: Tensor) -> dist.Distribution:
        zeros = torch.zeros((*z.shape[:-1], 2))
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)


class Affine(nn.Module):
    """q(z | x) = N(gain x + shift, S), diagonal or full."""

    support = "real"
    latent_dim = 2

    def __init__(self, gain: float, shift: float, covariance: Tensor, diagonal: bool) -> None:
        super().__init__()
        self.gain, self.shift = gain, shift
        self.covariance, self.diagonal = covariance, diagonal

    def embed(self, x: Tensor) -> Tensor:
        return self.gain * x + self.shift

    def forward(self, x: Tensor) -> dist.Distribution:
        if self.diagonal:
            scale = self.covariance.diagonal().sqrt().expand_as(x)
            return dist.Normal(self.embed(x), scale).to_event(1)
        return dist.MultivariateNormal(self.embed(x), self.covariance)


def a_vae(
    gain: float,
    *,
    shift: float = 0.0,
    covariance: Tensor | None = None,
    diagonal: bool = True,
) -> VAE:
    covariance = torch.eye(2) if covariance is None else covariance
    return VAE(priors.StandardNormal(2), Unused(), Affine(gain, shift, covariance, diagonal))


def some(n: int, seed: int = 5) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def parts(found: RateDecomposition) -> list[float]:
    assert found.total_correlation is not None
    assert found.dimension_wise_kl is not None
    return [found.mutual_information, found.total_correlation, found.dimension_wise_kl]


def test_a_guide_that_ignores_x_has_a_normals_correlation_and_divergence():
    covariance = torch.tensor([[1.5, 0.6], [0.6, 0.5]])
    vae = a_vae(0.0, shift=0.7, covariance=covariance, diagonal=False)
    found = decompose_rate(vae, some(50), num_draws=20_000)
    correlation = -0.5 * math.log(1 - 0.36 / 0.75)
    each = sum(0.5 * (v + 0.49 - 1 - math.log(v)) for v in (1.5, 0.5))
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    for name, truth in (("total_correlation", correlation), ("dimension_wise_kl", each)):
        error = 4 * getattr(found, f"{name}_se")
        assert error < 0.1
        assert getattr(found, name) == pytest.approx(truth, abs=error)
    assert not found.active.any()


def test_a_collapsed_guide_has_nothing_at_all():
    found = decompose_rate(a_vae(0.0), some(300), num_draws=500)
    values = [*parts(found), found.rate, found.marginal_kl, found.mutual_information_se]
    np.testing.assert_allclose(values, 0, atol=1e-5)
    assert found.by_dimension is not None
    np.testing.assert_allclose(found.by_dimension.mutual_information, 0, atol=1e-9)
    assert found.summary()["active_units"] == 0
    assert "collapsed" in found.reading()


def quadrature(loc: np.ndarray, scale: float) -> tuple[float, float]:
    """MI and TC of a mixture of round normals in the plane, by sums over a grid."""
    axis = np.linspace(-6, 6, 601)
    step = axis[1] - axis[0]
    first, second = (
        np.exp(-(((axis - m[:, None]) / scale) ** 2) / 2) / scale / math.sqrt(2 * math.pi)
        for m in loc.T
    )
    q = np.einsum("ja,jb->ab", first, second) / len(loc) + 1e-300
    product = np.outer(first.mean(0), second.mean(0)) + 1e-300
    entropy = -(q * np.log(q)).sum() * step**2
    total = (q * (np.log(q) - np.log(product))).sum() * step**2
    return entropy - math.log(2 * math.pi * math.e * scale**2), total


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 0.1), (math.pi / 4, 0.1), (0.3, 0.8)])
def test_corners_of_a_turned_square_agree_with_quadrature(angle, scale):
    """Apart, MI = log 4; on the axes' own square TC = 0, and turned by 45 degrees log 2."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    c, s = math.cos(angle), math.sin(angle)
    x = corners @ torch.tensor([[c, -s], [s, c]])
    vae = a_vae(1.0, covariance=scale**2 * torch.eye(2))
    found = decompose_rate(vae, x, num_draws=40_000)
    information, total = quadrature(x.double().numpy(), scale)
    mi, tc, _ = parts(found)
    assert mi == pytest.approx(information, abs=4 * found.mutual_information_se + 1e-6)
    assert tc == pytest.approx(total, abs=4 * (found.total_correlation_se or 0) + 1e-5)
    if scale == 0.1:
        assert mi == pytest.approx(math.log(4), abs=1e-6)
        assert found.saturated
    if scale == 0.1 and angle == math.pi / 4:
        # Three values a coordinate, of chances 1/4, 1/2 and 1/4.
        assert tc == pytest.approx(3 * math.log(2) - math.log(4), abs=0.02)


def test_a_true_model_has_the_channels_capacity_and_meets_its_prior():
    model = LinearGaussian()
    found = decompose_rate(model.vae(), model.draw(4000, seed=1), num_draws=4000)
    eigenvalues = torch.linalg.eigvalsh(model.weight.mT @ model.weight).double()
    capacity = float(0.5 * torch.log1p(eigenvalues / model.noise**2).sum())
    assert found.mutual_information == pytest.approx(capacity, abs=0.1)
    assert abs(found.marginal_kl) < 0.1
    assert not found.saturated
    assert found.by_dimension is not None
    assert found.by_dimension.marginal_kl is not None
    np.testing.assert_allclose(found.by_dimension.marginal_kl, 0, atol=0.02)
    # A code moved away from its prior shows in each dimension's own shape, and nowhere else.
    moved = decompose_rate(model.vae(guide_shift=3.0), model.draw(4000, seed=1), num_draws=4000)
    assert parts(moved)[2] > found.marginal_kl + 0.5
    np.testing.assert_allclose(parts(moved)[:2], parts(found)[:2], atol=1e-3)


def random_vae() -> VAE:
    pyro.set_rng_seed(0)
    return build((1, 4, 4), 3)


def binary(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.bernoulli(torch.full((n, 1, 4, 4), 0.5), generator=generator)


def test_the_three_are_the_mean_rate_of_the_same_draws_and_the_batchs_own_decomposition():
    vae, x = random_vae(), binary(150)
    with evaluation_mode(vae, seed=4):
        terms = log_densities(vae.model, vae.guide, x)
        batch = decomposition(terms, train_size=150)
    found = decompose_rate(vae, x, num_draws=150, seed=4)
    assert sum(parts(found)) == pytest.approx(found.rate, abs=1e-12)
    assert found.marginal_kl == pytest.approx(sum(parts(found)[1:]), abs=1e-12)
    rate = (terms.log_posterior - terms.log_prior).mean()
    assert found.rate == pytest.approx(float(rate), abs=1e-5)
    for part, value in zip(vars(batch).values(), parts(found), strict=True):
        assert value == pytest.approx(float(part.mean()), abs=1e-4)
    known = mutual_information(vae, x, seed=4)
    assert found.mutual_information == pytest.approx(known.value, abs=1e-5)
    assert found.mutual_information_se == pytest.approx(known.standard_error, abs=1e-5)


def test_all_data_are_in_the_mixture_and_not_those_drawn_for_alone():
    x = 100 * torch.arange(400.0)[:, None].expand(400, 2)
    found = decompose_rate(a_vae(1.0), x, num_draws=20)
    assert found.mutual_information == pytest.approx(math.log(400), abs=1e-7)
    assert found.num_draws == 20


def test_few_data_saturate_and_the_excess_is_total_correlation():
    model = LinearGaussian(noise=0.02, latent_dim=6)
    few = decompose_rate(model.vae(), model.draw(60, seed=2), num_draws=60)
    assert few.saturated
    assert few.mutual_information <= few.log_n + 1e-9
    assert parts(few)[1] > 5
    assert "log N = 4.09" in few.reading()
    assert few.summary()["saturated"] is True
    assert few.summary()["n_train"] == 60
    assert few.summary()["log_n"] == pytest.approx(math.log(60))
    enough = decompose_rate(
        LinearGaussian().vae(), LinearGaussian().draw(2000, seed=2), num_draws=300
    )
    assert not enough.saturated
    assert enough.saturated_dimensions is not None
    assert not enough.saturated_dimensions.any()
    assert "2,000 training data" in enough.reading()


def test_a_spiky_dimension_is_flagged_and_exact():
    x = some(500)
    vae = a_vae(1.0, covariance=torch.diag(torch.tensor([1e-8, 1.0])))
    found = decompose_rate(vae, x, num_draws=500)
    assert found.saturated_dimensions is not None
    assert found.saturated_dimensions.tolist() == [True, False]
    assert found.summary()["by_dimension"]["saturated"] == [True, False]
    assert found.interpolation_error is not None
    assert found.interpolation_error < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", posteriors.WITH_DENSITY)
def test_every_posterior_has_a_decomposition(name):
    posterior: Any = posteriors.POSTERIORS[name]
    prior = next(p for p in cast("Any", priors.PRIORS).values() if p.support == posterior.support)
    pyro.set_rng_seed(0)
    vae = build((1, 4, 4), 4, prior=prior, posterior=posterior)
    x = binary(40)
    found = decompose_rate(vae, x, num_draws=40, seed=2)
    known = mutual_information(vae, x, seed=2)
    assert found.mutual_information == pytest.approx(known.value, abs=1e-4)
    assert found.mutual_information + found.marginal_kl == pytest.approx(found.rate, abs=1e-9)
    if found.total_correlation is None:
        assert found.undefined
        assert found.summary()["undefined"] == found.undefined
        assert found.by_dimension is None
    else:
        assert sum(parts(found)) == pytest.approx(found.rate, abs=1e-9)
    assert len(found.summary()["reading"]) > 40


@pytest.mark.parametrize("name", ["full_normal", "low_rank_normal", "laplace"])
def test_guides_with_coordinates_agree_with_the_batchs_own_decomposition(name):
    pyro.set_rng_seed(1)
    vae = build((1, 4, 4), 4, posterior=posteriors.POSTERIORS[name])
    x = binary(60)
    with evaluation_mode(vae, seed=4):
        batch = decomposition(log_densities(vae.model, vae.guide, x), train_size=60)
    found = decompose_rate(vae, x, num_draws=60, seed=4)
    for part, value in zip(vars(batch).values(), parts(found), strict=True):
        assert value == pytest.approx(float(part.mean()), abs=2e-4)


def test_a_prior_without_coordinates_has_the_sum_alone():
    pyro.set_rng_seed(0)
    vae = build((1, 4, 4), 3, prior=priors.GaussianMixture)
    found = decompose_rate(vae, binary(50), num_draws=50)
    assert found.by_dimension is not None
    assert found.by_dimension.marginal_kl is None
    assert found.by_dimension.rate is None
    assert sum(parts(found)) == pytest.approx(found.rate, abs=1e-9)
    assert not found.dimension_wise_is_kl


def test_the_spectrum_adds_up():
    model = LinearGaussian()
    found = decompose_rate(model.vae(diagonal=True), model.draw(3000, seed=1), num_draws=3000)
    spectrum = found.by_dimension
    assert spectrum is not None
    assert spectrum.marginal_kl is not None
    assert spectrum.rate is not None
    summed = spectrum.mutual_information + spectrum.marginal_kl
    # A closed form and draws: the errors of both dimensions' draws are about 0.02.
    np.testing.assert_allclose(summed, spectrum.rate, atol=0.06)
    assert spectrum.marginal_kl.sum() == pytest.approx(found.dimension_wise_kl, abs=1e-6)
    np.testing.assert_allclose(
        found.activity, model.vae().embed(model.draw(3000, seed=1)).double().var(0, correction=0)
    )


def test_blocks_change_nothing(monkeypatch):
    vae, x = random_vae(), binary(70)
    whole = decompose_rate(vae, x, num_draws=50)
    monkeypatch.setattr("analysis.elbo.rate_decomposition.BLOCK", 16 * 9)
    monkeypatch.setattr("analysis.elbo.aggregate_posterior.ELEMENTS", 100)
    np.testing.assert_allclose(
        parts(decompose_rate(vae, x, num_draws=50)), parts(whole), atol=1e-9
    )


def test_no_stream_moves_and_modes_are_put_back():
    vae, x = random_vae(), binary(20)
    vae.train()
    before = torch.get_rng_state()
    first = decompose_rate(vae, x, num_draws=10)
    assert (torch.get_rng_state() == before).all()
    assert vae.training
    assert parts(first) == parts(decompose_rate(vae, x.to(torch.uint8), num_draws=10))
    assert parts(first) != parts(decompose_rate(vae, x, num_draws=10, seed=1))


class TwoSites(nn.Module):
    """What a program with two latent sites declares."""

    latent_sites = ("z1", "z2")


def test_bad_input_is_refused():
    with pytest.raises(UndefinedCheckError, match="one latent site can be checked, got z1, z2"):
        decompose_rate(TwoSites(), some(3))
    with pytest.raises(ValueError, match="num_draws must be at least 2, got 1"):
        decompose_rate(a_vae(1.0), some(3), num_draws=1)
    with pytest.raises(ValueError, match="number of data must be at least 2, got 1"):
        decompose_rate(a_vae(1.0), some(1))


def test_one_hot_codes_say_what_bayes_rule_says():
    model = BernoulliMixture()
    x = model.draw(500, seed=3)
    found = decompose_rate(model.vae(), x, num_draws=5000)
    pixels = dist.Bernoulli(logits=model.logits.double()).to_event(1)
    q = pixels.log_prob(x.flatten(1).double().unsqueeze(1)).softmax(1)
    mixture = q.mean(0)
    truth = float((q * (q.clamp_min(1e-300).log() - mixture.log())).sum(1).mean())
    assert found.mutual_information == pytest.approx(truth, abs=4 * found.mutual_information_se)
    assert found.undefined is not None
    assert found.marginal_kl == pytest.approx(
        float((mixture * (mixture * model.components).log()).sum()),
        abs=4 * found.marginal_kl_se + 1e-6,
    )
