"""Missing values: exact answers of a linear-Gaussian model, imputations, and the path of data."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import VAE, build, fit, likelihoods, posteriors, priors
from pyro_vae.data import DataContract, Dataset, PreparedData, allow_missing, digits, table_file
from pyro_vae.data.digests import row_digests
from pyro_vae.data.inspection import check_values
from pyro_vae.log_densities import log_densities
from pyro_vae.programs import missing
from pyro_vae.programs.missing import Missing

NAN = math.nan
LOADINGS = torch.tensor([[1.0, 0.3], [-0.8, 0.5], [0.2, 1.2], [0.6, -0.7], [0.0, 0.4]])
MEAN, SCALE = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0]), 0.4
ROWS = torch.tensor(
    [
        [0.9, -1.5, 2.5, 0.1, 1.2],
        [NAN, -0.3, NAN, 0.8, NAN],
        [1.4, NAN, 3.0, NAN, 0.2],
        [NAN, NAN, NAN, NAN, 1.9],
        [NAN] * 5,
    ]
)


class Linear(nn.Module):
    """W z + m, as a likelihood's decoder."""

    def __init__(self, output_shape):
        super().__init__()
        self.weight = nn.Parameter(LOADINGS.clone())
        self.output_shape = output_shape

    def forward(self, z):
        return (z @ self.weight.T + MEAN).reshape(*z.shape[:-1], *self.output_shape)


class ExactPosterior(nn.Module):
    """p(z | x_observed) of the linear model, with a covariance `width` times as large."""

    support, latent_dim = "real", 2

    def __init__(self, width=1.0):
        super().__init__()
        self.width = width

    def moments(self, x):
        observed = ~x.isnan()
        weighted = (observed / SCALE**2).unsqueeze(-1) * LOADINGS
        covariance = torch.linalg.inv(torch.eye(2) + LOADINGS.T @ weighted)
        residual = torch.where(observed, x - MEAN, 0.0)
        loc = (covariance @ (weighted.mT @ residual.unsqueeze(-1))).squeeze(-1)
        return loc, covariance

    def forward(self, x):
        loc, covariance = self.moments(x)
        return dist.MultivariateNormal(loc, self.width * covariance)

    def embed(self, x):
        return self.moments(x)[0]


def linear(width=1.0):
    likelihood = likelihoods.Normal((5,), Linear, scale="fixed", initial_scale=SCALE)
    with torch.no_grad():
        _, scale, _ = likelihood.loc_and_scale(torch.zeros(1, 2))
    assert scale[0].allclose(torch.tensor(SCALE))
    return Missing(priors.StandardNormal(2), likelihood, ExactPosterior(width))


def exact_log_density(x):
    """log N(x_o | m_o, (W W^T + s^2 I)_oo) of each row."""
    covariance = LOADINGS @ LOADINGS.T + SCALE**2 * torch.eye(5)
    found = []
    for row in x:
        o = ~row.isnan()
        p = torch.distributions.MultivariateNormal(MEAN[o], covariance[o][:, o]) if o.any() else 0
        found.append(p.log_prob(row[o]) if o.any() else torch.tensor(0.0))
    return torch.stack(found)


def exact_completion(row):
    """Mean and covariance of the missing elements given the observed ones."""
    covariance = LOADINGS @ LOADINGS.T + SCALE**2 * torch.eye(5)
    o = ~row.isnan()
    gain = covariance[~o][:, o] @ torch.linalg.inv(covariance[o][:, o])
    mean = MEAN[~o] + gain @ (row[o] - MEAN[o])
    return mean, covariance[~o][:, ~o] - gain @ covariance[o][:, ~o]


def test_log_p_of_the_observed_elements_is_exact():
    program = linear()
    terms = log_densities(program.model, program.guide, ROWS, num_particles=7)
    # With the exact posterior each draw's weight is p(x).
    torch.testing.assert_close(
        terms.log_weight, exact_log_density(ROWS).expand(7, -1), atol=2e-5, rtol=1e-5
    )
    assert torch.equal(terms.log_likelihood[:, -1], torch.zeros(7))


def test_importance_weighting_agrees_to_monte_carlo_error():
    torch.manual_seed(0)
    program, n = linear(width=1.5), 20_000
    weights = log_densities(program.model, program.guide, ROWS, num_particles=n).log_weight
    exact = exact_log_density(ROWS)
    ratio = (weights - exact).exp()
    error = ratio.std(0) / math.sqrt(n)
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()
    assert (weights.mean(0) < exact).all()  # The ELBO.


@pytest.mark.parametrize("width", [1.0, 1.5])
def test_imputations_have_the_conditional_mean_and_spread(width):
    program, row = linear(width), ROWS[1:2]
    mean, covariance = exact_completion(row[0])
    gaps = row[0].isnan()
    found = program.impute(row, num_samples=20_000, seed=0)
    torch.testing.assert_close(found[0, gaps], mean, atol=0.02, rtol=0)
    draws = program.impute(row, draws=20_000, num_samples=20_000, seed=0)[:, 0]
    assert torch.equal(draws[:, ~gaps], row[0, ~gaps].expand(20_000, -1))
    torch.testing.assert_close(draws[:, gaps].mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws[:, gaps].T.cov(), covariance, atol=0.04, rtol=0)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "poisson", "logit_normal"])
def test_with_nothing_missing_it_is_the_vae(likelihood):
    torch.manual_seed(0)
    program = missing.build((6,), latent_dim=2, likelihood=likelihood)
    vae = VAE(program.prior, program.likelihood, program.posterior)
    x = torch.randint(0, 2, (20, 6)).float()
    x = (x + 0.5) / 2 if likelihood == "logit_normal" else x
    found = []
    for each in (program, vae):
        torch.manual_seed(1)
        found.append(log_densities(each.model, each.guide, x, num_particles=3).log_weight)
    assert torch.equal(*found)


def test_what_is_missing_has_no_gradient():
    program = missing.build((4,), latent_dim=2, likelihood="normal")
    x = torch.randn(8, 4)
    x[:, 1] = NAN
    x[0] = NAN
    terms = log_densities(program.model, program.guide, x)
    (-terms.log_weight.mean()).backward()
    assert all(p.grad.isfinite().all() for p in program.parameters())
    assert program.likelihood.raw_scale.grad[1] == 0
    assert (program.likelihood.raw_scale.grad[[0, 2, 3]] != 0).all()


def test_the_encoder_knows_what_is_missing():
    torch.manual_seed(0)
    program = missing.build((1, 4, 4), latent_dim=2, likelihood="bernoulli")
    zeros, gaps = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), NAN)
    assert not torch.equal(program.embed(zeros), program.embed(gaps))
    assert program.embed(gaps).isfinite().all()


# ---- data -------------------------------------------------------------------------------------


def with_gaps(x, share=0.3):
    x = np.array(x, dtype=np.float64)
    x[np.random.default_rng(1).random(x.shape) < share] = NAN
    return x


RNG = np.random.default_rng(0)
DATA = {
    "real": (RNG.normal(5, 2, (60, 4)), {}),
    "unit": (RNG.uniform(0.05, 0.9, (60, 4)), {}),
    "binary": (RNG.integers(0, 2, (60, 4)), {}),
    "counts": (RNG.poisson(3.0, (60, 4)), {"support": "counts"}),
    "integers": (RNG.integers(0, 9, (60, 4)), {"levels": 9}),
}


@pytest.mark.parametrize("support", DATA)
def test_each_support_trains_and_imputes(support):
    x, options = DATA[support]
    gaps = with_gaps(x)
    with allow_missing():
        dataset = Dataset.from_array(gaps, **options)
    assert dataset.missing
    assert dataset.support == support
    torch.manual_seed(0)
    program = missing.build((4,), 2, kind=dataset.kind, levels=dataset.levels)
    history = fit(program, dataset, epochs=2)
    assert math.isfinite(history[-1]["validation_elbo"])
    known = ~np.isnan(gaps)
    for found in (program.impute(gaps, seed=0), program.impute(gaps, draws=3, seed=0)[1]):
        np.testing.assert_allclose(found[known], gaps[known], rtol=1e-6)
        assert np.isfinite(found).all()
    draws = program.impute(gaps, draws=3, seed=0)
    assert draws.shape == (3, 60, 4)
    if support in ("binary", "counts", "integers"):
        assert (draws == np.rint(draws)).all()
    assert program.reconstruct(gaps).shape == (60, 4)


@pytest.mark.parametrize("binarisation", ["dynamic", "static", "threshold"])
def test_levels_are_binarised_where_they_are_observed(binarisation):
    data = PreparedData(
        digits(), "binary", binarisation=binarisation, allows_missing=True, missing_rate=0.25
    )
    again = PreparedData(
        digits(), "binary", binarisation=binarisation, allows_missing=True, missing_rate=0.25
    )
    x, complete = data.fixed("test"), data.complete.fixed("test")
    gaps = x.isnan()
    assert 0.24 < gaps.float().mean() < 0.26
    assert torch.equal(x.nan_to_num(-1), again.fixed("test").nan_to_num(-1))
    assert torch.equal(x[~gaps], complete[~gaps].float())
    batch = data.transform(data.train[:50])
    assert torch.equal(batch.isnan(), data.train[:50].isnan())
    assert set(batch[~batch.isnan()].tolist()) == {0.0, 1.0}
    assert data.starting_rows().isfinite().all()
    assert data.bits_per_dim(-20.0) is None
    assert data.complete.bits_per_dim(-20.0) is not None


def test_a_table_with_empty_cells(tmp_path):
    x = with_gaps(DATA["real"][0], 0.1)
    frame = pd.DataFrame(x, columns=list("abcd"))
    frame["whole"] = np.where(np.arange(60) == 7, NAN, np.arange(60) % 5)
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"no value in row .*train with --model missing"):
        table_file(path)
    with allow_missing():
        dataset = table_file(path)
    units = np.nanmean(dataset.train.double().numpy(), 0)
    np.testing.assert_allclose(dataset.units.center.numpy(), units, rtol=1e-6)
    check_values(dataset, "real")
    program = missing.build((5,), 2, kind="real", units=dataset.units)
    fit(program, dataset, epochs=1)
    assert program.contract is not None
    restored = DataContract.from_plain(program.contract.to_plain())
    assert restored.allows_missing
    filled = program.impute(frame, seed=0)
    assert isinstance(filled, pd.DataFrame)
    assert not filled.isna().to_numpy().any()
    # The same rows are the same data, whatever the bits of NaN.
    other = np.where(np.isnan(x), np.copysign(np.nan, -1.0), x)
    assert (row_digests(x) == row_digests(other)).all()


def test_masked_arrays_and_rows_without_a_value():
    x, _ = DATA["real"]
    mask = np.zeros(x.shape, bool)
    mask[5] = True
    mask[::3, 2] = True
    masked = np.ma.masked_array(x, mask)
    with pytest.raises(ValueError, match=r"masked values.*--model missing"):
        Dataset.from_array(masked)
    with allow_missing():
        dataset = Dataset.from_array(masked)
    gaps = sum(
        int(dataset.split(split).isnan().sum()) for split in ("train", "validation", "test")
    )
    assert gaps == mask.sum()
    fit(missing.build((4,), 2, kind="real"), masked, epochs=1)


def test_a_contract_of_an_older_checkpoint_allows_nothing():
    data = PreparedData(Dataset.from_array(DATA["real"][0]), "real")
    plain = DataContract.from_data(data).to_plain()
    del plain["allows_missing"]
    contract = DataContract.from_plain(plain)
    assert not contract.allows_missing


# ---- bad input --------------------------------------------------------------------------------


def test_other_programs_refuse_nan_and_point_to_this_one():
    x = with_gaps(DATA["real"][0])
    with pytest.raises(ValueError, match=r"not finite.*or train with --model missing"):
        fit(build((4,), likelihood="normal"), x, epochs=1)
    with allow_missing():
        dataset = Dataset.from_array(x)
    with pytest.raises(ValueError, match="missing values: fill them in, or train with --model"):
        fit(build((4,), likelihood="normal"), dataset, epochs=1)
    allowed = PreparedData(dataset, "real", allows_missing=True)
    with pytest.raises(ValueError, match="VAE does not leave out"):
        fit(build((4,), likelihood="normal"), allowed, epochs=1)


def test_infinite_values_and_empty_columns_are_refused():
    x = with_gaps(DATA["real"][0])
    x[3, 2] = math.inf
    with allow_missing(), pytest.raises(ValueError, match=r"not finite.*1 .*element 2"):
        Dataset.from_array(x)
    x[:, 2] = NAN
    with (
        allow_missing(),
        pytest.raises(ValueError, match="element 2 has no value in the training"),
    ):
        Dataset.from_array(x)


def test_fractions_are_refused_where_data_are_integers():
    x = with_gaps(DATA["integers"][0])
    x[0, 0] = 2.5
    with allow_missing(), pytest.raises(ValueError, match="got fractions: 1 "):
        Dataset.from_array(x, levels=9)


@pytest.mark.parametrize("name", ["autoregressive_bernoulli", "multinomial"])
def test_likelihoods_of_dependent_elements_are_refused(name):
    with pytest.raises(ValueError, match="elements are independent given z"):
        missing.build((4,), likelihood=name)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_out_of_its_range_is_refused(rate):
    with pytest.raises(ValueError, match="missing_rate must be at least 0 and below 1"):
        missing.build((4,), missing_rate=rate)


def test_a_mask_of_another_shape_is_refused():
    program, x = linear(), ROWS[:1]
    for observed in (torch.ones(1, 4, dtype=torch.bool), np.ones((1, 5))):
        with pytest.raises(ValueError, match="mask of booleans of the shape of x"):
            program.impute(x, observed=observed)
    known = np.array([[True, False, True, True, True]])
    assert torch.equal(program.impute(x, observed=known, seed=0)[0, 2:], x[0, 2:])


def test_a_point_guide_has_no_imputations():
    program = missing.build((4,), posterior="point", likelihood="normal")
    with pytest.raises(ValueError, match="a completion needs a guide with a density"):
        program.impute(torch.zeros(1, 4))


def test_parts_that_start_from_data_start_from_what_is_observed():
    x = torch.tensor(with_gaps(DATA["counts"][0])).float()
    program = missing.build((4,), likelihood="negative_binomial", prior="vamp", train_data=x)
    mean = program.likelihood.log_start.exp()
    torch.testing.assert_close(mean, x.nanmean(0), rtol=1e-5, atol=1e-5)
    assert all(p.isfinite().all() for p in program.parameters())
    assert isinstance(program.posterior, posteriors.DiagonalNormal)
