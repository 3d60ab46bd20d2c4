"""A guide with its own parameters for every example, initialised by the encoder."""

import copy
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from pyro_vae.compilation import CompiledFunction, CompileMode
from pyro_vae.log_densities import distribution_at, log_densities, require_density
from pyro_vae.notebooks import progress_bar
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode

# The draws on which an example's refined parameters are compared with the encoder's.
_CHOICE_DRAWS = 128

# The largest difference of a compiled gradient from the eager one, as a share of the largest.
_TOLERANCE = 1e-4
# Stands for a missing value where examples are told apart.
_MISSING = 0.6180339887498949


class NoLocalGuideError(ValueError):
    """The guide cannot be refined: it has no encoder to replace, or draws without a gradient."""


def refine_guide(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    steps: int = 100,
    lr: float = 0.03,
    num_particles: int = 8,
    max_elements: int = 2_000_000,
    seed: int = 0,
    compile: CompileMode = "auto",
    progress: bool = False,
) -> Any:
    """The program with the guide q(z; phi_i), phi_i maximising the ELBO of example i.

    phi_i starts at the output of the posterior's encoder for x_i and is then free: a mean and a
    scale, a flow's base and context, concentrations, logits. The guide stays within its family,
    and the amortisation gap of the encoder is removed. Everything else, flows' weights, decoder
    and prior, is frozen; a prior that uses the posterior, such as Vamp's, keeps the encoder. The
    ELBO has beta = 1 and closed-form KLs where they are registered. Batch normalisation uses its
    running statistics, so that examples are independent; the learning rate decays to 0 by half a
    cosine.

    Each example keeps the better of the encoder's and the refined parameters by the ELBO on 128
    new draws, the same for both: refinement makes no example worse, up to the noise of that
    choice. The choice is biased on these draws only: score the guide on others, as
    `importance_weighting` does. For discrete and spike-and-slab posteriors the gradient is a
    straight-through one, and biased; the choice then protects from its errors.

    The result is for these examples alone, in any order, any subset and any repetition, so that it
    can be evaluated in chunks. It shares nothing with `vae`, which is left unchanged, as is the
    global random stream.

    Args:
        vae: A program with one latent site, a `posterior` that owns one encoder, `model` and
            `guide`.
        x: Data in the likelihood's support, on the program's device; integers are converted to
            floats.
        steps: The number of Adam's steps for each example.
        lr: Adam's initial learning rate.
        num_particles: The number of draws from the guide for each example and step.
        max_elements: The number of draws x examples x elements held at once.
        seed: The seed of the draws. They differ from those that the same seed gives elsewhere.
        compile: "on" or "off"; "auto" to compile a step if the work pays for it.
        progress: Show a progress bar.

    Raises:
        NoLocalGuideError: If there are several latent sites, the posterior has no encoder, or its
            draws no gradient; a ValueError.
        ValueError: If there are no data, an option is out of its range, or, from the guide, if it
            is called with data that are not among `x`.

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018),
        https://arxiv.org/abs/1802.02550; Iterative Refinement of the Approximate Posterior (Hjelm
        et al., 2016), https://arxiv.org/abs/1511.06382
    """
    for word, value in (
        ("steps", steps),
        ("num_particles", num_particles),
        ("max_elements", max_elements),
    ):
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}.")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be above 0 and finite, got {lr}.")
    if len(x) == 0:
        raise ValueError("refine_guide needs at least one example, got none.")
    program, owner = _local_copy(vae)
    encoder = owner.encoder
    n = len(x)

    # Chunks of one size, so that they share a graph: the last is filled up with the first
    # examples.
    largest = max(1, max_elements // max(1, x[0].numel() * num_particles))
    chunks = -(-n // largest)
    batch = -(-n // chunks)
    values: list[Tensor] = []
    # On the draws that it was fitted to, a guide looks better than it is.
    with evaluation_mode(program, seed=derive_seed(seed, "refined")), ExitStack() as speed:
        local = gradient = None
        bar = speed.enter_context(
            progress_bar(progress, total=chunks * steps, desc="refining", unit="step")
        )
        for first in range(0, n, batch):
            data = as_floats(x[torch.arange(first, first + batch, device=x.device) % n])
            start = encoder(data).detach().clone()
            if local is None or gradient is None:
                owner.encoder = local = LocalParameters(start)
                gradient = _elbo_gradient(program, local, num_particles, compile, chunks * steps)
            local.set(start)
            _maximise(local, gradient, data, steps, lr, bar, speed)
            found = local.values.detach().clone()
            better = _is_better(program, local, start, found, data, num_particles)
            chosen = torch.where(better.view(-1, *(1,) * (found.dim() - 1)), found, start)
            values.append(chosen[: n - first])
        owner.encoder = Table(as_floats(x), torch.cat(values))
    return program.requires_grad_(False).eval()


class LocalParameters(nn.Module):
    """An encoder that gives row i of its parameters for row i of any data.

    Args:
        values: The initial parameters.
    """

    def __init__(self, values: Float[Tensor, " batch *parameters"]) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def set(self, values: Float[Tensor, " batch *parameters"]) -> None:
        """Change the parameters in place, as a graph requires."""
        with torch.no_grad():
            self.values.copy_(values)

    def forward(self, x: Real[Tensor, " batch *event"]) -> Float[Tensor, " batch *parameters"]:
        return self.values


class Table(nn.Module):
    """An encoder of n known examples: x_i -> phi_i.

    Examples are identified by four random projections in float64, in any order and number.

    Args:
        x: The examples.
        values: The output for each.

    Raises:
        ValueError: When called with data that are not in the table. A compiled graph, which cannot
            raise, gives NaN.
    """

    projections: Tensor
    keys: Tensor
    first_keys: Tensor

    def __init__(
        self, x: Float[Tensor, " n *event"], values: Float[Tensor, " n *parameters"]
    ) -> None:
        super().__init__()
        self.event_shape = x.shape[1:]
        generator = torch.Generator().manual_seed(0)
        size = max(1, self.event_shape.numel())
        projections = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        self.register_buffer("projections", projections.to(x.device))
        keys = self._keys(x)
        order = keys[:, 0].argsort()
        self.register_buffer("keys", keys[order])
        self.register_buffer("first_keys", keys[order, 0].contiguous())
        self.values = nn.Parameter(values[order], requires_grad=False)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_parameters"]:
        batch_shape = x.shape[: x.dim() - len(self.event_shape)]
        keys = self._keys(x)
        last = len(self.keys) - 1
        right = torch.searchsorted(self.first_keys, keys[:, 0].contiguous()).clamp(max=last)
        left = (right - 1).clamp(min=0)
        far = (keys[:, None] - self.keys[torch.stack([left, right], 1)]).abs().amax(-1)
        row = torch.where(far[:, 0] < far[:, 1], left, right)
        # Larger than rounding errors of float64 sums here, and smaller than differences in
        # float32.
        found = far.amin(1) <= 1e-10 * (1 + keys.abs().amax(1))
        if not isinstance(found, FakeTensor) and not bool(found.all()):
            raise ValueError(
                f"the local guide knows only the {len(self.keys)} examples that it was refined "
                f"for, got {int((~found).sum())} others among {len(found)}."
            )
        values = self.values[row]
        known = found.view(-1, *(1,) * (values.dim() - 1))
        values = torch.where(known, values, torch.full_like(values, torch.nan))
        return values.view(*batch_shape, *values.shape[1:])

    def _keys(self, x: Tensor) -> Float[Tensor, "rows 4"]:
        rows = x.reshape(-1, len(self.projections)).double()
        # A missing value counts as a number that no datum has.
        return torch.where(rows.isnan(), _MISSING, rows) @ self.projections


def _local_copy(vae: Any) -> tuple[Any, Any]:
    """A copy of the program with its own posterior, and the module in it that owns the encoder."""
    sites = getattr(vae, "latent_sites", ())
    if len(sites) > 1:
        raise NoLocalGuideError(
            "a local guide has the parameters of one latent site, but "
            f"{type(vae).__name__} has {', '.join(map(repr, sites))}."
        )
    if getattr(vae, "posterior", None) is None:
        raise NoLocalGuideError(
            f"a local guide needs a program with a posterior, got a {type(vae).__name__} without."
        )
    program = copy.deepcopy(vae)
    # Copied again: a prior that uses the posterior keeps the one of the first copy.
    posterior = copy.deepcopy(program.posterior)
    owner = posterior
    while not isinstance(getattr(owner, "encoder", None), nn.Module):
        owner = getattr(owner, "posterior", None)
        if owner is None:
            raise NoLocalGuideError(
                "a local guide replaces the posterior's encoder, but "
                f"{type(vae.posterior).__name__} has none at `posterior.encoder`."
            )
    program.posterior = posterior
    return program.requires_grad_(False), owner


def _elbo_gradient(
    program: Any, local: LocalParameters, num_particles: int, compile: CompileMode, calls: int
) -> CompiledFunction:
    """d/d phi_i of E_q(z; phi_i)[log p(x_i | z)] - KL(q(z; phi_i) || p(z)), for each row i.

    The KL is in closed form where one is registered, and otherwise estimated from the same draws.
    """

    def gradient(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            terms = log_densities(program.model, program.guide, x, num_particles=num_particles)
            require_density(terms.guide_trace, "a local guide")
            elbo = terms.log_likelihood.mean(0)
            for site, log_posterior in terms.guide_sites.items():
                if not distribution_at(terms.guide_trace, site).has_rsample:
                    raise NoLocalGuideError(
                        f"a local guide needs draws with a gradient, but site {site!r} has no "
                        "rsample."
                    )
                kl = terms.closed_form_kl(site)
                if kl is None:
                    kl = log_posterior - terms.model_sites[site]
                elbo = elbo - kl.mean(0)
            return torch.autograd.grad(elbo.sum(), [local.values])

    return CompiledFunction(
        gradient,
        compile,
        lambda _: calls,
        name="refinement, data",
        outputs={"gradient": _TOLERANCE},
        modules=[program],
    )


def _maximise(
    local: LocalParameters,
    gradient: CompiledFunction,
    x: Tensor,
    steps: int,
    lr: float,
    bar: Any,
    speed: ExitStack,
) -> None:
    """Maximise the ELBO of each row with Adam."""
    optimizer = torch.optim.Adam([local.values], lr=lr, maximize=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        (slope,) = gradient(x)
        # A row whose gradient is not finite stays unchanged in this step.
        finite = slope.isfinite().flatten(1).all(1).view(-1, *(1,) * (slope.dim() - 1))
        local.values.grad = torch.where(finite, slope, torch.zeros_like(slope))
        optimizer.step()
        schedule.step()
        if not bar.n:  # Pyro has validated the first step.
            speed.enter_context(pyro.validation_enabled(False))
        bar.update()
    local.values.grad = None


def _is_better(
    program: Any,
    local: LocalParameters,
    start: Tensor,
    found: Tensor,
    x: Tensor,
    num_particles: int,
) -> Bool[Tensor, " batch"]:
    """Whether a row's found parameters have a higher ELBO than the initial ones."""
    seed = int(torch.randint(2**62, ()))

    def elbo(values: Tensor) -> Tensor:
        local.set(values)
        torch.manual_seed(seed)  # Common draws, from a forked stream.
        parts = -(-_CHOICE_DRAWS // num_particles)
        draws = [
            log_densities(program.model, program.guide, x, num_particles=num_particles)
            .log_weight.double()
            .mean(0)
            for _ in range(parts)
        ]
        return torch.stack(draws).mean(0)

    # False if either is NaN.
    return elbo(found) > elbo(start)
