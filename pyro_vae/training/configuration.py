"""A run's configuration: from the command line and YAML to plain values, and from these to a VAE.

Nothing here lists a part or an option of one. Names come from the families' dictionaries, options
from the constructors' signatures, defaults from the signature of `build` in the model file.
"""

import difflib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import yaml
from jsonargparse import SUPPRESS, ArgumentParser
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae.model
from pyro_vae.data import DATASETS, Dataset, PreparedData
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS
from pyro_vae.training.loop import Training

Configuration = dict[str, Any]

# The parts that `build` puts together, in the order of the help.
MODEL_FAMILIES: dict[str, Mapping[str, type[nn.Module]]] = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
    "network": NETWORKS,
}
FAMILIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "data": DATASETS,
    **MODEL_FAMILIES,
    "objective": OBJECTIVES,
}
# What constructors are handed, and so is nobody's option.
HANDED = {
    *("event_shape", "latent_dim", "encoder", "decoder", "posterior", "train_data", "train_size"),
    *("input_shape", "output_shape", "root"),
}
# What a resumed run may be given anew: how long, where, and what to do afterwards.
RESUMABLE = ("epochs", "max_steps", "device", "data_root", "evaluate")
# Where and whether to write: no part of what a run is.
UNSAVED = ("config", "print_config", "out", "resume", "overwrite")
# Options that need no value.
FLAGS = ("resume", "overwrite", "print_config")
DEFAULT_MODEL = "vae"


class ConfigurationError(ValueError):
    """A command line or a configuration file that cannot be used. One line."""


class _Parser(ArgumentParser):
    """jsonargparse's parser with our spelling of options, and errors in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigurationError(self._in_one_line(message))

    def _in_one_line(self, message: str) -> str:
        if "nrecognized arguments" in message:
            unknown = re.findall(r"--[\w.]+", message) or [message.rsplit(":", 1)[-1].strip()]
            return f"unknown option {_spell(unknown[0])}: {self._alternatives(unknown[0])}."
        line = " ".join(message.split())
        key = re.match(r'Parser key "([\w.]+)":\s*(.*)', line)
        if key is None:
            return _spell(line)
        option = f"--{key[1].removesuffix('.name')}"
        expected = re.match(r"Expected an? (.+)\. Got value: (.*)", key[2])
        expected = expected or re.match(r".*Subtypes: \[(.*?)\] .*Given value: (.*)", key[2])
        reason = f"must be {_in_words(expected[1])}, got {expected[2]!r}" if expected else key[2]
        return f"{_spell(option)} {reason}."

    def _alternatives(self, unknown: str) -> str:
        options = sorted(
            {o for action in self._actions for o in action.option_strings if o[:2] == "--"}
        )
        family, dot, _ = unknown.removeprefix("--").partition(".")
        if dot and family in FAMILIES:
            own = [
                _spell(o)
                for o in options
                if o.startswith(f"--{family}.") and not o.endswith(".name")
            ]
            return f"the {family} chosen has {', '.join(own) if own else 'no options'}"
        top = [
            o for o in options if ("." not in o and o != "--print_shtab") or o.endswith(".name")
        ]
        top = sorted({o.removesuffix(".name") for o in top})
        close = difflib.get_close_matches(unknown, top, n=1)
        meant = f"did you mean {_spell(close[0])}? " if close else ""
        return f"{meant}allowed are {', '.join(map(_spell, top))}"

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        return _spell(super().format_help(*args, **kwargs))


def _spell(text: str) -> str:
    """Options as they are typed: `--batch-size` for `batch_size`, `--prior` for `prior.name`."""

    def typed(option: re.Match[str]) -> str:
        if option[0] == "--print_config":
            return option[0]
        return re.sub(r"\.name\b", "", option[0]).replace("_", "-")

    return re.sub(r"--[\w.]+", typed, text)


def _in_words(kind: str) -> str:
    """A type as a person says it: "one of a, b" for `Literal['a', 'b']`."""
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {literal[1].replace(chr(39), '')}"
    name = re.sub(r"(?:<class '|typing\.|collections\.abc\.|'>)", "", kind)
    name = name.replace(", NoneType", " or null")
    return "a list" if name.startswith("Sequence") else name


def parse(arguments: Sequence[str], run_defaults: Callable[..., Any]) -> Configuration:
    """The configuration that a command line asks for.

    Args:
        arguments: The command line, without the program's name.
        run_defaults: A function whose parameters are the program's own options.

    Returns:
        Plain values by name; a part is a dictionary of its `name` and its options.

    Raises:
        ConfigurationError: If an option or a value is unknown, in one line.
        SystemExit: After `--help`.
    """
    given = list(_normalised(arguments))
    saved: list[str] = []
    if config := _last(given, "config"):
        saved = list(_as_arguments(read_yaml(Path(config))))
    if _last(given, "resume") == "true":
        if (out := _last(given, "out")) is None:
            raise ConfigurationError(
                "--resume needs --out DIR, the directory of the run to go on with."
            )
        stored = _as_arguments(read_yaml(Path(out) / "config.yaml"))
        return _resumed(list(stored), given, run_defaults)
    return _parsed(_overridden(saved, given), run_defaults)


def _overridden(saved: list[str], given: list[str]) -> list[str]:
    """A saved configuration and what is given on top; another part drops the saved one's options."""
    for family in FAMILIES:
        name = _last(given, f"{family}.name")
        if name is not None and name != _last(saved, f"{family}.name"):
            saved = [token for token in saved if not token.startswith(f"--{family}.")]
    return [*saved, *given]


def _resumed(
    saved: list[str], given: list[str], run_defaults: Callable[..., Any]
) -> Configuration:
    before = _parsed(saved, run_defaults)
    after = _parsed(_overridden(saved, given), run_defaults)
    for name, value in after.items():
        if name not in (*RESUMABLE, *UNSAVED) and value != before[name]:
            allowed = ", ".join(f"--{option.replace('_', '-')}" for option in RESUMABLE)
            raise ConfigurationError(
                f"--{name.replace('_', '-')} cannot change when a run is resumed: it has {before[name]}, "
                f"got {value}; what may change is {allowed}."
            )
    return after


def _parsed(arguments: list[str], run_defaults: Callable[..., Any]) -> Configuration:
    model = _last(arguments, "model") or DEFAULT_MODEL
    parts = model_parts(model_file(model))
    defaults = model_defaults(model_file(model))
    parser = _Parser(
        prog="svi_train.py",
        description="Train a VAE by stochastic variational inference, evaluate it and draw what it learned.",
        epilog="Options of another part are listed with it: --prior vamp --help.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=str | None, default=None, help="Read options from this YAML file."
    )
    parser.add_argument(
        "--print_config", type=bool, default=False, help="Write the options as YAML and stop."
    )
    parser.add_argument(
        "--model",
        type=str,
        default=DEFAULT_MODEL,
        help="The model file: `vae`, which is pyro_vae/model.py, or your own with the same `build`.",
    )
    parser.add_function_arguments(run_defaults, as_group=False)
    parser.add_argument(
        "--latent_dim",
        type=int,
        default=defaults["latent_dim"],
        help="The length of the axis the decoder reads.",
    )
    parser.add_class_arguments(
        PreparedData, skip={"dataset", "likelihood_support"}, as_group=False
    )
    parser.add_class_arguments(Training, skip={"program", "data", "objective"}, as_group=False)
    for family, choices in {**FAMILIES, **parts}.items():
        name = _last(arguments, f"{family}.name") or defaults[family]
        if name not in choices:
            kinds = " or a .npy or .npz file of your own" if family == "data" else ""
            raise ConfigurationError(
                f"--{family} must be one of {', '.join(choices)}{kinds}, got {name!r}."
            )
        skip: set[str | int] = {*(HANDED & inspect.signature(choices[name]).parameters.keys())}
        if inspect.isclass(choices[name]):
            parser.add_class_arguments(choices[name], family, skip=skip, as_group=True)
        else:
            parser.add_function_arguments(choices[name], family, skip=skip, as_group=True)
        assert parser.groups is not None
        parser.groups[family].add_argument(
            f"--{family}.name", type=str, default=name, help=f"One of {', '.join(choices)}."
        )
    for action in parser._actions:
        # jsonargparse reads a part's options from a file under the option that names the part here.
        if action.option_strings and action.option_strings[0][2:] in FAMILIES:
            action.help = SUPPRESS
    return _plain(parser.parse_args(arguments).as_dict())


def _plain(value: Any) -> Any:
    """Values that YAML, JSON and a weights-only checkpoint can hold."""
    if isinstance(value, Mapping):
        named = {"name": value["name"]} if "name" in value else {}
        return {str(name): _plain(item) for name, item in {**named, **value}.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _normalised(arguments: Sequence[str]) -> Iterator[str]:
    """The parser's spelling of what is typed: `--prior vamp` is `--prior.name vamp`."""
    arguments = list(arguments)
    position = 0
    while position < len(arguments):
        token = arguments[position]
        position += 1
        if not token.startswith("--") or token == "--":
            yield token
            continue
        option, equals, value = token.partition("=")
        option = "--" + option[2:].replace("-", "_")
        family = option[2:]
        if family in FLAGS and not equals:
            yield f"{option}=true"
            continue
        if family not in FAMILIES:
            yield f"{option}{equals}{value}"
            continue
        if not equals:
            if position == len(arguments):
                raise ConfigurationError(
                    f"--{family} needs a name: {', '.join(FAMILIES[family])}."
                )
            value = arguments[position]
            position += 1
        yield from _named(family, value)


def _named(family: str, value: str) -> Iterator[str]:
    if family == "data" and Path(value).suffix in (".npy", ".npz"):
        yield "--data.name=array_file"
        yield f"--data.path={value}"
    else:
        yield f"--{family}.name={value}"


def _last(arguments: Sequence[str], name: str) -> str | None:
    """The last value given to an option, in either form."""
    found = None
    for position, token in enumerate(arguments):
        if token.startswith(f"--{name}="):
            found = token.partition("=")[2]
        elif token == f"--{name}" and position + 1 < len(arguments):
            found = arguments[position + 1]
    return found


def _as_arguments(configuration: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A configuration as the command line that would give it, so that both are read one way."""
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            yield from _as_arguments(value, f"{prefix}{name}.")
        elif prefix == "" and name in FAMILIES:
            yield from _named(name, str(value))
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"--{prefix}{str(name).replace('-', '_')}={text}"


def read_yaml(path: Path) -> Configuration:
    """A configuration file.

    Raises:
        ConfigurationError: If it is not there, or not YAML of names and values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"no configuration at {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} must hold names and values, got {type(content).__name__}."
        )
    return content


def to_yaml(configuration: Configuration) -> str:
    """What `--config` reads, without where it was written."""
    kept = {name: value for name, value in configuration.items() if name not in UNSAVED}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


# ---- from a configuration to a VAE -----------------------------------------------------------


def model_file(model: str) -> ModuleType:
    """The module that `--model` names: `pyro_vae.model`, or a file of the user's own, run once.

    Raises:
        ConfigurationError: If there is no such file, it fails, or has no `build`.
    """
    if model == DEFAULT_MODEL:
        return pyro_vae.model
    path = Path(model).resolve()
    name = f"_pyro_vae_model_file_{abs(hash(path))}"
    if name in sys.modules:
        return sys.modules[name]
    if path.suffix != ".py" or not path.is_file():
        raise ConfigurationError(
            f"--model must be {DEFAULT_MODEL!r} or a Python file, got {model!r}."
        )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
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
        if default not in choices.values():
            choices[_name_of(default)] = default
    return parts


def model_defaults(module: ModuleType) -> dict[str, Any]:
    """The name of each family's default, and the latent dimension: the signature of `build`."""
    signature = inspect.signature(module.build).parameters
    defaults: dict[str, Any] = {"data": "digits", "objective": "elbo"}
    for family, choices in model_parts(module).items():
        part = signature[family].default
        defaults[family] = next(name for name, choice in choices.items() if choice is part)
    defaults["latent_dim"] = signature["latent_dim"].default
    return defaults


def _name_of(part: Callable[..., Any]) -> str:
    name = getattr(part, "__name__", None) or getattr(part, "func", part).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def load_data(configuration: Configuration, root: Path) -> Dataset:
    """The set that a configuration names."""
    loader = DATASETS[configuration["data"]["name"]]
    options = _options(configuration["data"])
    if "root" in inspect.signature(loader).parameters:
        options["root"] = root
    return loader(**options)


def build_vae(
    configuration: Configuration,
    event_shape: Sequence[int],
    *,
    train_data: Tensor | None = None,
    train_size: int | None = None,
) -> PyroModule:
    """The VAE that a configuration names, untrained.

    Raises:
        ValueError: If parts do not fit together.
    """
    module = model_file(configuration["model"])
    parts = {
        family: partial(choices[configuration[family]["name"]], **_options(configuration[family]))
        for family, choices in model_parts(module).items()
    }
    return module.build(
        tuple(event_shape),
        configuration["latent_dim"],
        **parts,
        train_data=train_data,
        train_size=train_size,
    )


def likelihood_support(configuration: Configuration) -> str:
    """The support of the data that the configured likelihood is a density on."""
    parts = model_parts(model_file(configuration["model"]))
    return parts["likelihood"][configuration["likelihood"]["name"]].support  # pyright: ignore[reportFunctionMemberAccess]


def build_objective(configuration: Configuration) -> nn.Module:
    """The objective that a configuration names."""
    return OBJECTIVES[configuration["objective"]["name"]](**_options(configuration["objective"]))


def training_options(configuration: Configuration) -> dict[str, Any]:
    """The options of `Training` in a configuration."""
    names = inspect.signature(Training).parameters.keys() & configuration.keys()
    return {name: configuration[name] for name in names - {"program", "data", "objective"}}


def preparation_options(configuration: Configuration) -> dict[str, Any]:
    """The options of `PreparedData` in a configuration."""
    names = inspect.signature(PreparedData).parameters.keys() & configuration.keys()
    return {name: configuration[name] for name in names - {"dataset", "likelihood_support"}}


def _options(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "name"}
