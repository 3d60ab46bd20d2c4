"""The path from the guide to the joint density, and Hamiltonian transitions on it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.compilation import CompiledFunction, CompileMode
from pyro_vae.evidence.unconstrained import Joint, bijection_onto
from pyro_vae.log_densities import distribution_at, log_densities, require_density
from pyro_vae.rng import owners_of

# The largest difference of a compiled density and gradient from the eager ones, as a share of the
# largest.
_TOLERANCE = 1e-5
_GRADIENT_TOLERANCE = 1e-3

# The best acceptance rate in many dimensions (Neal, 2011, section 5.4.4.3).
TARGET_ACCEPTANCE = 0.65

# A transition's step size is the example's times a factor uniform within this of 1: with a fixed
# size, a trajectory can be a whole number of periods of a normal density, and end where it began.
_JITTER = 0.2

# The gain of log step sizes in the acceptance's distance from the target. The acceptance of
# sixteen chains has a standard error near 0.1.
_GAIN = 0.5
_WINDOW = 5


class Point(NamedTuple):
    """Positions of chains, and both log densities there, in float64, with their gradients."""

    u: Float[Tensor, "chains batch real"]
    log_q: Float[Tensor, "chains batch"]  # log q(z | x) |det dz/du|.
    log_joint: Float[Tensor, "chains batch"]  # log p(x, z) |det dz/du|.
    gradient_q: Float[Tensor, "chains batch real"]
    gradient_joint: Float[Tensor, "chains batch real"]

    @property
    def log_weight(self) -> Float[Tensor, "chains batch"]:
        """log p(x, z) - log q(z | x), in nats; -inf where the joint density is 0."""
        ratio = self.log_joint - self.log_q
        return torch.where(self.log_joint == -torch.inf, -torch.inf, ratio)


class AnnealingPath:
    """log q(z | x) and log p(x, z) of a program, as densities of u in R^d.

    u are the coordinates of all latent sites, beside one another. Annealing needs both densities
    at each point, and the gradient of any mixture of the two is that mixture of their gradients.
    Within a trajectory the gradients are enough. Both are compiled if the work of all calls pays
    for it, with the encoder computed once for each chunk of data.

    Args:
        vae: A program with `model(x)`, `guide(x)` and `latent_sites`.
        num_chains: The number of points for each example.
        compile: "off", "on", or "auto" to compile if the work of all calls pays for it.
        expected_calls: The number of evaluations.

    Raises:
        ValueError: If the program has no latent site, or `compile` is another word.
    """

    def __init__(
        self, vae: Any, *, num_chains: int, compile: CompileMode, expected_calls: int
    ) -> None:
        if not vae.latent_sites:
            raise ValueError(
                "annealed importance sampling needs a program with a latent site, but "
                f"{type(vae).__name__} has none."
            )
        self.vae = vae
        self.sites = tuple(vae.latent_sites)
        self.num_chains = num_chains
        self._bijection: Joint | None = None
        options: dict[str, Any] = {
            "name": "annealing, data",
            "modules": owners_of(vae),
            "form": lambda x, *_: f"{'x'.join(map(str, x.shape))}, {num_chains} chains",
        }
        self._densities = CompiledFunction(
            self._evaluate,
            compile,
            lambda _: expected_calls,
            outputs={
                "log q(z | x)": _TOLERANCE,
                "log p(x, z)": _TOLERANCE,
                "gradient of log q(z | x)": _GRADIENT_TOLERANCE,
                "gradient of log p(x, z)": _GRADIENT_TOLERANCE,
            },
            moving=1,
            **options,
        )
        self._leapfrog = CompiledFunction(
            self._leapfrog_step,
            compile,
            lambda _: expected_calls,
            outputs={"position": _TOLERANCE, "momentum": _GRADIENT_TOLERANCE},
            moving=4,
            **options,
        )
        # One decision for both: that of the first evaluation.
        self._leapfrog.decisions = self._densities.decisions

    @property
    def compile_seconds(self) -> float:
        """The time that compiling took."""
        return self._densities.seconds + self._leapfrog.seconds

    def draws(
        self, x: Float[Tensor, " batch *event"], num_draws: int
    ) -> Float[Tensor, "draws batch real"]:
        """Independent draws of q(z | x), as u.

        Raises:
            ValueError: If the guide has other sites, or no density on a supported support.
            NoDensityError: If the guide has all its mass at one point.
        """
        plate = pyro.plate("num_particles_vectorized", num_draws, dim=-2)
        drawn = poutine.trace(plate(self.vae.guide)).get_trace(x)
        require_density(drawn, "annealed importance sampling")
        # Pyro's types make every key optional.
        nodes = cast("dict[str, dict[str, Any]]", drawn.nodes)
        names = [name for name, node in nodes.items() if _is_latent(node)]
        if set(names) != set(self.sites):
            several = len(self.sites) > 1
            raise ValueError(
                f"annealed importance sampling needs a guide with the site{'s' * several} "
                f"{', '.join(map(repr, self.sites))} alone, but it has "
                f"{', '.join(map(repr, names)) or 'none'}."
            )
        z = {site: nodes[site]["value"] for site in self.sites}
        if self._bijection is None:
            # A program's posterior declares the support of its only site.
            owner = getattr(self.vae, "posterior", None) if len(self.sites) == 1 else None
            support = getattr(owner, "support", None)
            parts = {
                site: bijection_onto(
                    distribution_at(drawn, site), z[site], site=site, support=support
                )
                for site in self.sites
            }
            self._bijection = Joint(parts, z)
        return self.inverse(z)

    def inverse(self, z: Mapping[str, Float[Tensor, "..."]]) -> Float[Tensor, "*batch real"]:
        """The value of each site as a point u of R^d."""
        assert self._bijection is not None, "draws are needed first"
        return self._bijection.inverse(z)

    def evaluate(
        self, x: Float[Tensor, " batch *event"], u: Float[Tensor, "chains batch real"]
    ) -> Point:
        """Both log densities at u, and their gradients."""
        u = u.contiguous()
        return Point(u, *self._densities(x, u))

    def leapfrog(
        self,
        x: Float[Tensor, " batch *event"],
        b: Float[Tensor, ""],
        stride: Float[Tensor, "chains batch real"],
        momentum: Float[Tensor, "chains batch real"],
        u: Float[Tensor, "chains batch real"],
    ) -> tuple[Float[Tensor, "chains batch real"], Float[Tensor, "chains batch real"]]:
        """u + stride momentum, and momentum + stride d log f_b / du there."""
        arguments = (tensor.contiguous() for tensor in (stride, momentum, u))
        u, momentum = self._leapfrog(x, b, *arguments)
        return u, momentum

    def _evaluate(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        assert self._bijection is not None
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            z, log_det, inside = self._bijection(u)
            held = Trace()
            for site, value in z.items():
                held.add_node(
                    site, name=site, type="sample", is_observed=False, infer={}, value=value
                )
            terms = log_densities(
                self.vae.model,
                poutine.replay(self.vae.guide, trace=held),
                x,
                num_particles=self.num_chains,
            )
            log_det = log_det.double()
            log_q = terms.log_proposal + log_det
            log_joint = terms.log_joint + log_det
            gradients = [
                torch.autograd.grad(total.sum(), u, retain_graph=True)[0]
                for total in (log_q, log_joint)
            ]
        values = [
            torch.where(inside & ~total.isnan(), total, -torch.inf)
            for total in (log_q.detach(), log_joint.detach())
        ]
        return (*values, *gradients)

    def _leapfrog_step(
        self, x: Tensor, b: Tensor, stride: Tensor, momentum: Tensor, u: Tensor
    ) -> tuple[Tensor, ...]:
        u = u + stride * momentum
        _, _, of_q, of_joint = self._evaluate(x, u)
        return u, momentum + stride * ((1 - b) * of_q + b * of_joint)


def _is_latent(node: Any) -> bool:
    return (
        node["type"] == "sample"
        and not node["is_observed"]
        and not node["infer"].get("is_auxiliary")
        # Summed by `log_densities`.
        and node["infer"].get("enumerate") != "parallel"
        and type(node["fn"]).__name__ != "_Subsample"
    )


# ---- Hamiltonian Monte Carlo -------------------------------------------------------------------


def transition(
    path: AnnealingPath,
    x: Float[Tensor, " batch *event"],
    point: Point,
    b: float,
    step_size: Float[Tensor, " batch"],
    scale: Float[Tensor, "batch real"],
    leapfrog_steps: int,
) -> tuple[Point, Float[Tensor, "chains batch"]]:
    """A reversible transition that leaves f_b(u) = q^(1 - b) p^b, unnormalised, invariant.

    Momentum and leapfrog steps are in units of `scale`, a diagonal preconditioner of each example.
    A proposal with a density or gradient that is not finite is rejected.

    Returns:
        The next positions, and the acceptance probability of each proposal.

    References:
        MCMC using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
    """
    momentum = torch.randn_like(point.u)
    like = point.log_q
    jitter = 1 + _JITTER * (2 * torch.rand_like(like) - 1)
    threshold = torch.rand_like(like).log()
    stride = (step_size * jitter).unsqueeze(-1).to(scale.dtype) * scale

    u, p = point.u, momentum + stride * _mixed_gradient(b, point) / 2
    # A tensor, which a graph reads anew at each call.
    b_tensor = torch.full((), b, dtype=u.dtype, device=u.device)
    for _ in range(leapfrog_steps - 1):
        u, p = path.leapfrog(x, b_tensor, stride, p, u)
    proposal = path.evaluate(x, u + stride * p)
    p = p + stride * _mixed_gradient(b, proposal) / 2
    gain = _log_density(proposal, b) - _kinetic(p) - (_log_density(point, b) - _kinetic(momentum))
    # From a point with density 0, any proposal with a density is accepted.
    finite = _log_density(proposal, b).isfinite() & p.isfinite().all(-1)
    gain = torch.where(finite, gain, -torch.inf)
    accepted = threshold < gain
    moved = (
        torch.where(accepted if new.dim() == accepted.dim() else accepted.unsqueeze(-1), new, old)
        for new, old in zip(proposal, point, strict=True)
    )
    return Point(*moved), gain.clamp(max=0).exp()


def adapted_step_sizes(
    path: AnnealingPath,
    x: Float[Tensor, " batch *event"],
    point: Point,
    temperatures: Sequence[float],
    scale: Float[Tensor, "batch real"],
    leapfrog_steps: int,
    *,
    warm_up: int,
) -> Float[Tensor, "temperatures batch"]:
    """A step size for each example at each b, at which about 0.65 of the proposals are accepted.

    Stochastic approximation along one pass over the path, smoothed over neighbouring temperatures.
    The chains of this pass are discarded: step sizes that depend on the chains that they move
    would distort their distribution. They start at draws of q(z | x), with `warm_up` transitions
    at the first b that do not count.
    """
    # For a normal density in d dimensions, the best step is of the order of d^(-1/4).
    log_step = torch.full_like(point.log_q[0], -math.log(point.u.shape[-1]) / 4)
    found = []
    for i, b in enumerate([*([temperatures[0]] * warm_up), *temperatures]):
        point, acceptance = transition(path, x, point, b, log_step.exp(), scale, leapfrog_steps)
        # Faster at first, while the step size is far from its target.
        gain = _GAIN * max(1.0, 3.0 * (1 - i / warm_up)) if warm_up else _GAIN
        log_step = log_step + gain * (acceptance.mean(0) - TARGET_ACCEPTANCE)
        if i >= warm_up:
            found.append(log_step)
    sizes = torch.stack(found)
    padded = torch.cat(
        [sizes[:1].expand(_WINDOW // 2, -1), sizes, sizes[-1:].expand(_WINDOW // 2, -1)]
    )
    return padded.unfold(0, _WINDOW, 1).mean(-1).exp()


def _mixed_gradient(b: float, point: Point) -> Tensor:
    return (1 - b) * point.gradient_q + b * point.gradient_joint


def _log_density(point: Point, b: float) -> Tensor:
    """log f_b, for b > 0: -inf where p(x, z) is 0, and never NaN."""
    if b == 1:
        return point.log_joint
    both = (1 - b) * point.log_q + b * point.log_joint
    return both.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.double().square().sum(-1) / 2
