"""Schedules, free bits and capacities."""

import logging
import math
from functools import partial

import jaxtyping
import pyro
import pytest
import torch

from pyro_vae import build, posteriors, priors
from pyro_vae.data import PreparedData, digits
from pyro_vae.evidence import evaluate
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import ELBO
from pyro_vae.objectives.kl_weighting import Capacity, FreeBits, Schedule, ramp
from pyro_vae.objectives.latent_sites import (
    count_coordinates,
    divergence,
    divergence_by_coordinate,
)
from pyro_vae.training import Training
from pyro_vae.training.processes import Processes

KL = torch.tensor([[0.0, 1.0, 5.0], [0.5, 3.0, 7.0]])  # Means 0.25, 2, 6.

PRODUCTS = [
    (prior, posterior)
    for prior in ("standard_normal", "laplace", "student_t", "logistic")
    for posterior in ("diagonal_normal", "laplace", "student_t", "committed_rate")
] + [
    *((p, q) for p in ("log_normal", "gamma") for q in ("log_normal", "gamma")),
    *(("beta", "beta"), ("one_hot", "one_hot"), ("spike_and_slab", "spike_and_slab")),
]


def images(n=6):
    return torch.bernoulli(torch.full((n, 4, 4), 0.3))


def a_pair(prior, posterior, latent_dim=4):
    options = {"values": 2} if prior == "one_hot" else {}
    torch.manual_seed(0)
    return build(
        (4, 4),
        latent_dim,
        prior=partial(priors.PRIORS[prior], **options),
        posterior=partial(posteriors.POSTERIORS[posterior], **options),
    )


def terms_of(vae, x, num_particles=1):
    torch.manual_seed(1)
    return log_densities(vae.model, vae.guide, x, num_particles=num_particles)


# ---- the KL of each coordinate ---------------------------------------------------------------


@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
@pytest.mark.parametrize(("prior", "posterior"), PRODUCTS)
def test_the_kls_of_coordinates_add_up_to_the_kl(prior, posterior, kl):
    terms = terms_of(a_pair(prior, posterior), images(), num_particles=2)
    by_site, expected_by_site = {}, {}
    found = divergence_by_coordinate(terms, kl, by_site)
    expected = divergence(terms, kl, expected_by_site)
    assert found.shape == (6, 2 if prior == "one_hot" else 4)
    assert count_coordinates(terms) == found.shape[1]
    torch.testing.assert_close(found.sum(-1), expected)
    assert by_site == expected_by_site


def test_the_kl_of_a_coordinate_is_that_of_its_normal():
    vae, x = a_pair("standard_normal", "diagonal_normal"), images()
    q = vae.posterior(x).base_dist
    expected = (q.scale.square() + q.loc.square() - 1) / 2 - q.scale.log()
    torch.testing.assert_close(divergence_by_coordinate(terms_of(vae, x), "auto", {}), expected)


@pytest.mark.parametrize(
    ("prior", "posterior", "message"),
    [
        ("vamp", "diagonal_normal", "the prior at site 'z' is a DiagonalNormalMixture"),
        ("flow", "diagonal_normal", "the prior at site 'z' is a NormalFlow"),
        ("standard_normal", "full_normal", "the guide at site 'z' is a MultivariateNormal"),
        ("standard_normal", "low_rank_normal", "the guide at site 'z' is a LowRankNormal"),
        ("dirichlet", "dirichlet", "the guide at site 'z' is a"),
        ("spherical_uniform", "power_spherical", "the guide at site 'z' is a PowerSpherical"),
    ],
)
def test_free_bits_of_coordinates_need_products_and_those_of_the_rate_none(
    prior, posterior, message
):
    torch.manual_seed(0)
    parts = {"components": 3} if prior == "vamp" else {}
    vae = build(
        (4, 4),
        4,
        prior=partial(priors.PRIORS[prior], **parts),
        posterior=posteriors.POSTERIORS[posterior],
    )
    terms = terms_of(vae, images())
    with pytest.raises(ValueError, match=message + ".*Use free_bits_per rate"):
        ELBO(free_bits=0.1)(terms)
    loss = ELBO(free_bits=1e3, free_bits_per="rate")(terms).loss.mean()
    torch.testing.assert_close(loss, 1e3 - terms.log_likelihood.mean())


def test_groups_must_divide_the_coordinates():
    terms = terms_of(a_pair("standard_normal", "diagonal_normal"), images())
    with pytest.raises(ValueError, match="must divide the 4 coordinates of the code, got 3"):
        ELBO(free_bits=0.1, free_bits_per="group", free_bits_groups=3)(terms)


# ---- what is paid ----------------------------------------------------------------------------


def test_free_bits_by_hand():
    paid = FreeBits(1.0).penalty(KL)
    assert paid.tolist() == [1 + 1 + 5, 1 + 3 + 7]
    assert paid.mean() == 1 + 2 + 6
    assert FreeBits(2.5).penalty(KL).mean() == 2.5 + 2.5 + 6
    runs = FreeBits(1.0, "group", 2).group(torch.cat([KL, KL[:, :1]], 1))
    assert runs.tolist() == [[1.0, 5.0], [3.5, 7.5]]


def test_free_bits_have_no_gradient_below_and_the_whole_above():
    kl = KL.clone().requires_grad_()
    FreeBits(1.0).penalty(kl).mean().backward()
    assert kl.grad.tolist() == [[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]


@pytest.mark.parametrize(("t", "expected"), [(0.0, 3.0), (1.0, 0.5), (2.0, 2.0), (9.0, 2.0)])
def test_capacity_by_hand(t, expected):
    """A mean KL of 3 nats against a C that grows to 5 in two epochs."""
    kl = torch.tensor([1.0, 5.0], requires_grad=True)
    paid = Capacity(5.0, 2.0).penalty(kl, torch.tensor(t))
    assert paid.mean() == expected
    paid.mean().backward()
    sign = 1.0 if t < 1.2 else -1.0
    assert kl.grad.tolist() == [sign / 2, sign / 2]
    assert Capacity(5.0).at(torch.tensor(0.0)) == 5


def test_nothing_free_is_the_plain_elbo_and_little_is_nearly():
    vae, x = a_pair("standard_normal", "diagonal_normal"), images()
    plain = ELBO(beta=2.0)(terms_of(vae, x))
    for options in ({"free_bits": 0.0}, {"free_bits": 1e-9}, {"capacity": 0.0}):
        other = ELBO(beta=2.0, **options)(terms_of(vae, x))
        torch.testing.assert_close(other.loss, plain.loss)
        grads = [
            torch.autograd.grad(v.loss.sum(), [*vae.parameters()], retain_graph=True)
            for v in (other, plain)
        ]
        torch.testing.assert_close(*grads)
    assert "rate_paid" not in plain.values


@pytest.mark.parametrize("per", ["dimension", "group", "rate"])
def test_the_losses_mean_and_its_gradient_are_those_of_the_mean(per):
    vae, x = a_pair("standard_normal", "diagonal_normal"), images()
    groups = {"dimension": 4, "group": 2, "rate": 1}[per]
    terms = terms_of(vae, x)
    means = divergence_by_coordinate(terms, "auto", {}).unflatten(-1, (groups, -1)).sum(-1).mean(0)
    minimum = float(means.detach().mean())  # Some are above it and some below.
    options = {"free_bits_groups": 2} if per == "group" else {}
    value = ELBO(beta=3.0, free_bits=minimum, free_bits_per=per, **options)(terms)
    expected = 3 * means.clamp(min=minimum).sum() - terms.log_likelihood.mean()
    torch.testing.assert_close(value.loss.mean(), expected)
    torch.testing.assert_close(
        torch.autograd.grad(value.loss.mean(), [*vae.parameters()], retain_graph=True),
        torch.autograd.grad(expected, [*vae.parameters()]),
    )
    torch.testing.assert_close(value.values["kl"].mean(), means.sum().detach())
    torch.testing.assert_close(
        value.values["rate_paid"].mean(), means.clamp(min=minimum).sum().detach()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"free_bits": -1.0}, "free_bits must be at least 0 and finite, got -1.0"),
        ({"free_bits_per": "bit"}, "one of dimension, group, rate, got 'bit'"),
        ({"free_bits_per": "group"}, "free_bits_groups and free_bits_per group need each other"),
        ({"free_bits_groups": 2}, "free_bits_groups and free_bits_per group need each other"),
        ({"free_bits_per": "group", "free_bits_groups": 0}, "free_bits_groups must be at least 1"),
        ({"capacity": math.nan}, "capacity must be at least 0 and finite, got nan"),
        ({"capacity": 1.0, "capacity_epochs": -1.0}, "capacity_epochs must be at least 0"),
        ({"capacity_epochs": 1.0}, "capacity_epochs needs a capacity"),
        ({"capacity": 1.0, "free_bits": 1.0}, "contradict each other, got 1.0 and 1.0 nats"),
        ({"capacity": 1.0, "warmup_epochs": 1.0}, "own schedule, capacity_epochs"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            ELBO(**options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# ---- training --------------------------------------------------------------------------------

MEANS = {
    "free bits": {"free_bits": 0.5},
    "free bits of the rate": {"free_bits": 3.0, "free_bits_per": "rate"},
    "capacity": {"capacity": 3.0, "capacity_epochs": 5.0},
    "cycles": {"schedule": "cyclical", "cycle_epochs": 2.0},
}


def a_training(options, **kept):
    pyro.set_rng_seed(0)
    return Training(
        build((1, 8, 8), 4),
        PreparedData(digits(), "binary"),
        ELBO(**options),
        **{"lr": 3e-3, "compile": "off", **kept},
    )


def test_means_of_a_batch_are_refused_by_several_processes():
    several = Processes(rank=0, size=2)
    for name, options in MEANS.items():
        assert ELBO(**options).couples_batch == (name != "cycles")
    assert not ELBO().couples_batch
    data = PreparedData(digits(), "binary")
    with pytest.raises(ValueError, match="ELBO couples the examples of a batch"):
        Training(build((1, 8, 8), 3), data, ELBO(free_bits=1.0), processes=several)


@pytest.mark.slow
def test_free_bits_and_capacity_hold_their_target_where_the_code_collapses():
    """A weight of 10 leaves no code of digits; what is free, or the target, stays."""
    targets = {
        "plain": {},
        "2 nats": {"free_bits": 0.5},
        "2 nats of the rate": {"free_bits": 2.0, "free_bits_per": "rate"},
        "3 nats": {"capacity": 3.0, "capacity_epochs": 10.0},
    }
    rates, elbos = {}, {}
    for name, options in targets.items():
        training = a_training({"beta": 10.0, **options}, epochs=40, batch_size=200)
        last = training.run()[-15:]
        rates[name] = sum(record["kl"] for record in last) / len(last)
        elbos[name] = last[-1]["validation_elbo"]
    assert rates["plain"] < 0.02
    # From below, as each batch that happens to be above is drawn back.
    assert 1.5 < rates["2 nats"] < 2.2
    assert 1.5 < rates["2 nats of the rate"] < 2.2
    assert abs(rates["3 nats"] - 3.0) < 0.15
    assert min(elbo for name, elbo in elbos.items() if name != "plain") > elbos["plain"] + 1


@pytest.mark.parametrize("name", MEANS)
def test_each_is_traced_and_the_graph_is_the_eager_step(name, set_compiler, caplog):
    # The graph operation by operation: that the compiler is right is another test.
    set_compiler()
    ends = []
    for compile in ("on", "off"):
        training = a_training(MEANS[name], epochs=1, max_steps=6, batch_size=100, compile=compile)
        training.run()
        assert training.compiled == compile
        ends.append([p.detach() for p in training.program.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("options", [{"beta": 4.0}, *MEANS.values()])
def test_the_weight_of_training_never_leaks_into_evaluation(options):
    training = a_training({"beta": 4.0, **options}, epochs=1)
    (record,) = training.run()
    assert record["elbo"] == pytest.approx(record["reconstruction"] - record["kl"])
    x = training.data.fixed("validation")
    plain = Training(training.program, training.data, ELBO()).validate()
    for name, value in plain.items():
        assert record[f"validation_{name}"] == value
    found = evaluate(training.program, x, num_samples=100, compile="off").importance_weighting
    assert (found.reconstruction - found.kl).mean() == pytest.approx(plain["elbo"], abs=0.5)


CYCLES = {"schedule": "cyclical", "cycle_epochs": 4.0, "cycles": 3}


def weights(elbo, times):
    found = []
    for epochs in times:
        elbo.set_progress(epochs)
        found.append(elbo.weight.item())
    return found


def test_cycles_grow_over_their_first_half_and_end_at_beta():
    times = (0.0, 0.5, 1.0, 2.0, 3.5, 4.0, 5.0, 7.0, 8.0, 9.5, 11.9, 12.0, 12.5, 100.0)
    expected = [0.0, 0.5, 1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    assert weights(ELBO(beta=2.0, **CYCLES), times) == pytest.approx(expected)


def test_the_ramp_is_a_share_of_the_cycle():
    elbo = ELBO(**CYCLES, cycle_ramp=0.25)
    assert weights(elbo, (0.0, 0.5, 1.0, 3.0, 4.25)) == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.25])
    assert weights(ELBO(**CYCLES, cycle_ramp=1.0), (1.0, 3.0)) == pytest.approx([0.25, 0.75])


def test_constant_and_linear():
    times = (0.0, 1.0, 4.0)
    assert weights(ELBO(beta=3.0, schedule="constant"), times) == [3.0, 3.0, 3.0]
    assert weights(ELBO(beta=3.0), times) == [3.0, 3.0, 3.0]
    assert weights(ELBO(beta=3.0, warmup_epochs=4.0), times) == [0.0, 0.75, 3.0]
    assert ramp(torch.tensor(1.0), 0.0) == 1


def test_state_holds_where_in_a_cycle_training_is():
    trained, resumed = ELBO(beta=2.0, **CYCLES), ELBO(beta=2.0, **CYCLES)
    trained.set_progress(9.5)
    resumed.load_state_dict(trained.state_dict())
    assert resumed.weight == trained.weight == 1.5


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, 0.0),
        ({"warmup_epochs": 3.0}, 3.0),
        (CYCLES, 12.0),
        ({"capacity": 2.0, "capacity_epochs": 5.0}, 5.0),
    ],
)
def test_when_weights_have_settled(options, epochs):
    elbo = ELBO(**options)
    assert elbo.settled(epochs)
    assert epochs == 0 or not elbo.settled(epochs - 0.5)


def test_the_weight_of_a_schedule_weighs_the_kl_alone():
    torch.manual_seed(0)
    vae, x = build((4, 4), latent_dim=3), torch.bernoulli(torch.full((5, 4, 4), 0.3))
    terms = log_densities(vae.model, vae.guide, x)
    elbo = ELBO(beta=2.0, **CYCLES)
    elbo.set_progress(5.0)
    found, plain = elbo(terms), ELBO()(terms)
    expected = plain.values["kl"] - plain.values["reconstruction"]  # 2 times a half.
    torch.testing.assert_close(found.loss.detach(), expected)
    torch.testing.assert_close(found.values["elbo"], plain.values["elbo"], rtol=0, atol=0)
    torch.testing.assert_close(found.values["beta"], torch.ones(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosine"}, "one of linear, cyclical, constant, got 'cosine'"),
        ({"name": "cyclical"}, "needs cycle_epochs above 0"),
        ({"cycle_epochs": 2.0}, "cycle_epochs belongs to the schedule cyclical, got linear"),
        ({"cycle_epochs": math.nan}, "cycle_epochs must be at least 0 and finite, got nan"),
        ({"warmup_epochs": math.inf}, "warmup_epochs must be at least 0 and finite, got inf"),
        ({"name": "constant", "warmup_epochs": 2.0}, "belongs to the schedule linear"),
        (
            {"name": "cyclical", "cycle_epochs": 2.0, "cycles": 0},
            "cycles must be at least 1, got 0",
        ),
        ({"cycle_ramp": 0.0}, "cycle_ramp must be above 0 and at most 1, got 0.0"),
        ({"cycle_ramp": 1.5}, "cycle_ramp must be above 0 and at most 1, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            Schedule(**options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
