"""The deep Kalman filter against the Kalman filter, where the chain is linear and normal."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Dataset, pendulum
from pyro_vae.distributions import MarkovNormal
from pyro_vae.evidence import annealed_importance_sampling, importance_weighting
from pyro_vae.likelihoods import Normal
from pyro_vae.log_densities import log_densities
from pyro_vae.programs.sequence import FrameLikelihood, MarkovPrior, SequenceVAE, build

LENGTH, NOISE = 6, 0.5
# Two chains that do not meet, for which the smoother's conditionals are diagonal; and two that do.
APART = {
    "a": np.diag([0.9, -0.5]),
    "q": np.array([0.4, 0.8]),
    "c": np.array([[1.0, 0.0], [0.5, 0.0], [0.0, -1.5]]),
}
TOGETHER = {
    "a": np.array([[0.8, 0.4], [-0.4, 0.8]]),
    "q": np.array([0.3, 0.6]),
    "c": np.array([[1.0, 0.5], [0.2, -1.0], [0.7, 0.3]]),
}


def kalman_filter(x, a, q, c, steps=0):
    """log p(x) of one sequence, and the mean and standard deviations of the next frames."""
    mean, covariance, total = np.zeros(2), np.eye(2), 0.0
    noise = NOISE**2 * np.eye(len(c))
    for t, frame in enumerate(x):
        if t:
            mean, covariance = a @ mean, a @ covariance @ a.T + np.diag(q**2)
        error, spread = frame - c @ mean, c @ covariance @ c.T + noise
        total -= (
            error @ np.linalg.solve(spread, error)
            + np.linalg.slogdet(spread)[1]
            + len(c) * math.log(2 * math.pi)
        ) / 2
        gain = covariance @ c.T @ np.linalg.inv(spread)
        mean, covariance = mean + gain @ error, covariance - gain @ c @ covariance
    ahead = []
    for _ in range(steps):
        mean, covariance = a @ mean, a @ covariance @ a.T + np.diag(q**2)
        ahead.append((c @ mean, np.sqrt(np.diag(c @ covariance @ c.T + noise))))
    return total, ahead


class Smoother(nn.Module):
    """q(z_t | z_{t-1}, x_t, ..., x_T) by backward messages, its covariances made diagonal.

    p(x_t, ..., x_T | z_t) is proportional to exp(eta z - z L z / 2), for which L and eta come from
    those of t + 1.
    """

    support, has_density = "real", True

    def __init__(self, a, q, c, widen=1.0):
        super().__init__()
        self.latent_dim = 2 * LENGTH
        self.a, self.precision, self.c = a, np.diag(q**-2.0), c
        self.widen = widen

    def forward(self, x):
        x, length = x.numpy(), x.shape[-2]
        matrix = self.c.T @ self.c / NOISE**2
        eta, later = np.zeros((*x.shape[:-2], 2)), np.zeros((2, 2))
        rows = []
        for t in reversed(range(length)):
            precision = np.eye(2) if t == 0 else self.precision
            later = later + matrix
            eta = eta + x[..., t, :] @ self.c / NOISE**2
            covariance = np.linalg.inv(precision + later)
            # The mean is `weight` z_{t-1} + `shift`.
            weight = np.zeros((2, 2)) if t == 0 else covariance @ precision @ self.a
            scale = self.widen * np.sqrt(np.diag(covariance))
            full = np.concatenate([weight.ravel(), scale])
            shift = eta @ covariance
            rows.append(np.concatenate([shift, np.broadcast_to(full, (*shift.shape[:-1], 6))], -1))
            if t:
                eta = eta @ covariance @ precision @ self.a
                later = self.a.T @ (precision - precision @ covariance @ precision) @ self.a
        rows = torch.from_numpy(np.stack(rows[::-1], -2))
        first, context = rows[..., 0, :], rows[..., 1:, :]
        return MarkovNormal(first[..., :2], first[..., 6:], self.transition, length, context)

    @staticmethod
    def transition(previous, row):
        weight = row[..., 2:6].unflatten(-1, (2, 2))
        loc = (weight @ previous.unsqueeze(-1)).squeeze(-1) + row[..., :2]
        return loc, row[..., 6:].expand_as(loc)

    def embed(self, x):
        q = self(x)
        return q.path(q.loc.new_zeros(q.steps, 2))


class Linear(nn.Module):
    """C z, in the shape of a decoder's output."""

    def __init__(self, c, _shape):
        super().__init__()
        self.c = nn.Parameter(torch.from_numpy(c))

    def forward(self, z):
        return (z @ self.c.mT).unsqueeze(-2)


def linear_program(a, q, c, widen=1.0):
    """z_t ~ N(A z_{t-1}, q^2), x_t ~ N(C z_t, 0.5^2) from the program's own parts."""
    prior = MarkovPrior(2, LENGTH, hidden=1)
    with torch.no_grad():
        prior.linear.weight.copy_(torch.from_numpy(a))
        # softplus^-1 of the scale.
        prior.network[-1].bias[2:] = torch.from_numpy(np.log(np.expm1(q - 1e-5)))
    frame = Normal((3,), partial(Linear, c), scale="fixed", initial_scale=NOISE)
    likelihood = FrameLikelihood(frame, LENGTH)
    return SequenceVAE(prior, likelihood, Smoother(a, q, c, widen)).double()


def simulated(a, q, c, n, steps=0, seed=0):
    rng = np.random.default_rng(seed)
    z, x = rng.standard_normal((n, 2)), []
    for t in range(LENGTH + steps):
        z = z if t == 0 else z @ a.T + q * rng.standard_normal(z.shape)
        x.append(z @ c.T + NOISE * rng.standard_normal((n, 3)))
    return torch.from_numpy(np.stack(x, 1))


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


# ---- known answers -----------------------------------------------------------------------------


def test_with_the_exact_smoother_every_weight_is_the_evidence():
    x = simulated(**APART, n=4)
    program = linear_program(**APART)
    exact = [kalman_filter(sequence, **APART)[0] for sequence in x.numpy()]
    terms = log_densities(program.model, program.guide, x, num_particles=7)
    expected = torch.tensor(exact).expand(7, 4)
    torch.testing.assert_close(terms.log_weight, expected, rtol=0, atol=1e-5)


def test_importance_weighting_agrees_with_the_kalman_filter():
    x = simulated(**TOGETHER, n=5)
    program = linear_program(**TOGETHER, widen=1.1)
    exact = np.array([kalman_filter(sequence, **TOGETHER)[0] for sequence in x.numpy()])
    found = importance_weighting(
        program.model, program.guide, x, num_samples=20_000, compile="off"
    )
    # The relative error of the mean weight is that of `ess` independent draws.
    error = (1 / found.ess - 1 / found.num_samples) ** 0.5
    assert (found.ess > 500).all()
    assert (np.abs(found.log_evidence - exact) < 5 * error + 1e-5).all()
    # The bound is below.
    assert (found.elbo < exact).all()


def test_annealing_agrees_with_the_kalman_filter():
    x = simulated(**TOGETHER, n=3)
    program = linear_program(**TOGETHER, widen=1.3)
    exact = np.array([kalman_filter(sequence, **TOGETHER)[0] for sequence in x.numpy()])
    found = annealed_importance_sampling(
        program, x, num_chains=32, num_temperatures=30, leapfrog_steps=3, compile="off"
    )
    error = (1 / found.ess - 1 / found.num_chains) ** 0.5
    assert (found.ess > 10).all()
    assert (np.abs(found.log_evidence - exact) < 4 * error + 0.01).all()


def test_forecasts_are_the_kalman_filters():
    steps, draws = 4, 20_000
    x = simulated(**APART, n=2)
    program = linear_program(**APART)
    found = program.forecast(x, steps, draws, seed=1)
    assert found.shape == (draws, 2, steps, 3)
    for i, sequence in enumerate(x.numpy()):
        for t, (mean, std) in enumerate(kalman_filter(sequence, **APART, steps=steps)[1]):
            error = np.abs(found[:, i, t].mean(0).numpy() - mean)
            assert (error < 5 * std / draws**0.5).all()
            np.testing.assert_allclose(found[:, i, t].std(0), std, rtol=0.03)
    # Of a part of the sequence.
    mean, std = kalman_filter(x[0, :3].numpy(), **APART, steps=1)[1][0]
    first = program.forecast(x, 1, draws, observed=3)[:, 0, 0].mean(0).numpy()
    assert (np.abs(first - mean) < 5 * std / draws**0.5).all()


def test_the_density_of_a_chain_is_the_product_of_its_conditionals():
    program = build((LENGTH, 3), latent_dim=2, likelihood="normal", hidden=5)
    for parameter in program.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(4, LENGTH, 3)
    h = program.posterior(x).context
    for p, context in ((program.prior().expand([4]), None), (program.posterior(x), h)):
        z = p.rsample()
        parts = z.unflatten(-1, (LENGTH, 2))
        total = dist.Normal(p.loc, p.scale).log_prob(parts[:, 0]).sum(-1)
        for t in range(1, LENGTH):
            row = None if context is None else context[:, t - 1]
            loc, scale = p.transition(parts[:, t - 1], row)
            total = total + dist.Normal(loc, scale).log_prob(parts[:, t]).sum(-1)
        torch.testing.assert_close(p.log_prob(z), total)
        # Draws are what the conditionals say: the path of their own noise.
        assert z.shape == (4, 2 * LENGTH)
        assert p.expand([3, 4]).rsample((2,)).shape == (2, 3, 4, 2 * LENGTH)
        assert p.expand([3, 4]).log_prob(z).shape == (3, 4)


def test_the_posterior_reads_the_future_and_the_chain_the_past():
    program = build((LENGTH, 3), latent_dim=2, likelihood="normal", hidden=5)
    x = torch.randn(1, LENGTH, 3)
    changed = x.clone()
    changed[:, 2] += 1
    h, other = (program.posterior(y).context[0] for y in (x, changed))
    # h_2 and h_3 have read the third frame, h_4 and later have not.
    assert (h != other).any(-1).tolist() == [True, True, False, False, False]


# ---- training and use --------------------------------------------------------------------------


def test_a_trained_program_forecasts_in_the_units_of_the_data():
    pendulums = pendulum(60, 8, "position")
    array = 100 + 1000 * torch.cat([pendulums.train, pendulums.validation, pendulums.test])
    made = Dataset.from_array(array, layout="sequence")
    assert made.units.center.shape == (2,)
    assert made.noun == "sequence"
    program = build((8, 2), latent_dim=3, likelihood="normal", hidden=16)
    history = fit(program, made, epochs=12, lr=0.01, compile="off")
    assert history[-1]["elbo"] > history[0]["elbo"]
    x = made.test.numpy()
    forecast = program.forecast(x, steps=3, draws=50, observed=4, seed=0)
    assert forecast.shape == (50, len(x), 3, 2)
    assert 100 < np.abs(forecast - 100).mean() < 2000
    assert program.embed(x).shape == (len(x), 8 * 3)
    assert program.reconstruct(x).shape == x.shape
    assert program.sample(4, seed=0).shape == (4, 8, 2)


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "negative_binomial", "bernoulli"])
def test_frames_have_any_likelihood(likelihood):
    images = (torch.rand(30, 5, 1, 8, 8) * 9).floor().to(torch.uint8)
    support = {"discretized_logistic": "integers", "bernoulli": "binary"}.get(likelihood, "counts")
    levels = 9 if support == "integers" else None
    images = (images > 4).to(torch.uint8) if support == "binary" else images
    data = Dataset.from_array(images, levels=levels, support=support, layout="sequence")
    program = build(
        data.event_shape, 2, likelihood=likelihood, hidden=4, levels=levels, network="conv"
    )
    fit(program, data, epochs=1, compile="off")
    assert program.forecast(images.numpy()[:2], 3, 4).shape == (4, 2, 3, 1, 8, 8)


def test_the_graph_of_a_step_is_the_eager_step():
    data = pendulum(40, 5, "position")
    trained = []
    for compile in ("off", "graph"):
        pyro.set_rng_seed(0)
        program = build((5, 2), latent_dim=2, likelihood="normal", hidden=4)
        fit(program, data, epochs=3, batch_size=14, compile=compile)
        trained.append(program.state_dict())
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name


# ---- bad input ---------------------------------------------------------------------------------


def test_bad_input_is_refused_in_one_line():
    for shape in ((1, 28, 28), (64,)):
        with pytest.raises(
            ValueError, match=r"at least two frames, all of one length.*--data.layout"
        ):
            build(shape, likelihood="bernoulli")
    with pytest.raises(ValueError, match="conditional on the total of a row"):
        build((5, 10), likelihood="multinomial")
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        build((5, 10), likelihood="normal", hidden=0)
    program = build((5, 2), likelihood="normal")
    x = torch.zeros(3, 5, 2)
    for options in ({"observed": 0}, {"observed": 6}, {"steps": 0}, {"draws": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            program.forecast(x, **options)
    with pytest.raises(ValueError, match="sequences one length"):
        fit(program, [np.zeros((5, 2)), np.zeros((4, 2))])
    with pytest.raises(ValueError, match="channels first"):
        Dataset.from_array(torch.zeros(30, 5, 4, 4, 1), layout="sequence", channels="last")
    # Data that were not read as sequences have units of another shape.
    with pytest.raises(ValueError, match="layout"):
        fit(program, Dataset.from_array(torch.randn(30, 5, 2), layout="series", channels="first"))
