"""Model files: the module that defines `build`, and the parts and defaults in its signature."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

import pyro_vae.model
from pyro_vae.checks import class_of, named_part
from pyro_vae.configuration import ConfigurationError
from pyro_vae.data import Kind
from pyro_vae.data.validation import SUPPORTS
from pyro_vae.model import MODEL_FAMILIES
from pyro_vae.programs import PROGRAMS
from pyro_vae.rng import evaluation_mode

_BUILD = "build(event_shape, latent_dim, *, prior, likelihood, posterior, network)"
# What `build` is given besides parts and options.
_GIVEN = {"event_shape", "latent_dim", "kind", "train_data", "train_size", "train_labels"}
_GIVEN |= {"levels", "units"}
DEFAULT_MODEL = "vae"
# Names of the modules of model files: this and the SHA-256 of path and content.
_PREFIX = "_pyro_vae_model_file_"
# The name of a default that depends on the kind of data.
BY_KIND = "auto"


def is_shipped(model: str) -> bool:
    """Whether `--model` names a part of this package, and not a user's file."""
    return model == DEFAULT_MODEL or model in PROGRAMS


def _is_own(module: ModuleType) -> bool:
    return module.__name__.startswith("pyro_vae.")


def model_file(model: str) -> ModuleType:
    """Import the module that `--model` names: one of this package, or a user's, executed once.

    Raises:
        ConfigurationError: If the file is missing, fails, or does not define `build`.
    """
    if model == DEFAULT_MODEL:
        return pyro_vae.model
    if model in PROGRAMS:
        return importlib.import_module(f"pyro_vae.programs.{model}")
    path = Path(model).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigurationError(
            f"--model must be {', '.join((DEFAULT_MODEL, *PROGRAMS))} or a Python file, got "
            f"{model!r}{'.' if path.exists() else ', which does not exist.'}"
        )
    source = path.read_bytes()
    name = f"{_PREFIX}{hashlib.sha256(os.fsencode(path) + source).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with errors_located(module):
            # Not by the loader, which would read and write __pycache__.
            exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102
            build = getattr(module, "build", None)
            if not callable(build) or isinstance(build, nn.Module):
                raise ConfigurationError(_at_build(module, f"{model} must define {_BUILD}."))
            build_parameters(module)
    except ConfigurationError:
        del sys.modules[name]
        raise
    return module


@contextmanager
def errors_located(module: ModuleType) -> Iterator[None]:
    """Convert errors to one line that names the model file and its line.

    Args:
        module: The result of `model_file`; errors of this package are not converted.

    Raises:
        ConfigurationError: In place of any other error.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        if _is_own(module):
            raise
        raise ConfigurationError(located(error) or _at_build(module, _described(error))) from error


def located(error: BaseException) -> str | None:
    """An error in one line, with the innermost line of a model file; None if it came from none."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}."
    lines = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(_PREFIX)
    ]
    return f"{lines[-1]}: {_described(error)}" if lines else None


def check_program(module: ModuleType, program: Any, event_shape: Sequence[int]) -> None:
    """Make sure that the `build` of a model file returned a program, and of a VAE the shapes.

    Raises:
        ConfigurationError: If it did not.
    """
    if _is_own(module):
        return
    if not isinstance(program, nn.Module) or not all(
        hasattr(program, name) for name in ("model", "guide")
    ):
        got = (
            f"the class {program.__name__}"
            if isinstance(program, type)
            else type(program).__name__
        )
        raise ConfigurationError(
            _at_build(
                module,
                "build must return a VAE, or a module with model(x) and guide(x), got "
                + ("None: its `return` is missing." if program is None else f"{got}."),
            )
        )
    if isinstance(program, pyro_vae.model.VAE):
        with errors_located(module), evaluation_mode(program, seed=0):
            p = program.prior()
            latent_dim = getattr(program.prior, "latent_dim", None)
            event = None if latent_dim is None else (latent_dim,)
            _check_distribution(module, program.prior, "()", p, (), event)
            z = p.sample((1,))
            _check_distribution(
                module, program.likelihood, "(z)", program.likelihood(z), (1,), tuple(event_shape)
            )


def allows_missing(module: ModuleType) -> bool:
    """Whether a class of a model file leaves missing values out of its likelihood."""
    return any(
        isinstance(each, type) and getattr(each, "allows_missing", False) is True
        for each in vars(module).values()
    )


def check_options(module: ModuleType, part: Any, handed: Container[str]) -> None:
    """Make sure that each option of a part has a default or a type, so that it can be parsed.

    The arguments `handed` to it are not options.

    Raises:
        ConfigurationError: If one has neither.
    """
    empty = inspect.Parameter.empty
    for name, option in inspect.signature(part).parameters.items():
        named = option.kind in (option.POSITIONAL_OR_KEYWORD, option.KEYWORD_ONLY)
        if named and name not in handed and option.annotation is empty and option.default is empty:
            raise ConfigurationError(
                _at(
                    module,
                    class_of(part),
                    f"the option {name} of {class_of(part).__name__} needs a type and a default, "
                    f"such as {name}: float = 1.0.",
                )
            )


def build_parameters(module: ModuleType) -> dict[str, inspect.Parameter]:
    """The parameters of `build` by name; with **kwargs also those of `pyro_vae.build`.

    Parts without a default get that of `pyro_vae.build`. A family that `build` does not take has
    no options. Without likelihoods, the module's `SUPPORT` is the support of the data.

    Raises:
        ConfigurationError: If `build` takes no latent dimension, or the support is unknown.
    """
    standard = inspect.signature(pyro_vae.model.build).parameters
    own = inspect.signature(module.build).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
    found = {**standard, **own} if takes_any else {**own}
    if "latent_dim" not in found:
        raise ConfigurationError(
            _at_build(
                module,
                f"build does not take latent_dim: it must be {_BUILD}, or take **kwargs.",
            )
        )
    support = getattr(module, "SUPPORT", None)
    if "likelihood" not in found and support not in SUPPORTS:
        raise ConfigurationError(
            _at_build(
                module,
                "build takes no likelihood, so the file must say what data it is for: SUPPORT = "
                f"one of {', '.join(SUPPORTS)}, got {support!r}.",
            )
        )
    for name in ("latent_dim", *MODEL_FAMILIES):
        if name in found and found[name].default is inspect.Parameter.empty:
            found[name] = standard[name]
    return found


def build_options(module: ModuleType) -> list[str]:
    """The parameters of `build` that are options of the command line themselves."""
    own = inspect.signature(module.build).parameters
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        name
        for name, parameter in list(own.items())[1:]
        if parameter.kind in positional and name not in (*_GIVEN, *MODEL_FAMILIES)
    ]


def _check_distribution(
    module: ModuleType,
    part: nn.Module,
    call: str,
    given: Any,
    batch_shape: tuple[int, ...],
    event_shape: tuple[int, ...] | None,
) -> None:
    name = type(part).__name__
    if not isinstance(given, torch.distributions.Distribution):
        got = f"a {type(given).__name__}"
    elif event_shape is not None and tuple(given.event_shape) != event_shape:
        got = f"event shape {tuple(given.event_shape)} and batch shape {tuple(given.batch_shape)}"
        got += ": .to_event(n) makes events of the last n axes" if not given.event_shape else ""
    elif tuple(given.batch_shape) != batch_shape:
        got = f"batch shape {tuple(given.batch_shape)}"
    else:
        return
    wanted = "" if event_shape is None else f" of event shape {event_shape}"
    raise ConfigurationError(
        _at(
            module,
            type(part),
            f"{name}{call} must be a distribution{wanted} and batch shape {batch_shape}, got "
            f"{got}.",
        )
    )


def _at(module: ModuleType, part: type, message: str) -> str:
    """Prefix a message with the line of a class of a model file, or else of `build`."""
    if part.__module__ != module.__name__:
        return _at_build(module, message)
    return f"{module.__file__}, line {inspect.getsourcelines(part)[1]}: {message}"


def _at_build(module: ModuleType, message: str) -> str:
    """Prefix a message with the line where `build` is defined."""
    path = Path(str(module.__file__))
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if re.match(r"(def\s+)?build\b", line):
            return f"{path}, line {number}: {message}"
    return f"{path}: {message}"


def _described(error: BaseException) -> str:
    """An error's type and the first line of its message; Pyro appends a table of shapes."""
    first = str(error).partition("\n")[0].rstrip(".")
    if twice := re.search(r"multiple values for keyword argument '(\w+)'", first):
        name = twice[1]
        first += (
            f": `build` gets each part as an argument, so make yours the default, {name}=..., and "
            f"pass {name} on"
        )
    return f"{type(error).__name__}: {first}." if first else f"{type(error).__name__}."


def model_parts(module: ModuleType) -> dict[str, dict[str, Callable[..., nn.Module]]]:
    """The parts by family and name: the dictionaries, and the defaults of the model file."""
    parameters = build_parameters(module)
    parts = {f: dict(choices) for f, choices in MODEL_FAMILIES.items() if f in parameters}
    for family, choices in parts.items():
        default = parameters[family].default
        for part in default.values() if isinstance(default, Mapping) else [default]:
            with errors_located(module):
                made = named_part(family, part, choices)
            if made not in choices.values():
                choices[_name_of(made)] = made  # pyright: ignore[reportArgumentType]
    return parts


def model_defaults(module: ModuleType) -> dict[str, Any]:
    """The names of the default parts and the latent dimension, from the signature of `build`.

    A default that depends on the kind of data is called `BY_KIND`.
    """
    parameters = build_parameters(module)
    defaults: dict[str, Any] = {"data": "digits", "objective": "elbo", "log": "none"}
    for family, choices in model_parts(module).items():
        part = parameters[family].default
        by_kind = isinstance(part, Mapping)
        defaults[family] = BY_KIND if by_kind else _key(family, choices, part)
    defaults["latent_dim"] = parameters["latent_dim"].default
    return defaults


def likelihood_of_kind(module: ModuleType, kind: Kind) -> str:
    """The name of the default likelihood for a kind of data.

    Raises:
        ConfigurationError: If the model file has none for that kind.
    """
    by_kind = build_parameters(module)["likelihood"].default
    if kind not in by_kind:
        raise ConfigurationError(
            f"the model file has likelihoods for the kinds {', '.join(by_kind)}, and none for "
            f"{kind}: choose one with --likelihood."
        )
    return _key("likelihood", model_parts(module)["likelihood"], by_kind[kind])


def _key(family: str, choices: Mapping[str, Any], part: Any) -> str:
    made = named_part(family, part, choices)
    return next(name for name, choice in choices.items() if choice is made)


def _name_of(part: Callable[..., Any]) -> str:
    name = getattr(part, "__name__", None) or getattr(part, "func", part).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
