"""Why a step had no finite loss and gradient."""

from typing import Any

import pyro
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import objective_value


class NonFiniteError(RuntimeError):
    """Training ended because no step had a finite loss and gradient for a while."""


def explain(program: Any, objective: Any, x: Real[Tensor, " batch *event"]) -> str:
    """Run a batch again, with validation on and new noise, and name the first term that is not finite."""
    with pyro.validation_enabled(False):
        terms = log_densities(program.model, program.guide, x)
    named = [(f"log q at site {name!r} of the guide", v) for name, v in terms.guide_sites.items()]
    named += [(f"log p at site {name!r} of the model", v) for name, v in terms.model_sites.items()]
    term = next((name for name, value in named if not value.isfinite().all()), None)
    parameters = {
        name: p
        for name, p in (*program.named_parameters(), *objective.named_parameters())
        if p.requires_grad
    }
    gradients: tuple[Tensor | None, ...] = ()
    reason = ""
    with pyro.validation_enabled(True):
        try:
            loss = objective_value(program, objective, x).loss.mean()
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        except (ValueError, RuntimeError) as error:
            reason = f" ({' '.join(str(error).split())[:200]})"
    if term is not None:
        return f"{term} is not finite{reason}"
    for name, gradient in zip(parameters, gradients, strict=False):
        if gradient is not None and not gradient.isfinite().all():
            return f"the gradient of {name} is not finite{reason}"
    return f"the batch gives finite terms when it is replayed with new noise{reason}"
