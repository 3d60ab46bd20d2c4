"""A guide with parameters of its own for every datum, started at the encoder's answer."""

import copy
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from tqdm import tqdm

from pyro_vae.compilation.work import CompileMode
from pyro_vae.evidence.local_gradient import LocalGradient, NoLocalGuideError, Rows
from pyro_vae.log_densities import log_densities
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode

# The draws on which a datum's refined parameters are compared with the encoder's.
_CHOICE_DRAWS = 128


def refined(
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
    """The same program with the guide q(z | x_i) = q(z; phi_i), phi_i maximising datum i's own ELBO.

    phi_i is what the posterior's encoder gave for x_i, and from there on free: a mean and a scale,
    a flow's base and context, concentrations, logits. So the guide stays within its family, and
    what the encoder could not do (the amortisation gap) is undone. All else, flows' weights and the
    decoder and the prior with it, is frozen; a prior made of the posterior, such as Vamp's, keeps
    the encoder. The ELBO has beta = 1 and closed-form KLs where they are registered. Batch
    normalisation uses its running statistics, so that data are independent, and Adam's steps are
    each parameter's own, whatever else is in the batch; the learning rate falls to 0 by half a cosine.

    Of the two, the encoder's and the refined parameters, each datum keeps those with the higher ELBO
    on 128 fresh draws, the same for both: refinement makes no datum worse, but for the noise of
    that choice. The bias of choosing stays behind with those draws: score the guide on others, as
    `importance_weighting` does by drawing anew. For discrete and spike-and-slab posteriors the
    gradient is a straight-through one, and biased; the choice, then, is what keeps them safe.

    What comes back is for these data alone, in any order, any subset and any repetition, so that it
    can be evaluated in chunks. It shares nothing with `vae`, which is left as it was, and so is the
    global random stream.

    Args:
        vae: A program with one latent site, a `posterior` that owns one encoder, `model` and `guide`.
        x: Data in the likelihood's support, on the program's device; integers are made floats.
        steps: The number of Adam's steps for each datum.
        lr: Adam's first learning rate.
        num_particles: The number of draws from the guide for each datum and step.
        max_elements: Draws x data x elements of a datum held at once.
        seed: The seed of the draws. They are others than those that the same seed gives elsewhere.
        compile: "on" or "off"; "auto" to compile a step where there is so much to compute that it pays.
        progress: Show a bar.

    Raises:
        NoLocalGuideError: If the program's posterior has no encoder, or its draws no gradient; a ValueError.
        ValueError: If there are no data, an option is out of its range, or, from the guide, if it is
            called with data that are not among `x`.

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), https://arxiv.org/abs/1802.02550;
        Iterative Refinement of the Approximate Posterior (Hjelm et al., 2016),
        https://arxiv.org/abs/1511.06382
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
        raise ValueError("refined needs at least one datum, got none.")
    program, owner = _local_copy(vae)
    encoder = owner.encoder
    n = len(x)

    # Chunks of one size, so that one graph does for all: the last is filled up with data of the first.
    largest = max(1, max_elements // max(1, x[0].numel() * num_particles))
    chunks = -(-n // largest)
    batch = -(-n // chunks)
    values: list[Tensor] = []
    # On the draws that it was fitted to, a guide looks better than it is.
    with evaluation_mode(program, seed=derive_seed(seed, "refined")), ExitStack() as speed:
        step: LocalGradient | None = None
        bar = speed.enter_context(
            tqdm(total=chunks * steps, desc="refining", unit="step", disable=not progress)
        )
        for first in range(0, n, batch):
            data = as_floats(x[torch.arange(first, first + batch, device=x.device) % n])
            start = encoder(data).detach().clone()
            if step is None:
                owner.encoder = Rows(start)
                step = LocalGradient(
                    program, owner.encoder, num_particles, compile, expected_calls=chunks * steps
                )
            step.rows.set(start)
            _maximise(step, data, steps, lr, bar, speed)
            found = step.rows.values.detach().clone()
            better = _is_better(program, step.rows, start, found, data, num_particles)
            chosen = torch.where(better.view(-1, *(1,) * (found.dim() - 1)), found, start)
            values.append(chosen[: n - first])
        owner.encoder = Table(as_floats(x), torch.cat(values))
    return program.requires_grad_(False).eval()


class Table(nn.Module):
    """An encoder of n known data: x_i -> phi_i.

    Data are told apart by four random projections in float64, whatever their order and number.

    Args:
        x: The data.
        values: What the encoder gives for each.

    Raises:
        ValueError: When called with data that are not in the table. In a compiled graph, which can
            raise nothing, they have NaN.
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
        # Wider than float64 rounds a sum of any length here, and closer than float32 tells data apart.
        found = far.amin(1) <= 1e-10 * (1 + keys.abs().amax(1))
        if not isinstance(found, FakeTensor) and not bool(found.all()):
            raise ValueError(
                f"the local guide knows only the {len(self.keys)} data that it was refined for, got "
                f"{int((~found).sum())} others among {len(found)}."
            )
        values = self.values[row]
        known = found.view(-1, *(1,) * (values.dim() - 1))
        values = torch.where(known, values, torch.full_like(values, torch.nan))
        return values.view(*batch_shape, *values.shape[1:])

    def _keys(self, x: Tensor) -> Float[Tensor, "rows 4"]:
        return x.reshape(-1, len(self.projections)).double() @ self.projections


def _local_copy(vae: Any) -> tuple[Any, Any]:
    """A copy of the program with a posterior of its own, and the module in it that owns the encoder."""
    if getattr(vae, "posterior", None) is None:
        raise NoLocalGuideError(
            f"a local guide needs a program with a posterior, got a {type(vae).__name__} without."
        )
    program = copy.deepcopy(vae)
    # Copied once more: a prior made of the posterior goes on with the one that came with the copy.
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


def _maximise(
    step: LocalGradient, x: Tensor, steps: int, lr: float, bar: Any, speed: ExitStack
) -> None:
    """Adam's steps up the ELBO of each row."""
    values = step.rows.values
    optimizer = torch.optim.Adam([values], lr=lr, maximize=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        gradient = step(x)
        # A row whose gradient is no number stays where it is for a step, and the others go on.
        finite = gradient.isfinite().flatten(1).all(1)
        values.grad = torch.where(
            finite.view(-1, *(1,) * (gradient.dim() - 1)), gradient, torch.zeros_like(gradient)
        )
        optimizer.step()
        schedule.step()
        bar.update()
        if step.calls == 1:  # Pyro has validated the first one.
            speed.enter_context(pyro.validation_enabled(False))
    values.grad = None


def _is_better(
    program: Any, rows: Rows, start: Tensor, found: Tensor, x: Tensor, num_particles: int
) -> Bool[Tensor, " batch"]:
    """Whether a row's found parameters have a higher ELBO than those it started from."""
    seed = int(torch.randint(2**62, ()))

    def elbo(values: Tensor) -> Tensor:
        rows.set(values)
        torch.manual_seed(seed)  # Common draws; the caller's stream is set aside.
        parts = -(-_CHOICE_DRAWS // num_particles)
        draws = [
            log_densities(program.model, program.guide, x, num_particles=num_particles)
            .log_weight.double()
            .mean(0)
            for _ in range(parts)
        ]
        return torch.stack(draws).mean(0)

    # False where either is no number.
    return elbo(found) > elbo(start)
