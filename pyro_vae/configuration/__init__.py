"""Configurations: options and YAML files, read and checked, and what they name, built.

The YAML is strict: values are read as they look, and no name may occur twice.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from pyro_vae.version import check_version

Configuration = dict[str, Any]

# A configuration has a few dozen lines.
LARGEST_YAML = 100_000


class ConfigurationError(ValueError):
    """An invalid command line or configuration file; the message is one line."""


class _StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the types of YAML 1.2 and without aliases and duplicate keys.

    `017` is a string and `1:30` not a number of seconds. With aliases, a few lines could stand for
    more than fits into memory, or for themselves.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if isinstance(self.peek_event(), yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.YAMLError(f"{min(twice)} is given twice")
        return super().construct_mapping(node, deep)


for _tag, _form, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), [*_first.replace("\0", ""), ""]
    )

for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", yaml.SafeLoader.construct_undefined)


def load_strict(text: str) -> Any:
    """Read a YAML value.

    Raises:
        yaml.YAMLError: If the text is not strict YAML.
    """
    try:
        # A subclass of SafeLoader creates no objects and executes nothing.
        return yaml.load(text, _StrictLoader)
    # Numbers too long, invalid characters, and brackets too deep.
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> Configuration:
    """Read a configuration file, without the version that wrote it.

    Raises:
        ConfigurationError: If it is missing, not a regular file, not a YAML mapping, or of a newer
            version.
    """
    try:
        # Opening a FIFO would wait for a writer.
        if path.exists() and not path.is_file():
            raise ConfigurationError(f"no configuration at {path}: not a regular file.")
        with path.open("rb") as file:
            text = file.read(LARGEST_YAML + 1).decode("utf-8-sig")
        if len(text) > LARGEST_YAML:
            raise ConfigurationError(
                f"{path} must be a configuration, but is longer than {LARGEST_YAML:,} bytes."
            )
        content = load_strict(text)
    except OSError as error:
        raise ConfigurationError(f"no configuration at {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} must be a mapping of names to values, got {type(content).__name__}."
        )
    try:
        check_version(content.pop("version", None), path)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return content
