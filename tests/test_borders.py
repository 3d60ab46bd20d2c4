"""Every prior, posterior and likelihood at the ends of its options' ranges: no atom, nothing infinite."""

import inspect
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special, stats

from pyro_vae import posteriors, priors
from pyro_vae.checks import (
    BOUNDS,
    CONCENTRATIONS,
    DEGREES_OF_FREEDOM,
    LARGEST_LOG,
    LOG_SCALES,
    PROBABILITIES,
    RATES,
    SCALES,
    TEMPERATURES,
)
from pyro_vae.distributions import (
    Beta,
    LogitNormal,
    Multinomial,
    NegativeBinomial,
    OneHots,
    PowerSpherical,
)
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.model import build
from pyro_vae.networks import MLP

DRAWS, LATENT_DIM = 20_000, 4
# A uniform band about a distribution function, left once in a million.
BAND = math.sqrt(math.log(2e6) / (2 * DRAWS))

# The ends of the range of each option that is a number, as the docstrings say.
PRIORS = {
    "laplace": {"scale": SCALES},
    "student_t": {"df": DEGREES_OF_FREEDOM, "scale": SCALES},
    "logistic": {"scale": SCALES},
    "flow": {"bound": BOUNDS},
    "autoregressive_flow": {"bound": BOUNDS},
    "log_normal": {"loc": (-83.9, 0.0, 83.9), "scale": LOG_SCALES},
    "gamma": {"concentration": (*CONCENTRATIONS, 1e-3, 0.05), "rate": RATES},
    "beta": {
        "concentration1": (*CONCENTRATIONS, 1e-3, 0.05),
        "concentration0": (*CONCENTRATIONS, 1e-3),
    },
    "dirichlet": {"concentration": (*CONCENTRATIONS, 1e-3, 0.05)},
    "logistic_normal": {"concentration": (*CONCENTRATIONS, 1e-3)},
    "spike_and_slab": {"inclusion": PROBABILITIES, "scale": SCALES},
}
POSTERIORS = {
    "student_t": {"df": (1.001, DEGREES_OF_FREEDOM[1])},
    "batch_normalised": {"gamma": (1e-6, 1e3)},
    "committed_rate": {"rate": (1e-6, 1e6)},
    "coupling_flow": {"bound": BOUNDS},
    "inverse_autoregressive": {"bound": BOUNDS},
    "one_hot": {"temperature": TEMPERATURES},
    "spike_and_slab": {"temperature": TEMPERATURES},
    "point": {"strength": (0.0, 1.0)},
}
# The distribution function of one coordinate, where SciPy has it.
KNOWN = {
    "standard_normal": lambda: stats.norm(),
    "laplace": lambda scale: stats.laplace(scale=scale),
    "student_t": lambda df, scale: stats.t(df, scale=scale),
    "logistic": lambda scale: stats.logistic(scale=scale),
    "log_normal": lambda loc, scale: stats.lognorm(scale, scale=math.exp(loc)),
    "gamma": lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
    "beta": lambda concentration1, concentration0: stats.beta(concentration1, concentration0),
    "dirichlet": lambda concentration: stats.beta(concentration, 3 * concentration),
}


def corners(ranges):
    """All combinations of a part's extremes; that of no option is the part as it is."""
    return [
        dict(zip(ranges, values, strict=True)) for values in itertools.product(*ranges.values())
    ]


def cases(parts, ranges):
    return [
        (name, options)
        for name in parts
        for options in corners(ranges.get(name, {}))
        # These two are in range each, but not together.
        if "loc" not in options or abs(options["loc"]) + 6 * options["scale"] <= LARGEST_LOG
    ]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def a_vae(options=None, **parts):
    for one, other in (("prior", posteriors.POSTERIORS), ("posterior", priors.PRIORS)):
        missing = {"prior": "posterior", "posterior": "prior"}[one]
        if one in parts and missing not in parts:
            support = parts[one].support
            parts[missing] = next(part for part in other.values() if part.support == support)
    given = next(iter(parts))
    parts[given] = partial(parts[given], **(options or {}))
    return build((3,), LATENT_DIM, network=partial(MLP, hidden=(8,)), levels=256, **parts)


def resolved(z, support):
    """Draws where the type's numbers are dense: float32 has few next to 1, and ends at 1e-38."""
    limits = torch.finfo(z.dtype)
    if support in ("unit", "simplex"):
        return z[(z > limits.tiny) & (z < 1 - 1e4 * limits.eps)]
    return z[z > limits.tiny] if support == "positive" else z[z != 0]


def assert_no_atom(z, support):
    """No value is drawn more often than rounding explains, but for the documented ends and spikes."""
    z = resolved(z, support)
    if len(z):
        assert z.unique(return_counts=True)[1].max() < 5 + 2e-3 * len(z)


def assert_distributed(z, support, law):
    """The empirical distribution function is within its band at some draws and at the lower end."""
    z = z.double().sort().values.numpy()
    limits = np.finfo(np.float32)
    points = resolved(torch.from_numpy(z).float(), support).double().numpy()[:: DRAWS // 200]
    if support in ("positive", "unit", "simplex"):
        points = np.append(points, limits.tiny)
    found = np.searchsorted(z, points * (1 + limits.eps * np.sign(points)), side="right") / len(z)
    np.testing.assert_array_less(np.abs(found - law.cdf(points)), BAND)


@pytest.mark.parametrize(
    ("parts", "ranges"), [(priors.PRIORS, PRIORS), (posteriors.POSTERIORS, POSTERIORS)]
)
def test_the_table_has_every_number(parts, ranges):
    for name, part in parts.items():
        numbers = [
            option
            for option, parameter in inspect.signature(part).parameters.items()
            if parameter.annotation in (float, "float")
        ]
        assert numbers == list(ranges.get(name, {})), name


@pytest.mark.parametrize(("name", "options"), cases(priors.PRIORS, PRIORS))
def test_priors(name, options, dtype):
    prior = a_vae(options, prior=priors.PRIORS[name]).prior
    p = prior()
    # An autoregressive map or a chain of networks is slow, and draws nothing but normals.
    z = p.sample((DRAWS // 10 if "flow" in name else DRAWS,))
    assert z.dtype == dtype
    assert z.isfinite().all()
    assert p.support.check(z).all()
    assert p.log_prob(z).isfinite().all()
    if prior.support != "one_hot":
        assert_no_atom(z, prior.support)
    if name in KNOWN:
        assert_distributed(z[:, 0], prior.support, KNOWN[name](**options))


@pytest.mark.parametrize(("name", "options"), cases(posteriors.POSTERIORS, POSTERIORS))
def test_posteriors(name, options):
    vae = a_vae(options, posterior=posteriors.POSTERIORS[name])
    q = vae.posterior((torch.rand(2, 3) < 0.5).float())
    z = q.rsample((DRAWS // 4,))
    assert z.isfinite().all()
    assert q.support.check(z).all()
    if name != "point":
        assert q.log_prob(z.detach()).isfinite().all()
    if vae.posterior.support != "one_hot" and name != "point":
        for draws in z.unbind(1):
            assert_no_atom(draws.detach(), vae.posterior.support)
    z.square().mean().backward()
    for parameter in vae.posterior.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (priors.Dirichlet, {"concentration": 1e-7}, "concentration must be from 1e-06 to 1000000"),
        (priors.LogisticNormal, {"concentration": 1e30}, "concentration must be from"),
        (priors.Beta, {"concentration0": 1e40}, "concentration0 must be from"),
        (priors.Gamma, {"rate": 1e30}, "rate must be from 1e-20 to"),
        (priors.LogNormal, {"scale": 20.0}, r"scale must be from 0\.01 to 14"),
        (priors.LogNormal, {"loc": 100.0}, r"\|loc\| \+ 6 scale must be at most 84"),
        (priors.Laplace, {"scale": 1e39}, "scale must be from"),
        (priors.StudentT, {"df": 0.1}, r"df must be from 0\.25 to"),
        (priors.SpikeAndSlab, {"inclusion": 1e-9}, "inclusion must be from 1e-06"),
        (priors.Flow, {"bound": 1e-50}, "bound must be from"),
    ],
)
def test_what_float32_cannot_hold_is_refused(part, options, message):
    with pytest.raises(ValueError, match=message):
        part(LATENT_DIM, **options)


# ---- likelihoods -----------------------------------------------------------------------------


class Large(MLP):
    """A decoder whose outputs are some 1e3 in size."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return 1e3 * outputs / outputs.detach().abs().mean()


@pytest.mark.parametrize("network", [MLP, Large])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name, network):
    likelihood = build(
        (5,),
        LATENT_DIM,
        likelihood=LIKELIHOODS[name],
        network=partial(network, hidden=(6,)),
        levels=256,
    ).likelihood
    p = likelihood(torch.randn(200, LATENT_DIM))
    x = p.sample((20,))
    assert x.isfinite().all()
    assert p.support.check(x).all()
    assert p.log_prob(x).isfinite().all()
    if network is MLP and likelihood.support in ("unit", "real"):
        assert_no_atom(x, likelihood.support)


@pytest.mark.parametrize("concentration", [1e-3, 0.05, 1.0, 1e4])
def test_draws_of_a_beta_likelihood(concentration):
    a = torch.full((DRAWS,), concentration)
    x = Beta(a, a).sample()
    assert_no_atom(x, "unit")
    assert_distributed(x, "unit", stats.beta(concentration, concentration))


@pytest.mark.parametrize("scale", [1.0, 3.9, 4.1, 30.0, 1e3])
def test_moments_of_a_logit_normal(scale):
    for loc in (-3.0, 0.4 * scale):
        p = LogitNormal(torch.tensor(loc), torch.tensor(scale))
        normal = stats.norm(loc, scale)
        grid = np.linspace(*normal.interval(1 - 1e-15), 400_001)
        weight = normal.pdf(grid) * (grid[1] - grid[0])
        first, second = ((weight * special.expit(grid) ** k).sum() for k in (1, 2))
        assert float(p.mean) == pytest.approx(first, abs=5e-5)
        assert float(p.variance) == pytest.approx(second - first**2, abs=1e-4)


@pytest.mark.parametrize("log_mean", [0.0, 16.0, 40.0, 1e4])
@pytest.mark.parametrize("log_inverse_dispersion", [-12.0, -6.0, 0.0, 12.0])
def test_negative_binomial_draws_are_counts(log_mean, log_inverse_dispersion):
    """torch.poisson gives -9e18 for any rate above 9.2e18."""
    p = NegativeBinomial(torch.tensor(log_mean), torch.tensor(log_inverse_dispersion))
    x = p.sample((DRAWS,))
    assert p.support.check(x).all()
    assert p.log_prob(x).isfinite().all()
    if log_inverse_dispersion == 12:
        assert float(x.double().mean()) == pytest.approx(float(p.mean), rel=0.05)


@pytest.mark.parametrize("total", [3, 50, 30_000_001])
def test_multinomial_draws_have_the_total(total):
    """Ones summed in float32 end at 2^24."""
    p = Multinomial(torch.tensor([0.0, 1.0, -30.0, -1.0]).double(), torch.tensor(total))
    x = p.sample((4000,))
    assert (x >= 0).all()
    assert (x.sum(-1) == total).all()
    error = 5 * (p.variance / len(x)).sqrt() + 1e-6
    assert ((x.mean(0) - p.mean).abs() < error).all()
    torch.testing.assert_close(x.var(0), p.variance, rtol=0.15, atol=1e-3)


@pytest.mark.parametrize("concentration", [1e-3, 1.0, 1e5, 1e8, 1e10])
def test_power_spherical_density_of_concentrated_draws(concentration):
    """A z of float32 has length 1 to rounding, which a large kappa would multiply."""
    loc = torch.nn.functional.normalize(torch.randn(5), dim=0)
    p = PowerSpherical(loc, torch.tensor(concentration))
    log_prob = p.log_prob(p.sample((DRAWS,))).double()
    error = 5 * log_prob.std() / DRAWS**0.5 + 1e-5
    assert (log_prob.mean() + p.entropy()).abs() < error


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_one_hots_at_extreme_temperatures(temperature):
    logits = torch.tensor([[3.0, -2.0, 0.0]], requires_grad=True)
    z = OneHots(logits, temperature).rsample((DRAWS,))
    error = 5 * 0.5 / DRAWS**0.5
    torch.testing.assert_close(z.mean(0), logits.softmax(-1)[0], atol=error, rtol=0)
    (gradient,) = torch.autograd.grad(z[..., 0].sum(), logits)
    assert gradient.isfinite().all()
