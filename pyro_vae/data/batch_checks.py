"""Checks of prepared batches: their shape, and their values as far as a guide needs it."""

from typing import Any

import torch
from jaxtyping import Real
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_vae.data.validation import SUPPORTS, outside_support


class OneLineError(ValueError):
    """A ValueError of one line: Pyro's traces append their tables of shapes to a message."""

    def __init__(self, message: str) -> None:
        super().__init__(message.partition("\n")[0])


def check_batch(x: Any, likelihood: Any) -> None:
    """Check that x is a tensor `(n, *event_shape)`.

    Args:
        x: The data.
        likelihood: An object that may have an `event_shape`.

    Raises:
        OneLineError: A ValueError, if it is not.
    """
    event_shape = getattr(likelihood, "event_shape", None)
    if not isinstance(x, Tensor):
        raise OneLineError(
            f"x must be a tensor of prepared data, got {type(x).__name__}: prepare it with "
            "vae.prepare(x)."
        )
    if event_shape is not None and tuple(x.shape[1:]) != tuple(event_shape):
        raise OneLineError(
            f"x must have the shape (n, {', '.join(map(str, event_shape))}), a batch of data of "
            f"shape {tuple(event_shape)} that the VAE was built for, got {tuple(x.shape)}."
        )


def check_observed(x: Any, likelihood: Any, contract: Any) -> None:
    """Check that x is a batch on which a model is defined: its values only if Pyro validates.

    Args:
        x: The data.
        likelihood: An object with a `support`, and perhaps an `event_shape`.
        contract: The `DataContract` of the training data; None if it is not known.

    Raises:
        OneLineError: A ValueError, if it is not.
    """
    check_batch(x, likelihood)
    if is_validation_enabled():
        _check_values(x, likelihood.support, contract)


def check_prepared(x: Real[Tensor, " n *event"], likelihood: Any, contract: Any) -> None:
    """Check that a tensor was prepared for a likelihood, and is not of raw levels.

    Nothing is checked while a program is exported or compiled.

    Args:
        x: Data as a guide reads them.
        likelihood: An object with a `support`, and perhaps an `event_shape`.
        contract: The `DataContract` of the training data; None if it is not known.

    Raises:
        OneLineError: A ValueError, if values are outside the range that the guide was trained on.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or x.numel() == 0:
        return
    support = likelihood.support
    shape = getattr(likelihood, "event_shape", None) if contract is None else contract.event_shape
    if shape is not None and tuple(x.shape)[-len(shape) :] != tuple(shape):
        raise OneLineError(
            f"x must have the shape (..., {', '.join(map(str, shape))}), data of shape "
            f"{tuple(shape)} that the VAE reads, got {tuple(x.shape)}; raw data are prepared "
            "with vae.prepare(x)."
        )
    if contract is not None:
        contract.check_precision(x.dtype, "x")
        # Levels are scaled for a likelihood of real data.
        support = "unit" if contract.levels is not None and support == "real" else support
    _check_values(x, support, contract)


def _check_values(x: Tensor, support: str, contract: Any) -> None:
    """Check that prepared values are in a likelihood's support; binary ones in [0, 1]."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or x.numel() == 0:
        return
    if support in ("counts", "integers"):
        levels = None if contract is None or support == "counts" else contract.levels
        wrong = outside_support(x, support, levels or int(x.max()) + 1)
        if wrong.any():
            raise OneLineError(
                f"x holds {int(wrong.sum()):,} values outside {SUPPORTS[support]}, such as "
                f"{x[wrong][0].item():g}: the guide reads {support}, not their logarithms or "
                "shares."
            )
    elif support in ("binary", "unit"):
        low, high = (float(value) for value in x.detach().aminmax())
        if low < 0 or high > 1:
            name = "" if contract is None else f", for which {contract.name} was prepared"
            raise OneLineError(
                f"x holds values from {low:g} to {high:g}, and the guide reads values from 0 to "
                f"1{name}: prepare them with vae.prepare(x)."
            )
