"""Command lines as lists of words, and configuration files as equivalent command lines."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae.configuration import Configuration, ConfigurationError, read_yaml
from pyro_vae.configuration.components import FAMILIES, UNSAVED
from pyro_vae.data import DATASETS, OWN_DATA, READERS, loader_for_path

# Options without a value.
FLAGS = ("resume", "overwrite", "trust_model_file", "print_config")

# One integer, or several with commas.
_INTEGERS = r"\d+(?:,\d+)*"


class ListArgument(str):
    """An argument that was a list in a file, so that a string option can refuse it."""

    __slots__ = ()


def spell(text: str) -> str:
    """Spell options as typed: `--batch-size` for `batch_size`, `--prior` for `prior.name`."""

    def typed(option: re.Match[str]) -> str:
        if option[0] == "--print_config":
            return option[0]
        return re.sub(r"\.name\b", "", option[0]).replace("_", "-")

    return re.sub(r"--[\w.]+", typed, text)


def describe_choices(family: str, choices: Iterable[str]) -> str:
    """The allowed values of `--prior` or another family; of `--data` also the user's own files."""
    if family != "data":
        return ", ".join(choices)
    sets = ", ".join(name for name in choices if name not in READERS)
    return f"{sets}, or the path of your own: {OWN_DATA}"


def describe_type(kind: str) -> str:
    """A type in words: "one of a, b" for `Literal['a', 'b']`."""
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        return f"one of {literal[1].replace(chr(39), '')}"
    name = re.sub(r"(?:<class '|typing\.|collections\.abc\.|'>)", "", kind)
    name = re.sub(r"Literal\['(\w+)'\]", r"\1", name)
    name = re.sub(r"Literal\[(.*?)\]", lambda m: f"one of {m[1].replace(chr(39), '')}", name)
    name = name.replace(", NoneType", " or null")
    if name.startswith("Sequence"):
        return f"a list of whole numbers, such as [200,100]{' or null' * name.endswith('null')}"
    words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    return re.sub(r"^(?:int|float|bool)\b", lambda m: words[m[0]], name)


def normalize(arguments: Sequence[str]) -> Iterator[str]:
    """Convert typed words to the parser's spelling: `--prior vamp` to `--prior.name=vamp`.

    Raises:
        ConfigurationError: If a flag has a value, a family no name, or a path holds no data.
    """
    words = iter(arguments)
    for word in words:
        if not word.startswith("--") or word == "--":
            yield word
            continue
        option, equals, value = word.partition("=")
        option = "--" + option[2:].replace("-", "_")
        family = option[2:]
        if family in FLAGS:
            if equals and value.lower() not in ("true", "false"):
                raise ConfigurationError(f"{spell(option)} takes no value, got {value!r}.")
            yield f"{option}={value.lower() or 'true'}"
        elif family not in FAMILIES:
            yield f"{option}{equals}{value}"
        else:
            name = value if equals else next(words, None)
            if name is None:
                choices = describe_choices(family, FAMILIES[family])
                raise ConfigurationError(f"--{family} needs a name: {choices}.")
            yield from _named(family, name)


def _named(family: str, value: str) -> Iterator[str]:
    """The arguments that choose a part; the path of a file chooses its reader."""
    if family == "data" and value not in DATASETS:
        try:
            reader = loader_for_path(value)
        except ValueError as error:
            raise ConfigurationError(f"--data {value}: {error}") from error
        if reader:
            yield f"--data.name={reader}"
            yield f"--data.path={value}"
            return
    yield f"--{family}.name={value}"


def last_value(arguments: Sequence[str], name: str) -> str | None:
    """The last value of an option, written as `--name=value` or `--name value`."""
    found = None
    for position, token in enumerate(arguments):
        if token.startswith(f"--{name}="):
            found = token.partition("=")[2]
        elif token == f"--{name}" and position + 1 < len(arguments):
            found = arguments[position + 1]
    return found


def override(saved: list[str], given: list[str]) -> list[str]:
    """Add arguments to stored ones; another part drops the options of the old one."""
    for family in FAMILIES:
        name = last_value(given, f"{family}.name")
        if name is not None and name != last_value(saved, f"{family}.name"):
            saved = [token for token in saved if not token.startswith(f"--{family}.")]
    return [*saved, *given]


def split_family(arguments: list[str], family: str) -> tuple[list[str], dict[str, str]]:
    """Split off the options of a family but its name: the other arguments, and these."""
    others: list[str] = []
    options: dict[str, str] = {}
    left = iter(arguments)
    for token in left:
        option, equals, value = token.partition("=")
        owner, _, name = option.removeprefix("--").partition(".")
        if owner == family and name != "name" and token.startswith("--"):
            options[name] = value if equals else next(left, "")
        else:
            others.append(token)
    return others, options


def bracket_lists(arguments: Sequence[str], lists: Iterable[str]) -> Iterator[str]:
    """Write integers after the options `lists`, `--network.hidden 200 100`, as a list."""
    words = [*arguments]
    while words:
        option, equals, value = words[0].partition("=")
        values = [value] if equals else []
        rest = words[1:]
        if option in lists:
            while rest and not equals and re.fullmatch(_INTEGERS, rest[0]):
                values.append(rest.pop(0))
        if option in lists and values and all(re.fullmatch(_INTEGERS, each) for each in values):
            yield f"{option}=[{','.join(values)}]"
        else:
            yield words[0]
            rest = words[1:]
        words = rest


def read_arguments(path: Path) -> list[str]:
    """Read a configuration file as a command line.

    Raises:
        ConfigurationError: If it is not a configuration, or gives an option twice.
    """
    arguments = list(as_arguments(read_yaml(path)))
    names = [argument.partition("=")[0] for argument in arguments]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"{path} gives {spell(min(twice))} twice.")
    return arguments


def as_arguments(configuration: Mapping[str, Any]) -> Iterator[str]:
    """The command line equivalent to a configuration, so that both are parsed in one way.

    Raises:
        ConfigurationError: If a name or a value cannot be an option.
    """
    for name, value in configuration.items():
        option = str(name).replace("-", "_")
        # Other characters could end the name and start another option.
        if not re.fullmatch(r"\w+(?:\.\w+)?", option):
            raise ConfigurationError(f"a configuration has no option {name!r}.")
        if option in UNSAVED:
            raise ConfigurationError(
                f"--{spell(option)} belongs on the command line, not in a configuration."
            )
        if isinstance(value, Mapping):
            yield from _family_arguments(name, option, value)
        elif option in FAMILIES:
            if isinstance(value, list):
                raise ConfigurationError(f"--{option} must be one name, got a list.")
            yield from _named(option, _text(value))
        else:
            yield _argument(option, value)


def _family_arguments(name: Any, option: str, value: Mapping[str, Any]) -> Iterator[str]:
    if option not in FAMILIES or not value:
        wanted = "a name, and perhaps options," if option in FAMILIES else "one value"
        raise ConfigurationError(f"{name} must have {wanted} in a configuration.")
    for inner, item in value.items():
        inner_option = str(inner).replace("-", "_")
        if not re.fullmatch(r"\w+", inner_option):
            raise ConfigurationError(f"{name} has no option {inner!r}.")
        if isinstance(item, Mapping):
            raise ConfigurationError(f"{name}.{inner} must have one value in a configuration.")
        yield _argument(f"{option}.{inner_option}", item)


def _argument(option: str, value: Any) -> str:
    text = f"--{option}={_text(value)}"
    return ListArgument(text) if isinstance(value, list) else text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_as_written(arguments: list[str], parsed: Configuration) -> None:
    """Refuse values that jsonargparse reads as something else than what is written."""
    for position, token in enumerate(arguments):
        option, equals, text = token.partition("=")
        family, _, name = option[2:].partition(".")
        value = parsed.get(family)
        if name and isinstance(value, Mapping):
            value = value.get(name)
        if not equals:
            text = arguments[position + 1] if position + 1 < len(arguments) else ""
        if not option.startswith("--"):
            continue
        if isinstance(token, ListArgument) and isinstance(value, str):
            raise ConfigurationError(f"{spell(option)} must be one value, got the list {text}.")
        # 1:30 is 90 and 1_0 is 10 to YAML 1.1.
        if type(value) in (int, float) and set(text) & set(":_"):
            raise ConfigurationError(f"{spell(option)} must be a number, got {text!r}.")
