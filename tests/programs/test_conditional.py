"""A conditional VAE against cases that are known: no covariate, and a linear-Gaussian model."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_vae
from analysis.programs import conditional as analysis
from pyro_vae import likelihoods, networks, priors
from pyro_vae.log_densities import log_densities
from pyro_vae.programs.conditional import build
from pyro_vae.programs.covariates import Covariates
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import log_mean_exp

LINEAR = partial(networks.MLP, hidden=[])
Y = torch.tensor([0, 1, 2] * 10)


def weights(program, x, y=None, *, draws=4):
    with evaluation_mode(program, seed=0):
        args = (x,) if y is None else (x, y)
        return log_densities(program.model, program.guide, *args, num_particles=draws).log_weight


def held_out(x, y, names=()):
    return SimpleNamespace(x=x, y=y, label_names=names, event_names=(), contract=None)


# ---- known answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli", "negative_binomial"])
@pytest.mark.parametrize("kind", ["a number", "a category"])
def test_constant_covariate_gives_the_bound_of_the_plain_vae(likelihood, kind):
    x = torch.randint(0, 2, (30, 6)).float()
    y = torch.full((30,), 3.5) if kind == "a number" else torch.full((30,), 2)
    parts = {"likelihood": likelihood, "train_data": x}
    plain = pyro_vae.build((6,), 3, **parts)
    program = build((6,), 3, **parts, size_factor=False, train_labels=y)
    linear = [[m for m in each.modules() if isinstance(m, nn.Linear)] for each in (plain, program)]
    for own, other in zip(*linear, strict=True):
        other.weight.data[:, : own.in_features] = own.weight.data
        # A constant number has the feature 0, a constant category the feature 1.
        if kind == "a category":
            other.weight.data[:, own.in_features :] = 0
        other.bias.data = own.bias.data
    torch.testing.assert_close(weights(program, x, y), weights(plain, x), atol=1e-5, rtol=1e-5)


class TestLinearGaussian:
    """x | z, c ~ N(W z + V c + b, s^2 I): x | c ~ N(V c + b, W W^T + s^2 I)."""

    def setup_method(self):
        torch.manual_seed(1)
        self.scale = 0.5
        self.y = torch.stack([torch.arange(60) % 3, torch.rand(60) * 10], 1)
        normal = partial(likelihoods.Normal, scale="fixed", initial_scale=self.scale)
        self.program = build(
            (5,), 2, likelihood=normal, network=LINEAR, train_labels=self.y, size_factor=False
        )
        # Orthogonal columns, so that the exact posterior is diagonal.
        q, _ = torch.linalg.qr(torch.randn(5, 2))
        w, v, b = q * torch.tensor([1.5, 0.7]), 3 * torch.randn(5, 4), torch.randn(5)
        head = self.program.likelihood.decoder.network.head
        head.weight.data, head.bias.data = torch.cat([w, v], 1), b
        c = self.program.covariates(self.y)
        mean, covariance = c @ v.T + b, w @ w.T + self.scale**2 * torch.eye(5)
        p = torch.distributions.MultivariateNormal(mean, covariance)
        self.x = p.sample()
        self.exact = p.log_prob(self.x)
        self.w, self.v, self.b = w, v, b

    def set_guide(self, *, wider):
        precision = 1 + (self.w**2).sum(0) / self.scale**2
        gain = self.w.T / self.scale**2 / precision[:, None]
        scale = wider / precision.sqrt() - 1e-5
        head = self.program.posterior.encoder.network.head
        loc = torch.cat([gain, -gain @ self.v], 1)
        head.weight.data = torch.cat([loc, torch.zeros(2, 9)])
        head.bias.data = torch.cat([-gain @ self.b, scale.expm1().log()])

    def test_exact_guide_gives_log_p_x_given_c_with_each_draw(self):
        self.set_guide(wider=1.0)
        found = weights(self.program, self.x, self.y)
        torch.testing.assert_close(found, self.exact.expand(4, -1), atol=2e-4, rtol=1e-4)

    def test_importance_weighting_approaches_log_p_x_given_c(self):
        self.set_guide(wider=1.4)
        log_weights = weights(self.program, self.x, self.y, draws=4000).double().numpy()
        error = log_weights.std(0).mean() / math.sqrt(4000 * 60)
        assert log_weights.mean() < float(self.exact.mean()) - 0.05
        assert abs(log_mean_exp(log_weights).mean() - float(self.exact.mean())) < 5 * error

    def test_other_covariates_give_another_density(self):
        self.set_guide(wider=1.0)
        other = self.y.clone()
        other[:, 1] += 1
        assert (weights(self.program, self.x, other)[0] - self.exact).abs().max() > 0.1

    def test_exact_codes_have_nothing_of_c_left(self):
        self.set_guide(wider=1.0)
        y = torch.stack([torch.arange(600) % 3, torch.rand(600) * 10], 1)
        z = torch.randn(600, 2)
        x = self.program.given(z, self.program.covariates(y)).sample()
        found = analysis.scores(self.program, held_out(x, y, ("batch", "age")))
        assert abs(found["covariate_accuracy_batch"] - 1 / 3) < 0.08
        assert abs(found["covariate_r2_age"]) < 0.05
        # The same codes, read without their own covariates, have.
        other = torch.stack([torch.zeros(600), torch.full((600,), 5.0)], 1)
        codes = self.program.embed(x, other).numpy(force=True)
        assert analysis.probe_scores(codes, y[:, 1].numpy(), categories=False)[""] > 0.2

    def test_counterfactual_moves_x_by_the_effect_of_c(self):
        self.set_guide(wider=1.0)
        other = self.y.clone()
        other[:, 0] = (other[:, 0] + 1) % 3
        moved = self.program.counterfactual(self.x, self.y, other)
        same = self.program.reconstruct(self.x, self.y)
        c = self.program.covariates
        torch.testing.assert_close(moved - same, (c(other) - c(self.y)) @ self.v.T)


# ---- size factors and dispersion ----------------------------------------------------------------


@pytest.mark.parametrize(
    "likelihood", ["negative_binomial", "zero_inflated_negative_binomial", "poisson"]
)
def test_size_factor_is_the_total_of_the_means(likelihood):
    x = torch.poisson(torch.full((30, 5), 4.0))
    program = build((5,), 2, likelihood=likelihood, train_data=x, train_labels=Y)
    size = program.size(x)
    assert torch.equal(size, x.sum(1))
    assert torch.equal(size, program.size(x.to(torch.uint8)))
    assert program.likelihood.given_total
    p = program.given(torch.randn(7, 30, 2), program.covariates(Y), size)
    gate = getattr(p.base_dist, "gate_logits", None)
    means = p.mean if gate is None else p.mean / torch.sigmoid(-gate)
    torch.testing.assert_close(means.sum(-1), size.expand(7, 30))
    torch.testing.assert_close(program.decode(torch.zeros(2, 2), 1).sum(-1) > 0, torch.ones(2) > 0)


def test_density_of_a_size_factor_is_that_of_scipy():
    x = torch.poisson(torch.full((30, 5), 4.0))
    program = build((5,), 2, likelihood="negative_binomial", train_data=x, train_labels=Y)
    program.likelihood.raw_inverse_dispersion.data = torch.randn(5)
    z, c = torch.randn(30, 2), program.covariates(Y)
    p = program.given(z, c, program.size(x))
    free = program.likelihood(torch.cat([z, c], -1)).base_dist.log_mean
    mean = (x.sum(1, keepdim=True) * free.softmax(-1)).double().detach().numpy()
    t = p.base_dist.log_inverse_dispersion.double().exp().detach().numpy()
    exact = stats.nbinom.logpmf(x.numpy(), t, t / (t + mean)).sum(1)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), exact, rtol=1e-5)


def test_rows_of_one_total_have_a_mass_of_at_most_one():
    x = torch.poisson(torch.full((30, 3), 2.0))
    program = build((3,), 2, likelihood="negative_binomial", train_data=x, train_labels=Y)
    grid = torch.cartesian_prod(*[torch.arange(5.0)] * 3)
    rows = grid[grid.sum(1) == 4]
    c = program.covariates(Y[:1])
    p = program.given(torch.zeros(1, 2), c, program.size(rows[:1]))
    mass = p.log_prob(rows).exp().sum()
    assert 0 < mass < 1


def test_row_of_zeros_has_a_density():
    x = torch.zeros(30, 5)
    x[:20] = torch.poisson(torch.full((20, 5), 4.0))
    program = build((5,), 2, likelihood="negative_binomial", train_data=x, train_labels=Y)
    assert weights(program, x, Y).isfinite().all()


def test_dispersion_by_category():
    x = torch.poisson(torch.full((30, 5), 4.0))
    y = torch.stack([Y, torch.rand(30)], 1)
    parts = {"likelihood": "negative_binomial", "train_data": x, "train_labels": y}
    program = build((5,), 2, **parts, dispersion_by_category=True)
    c = program.covariates(y)
    z = torch.randn(30, 2)

    def log_t():
        return program.given(z, c, program.size(x)).base_dist.log_inverse_dispersion

    assert torch.equal(log_t(), torch.zeros(30, 5))
    program.shifts.data[1], program.shifts.data[3] = 2.0, 100.0
    expected = torch.where(Y == 1, 2.0, 0.0)[:, None].expand(30, 5)
    # A number has no dispersion. The bound at 12 moves 2 by less than 1 %.
    torch.testing.assert_close(log_t(), expected, atol=0.02, rtol=0)


# ---- covariates, samples ------------------------------------------------------------------------


def test_features_of_covariates():
    y = torch.tensor([[0.0, 1.0], [2.0, 2.5], [2.0, 4.0], [0.0, 4.5]])
    covariates = Covariates(y)
    sd = float(np.std([1.0, 2.5, 4.0, 4.5]))
    expected = torch.tensor([[1, 0, (1 - 3) / sd], [0, 1, (2.5 - 3) / sd]])
    torch.testing.assert_close(covariates(y)[:2], expected)
    assert (covariates.categories(0), covariates.categories(1)) == ([0, 2], [])
    assert Covariates(y, categorical=[]).width == 2
    # Never silently another category: NaN reaches the bound.
    assert covariates(torch.tensor([[1.0, 1.0], [torch.nan, 1.0], [0.0, torch.nan]])).isnan().all()


def test_numbers_are_numeric_and_integers_categories():
    assert Covariates(torch.tensor([1.0, 2.0, 1.0])).width == 1
    assert Covariates(torch.tensor([1, 2, 1])).width == 2
    assert Covariates(torch.tensor([1, 2, 1]), categorical=[]).categories(0) == []


@pytest.mark.parametrize("network", ["mlp", "gated_mlp", "conv", "gated_conv"])
def test_networks_read_covariates(network):
    small = {} if "mlp" in network else {"channels": (4, 8), "hidden": 16}
    network = partial(networks.NETWORKS[network], **small)
    program = build((1, 8, 8), 2, network=network, train_labels=Y)
    x = torch.randint(0, 2, (30, 1, 8, 8)).float()
    one, other = program.embed(x, Y), program.embed(x, (Y + 1) % 3)
    assert not torch.allclose(one, other)
    assert not torch.allclose(program.decode(one, 0), program.decode(one, 1))
    assert program.decode(torch.zeros(5, 30, 2), Y).shape == (5, 30, 1, 8, 8)


@pytest.mark.parametrize("prior", ["gaussian_mixture", "vamp"])
def test_priors_that_read_the_posterior(prior):
    x = torch.randint(0, 2, (30, 6)).float()
    part = partial(priors.PRIORS[prior], components=4)
    program = build((6,), 2, prior=part, train_data=x, train_labels=Y)
    assert weights(program, x, Y).isfinite().all()


def test_samples_share_codes_between_conditions():
    program = build((6,), 2, train_labels=Y)
    first, again, other = (program.sample(3, y=c, seed=1) for c in (0, 0, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(program.sample(3, y=[0, 2, 0], seed=1)[1], other[1])


def test_names_of_classes():
    program = build((6,), 2, train_labels=Y)
    program.contract = SimpleNamespace(
        has_classes=True,
        label_names=("a", "b", "c"),
        event_names=(),
        to_data_units=lambda x, draws: x,
    )
    assert np.array_equal(program.sample(2, y="b", seed=0), program.sample(2, y=1, seed=0))
    with pytest.raises(ValueError, match="y must be one of a, b, c, got 'd'"):
        program.sample(2, y="d")
    with pytest.raises(ValueError, match=r"y holds 7, .* one of 0 \(a\), 1 \(b\), 2 \(c\)"):
        program.sample(2, y=7)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_labels": None}, "needs covariates, and the data have no labels"),
        ({"train_labels": torch.tensor([0, 1, -1, 0])}, "1 of the 4 training rows lack one"),
        ({"train_labels": torch.tensor([0.5, torch.nan])}, "1 of the 2 training rows lack one"),
        ({"train_labels": torch.arange(9)}, "another category in each of 9 rows"),
        ({"categorical": [1]}, "columns of y from 0 to 0, got 1"),
        ({"size_factor": True, "likelihood": "normal"}, "Normal is not one of counts"),
        ({"size_factor": True, "likelihood": "multinomial"}, "given the total of a row already"),
        ({"dispersion_by_category": True}, "Bernoulli has no dispersion"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        build((6,), 2, **{"train_labels": Y, **options})


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "needs the covariates y beside x"),
        (torch.tensor([0, 5]), "y holds 5, which the training data lack: .* one of 0, 1, 2"),
        (torch.tensor([0, -1]), "1 of 2 rows of y lack one"),
        (torch.tensor([0.0, torch.nan]), "1 of 2 rows of y lack one"),
        (torch.tensor([0]), r"y must be a tensor of shape \(2,\), got of shape \(1,\)"),
    ],
)
def test_covariates_that_do_not_fit(y, message):
    program = build((6,), 2, train_labels=Y)
    x = torch.zeros(2, 6)
    for run in (program.model, program.guide, program.embed):
        with pytest.raises(ValueError, match=message) as raised:
            run(x, y)
        assert "\n" not in str(raised.value)


def test_sizes_that_do_not_fit():
    program = build((6,), 2, train_labels=Y)
    with pytest.raises(ValueError, match="no size factor"):
        program.sample(2, y=0, size=10)
    program = build((6,), 2, likelihood="poisson", train_labels=Y)
    with pytest.raises(ValueError, match="size must be a positive number or 2 of them"):
        program.sample(2, y=0, size=-1)
    np.testing.assert_allclose(program.sample(2, y=0, size=10).sum(1), 10, rtol=1e-5)


# ---- analysis -----------------------------------------------------------------------------------


def test_probes_of_known_codes():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=300)
    z = rng.normal(size=(300, 2))
    without = analysis.probe_scores(z, y, categories=True)
    assert without[""] < without["chance"] + 0.1
    z[:, 0] += 10 * y
    assert analysis.probe_scores(z, y, categories=True)[""] == 1
    numeric = analysis.probe_scores(z, z[:, 1] * 3 + 1, categories=False)
    assert numeric[""] > 0.99
    assert numeric["chance"] < 0
    assert analysis.probe_scores(z, np.zeros(300), categories=True)["chance"] is None


@pytest.mark.parametrize(
    ("event", "y"),
    [
        ((1, 8, 8), torch.arange(60) % 3),
        ((6,), torch.rand(60) * 10),
        ((2, 16), torch.stack([torch.arange(60) % 2, torch.rand(60)], 1)),
    ],
)
def test_scores_and_figures(event, y):
    program = build(event, 2, train_labels=y)
    given = held_out(torch.randint(0, 2, (60, *event)).float(), y, ("batch", "age"))
    found = analysis.scores(program, given)
    assert all(isinstance(value, float) for value in found.values())
    expected = {
        (1, 8, 8): "covariate_accuracy",
        (6,): "covariate_r2_chance",
        (2, 16): "covariate_accuracy_neighbours_batch",
    }
    assert expected[event] in found
    drawn = analysis.figures(program, given)
    assert [*drawn] == ["samples_by_condition", "counterfactuals"]
    for draw in drawn.values():
        assert draw().axes
