"""Whether the compiled step does what the eager one does, under the same noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import build, likelihoods, networks, priors
from pyro_vae.compilation import CompileMode
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.networks import NetworkFactory
from pyro_vae.objectives import ELBO
from pyro_vae.posteriors.gaussian import MINIMUM_SCALE
from pyro_vae.training import Training
from pyro_vae.training.batch_loss import Precision

# A step's first call is eager, its second compiles: the compiled one runs from the third on.
STEPS = 6
# By precision: of the parameters' way, as a share of its length, and of the ELBO. Adam's first steps
# go by a gradient's sign, so that rounding alone moves single parameters apart.
TOLERANCES = {"float32": (1e-2, 1e-5), "bfloat16": (0.2, 1e-3)}


class GivenNoise(nn.Module):
    """q(z | x) = N(z | mu(x), diag(sigma(x)^2)) whose draws are mu + sigma e, with e always the same.

    Eager and compiled steps may draw their noise in another order. This one draws none.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
    """

    support = "real"
    noise: Tensor

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))
        self.register_buffer("noise", torch.randn(latent_dim), persistent=False)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        """The distribution whose draws are given."""
        loc, raw_scale = self.encoder(x).unbind(-2)
        return _GivenNormal(loc, F.softplus(raw_scale) + MINIMUM_SCALE, self.noise).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)


class _GivenNormal(dist.Normal):
    """A Normal whose draw is loc + scale e for a given e."""

    def __init__(self, loc: Tensor, scale: Tensor, noise: Tensor) -> None:
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_GivenNormal":
        return _GivenNormal(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        draw = self.loc + self.scale * self.noise
        return draw.expand(*sample_shape, *draw.shape)


MLP = partial(networks.MLP, hidden=(400,), activation="softplus")


@dataclass(frozen=True)
class Case:
    """A program whose two steps are compared.

    Args:
        prior: The prior's class.
        network: The networks' class.
        precision: "float32" or "bfloat16".
        num_particles: The number of draws of z.
        images: The number of images, in batches of 256.
    """

    prior: Callable[..., nn.Module] = priors.StandardNormal
    network: Callable[..., nn.Module] = MLP
    precision: Precision = "float32"
    num_particles: int = 1
    images: int = 256 * STEPS


CASES = {
    "standard normal prior": Case(),
    "standard normal prior, bfloat16": Case(precision="bfloat16"),
    "mixture prior, KL by Monte Carlo": Case(prior=priors.GaussianMixture),
    "8 particles": Case(num_particles=8),
    "convolutions": Case(network=networks.Conv),
    "convolutions, bfloat16": Case(network=networks.Conv, precision="bfloat16"),
    "a last batch of 100": Case(images=256 + 100),
}


@dataclass(frozen=True)
class Equality:
    """How far two ways to train came apart.

    Args:
        distance: Between the two ends, as a share of the way from start to end.
        elbo_difference: Of the last epoch's mean ELBO, as a share of it.
        passed: Whether both are within the tolerance.
    """

    distance: float
    elbo_difference: float
    passed: bool


def compare(
    case: Case, device: str, modes: tuple[CompileMode, CompileMode] = ("off", "on")
) -> Equality:
    """Train twice from one start, on the same images in the same order, with the same noise.

    Args:
        case: The program.
        device: Where.
        modes: How `Training` is to compile, first and second.

    Raises:
        RuntimeError: If a step that was to be compiled was not.
    """
    starts, ends, elbos = zip(*(_train(case, device, mode) for mode in modes), strict=True)
    assert torch.equal(*starts)
    way = (ends[0] - starts[0]).norm()
    distance = float((ends[1] - ends[0]).norm() / way)
    difference = abs(elbos[1] - elbos[0]) / abs(elbos[0])
    most_distant, most_different = TOLERANCES[case.precision]
    passed = distance <= most_distant and difference <= most_different
    return Equality(distance, difference, passed)


def _train(case: Case, device: str, mode: CompileMode) -> tuple[Tensor, Tensor, float]:
    """The parameters before and after, in one vector each, and the last epoch's mean ELBO."""
    torch.manual_seed(0)
    # Drawn once, so that binarisation is no noise either.
    shape = (1, 28, 28)
    images = torch.randint(0, 2, (case.images, *shape), dtype=torch.uint8)
    data = Dataset("bits", "binary", None, train=images, validation=images[:1], test=images[:1])
    vae = build(
        shape,
        50,
        prior=case.prior,
        likelihood=likelihoods.Bernoulli,
        posterior=GivenNoise,
        network=case.network,
    ).to(device)
    batches = -(-case.images // 256)
    training: Any = Training(
        vae,
        PreparedData(data, "binary"),
        ELBO(num_particles=case.num_particles),
        # So many that a last batch of another size is compiled as well.
        epochs=max(1, -(-STEPS // batches) + 1),
        batch_size=256,
        compile=mode,
        precision=case.precision,
    )
    start = nn.utils.parameters_to_vector(vae.parameters()).detach().clone()
    training.run()
    if mode == "on" and training.compiled != "on":
        raise RuntimeError("the step was not compiled, and ran eagerly; its log says why.")
    end = nn.utils.parameters_to_vector(vae.parameters()).detach()
    return start.double(), end.double(), float(training.history[-1]["elbo"])
