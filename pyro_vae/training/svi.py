"""Stochastic variational inference of any reparameterisable Pyro program, compiled."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro
from pyro import poutine
from torch import Tensor

from pyro_vae.compilation import CompileMode
from pyro_vae.rng import owners_of
from pyro_vae.training.step import Loss, Step


def negative_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
) -> Tensor:
    """-(log p(x, z) - log q(z | x)) at one draw of z, in nats: the loss of Pyro's `Trace_ELBO`.

    It stays on the device, where Pyro's own synchronizes at each site. Plates' subsampling and
    `poutine.scale` are included.

    Raises:
        ValueError: If a latent site of the guide is not reparameterisable.
    """
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    for name in guide_trace.stochastic_nodes:
        distribution: Any = guide_trace.nodes[name].get("fn")
        if not distribution.has_rsample:
            raise ValueError(
                f"the guide must be reparameterisable, but site {name!r} is a "
                f"{type(distribution).__name__} without rsample."
            )
    # Pyro's types allow for a program without sites, whose sum is the number 0.
    return cast("Tensor", guide_trace.log_prob_sum() - model_trace.log_prob_sum())


class CompiledSVI:
    """Pyro's `SVI` with a compiled step, for your own model and guide.

    >>> import torch, pyro.distributions as dist
    >>> def model(x):
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> svi = CompiledSVI(model, pyro.infer.autoguide.AutoNormal(model), lr=0.01, compile="off")
    >>> svi.step(torch.ones(20)).shape  # a tensor: reading it synchronizes
    torch.Size([])

    The first step runs eagerly, with validation; the second is recorded as a graph, and the third
    is made both ways and compared. The graph runs until another process has compiled it. A program
    that has no graph, or whose results differ, stays eager, and the log (`pyro_vae`) gives the
    reason.

    Args:
        model: A Pyro model. It must change tensors other than its arguments in place, if at all.
        guide: Its guide, with reparameterisable sites.
        loss: `loss(model, guide, *args)` gives the loss, a tensor that was not read: `.item()`
            cannot be compiled, so Pyro's own ELBO classes cannot.
        lr: Adam's learning rate.
        clip_norm: The largest norm of a gradient; a longer one is rescaled to it. None for no
            limit.
        compile: "on", "graph" for the graph without a compiler, or "off".

    Raises:
        ValueError: If `compile` is another word.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        loss: Callable[..., Tensor] = negative_elbo,
        *,
        lr: float = 1e-3,
        clip_norm: float | None = None,
        compile: CompileMode = "on",
    ) -> None:
        self.model = model
        self.guide = guide
        self.loss = loss
        self._options: dict[str, Any] = {"lr": lr, "clip_norm": clip_norm, "compile": compile}
        self._step: Step | None = None

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take a step; return its loss, a tensor on the device that the next may overwrite.

        Shapes of tensors and all other arguments are constants of a graph: others make another
        one.

        Raises:
            ValueError: If nothing in model and guide has a gradient, or a site is not
                reparameterisable.
        """
        first = self._step is None
        step = self.prepare(*args, **kwargs) if self._step is None else self._step
        with pyro.validation_enabled(first):
            return step(args, kwargs)

    def prepare(self, *args: Any, **kwargs: Any) -> Step:
        """Find the parameters by running model and guide once; `step` does so, too."""
        with poutine.trace(param_only=True) as found:
            self.loss(self.model, self.guide, *args, **kwargs)
        nodes = cast("dict[str, dict[str, Any]]", found.trace.nodes)
        values = {name: node["value"] for name, node in nodes.items()}
        # A constrained parameter is trained as the unconstrained one that it is made of.
        self._step = Step(
            self._loss,
            {
                n: v.unconstrained() if hasattr(v, "unconstrained") else v
                for n, v in values.items()
            },
            modules=owners_of(self.model, self.guide),
            **self._options,
        )
        return self._step

    @property
    def compiled(self) -> bool:
        """Whether a step is compiled, so far."""
        return self._step is not None and self._step.compiled.compiled

    def _loss(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Loss:
        return Loss(self.loss(self.model, self.guide, *args, **kwargs))
