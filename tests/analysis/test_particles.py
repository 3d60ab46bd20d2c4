"""The noise of gradients has its known value for a linear-Gaussian model."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from analysis.particles import (
    GradientNoise,
    ParticleNoise,
    _Moments,
    elbo_of,
    iwae_of,
    particle_noise,
    plot_particles,
)
from pyro_vae.log_densities import LogDensities
from pyro_vae.model import VAE
from pyro_vae.objectives import ELBO, Objective, ObjectiveValue
from pyro_vae.priors import StandardNormal

B = 8
GROUPS = ("encoder", "decoder")


class Shifted(nn.Module):
    """p(x | z) = N(z + b, 1)."""

    support = "real"

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Normal(z + self.bias, 1.0).to_event(1)


class Scaled(nn.Module):
    """q(z | x) = N(w x + m, exp(rho)^2)."""

    support = "real"
    latent_dim = 1
    weight: Tensor

    def __init__(self, weight: float, shift: float, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.shift = nn.Parameter(torch.tensor(shift))
        self.rho = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Normal(self.weight * x + self.shift, self.rho.exp()).to_event(1)


class StickingTheLanding(Objective):
    """The ELBO without the score of log q(z | x) in its gradient (Roeder et al., 2017)."""

    def value(self, terms: LogDensities) -> ObjectiveValue:
        score = terms.log_posterior_at_fixed_draws()
        return ObjectiveValue(-(terms.log_weight + score - score.detach()).mean(0), {})


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def the_vae(weight=0.5, shift=0.0, scale=0.5**0.5, bias=0.0) -> VAE:
    """By default the guide is the posterior: N(x / 2, 1 / 2)."""
    return VAE(StandardNormal(1), Shifted(bias), Scaled(weight, shift, scale))


def groups_of(vae: VAE) -> dict[str, list[Tensor]]:
    parts = (vae.posterior, vae.likelihood)
    return {name: list(part.parameters()) for name, part in zip(GROUPS, parts, strict=True)}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("num_particles", [1, 8])
def test_the_noise_of_the_elbo_is_known(x, num_particles):
    """With z = a + s e, the loss's gradient is z + b - x in b, and s e (z + b - x) in rho, but for the KL's."""
    scale, shift, bias = 0.7, 0.4, 0.3
    vae = the_vae(0.2, shift, scale, bias)
    noise = particle_noise(vae, ELBO(num_particles=num_particles), x, groups_of(vae), repeats=800)
    away = 0.2 * x + shift + bias - x
    in_shift = in_bias = scale**2 / (num_particles * B)
    in_rho = scale**2 * (float((away**2).mean()) + 2 * scale**2) / (num_particles * B)
    decoder, encoder = noise.gradients["decoder"], noise.gradients["encoder"]
    assert decoder.variance == pytest.approx(in_bias, rel=0.2)
    assert encoder.variance == pytest.approx(in_shift + in_rho, rel=0.2)
    mean = float(away.mean())
    assert decoder.squared_signal == pytest.approx(mean**2, rel=0.1)
    ratio = abs(mean) / math.sqrt(in_bias)
    assert decoder.signal_to_noise == pytest.approx(ratio, rel=0.15)


@pytest.mark.slow
def test_the_noise_of_a_mean_falls_with_one_over_its_draws(x):
    vae = the_vae(0.2, 0.4, 0.7, 0.3)
    one, many = (
        particle_noise(vae, ELBO(num_particles=k), x, groups_of(vae), repeats=500) for k in (1, 16)
    )
    for group in GROUPS:
        ratio = one.gradients[group].variance / many.gradients[group].variance
        assert 12 < ratio < 21


def test_sticking_the_landing_has_no_encoder_noise_at_the_posterior(x):
    vae = the_vae()
    stuck = particle_noise(vae, StickingTheLanding(4), x, groups_of(vae), repeats=20)
    plain = particle_noise(
        vae, ELBO(num_particles=4, kl="monte_carlo"), x, groups_of(vae), repeats=20
    )
    assert stuck.gradients["encoder"].variance < 1e-25
    assert plain.gradients["encoder"].variance > 1e-3
    # The decoder's noise is equal, draw by draw.
    both = [each.gradients["decoder"].variance for each in (stuck, plain)]
    assert both[0] == pytest.approx(both[1], rel=1e-9)


def test_at_the_posterior_both_bounds_are_the_evidence(x):
    vae = the_vae()
    evidence = float(dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).mean())
    for bound in (elbo_of, iwae_of):
        noise = particle_noise(
            vae, ELBO(num_particles=3), x, groups_of(vae), bound=bound, repeats=2
        )
        assert noise.bound == pytest.approx(evidence, abs=1e-12)
        assert noise.bound_se < 1e-12


def test_elsewhere_the_bounds_differ_and_one_particle_has_one(x):
    vae = the_vae(0.2)
    weights = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert elbo_of(weights).tolist() == [1.0, 1.0]
    expected = [math.log((1 + math.exp(2)) / 2), 1.0]
    assert iwae_of(weights).tolist() == pytest.approx(expected)
    assert torch.equal(elbo_of(weights[:1]), iwae_of(weights[:1]))
    # E_q[log p(x, z)] + the entropy, in closed form.
    loc, var = 0.2 * x, 0.5
    exact = -0.5 * ((x - loc) ** 2 + var + loc**2 + var - 1 - math.log(var)) - 0.5 * math.log(
        2 * math.pi
    )
    noise = particle_noise(vae, ELBO(num_particles=8), x, groups_of(vae), repeats=100)
    assert abs(noise.bound - float(exact.mean())) < 5 * noise.bound_se
    assert 0 < noise.bound_se < 0.03


def test_moments_are_those_of_all_vectors_at_once():
    vectors = 3 + torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    moments = _Moments()
    for vector in vectors:
        moments.add(vector)
    noise = moments.noise()
    trace = float(torch.cov(vectors.mT).trace())
    assert noise.variance == pytest.approx(trace, rel=1e-12)
    squared = float(vectors.mean(0).square().sum())
    assert noise.squared_signal == pytest.approx(squared - trace / 5, rel=1e-12)
    assert noise.signal_to_noise == pytest.approx(math.sqrt((squared - trace / 5) / trace))


def test_no_state_is_changed(x):
    vae = the_vae().train()
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    one, other = (particle_noise(vae, ELBO(), x, groups_of(vae), repeats=2) for _ in range(2))
    assert torch.equal(torch.rand(()), expected)
    assert one == other
    assert vae.training
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_a_parameter_that_the_loss_does_not_depend_on_has_no_gradient(x):
    vae = the_vae()
    unused = {"unused": [nn.Parameter(torch.ones(3))]}
    noise = particle_noise(vae, ELBO(), x, unused, repeats=2).gradients["unused"]
    assert (noise.variance, noise.squared_signal) == (0.0, 0.0)
    assert math.isnan(noise.signal_to_noise)
    assert GradientNoise(0.0, 1.0).signal_to_noise == math.inf
    assert GradientNoise(1.0, -0.1).signal_to_noise == 0.0


def test_invalid_arguments(x):
    vae = the_vae()
    with pytest.raises(ValueError, match="repeats must be at least 2, got 1"):
        particle_noise(vae, ELBO(), x, groups_of(vae), repeats=1)
    with pytest.raises(ValueError, match="the group 'none' must have at least one"):
        particle_noise(vae, ELBO(), x, {"none": []})


def test_the_figure():
    points = [
        ParticleNoise(k, -90.0 - 1 / k, 0.01, {g: GradientNoise(1 / k, 0.3) for g in GROUPS})
        for k in (1, 2, 4)
    ]
    silent = [ParticleNoise(1, -90.0, 0.01, {g: GradientNoise(0.0, 0.0) for g in GROUPS})]
    figure = plot_particles({"elbo": points, "iwae": silent})
    assert len(figure.axes) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["elbo", "iwae"]
    figure.canvas.draw()
    with pytest.raises(ValueError, match="curves must have at least one"):
        plot_particles({})
    with pytest.raises(ValueError, match="groups must be one or two"):
        plot_particles({"elbo": points}, groups=())
