"""The posterior that is a point: what its encoder sees in training, and what it must not claim."""

from functools import partial

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import likelihoods, networks, priors
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.log_densities import (
    NoDensityError,
    check_density,
    log_densities,
    without_density,
)
from pyro_vae.model import build
from pyro_vae.objectives import Reconstruction
from pyro_vae.posteriors import Point
from pyro_vae.training import Training
from pyro_vae.training.batch_loss import SharedNoise, draws_of

CORRUPTIONS = {"masking": 0.25, "gaussian": 0.3, "salt_and_pepper": 0.4}


class Seen(nn.Module):
    """An encoder that keeps what it was given."""

    def __init__(self, shape):
        super().__init__()
        self.linear = nn.Linear(64, shape[0])

    def forward(self, x):
        self.x = x
        return self.linear(x.flatten(-3))


def a_point(corruption="none", strength=0.25, **options) -> Point:
    pyro.set_rng_seed(0)
    return Point(3, Seen, corruption, strength, **options)


@pytest.fixture
def without_type_checks():
    """As a user has it: the types of arguments are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pictures(n=200):
    return (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def seen(posterior: Point, x: torch.Tensor) -> torch.Tensor:
    """What the encoder is given in training."""
    posterior.train()(x)
    return posterior.encoder.x


def test_it_is_a_point_at_the_code():
    posterior, x = a_point(), pictures(4)
    q = posterior(x)
    assert q.has_rsample
    z = q.expand((3, 4)).rsample()
    torch.testing.assert_close(z, posterior.embed(x).expand(3, 4, 3), rtol=0, atol=0)
    assert (q.log_prob(z) == 0).all()
    assert q.log_prob(z + 1).isneginf().all()


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, "none"])
def test_strength_0_and_evaluation_change_nothing(corruption):
    """To the bit, and without a draw."""
    x, none, posterior = pictures(), a_point(corruption, 0.0), a_point(corruption, 0.5)
    state = torch.get_rng_state()
    assert seen(none, x) is x
    posterior.eval()(x)
    assert posterior.encoder.x is x
    posterior.train().embed(x)
    assert posterior.encoder.x is x
    assert torch.equal(torch.get_rng_state(), state)


def test_masking_has_its_share_and_is_drawn_anew():
    """Of 12,800 elements, within five standard deviations of the binomial distribution."""
    x = torch.ones(200, 1, 8, 8)
    posterior = a_point("masking", 0.25)
    first, second = seen(posterior, x), seen(posterior, x)
    assert not torch.equal(first, second)
    for found in (first, second):
        assert set(found.unique().tolist()) == {0.0, 1.0}
        masked = int((found == 0).sum())
        assert abs(masked - 0.25 * 12_800) < 5 * (12_800 * 0.25 * 0.75) ** 0.5
    assert (seen(a_point("masking", 1.0), x) == 0).all()


@pytest.mark.parametrize(
    ("support", "levels", "highest"), [("binary", 17, 1), ("unit", None, 1), ("integers", 17, 16)]
)
def test_salt_and_pepper_go_to_the_extremes_of_the_data(support, levels, highest):
    """`levels` are the data set's: binarised, its data have two values all the same."""
    x = torch.full((200, 1, 8, 8), 0.5)
    found = seen(a_point("salt_and_pepper", 0.4, data_support=support, levels=levels), x)
    assert set(found.unique().tolist()) == {0.0, 0.5, float(highest)}
    for value in (0.0, float(highest)):
        count = int((found == value).sum())
        assert abs(count - 0.2 * 12_800) < 5 * (12_800 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(("support", "unit"), [("unit", 1), ("integers", 16)])
def test_gaussian_noise_has_its_spread(support, unit):
    x = torch.full((200, 1, 8, 8), 0.5)
    noise = seen(a_point("gaussian", 0.3, data_support=support, levels=17), x) - x
    assert abs(float(noise.mean())) < 5 * 0.3 * unit / 12_800**0.5
    assert float(noise.std()) == pytest.approx(0.3 * unit, rel=5 / (2 * 12_800) ** 0.5)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_likelihood_sees_the_data_as_they_are(corruption):
    pyro.set_rng_seed(0)
    posterior = partial(Point, corruption=corruption, strength=CORRUPTIONS[corruption])
    vae = build((1, 8, 8), 3, posterior=posterior, network=partial(networks.MLP, hidden=(8,)))
    x = pictures(20)
    vae.posterior.encoder, given = Seen((3,)), x.clone()
    terms = log_densities(vae.model, vae.guide, x, num_particles=2)
    assert not torch.equal(vae.posterior.encoder.x, x)
    assert torch.equal(x, given)
    assert torch.equal(terms.model_trace.nodes["x"]["value"].expand_as(x), x)
    torch.testing.assert_close(
        terms.log_likelihood[0], vae.likelihood(terms.draws[0][0]).log_prob(x)
    )
    # One point for all particles, with leading axes of the data, too.
    assert torch.equal(*terms.draws[0])
    assert vae.posterior(x.expand(2, *x.shape)).batch_shape == (2, 20)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_processes_share_the_noise(corruption):
    """Two halves of a batch see what the whole would."""
    posterior, x = a_point(corruption, CORRUPTIONS[corruption]), pictures(6)
    torch.manual_seed(3)
    whole = posterior.corrupt(x)
    with pyro.validation_enabled(False):
        draws = draws_of(posterior.corrupt, 6, x[:3])
    for start in (0, 3):
        torch.manual_seed(3)
        with SharedNoise(draws, start, 3):
            part = posterior.corrupt(x[start : start + 3])
        assert torch.equal(part, whole[start : start + 3])


def a_training(compile="off", corruption="masking", **options) -> Training:
    pyro.set_rng_seed(0)
    levels = torch.randint(17, (60, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    data = PreparedData(Dataset.from_array(levels.to(torch.uint8), levels=17), "binary")
    vae = build(
        (1, 8, 8),
        3,
        posterior=partial(Point, corruption=corruption, strength=CORRUPTIONS[corruption]),
        network=partial(networks.MLP, hidden=(8,)),
        levels=17,
    )
    options = {"epochs": 3, **options}
    return Training(vae, data, Reconstruction(), batch_size=10, compile=compile, **options)


@pytest.mark.parametrize("corruption", ["masking", "gaussian"])
def test_the_compiled_step_draws_as_the_eager_one(corruption, set_compiler):
    """The graph, operation by operation: that the compiler is right is another test."""
    set_compiler()
    histories, states = [], []
    for mode in ("on", "off"):
        training = a_training(mode, corruption)
        torch.manual_seed(5)
        histories.append(training.run())
        states.append(training.program.state_dict())
        assert training.compiled == mode
    for mine, yours in zip(*histories, strict=True):
        assert mine["reconstruction"] == pytest.approx(yours["reconstruction"], rel=1e-5)
    for mine, yours in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)


def test_resumed_is_uninterrupted():
    """To the bit, also from inside an epoch."""
    whole = a_training()
    torch.manual_seed(5)
    whole.run()
    first = a_training(max_steps=7)
    torch.manual_seed(5)
    first.run()
    state = first.state_dict()
    second = a_training()
    second.load_state_dict(state)
    torch.manual_seed(9)
    second.load_state_dict(state)
    second.run()
    for mine, yours in zip(
        *(t.program.state_dict().values() for t in (whole, second)), strict=True
    ):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "masking", "strength": 1.2}, "share from 0 to 1, got 1.2"),
        ({"corruption": "salt_and_pepper", "strength": -0.1}, "share from 0 to 1, got -0.1"),
        ({"corruption": "gaussian", "strength": -1.0}, "at least 0 and finite, got -1.0"),
        ({"corruption": "gaussian", "strength": float("inf")}, "at least 0 and finite, got inf"),
        ({"corruption": "masking", "strength": float("nan")}, "share from 0 to 1, got nan"),
        ({"corruption": "salt_and_pepper", "data_support": "real"}, "got real data: use masking"),
        ({"corruption": "salt_and_pepper", "data_support": "counts"}, "got counts data"),
        ({"corruption": "gaussian", "data_support": "integers"}, "number of levels, got None"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Point(3, Seen, **options)


def test_without_a_corruption_levels_do_not_matter():
    x = pictures(3)
    assert seen(a_point(data_support="integers"), x) is x


def test_wrong_latent_dim_and_unknown_corruption(without_type_checks):
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        Point(0, Seen)
    with pytest.raises(ValueError, match=r"one of none, masking, .* got 'blur'"):
        Point(3, Seen, "blur")  # pyright: ignore


def test_build_hands_it_the_likelihoods_support():
    part = partial(Point, corruption="salt_and_pepper")
    for likelihood, highest in ((likelihoods.Bernoulli, 1), (likelihoods.DiscretizedLogistic, 16)):
        vae = build((1, 8, 8), 3, posterior=part, likelihood=likelihood, levels=17)
        assert vae.posterior.highest == highest
    with pytest.raises(ValueError, match="got real data"):
        build((1, 8, 8), 3, posterior=part, likelihood=likelihoods.Normal)


def test_a_vamp_prior_is_refused():
    with pytest.raises(
        ValueError, match=r"Vamp is a mixture of the posterior's densities.* Point"
    ):
        build((1, 8, 8), 3, posterior=Point, prior=priors.Vamp)


def test_whether_a_guide_has_a_density():
    """A point is none; Pyro's automatic guides, whose points carry a density on, are not meant."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x.exp()).to_event(1))

    x, automatic = torch.zeros(4, 2), AutoNormal(model)
    automatic(x)
    state = torch.get_rng_state()
    check_density(automatic, x, "this")
    with pytest.raises(
        NoDensityError, match=r"this needs a guide .* site 'z' is a Delta, with all"
    ):
        check_density(point, x, "this")
    assert torch.equal(torch.get_rng_state(), state)
    terms = log_densities(model, point, x)
    assert without_density(terms.guide_trace) == {"z": "Delta"}
    with pytest.raises(NoDensityError, match="an importance weight needs"):
        _ = terms.log_weight
    # Pyro registers -log p(z) for it.
    assert terms.closed_form_kl("z") is None
