"""Model files: where `build` comes from, and which parts and defaults it brings."""

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

import pyro_vae.model
from pyro_vae.data import Kind
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS
from pyro_vae.training.plain_yaml import ConfigurationError

# The parts that `build` puts together, in the order of the help.
MODEL_FAMILIES: dict[str, Mapping[str, type[nn.Module]]] = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
    "network": NETWORKS,
}

DEFAULT_MODEL = "vae"

# The name of a default that depends on the kind of data.
BY_KIND = "auto"


def model_file(model: str) -> ModuleType:
    """The module that `--model` names: `pyro_vae.model`, or a file of the user's own, run once.

    Raises:
        ConfigurationError: If there is no such file, it fails, or has no `build`.
    """
    if model == DEFAULT_MODEL:
        return pyro_vae.model
    path = Path(model).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigurationError(
            f"--model must be {DEFAULT_MODEL!r} or a Python file, got {model!r}."
        )
    source = path.read_bytes()
    name = f"_pyro_vae_model_file_{hashlib.sha256(os.fsencode(path) + source).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # The source itself: the loader would prefer what lies in __pycache__, and leave something there.
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102
    except Exception as error:
        del sys.modules[name]
        raise ConfigurationError(f"{model} fails: {type(error).__name__}: {error}.") from error
    if not callable(getattr(module, "build", None)):
        raise ConfigurationError(
            f"{model} must define build(event_shape, latent_dim, *, prior, ...)."
        )
    return module


def model_parts(module: ModuleType) -> dict[str, dict[str, Callable[..., nn.Module]]]:
    """The parts to choose from: the dictionaries', and the model file's own defaults."""
    parts = {family: dict(choices) for family, choices in MODEL_FAMILIES.items()}
    for family, choices in parts.items():
        default = inspect.signature(module.build).parameters[family].default
        for part in default.values() if isinstance(default, Mapping) else [default]:
            if part not in choices.values():
                choices[_name_of(part)] = part
    return parts


def model_defaults(module: ModuleType) -> dict[str, Any]:
    """The name of each family's default, and the latent dimension: the signature of `build`.

    The name of a default that depends on the kind of data is `BY_KIND`.
    """
    signature = inspect.signature(module.build).parameters
    defaults: dict[str, Any] = {"data": "digits", "objective": "elbo"}
    for family, choices in model_parts(module).items():
        part = signature[family].default
        by_kind = isinstance(part, Mapping)
        defaults[family] = BY_KIND if by_kind else _key(choices, part)
    defaults["latent_dim"] = signature["latent_dim"].default
    return defaults


def likelihood_of_kind(module: ModuleType, kind: Kind) -> str:
    """The name of the likelihood that `build` gives a kind of data.

    Raises:
        ConfigurationError: If the model file has none for that kind.
    """
    by_kind = inspect.signature(module.build).parameters["likelihood"].default
    if kind not in by_kind:
        raise ConfigurationError(
            f"the model file has a likelihood for {', '.join(by_kind)} data and none for {kind} data: "
            "choose one with --likelihood."
        )
    return _key(model_parts(module)["likelihood"], by_kind[kind])


def _key(choices: Mapping[str, Any], part: Any) -> str:
    return next(name for name, choice in choices.items() if choice is part)


def _name_of(part: Callable[..., Any]) -> str:
    name = getattr(part, "__name__", None) or getattr(part, "func", part).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
