"""Annealed importance sampling where log p(x) is known: linear-Gaussian, or by quadrature."""

import logging
import math
import sys
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, pyro_method
from scipy.special import logsumexp

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.compilation import CompilerError
from pyro_vae.evidence import (
    AnnealedImportanceSampling,
    annealed_importance_sampling,
    annealing_path,
)
from pyro_vae.evidence.unconstrained import Elementwise
from pyro_vae.model import build

# The package exports a function of the module's name.
sampling = sys.modules["pyro_vae.evidence.annealed_importance_sampling"]

SHORT = {"num_temperatures": 25, "leapfrog_steps": 4}
TINY = {"num_chains": 3, "num_temperatures": 2, "leapfrog_steps": 1}


def shifted(case, by=0.3):
    """The guide's mean is off, too."""
    case.vae.posterior.bias = case.vae.posterior.bias + by
    return case


def small_vae(latent_dim, strength=1.5, features=4, seed=0, **parts):
    """An untrained VAE whose decoder heeds z, so that its posteriors are not its guide's."""
    pyro.set_rng_seed(seed)
    parts = {"likelihood": likelihoods.Poisson, **parts}
    vae = build(
        (features,), latent_dim, network=partial(networks.MLP, hidden=(8,)), train_size=10, **parts
    )
    with torch.no_grad():
        for parameter in vae.likelihood.decoder.parameters():
            parameter.mul_(strength)
    return vae


def counts(n=6, features=4):
    return torch.poisson(
        torch.full((n, features), 2.0), generator=torch.Generator().manual_seed(1)
    )


def by_quadrature(vae, x, z, log_volume):
    """log sum_z p(z) p(x | z) dz over points z, `(points, latent)`, each of the same volume."""
    with torch.no_grad(), pyro.validation_enabled(False):
        log_prior = vae.prior().log_prob(z)
        log_likelihood = vae.likelihood(z.unsqueeze(1)).log_prob(x)
    return logsumexp((log_prior[:, None] + log_likelihood).double().numpy(), 0) + log_volume


def assert_close(result, expected):
    """Within chance of log p(x), and within 0.05 nats on average."""
    np.testing.assert_allclose(result.log_evidence, expected, atol=0.2)
    assert result.mean_log_evidence == pytest.approx(expected.mean(), abs=0.05)


# ---- known answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_temperatures", [1, 2, 7])
def test_with_the_exact_posterior_every_weight_is_the_evidence(linear_gaussian, num_temperatures):
    case = linear_gaussian(n=5)
    result = annealed_importance_sampling(
        case.vae, case.x, num_chains=4, num_temperatures=num_temperatures, leapfrog_steps=2
    )
    every = np.broadcast_to(case.log_evidence, (4, 5))
    np.testing.assert_allclose(result.log_weights, every, atol=1e-9, rtol=0)
    np.testing.assert_allclose(result.ess, 4)
    np.testing.assert_allclose(result.shortfall, 0, atol=1e-9)


@pytest.mark.parametrize("widen", [0.6, 1.6])
def test_from_a_wrong_guide_it_is_the_evidence(linear_gaussian, widen):
    case = shifted(linear_gaussian(n=100, widen=widen))
    result = annealed_importance_sampling(case.vae, case.x, num_temperatures=60, leapfrog_steps=5)
    assert result.mean_log_evidence == pytest.approx(case.log_evidence.mean(), abs=0.05)
    assert np.abs(result.log_evidence - case.log_evidence).max() < 0.6
    assert 0.55 < result.acceptance.mean() < 0.8
    # Importance weighting with as many draws is well below.
    one = annealed_importance_sampling(case.vae, case.x, num_temperatures=1)
    if widen < 1:
        assert one.mean_log_evidence < case.log_evidence.mean() - 0.1
    assert one.ess.mean() < 0.6 * result.ess.mean()


class Broken:
    """Ways to be wrong, each of which moves the mean weight."""

    @staticmethod
    def accepts_all(monkeypatch):
        monkeypatch.setattr(annealing_path.torch, "rand_like", lambda like: torch.zeros_like(like))
        # Steps far too large for all to be accepted.
        monkeypatch.setattr(sampling, "_step_sizes", lambda p, x, s, o: _large(x, o))

    @staticmethod
    def forgets_half_of_the_path(monkeypatch):
        whole = sampling.schedule
        monkeypatch.setattr(sampling, "schedule", lambda n: [b / 2 for b in whole(n)])

    @staticmethod
    def turns_the_increments_round(monkeypatch):
        whole = sampling.schedule
        monkeypatch.setattr(sampling, "schedule", lambda n: [1 - b for b in whole(n)])


def _large(x, options):
    return torch.full((options.num_temperatures - 1, len(x)), 1.9, dtype=torch.float64)


@pytest.mark.parametrize(
    "breakage",
    [
        Broken.accepts_all,
        Broken.forgets_half_of_the_path,
        Broken.turns_the_increments_round,
    ],
)
def test_a_broken_chain_is_not_the_evidence(linear_gaussian, breakage, monkeypatch):
    case = shifted(linear_gaussian(n=30, widen=1.6))
    breakage(monkeypatch)
    result = annealed_importance_sampling(case.vae, case.x, **SHORT)
    error = np.nan_to_num(result.log_evidence, neginf=-1e3) - case.log_evidence
    assert np.abs(error).mean() > 0.2


def test_large_steps_are_no_error_where_they_may_be_rejected(linear_gaussian, monkeypatch):
    """As in the first breakage above, but with the Metropolis step: E[w] does not need good steps."""
    case = shifted(linear_gaussian(n=30, widen=1.6))
    monkeypatch.setattr(sampling, "_step_sizes", lambda p, x, s, o: _large(x, o))
    result = annealed_importance_sampling(case.vae, case.x, num_chains=64, **SHORT)
    assert result.mean_log_evidence == pytest.approx(case.log_evidence.mean(), abs=0.1)


def test_positive_latents_by_quadrature():
    vae = small_vae(
        1, prior=partial(priors.Gamma, concentration=2.0), posterior=posteriors.LogNormal
    )
    x = counts()
    step = 0.002
    z = (torch.arange(30_000) * step + step / 2).unsqueeze(-1)
    expected = by_quadrature(vae, x, z, math.log(step))
    result = annealed_importance_sampling(vae, x, num_chains=256, **SHORT)
    assert_close(result, expected)


def test_a_jacobian_of_the_wrong_sign_is_seen(monkeypatch):
    vae = small_vae(
        1, prior=partial(priors.Gamma, concentration=2.0), posterior=posteriors.LogNormal
    )
    x, right = counts(), Elementwise.__call__
    expected = annealed_importance_sampling(vae, x, **SHORT).mean_log_evidence

    def wrong(self, u):
        z, log_det, inside = right(self, u)
        return z, -log_det, inside

    # Both densities have the Jacobian: weights stay those of the same z, transitions do not fit them.
    monkeypatch.setattr(Elementwise, "__call__", wrong)
    broken = annealed_importance_sampling(vae, x, **SHORT).mean_log_evidence
    assert abs(broken - expected) > 0.05


def test_unit_latents_by_quadrature():
    prior = partial(priors.Beta, concentration1=2.0, concentration0=1.5)
    vae = small_vae(1, prior=prior, posterior=posteriors.Beta)
    x = counts()
    z = ((torch.arange(20_000) + 0.5) / 20_000).unsqueeze(-1)
    expected = by_quadrature(vae, x, z, -math.log(20_000))
    result = annealed_importance_sampling(vae, x, num_chains=256, **SHORT)
    assert_close(result, expected)


@pytest.mark.parametrize("posterior", [posteriors.Dirichlet, posteriors.LogisticNormal])
def test_latents_on_the_simplex_by_quadrature(posterior):
    vae = small_vae(3, prior=partial(priors.Dirichlet, concentration=1.5), posterior=posterior)
    x, cells = counts(), 400
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    first, second = (axis.flatten() for axis in torch.meshgrid(middle, middle, indexing="ij"))
    inside = first + second < 1 - 1e-9
    z = torch.stack([first, second, 1 - first - second], -1)[inside].float()
    # Cells that the edge cuts in two have their middle on it; they count half, and their density is 0.
    expected = by_quadrature(vae, x, z, -2 * math.log(cells))
    result = annealed_importance_sampling(vae, x, num_chains=256, **SHORT)
    assert_close(result, expected)


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        pytest.param(
            partial(priors.GaussianMixture, components=3),
            posteriors.DiagonalNormal,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            priors.StandardNormal, posteriors.CouplingFlowPosterior, marks=pytest.mark.slow
        ),
        pytest.param(
            priors.StandardNormal,
            posteriors.InverseAutoregressivePosterior,
            marks=pytest.mark.slow,
        ),
        pytest.param(priors.StudentT, posteriors.StudentT, marks=pytest.mark.slow),
        pytest.param(priors.Vamp, posteriors.FullNormal, marks=pytest.mark.slow),
    ],
)
def test_other_priors_and_guides_by_quadrature(prior, posterior):
    vae = small_vae(2, prior=prior, posterior=posterior)
    with torch.no_grad():
        # Flows start as the identity.
        for parameter in getattr(vae.posterior, "flow", vae.posterior).parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    axis = torch.linspace(-9, 9, 361)
    z = torch.cartesian_prod(axis, axis)
    expected = by_quadrature(vae, counts(), z, 2 * math.log(18 / 360))
    # Untrained flows are narrower than what they meet, so weights from them have long tails.
    result = annealed_importance_sampling(
        vae, counts(), num_chains=256, num_temperatures=100, leapfrog_steps=4
    )
    assert_close(result, expected)


class TwoBumps(PyroModule):
    """p(z) = N(0, 1), p(x | z) = N(x | |z|, 0.3^2): a posterior of two modes, a guide at one of them."""

    latent_sites = ("z",)

    @pyro_method
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.abs(), 0.3).to_event(1), obs=x)

    @pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def test_a_program_of_its_own_with_two_modes():
    x = torch.tensor([[0.5], [1.0], [1.5]])
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64).unsqueeze(-1)
    log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.abs(), 0.3).log_prob(x.T)
    expected = logsumexp(log_joint.numpy(), 0) + math.log(16 / 20_000)
    result = annealed_importance_sampling(TwoBumps(), x, num_chains=200, **SHORT)
    np.testing.assert_allclose(result.log_evidence, expected, atol=0.15)


# ---- what is promised ------------------------------------------------------------------------


def test_the_same_seed_is_the_same_result_and_the_global_stream_does_not_move():
    vae, x = small_vae(2), counts()
    vae.train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    results = [annealed_importance_sampling(vae, x, **TINY, seed=seed) for seed in (1, 1, 2)]
    assert (torch.get_rng_state() == before).all()
    assert vae.training
    np.testing.assert_array_equal(results[0].log_weights, results[1].log_weights)
    assert (results[0].log_weights != results[2].log_weights).all()


def test_chunks_cover_the_data(linear_gaussian):
    case = linear_gaussian(n=7)
    for max_elements in (1, 4 * 5 * 3, 10**9):
        result = annealed_importance_sampling(
            case.vae,
            case.x,
            num_chains=4,
            num_temperatures=3,
            leapfrog_steps=1,
            max_elements=max_elements,
        )
        np.testing.assert_allclose(result.log_evidence, case.log_evidence, atol=1e-9)
        assert result.log_weights.shape == (4, 7)
        assert result.acceptance.shape == result.ess.shape == (7,)


def test_chunks_stay_within_max_elements(linear_gaussian):
    case, sizes = linear_gaussian(n=7), []
    case.vae.likelihood.register_forward_hook(lambda *call: sizes.append(call[2].mean.numel()))
    annealed_importance_sampling(
        case.vae, case.x, num_chains=4, num_temperatures=2, leapfrog_steps=1, max_elements=70
    )
    assert max(sizes) <= 70


def test_concatenated_parts_are_the_whole():
    vae, x = small_vae(2), counts()
    parts = [annealed_importance_sampling(vae, rows, **TINY) for rows in x.split(4)]
    whole = AnnealedImportanceSampling.concatenate(parts)
    assert whole.log_weights.shape == (3, 6)
    np.testing.assert_array_equal(whole.log_evidence[4:], parts[1].log_evidence)
    assert whole.summary()["n"] == 6
    other = annealed_importance_sampling(vae, x[:1], **{**TINY, "num_chains": 2})
    assert other.log_evidence_se is None
    with pytest.raises(ValueError, match=r"one num_chains, got \[2, 3\]"):
        AnnealedImportanceSampling.concatenate([other, *parts])
    with pytest.raises(ValueError, match="no results to concatenate"):
        AnnealedImportanceSampling.concatenate([])


def test_integers_give_what_floats_give():
    vae, x = small_vae(2), counts()
    one, other = (annealed_importance_sampling(vae, data, **TINY) for data in (x, x.byte()))
    np.testing.assert_array_equal(one.log_weights, other.log_weights)


def test_extreme_data_give_numbers():
    """Far from anything the decoder can make: chains are stuck or slow, and nothing is NaN."""
    vae = small_vae(2, strength=30.0)
    x = torch.tensor([[0.0] * 4, [1e6] * 4, [1e4, 0.0, 0.0, 1e4]])
    result = annealed_importance_sampling(vae, x, **SHORT)
    for column in (result.log_evidence, result.log_weights, result.acceptance, result.ess):
        assert not np.isnan(column).any()


def test_a_broken_model_has_no_evidence():
    vae = small_vae(2)
    with torch.no_grad():
        vae.likelihood.decoder.head.bias.fill_(torch.nan)
    with pyro.validation_enabled(False):
        result = annealed_importance_sampling(vae, counts(), **TINY)
    assert (result.log_evidence == -np.inf).all()
    assert result.summary()["log_evidence"] is None
    assert "Not to be trusted" in result.trust()


def test_validation_sees_data_outside_of_the_support_and_comes_back():
    vae = small_vae(2, likelihood=likelihoods.Bernoulli)
    with pytest.raises(ValueError, match="support"):
        annealed_importance_sampling(vae, torch.full((3, 4), 0.5), num_temperatures=2)
    annealed_importance_sampling(vae, torch.ones(3, 4), **TINY)
    assert pyro.infer.is_validation_enabled()


def result_of(log_weights, acceptance):
    log_weights = np.asarray(log_weights, float)
    chains, n = log_weights.shape
    weights = np.exp(log_weights - log_weights.max(0))
    return AnnealedImportanceSampling(
        log_evidence=np.log(np.exp(log_weights).mean(0)),
        log_weights=log_weights,
        acceptance=np.full(n, acceptance),
        ess=weights.sum(0) ** 2 / (weights**2).sum(0),
        num_chains=chains,
        num_temperatures=10,
        leapfrog_steps=5,
    )


@pytest.mark.parametrize(
    ("log_weights", "acceptance", "words"),
    [
        (np.zeros((16, 4)), 0.65, "Good"),
        (np.zeros((16, 4)), 0.1, "Not to be trusted: for 100% of the data"),
        (np.eye(16)[:, :4] * 9, 0.65, "Too low: for 100% of the data"),
        (np.zeros((1, 4)), 0.65, "use at least two"),
    ],
)
def test_trust(log_weights, acceptance, words):
    assert words in result_of(log_weights, acceptance).trust()


def test_the_shortfall_is_what_log_normal_weights_have():
    """log of the mean of C weights is below by half of its relative variance."""
    noise = 0.5 * np.random.default_rng(0).normal(size=(16, 20_000))
    result = result_of(noise, 0.65)
    assert 0.125 - result.log_evidence.mean() == pytest.approx(result.shortfall.mean(), rel=0.15)


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        (priors.SphericalUniform, posteriors.PowerSpherical),
        (priors.OneHot, posteriors.OneHot),
        (priors.SpikeAndSlab, posteriors.SpikeAndSlab),
    ],
)
def test_guides_without_such_a_density_are_refused(prior, posterior):
    vae = small_vae(4, prior=prior, posterior=posterior)
    with pytest.raises(
        ValueError, match="support real, positive, unit or simplex, but at site 'z'"
    ):
        annealed_importance_sampling(vae, counts())


def test_sites_that_the_guide_lacks_are_refused():
    vae = small_vae(2)
    type(vae).latent_sites, before = ("z", "w"), type(vae).latent_sites
    try:
        with pytest.raises(
            ValueError, match="guide with the sites 'z', 'w' alone, but it has 'z'"
        ):
            annealed_importance_sampling(vae, counts())
    finally:
        type(vae).latent_sites = before


@pytest.mark.parametrize(
    "word", ["num_chains", "num_temperatures", "leapfrog_steps", "max_elements"]
)
def test_numbers_below_1_are_refused(word):
    with pytest.raises(ValueError, match=f"{word} must be at least 1, got 0"):
        annealed_importance_sampling(small_vae(2), counts(), **{word: 0})


def test_no_data_are_refused():
    with pytest.raises(ValueError, match="at least one example"):
        annealed_importance_sampling(small_vae(2), torch.ones(0, 4))


# ---- compiled --------------------------------------------------------------------------------


@pytest.fixture
def graphs(set_compiler):
    """Graphs are run operation by operation, and counted."""
    calls = []

    def compile_graph(traced):
        calls.append(0)
        place = len(calls) - 1

        def run(*arguments):
            calls[place] += 1
            return traced(*arguments)

        return run

    set_compiler(compile_graph)
    return calls


COMPILED = {"num_chains": 3, "num_temperatures": 4, "leapfrog_steps": 2, "max_elements": 3 * 4 * 4}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"prior": priors.Dirichlet, "posterior": posteriors.Dirichlet},
        *(
            pytest.param(parts, marks=pytest.mark.slow)
            for parts in (
                {"prior": priors.Vamp, "posterior": posteriors.FullNormal},
                {"prior": priors.Gamma, "posterior": posteriors.Gamma},
                {"prior": priors.Beta, "posterior": posteriors.Beta},
                {"posterior": posteriors.CouplingFlowPosterior},
                {"prior": priors.GaussianMixture, "likelihood": likelihoods.NegativeBinomial},
            )
        ),
    ],
    ids=lambda parts: "-".join(part.__name__ for part in parts.values()) or "standard",
)
def test_the_graph_is_the_eager_one(parts, graphs, float64):
    vae, x = small_vae(2, **parts), counts()
    results = [
        annealed_importance_sampling(vae, x, compile=mode, **COMPILED) for mode in ("on", "off")
    ]
    # In float32 trajectories magnify rounding.
    np.testing.assert_allclose(results[0].log_weights, results[1].log_weights, rtol=1e-7)
    # Two chunks, of one size: the second is filled up, so both are compiled.
    transitions = 2 * (20 + 10 + 3)
    starts = 2 * 2
    # The densities' first call is eager and the second is recorded; the leapfrog step shares their
    # decision, and its first call is recorded.
    assert sorted(graphs) == [transitions - 1, transitions + starts - 2]


def test_data_are_encoded_once_for_all_of_their_chunk(set_compiler):
    vae, x = small_vae(2), counts()
    calls = []

    def compile_graph(traced):
        products = [
            n
            for n in traced.graph.graph.nodes
            if str(n.target).split(".")[-2:-1] in (["mm"], ["addmm"])
        ]
        calls.append(len(products))
        return traced

    set_compiler(compile_graph)
    annealed_importance_sampling(vae, x, compile="on", **{**TINY, "leapfrog_steps": 2})
    # The decoder's two layers, forward and back to z.
    assert calls == [4, 4]


@pytest.mark.usefixtures("wait_for_compiler")
@pytest.mark.slow
def test_the_compiled_one_is_the_eager_one(caplog, float64):
    vae, x = small_vae(2), counts()
    with caplog.at_level(logging.INFO, "pyro_vae"):
        results = [
            annealed_importance_sampling(vae, x, compile=mode, **COMPILED)
            for mode in ("on", "off")
        ]
    assert caplog.text.count("equal to the eager one") == 2
    np.testing.assert_allclose(results[0].log_weights, results[1].log_weights, rtol=1e-7)


def fails(*_):
    raise CompilerError("InvalidCxxCompiler: No working C++ compiler found")


def wrong(traced):
    return lambda *arguments: tuple(1.01 * output for output in traced(*arguments))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(fails, "No working C++ compiler"), (wrong, "compiled and eager differ")],
)
def test_a_compiler_that_fails_is_not_used(compiler, reason, set_compiler, caplog):
    set_compiler(compiler)
    vae, x = small_vae(2), counts()
    results = [
        annealed_importance_sampling(vae, x, compile=mode, **COMPILED) for mode in ("on", "off")
    ]
    np.testing.assert_array_equal(results[0].log_weights, results[1].log_weights)
    assert caplog.text.count("graph, it runs without a compiler") == 2
    assert reason in caplog.text


def test_a_quick_run_does_not_pay_a_compiler(graphs):
    annealed_importance_sampling(small_vae(2), counts(), **TINY)
    assert graphs == []


def test_an_unknown_mode_is_refused():
    with pytest.raises(Exception, match=r"compile must be one of auto, on, off|compile"):
        annealed_importance_sampling(small_vae(2), counts(), compile="yes")
