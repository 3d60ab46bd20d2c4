"""Configuration files: YAML in which everything is what it looks like."""

import re
from pathlib import Path
from typing import Any

import yaml

Configuration = dict[str, Any]

# A configuration has a few dozen lines.
LARGEST_YAML = 100_000

DEEPEST_YAML = 8


class ConfigurationError(ValueError):
    """A command line or a configuration file that cannot be used. One line."""


class NotPlainError(yaml.YAMLError):
    """YAML that stands for more than is written."""


class _PlainLoader(yaml.SafeLoader):
    """YAML of names, numbers, words and lists, in which everything is what it looks like.

    The types are YAML 1.2's: `017` is 17's text and `1:30` no number of seconds. No anchors (a few
    lines of them can stand for more than a memory holds, or for themselves), no name twice.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise NotPlainError("anchors and aliases are not used here")
        if self.depth > DEEPEST_YAML:
            raise NotPlainError(f"it is nested more than {DEEPEST_YAML} levels deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

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
    _PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), [*_first.replace("\0", ""), ""]
    )


for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", yaml.SafeLoader.construct_undefined)


def load_plain(text: str) -> Any:
    """A value, read by `_PlainLoader`.

    Raises:
        yaml.YAMLError: If it is not such YAML.
    """
    try:
        # A subclass of SafeLoader: it makes no objects and runs nothing.
        return yaml.load(text, _PlainLoader)
    # Numbers too long, and characters that cannot be encoded.
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> Configuration:
    """A configuration file.

    Raises:
        ConfigurationError: If it is not there, or not YAML of names and values.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_YAML + 1).decode("utf-8-sig")
        if len(text) > LARGEST_YAML:
            raise ConfigurationError(
                f"{path} must be a configuration, but is longer than {LARGEST_YAML:,} bytes."
            )
        content = load_plain(text)
    except OSError as error:
        raise ConfigurationError(f"no configuration at {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} must hold names and values, got {type(content).__name__}."
        )
    return content
