"""A command line as a list of words, and a configuration file as the command line that would give it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.data import DATASETS, OWN_DATA, READERS, loader_for_path
from pyro_vae.runs.configuration import FAMILIES, UNSAVED
from pyro_vae.runs.strict_yaml import ConfigurationError, read_yaml

# Options that need no value.
FLAGS = ("resume", "overwrite", "trust_model_file", "print_config")


class ListArgument(str):
    """An argument that was a list in a configuration file: a path of that spelling is no path."""

    __slots__ = ()


def spell(text: str) -> str:
    """Options as they are typed: `--batch-size` for `batch_size`, `--prior` for `prior.name`."""

    def typed(option: re.Match[str]) -> str:
        if option[0] == "--print_config":
            return option[0]
        return re.sub(r"\.name\b", "", option[0]).replace("_", "-")

    return re.sub(r"--[\w.]+", typed, text)


def in_words(family: str, choices: Iterable[str]) -> str:
    """What may follow `--prior` or another family: names, and of data the path of one's own."""
    if family != "data":
        return ", ".join(choices)
    sets = ", ".join(name for name in choices if name not in READERS)
    return f"{sets}, or the path of your own: {OWN_DATA}"


def normalised(arguments: Sequence[str]) -> Iterator[str]:
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
        if family in FLAGS:
            if equals and value.lower() not in ("true", "false"):
                raise ConfigurationError(f"{spell(option)} takes no value, got {value!r}.")
            yield f"{option}={value.lower() or 'true'}"
            continue
        if family not in FAMILIES:
            yield f"{option}{equals}{value}"
            continue
        if not equals:
            if position == len(arguments):
                raise ConfigurationError(
                    f"--{family} needs a name: {in_words(family, FAMILIES[family])}."
                )
            value = arguments[position]
            position += 1
        yield from _named(family, value)


def _named(family: str, value: str) -> Iterator[str]:
    if family == "data" and value not in DATASETS and (loader := _own_data(value)):
        yield f"--data.name={loader}"
        yield f"--data.path={value}"
    else:
        yield f"--{family}.name={value}"


def _own_data(value: str) -> str | None:
    try:
        return loader_for_path(value)
    except ValueError as error:
        raise ConfigurationError(f"--data {value}: {error}") from error


def last(arguments: Sequence[str], name: str) -> str | None:
    """The last value given to an option, in either form."""
    found = None
    for position, token in enumerate(arguments):
        if token.startswith(f"--{name}="):
            found = token.partition("=")[2]
        elif token == f"--{name}" and position + 1 < len(arguments):
            found = arguments[position + 1]
    return found


def overridden(saved: list[str], given: list[str]) -> list[str]:
    """A saved configuration and what is given on top; another part drops the saved one's options."""
    for family in FAMILIES:
        name = last(given, f"{family}.name")
        if name is not None and name != last(saved, f"{family}.name"):
            saved = [token for token in saved if not token.startswith(f"--{family}.")]
    return [*saved, *given]


def read_arguments(path: Path) -> list[str]:
    """A configuration file as a command line.

    Raises:
        ConfigurationError: If it is no configuration, or gives an option twice.
    """
    arguments = list(as_arguments(read_yaml(path)))
    names = [argument.partition("=")[0] for argument in arguments]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"{path} gives {spell(min(twice))} twice.")
    return arguments


def as_arguments(configuration: Mapping[str, Any]) -> Iterator[str]:
    """A configuration as the command line that would give it, so that both are read one way."""
    for name, value in configuration.items():
        option = str(name).replace("-", "_")
        # Anything else could end the name, and be read as another option.
        if not re.fullmatch(r"\w+(?:\.\w+)?", option):
            raise ConfigurationError(f"a configuration has no option {name!r}.")
        if option in UNSAVED:
            raise ConfigurationError(
                f"--{spell(option)} belongs on the command line, not in a configuration."
            )
        if not isinstance(value, Mapping):
            if isinstance(value, list) and option in FAMILIES:
                raise ConfigurationError(f"--{option} must be one name, got a list.")
            if isinstance(value, list):
                yield ListArgument(f"--{option}={_text(value)}")
            else:
                named = option in FAMILIES
                yield from (
                    _named(option, _text(value)) if named else [f"--{option}={_text(value)}"]
                )
            continue
        if option not in FAMILIES or not value:
            kind = "one name, perhaps with its options," if option in FAMILIES else "one value"
            raise ConfigurationError(f"{name} must have {kind} in a configuration.")
        for inner, item in value.items():
            if not re.fullmatch(r"\w+", str(inner).replace("-", "_")):
                raise ConfigurationError(f"{name} has no option {inner!r}.")
            if isinstance(item, Mapping):
                raise ConfigurationError(f"{name}.{inner} must have one value in a configuration.")
            argument = f"--{option}.{str(inner).replace('-', '_')}={_text(item)}"
            yield ListArgument(argument) if isinstance(item, list) else argument


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
