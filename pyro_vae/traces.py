"""Sites of a trace that are computed, and models without their observations."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger

Program = Callable[..., Any]


def is_deterministic(node: Mapping[str, Any]) -> bool:
    """Whether a site is `pyro.deterministic`, or computed by one of Pyro's reparameterisations."""
    if (node.get("infer") or {}).get("_deterministic", False):
        return True
    fn = node["fn"]
    return (
        node["is_observed"]
        and isinstance(fn, dist.MaskedDistribution)
        and fn._mask is False
        and isinstance(fn.base_dist, dist.Delta)
    )


class _Uncondition(Messenger):
    """Draws observed sites from their distributions, except computed ones and factors."""

    def _pyro_sample(self, msg: Any) -> None:
        if (
            msg["is_observed"]
            and not is_deterministic(msg)
            and not isinstance(msg["fn"], dist.Unit)
        ):
            msg["infer"] = {**(msg["infer"] or {}), "was_observed": True, "obs": msg["value"]}
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False


def unconditioned(model: Program) -> Program:
    """The model with its observed sites drawn, whatever it is called with.

    Deterministic sites are still computed. `poutine.uncondition` would draw them, too, and add the
    axes of their plates a second time.
    """

    def free(*args: Any, **kwargs: Any) -> Any:
        with _Uncondition():
            return model(*args, **kwargs)

    return free
