"""The command line: every option of every part, from its class, with one-line errors.

No part and no option is listed here. Names come from the dictionaries of the families, options
from the signatures of the constructors, defaults from the signature of `build` in the model file.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, set_loader

import pyro_vae.model
from pyro_vae.checks import did_you_mean, or_meant
from pyro_vae.commands import as_typed
from pyro_vae.configuration import Configuration, ConfigurationError, load_strict
from pyro_vae.configuration.arguments import (
    as_arguments,
    bracket_lists,
    check_as_written,
    describe_choices,
    describe_type,
    last_value,
    normalize,
    override,
    read_arguments,
    spell,
    split_family,
)
from pyro_vae.configuration.components import FAMILIES, UNSAVED
from pyro_vae.configuration.model_files import (
    BY_KIND,
    DEFAULT_MODEL,
    MODEL_FAMILIES,
    build_options,
    check_options,
    is_shipped,
    likelihood_of_kind,
    model_defaults,
    model_file,
    model_parts,
)
from pyro_vae.configuration.resume_plan import check_change
from pyro_vae.data import Kind, PreparedData
from pyro_vae.data.inspection import Judgement
from pyro_vae.programs import PROGRAMS
from pyro_vae.training.loop import Training

# Arguments that `build` supplies to constructors, which are therefore not options.
HANDED = {
    *("event_shape", "latent_dim", "encoder", "decoder", "posterior", "train_data", "train_size"),
    *("levels", "units", "data_support", "input_shape", "output_shape", "root"),
    "directory",
}

set_loader("pyro_vae", load_strict, (yaml.YAMLError,), json_superset=True)


def run_options(
    out: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_model_file: bool = False,
    data_root: str | None = None,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    evaluate: Literal["full", "quick", "none"] = "quick",
) -> None:
    """The options of a run that belong to no part.

    Args:
        out: The run directory; by default runs/<data>-<prior>-<seed>, with a counter.
        resume: Continue the run in --out, which needs no other option; --epochs N extends it.
        overwrite: Delete the run that --out holds.
        trust_model_file: Execute the model file stored in the run in --out, or named by --config.
            It can do anything: read it first.
        data_root: The folder of data sets; by default the environment variable PYRO_VAE_DATA, or
            data.
        seed: The seed of every random stream except the test split's.
        device: The device to train on.
        evaluate: Evaluate on all test data, on at most 1,000 fixed ones, or not at all.
    """


class _Parser(ArgumentParser):
    """jsonargparse's parser with options spelled as typed, and one-line errors."""

    # For each family the name of the selected part, and all parts by name.
    parts: dict[str, tuple[str, Mapping[str, Callable[..., Any]]]]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigurationError(self._in_one_line(message))

    def _in_one_line(self, message: str) -> str:
        if "nrecognized arguments" in message:
            words = message.rsplit("rguments:", 1)[-1].split()
            unknown = next((word for word in words if word.startswith("--")), words[0])
            return self._unknown(unknown.partition("=")[0])
        line = " ".join(message.split())
        if required := re.match(r"the following arguments are required: (.*)", line):
            names = ", ".join(f"--{name}" for name in required[1].split(", "))
            return f"missing required option {spell(names)}."
        if no_value := re.match(r"argument (--[\w.]+): expected one argument", line):
            return f"{spell(no_value[1])} needs a value."
        key = re.match(r'Parser key "([\w.]+)":\s*(.*)', line)
        if key is None:
            return spell(line)
        option = f"--{key[1].removesuffix('.name')}"
        expected = re.match(r"Expected an? (.+)\. Got value:\s*(.*)", key[2])
        expected = expected or re.match(r".*Subtypes: \[(.*?)\] .*Given value: (.*)", key[2])
        if not expected:
            return f"{spell(option)} {key[2]}."
        kind, got = describe_type(expected[1]), expected[2]
        words = re.match(r"one of (.*?)(?: or null)?$", kind)
        end = or_meant(got, words[1].split(", ")) if words else "."
        return f"{spell(option)} must be {kind}, got {got!r}{end}"

    def _unknown(self, word: str) -> str:
        """The message for a word that is not an option."""
        if not word.startswith("--"):
            family = next((f for f, (_, choices) in self.parts.items() if word in choices), None)
            meant = f"did you mean --{family} {word}? " if family else ""
            return f"unexpected {word!r}: {meant}an option has two dashes, and takes one value."
        family, dot, inner = word.removeprefix("--").partition(".")
        if dot and family in self.parts:
            said = self._unknown_of_part(family, inner)
        else:
            options = [spell(option) for option in self.option_names()]
            top = sorted({*(o for o in options if "." not in o), *(f"--{n}" for n in self.parts)})
            of_parts = [o for o in options if o.endswith(f".{spell(word)[2:]}")]
            meant = did_you_mean(spell(word), top)
            if of_parts:
                meant = f"did you mean {' or '.join(of_parts)}? "
            said = f"{meant}allowed are {', '.join(top)}"
        return f"unknown option {spell(word)}: {said}."

    def _unknown_of_part(self, family: str, inner: str) -> str:
        chosen, choices = self.parts[family]
        start = f"--{family}."
        names = [spell(o)[len(start) :] for o in self.option_names() if o.startswith(start)]
        meant = did_you_mean(inner, names).replace("mean ", f"mean {start}")
        others = [
            name
            for name, part in choices.items()
            if not meant and name != chosen and inner in inspect.signature(part).parameters
        ]
        has = ", ".join(start + name for name in names) if names else "no options"
        elsewhere = f"; it is an option of --{family} {', '.join(others)}" if others else ""
        return f"{meant}--{family} {chosen} has {has}{elsewhere}"

    def option_names(self) -> list[str]:
        """All options, without those that select a part: `--prior` stands for `--prior.name`."""
        options = {o for action in self._actions for o in action.option_strings if o[:2] == "--"}
        # jsonargparse appends to a list with `+`.
        return sorted(o for o in options - {"--print_shtab"} if not o.endswith((".name", "+")))

    def list_options(self) -> set[str]:
        """The options that take a list of integers."""
        return {
            option
            for action in self._actions
            for option in action.option_strings
            if getattr(action, "_typehint", None) in (Sequence[int], Sequence[int] | None)
        }

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        return spell(super().format_help(*args, **kwargs))


def parse(arguments: Sequence[str]) -> Configuration:
    """Parse a command line to a configuration.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        Plain values by name; a part is a dictionary with its `name` and its options.

    Raises:
        ConfigurationError: If an option or a value is invalid.
        SystemExit: After `--help`.
    """
    given = list(normalize(arguments))
    trusted = last_value(given, "trust_model_file") == "true"
    saved: list[str] = []
    for name in ("config", "out"):
        if last_value(given, name) == "":
            raise ConfigurationError(f"--{name} must be a path, got ''.")
    if (config := last_value(given, "config")) is not None:
        saved = read_arguments(Path(config))
        own = not is_shipped(stored_model(saved)) and last_value(given, "model") is None
        if own and not trusted:
            raise ConfigurationError(
                f"{config} names the model file {stored_model(saved)!r}, which would be executed: "
                "if you trust it, give it with --model, or add --trust-model-file."
            )
    if last_value(given, "resume") == "true":
        if (out := last_value(given, "out")) is None:
            raise ConfigurationError(
                "--resume needs --out DIR, the directory of the run to continue."
            )
        if last_value(given, "overwrite") == "true":
            raise ConfigurationError(
                "--resume continues the run in --out, and --overwrite deletes it: give one of "
                "them."
            )
        if config is not None:
            raise ConfigurationError(
                f"--resume reads {Path(out, 'config.yaml')}: leave --config out, or start a new "
                "run from it without --resume."
            )
        if not Path(out, "config.yaml").exists():
            raise ConfigurationError(
                f"no run to continue at {out}: a run directory holds config.yaml and "
                "checkpoint.pt."
            )
        stored = stored_arguments(Path(out), trust_model_file=trusted)
        before, after = _parse(stored), _parse(override(stored, given))
        check_change({**before, **{name: after[name] for name in UNSAVED}}, after)
        return after
    return _parse(override(saved, given))


def stored_arguments(directory: Path, *, trust_model_file: bool) -> list[str]:
    """The command line equivalent to the configuration of a run; nothing of the run is executed.

    Args:
        directory: The run directory, perhaps from someone else.
        trust_model_file: Whether its model.py may be executed; no other file is, whatever the
            configuration says.

    Raises:
        ConfigurationError: If the configuration is missing or damaged, or needs a model file that
            is not trusted or missing.
    """
    arguments = read_arguments(directory / "config.yaml")
    if is_shipped(stored_model(arguments)):
        return arguments
    model = directory / "model.py"
    if not trust_model_file:
        raise ConfigurationError(
            f"{directory} has its own model file, {model}, which would be executed: read it, and "
            "if you trust it add --trust-model-file (in Python, trust_model_file=True)."
        )
    if not model.is_file():
        raise ConfigurationError(
            f"{directory} must hold the model file that it was trained with, {model}."
        )
    return [*(a for a in arguments if not a.startswith("--model=")), f"--model={model}"]


def with_likelihood(configuration: Configuration, kind: Kind) -> Configuration:
    """Select the likelihood that the model file has for a kind of data, unless one was given.

    Args:
        configuration: The result of `parse`.
        kind: The kind of data, as `kind_of_data` gives it.

    Raises:
        ConfigurationError: If the model file has no likelihood for it, or that likelihood lacks
            one of the options given.
    """
    if configuration.get("likelihood", {}).get("name") != BY_KIND:
        return configuration
    name = likelihood_of_kind(model_file(configuration["model"]), kind)
    saved = {n: value for n, value in configuration.items() if n not in UNSAVED}
    saved["likelihood"] = {**configuration["likelihood"], "name": name}
    return {**_parse([*as_arguments(saved)]), **{n: configuration[n] for n in UNSAVED}}


def parse_stored(arguments: list[str]) -> Configuration:
    """Parse the result of `stored_arguments`.

    Raises:
        ConfigurationError: If a part or an option is unknown, or a value of the wrong type.
    """
    configuration = _parse(arguments)
    return {name: value for name, value in configuration.items() if name not in UNSAVED}


def stored_model(arguments: list[str]) -> str:
    """The value of `--model` in a command line."""
    model = last_value(arguments, "model")
    return DEFAULT_MODEL if model is None else model


def _parse(arguments: list[str]) -> Configuration:
    """Parse normalized arguments."""
    parser, arguments, unread = _build_parser(arguments)
    arguments = list(bracket_lists(arguments, parser.list_options()))
    for token in arguments:
        option, _, value = token.partition("=")
        if value == "--":
            # argparse would drop it and read an empty list.
            raise ConfigurationError(f"{spell(option)} needs a value, got '--'.")
    try:
        parsed = _to_plain(parser.parse_args(arguments).as_dict())
    except RecursionError as error:
        raise ConfigurationError("an option's value is nested too deeply.") from error
    check_as_written(arguments, parsed)
    if not 0 <= parsed["seed"] < 2**32:
        raise ConfigurationError(f"--seed must be from 0 to {2**32 - 1}, got {parsed['seed']}.")
    if unread:
        parsed["likelihood"] |= unread
    return parsed


def _build_parser(arguments: list[str]) -> tuple[_Parser, list[str], dict[str, str]]:
    """The parser for the parts that arguments select.

    Returns:
        The parser; the arguments that it can read; the options of a likelihood that the data
        select, which are read once it is known.
    """
    module = model_file(stored_model(arguments))
    parts, defaults = model_parts(module), model_defaults(module)
    parser = _Parser(
        prog=as_typed("svi_train.py", names=True),
        description="Train a VAE by stochastic variational inference, evaluate it and draw what "
        "it learned.",
        epilog="Options of another part are listed with it: --prior vamp --help.",
        allow_abbrev=False,
        parser_mode="pyro_vae",
    )
    parser.parts = {}
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
        help="The model file: `vae`, which is pyro_vae/model.py, a program of pyro_vae/programs "
        f"({', '.join(PROGRAMS)}), or your own file with a `build`.",
    )
    parser.add_function_arguments(run_options, as_group=False)
    parser.add_argument(
        "--latent_dim",
        type=int,
        default=defaults["latent_dim"],
        help="The latent dimension: the length of the last axis of z.",
    )
    options = set(build_options(module))
    skip: set[str | int] = {
        name
        for build in (module.build, pyro_vae.model.build)
        for name in inspect.signature(build).parameters
        if name not in options
    }
    if options:
        parser.add_function_arguments(module.build, as_group=False, skip=skip)
    parser.add_class_arguments(
        PreparedData,
        # The last two come from the program: its class variable, and an option of its `build`.
        skip={"dataset", "likelihood_support", "allows_missing", "missing_rate"},
        as_group=False,
    )
    parser.add_class_arguments(
        Training, skip={"program", "data", "objective", "processes", "notes"}, as_group=False
    )
    unread: dict[str, str] = {}
    families = {f: choices for f, choices in FAMILIES.items() if f not in MODEL_FAMILIES}
    for family, choices in {**families, **parts}.items():
        name = last_value(arguments, f"{family}.name")
        name = defaults[family] if name is None else name
        parser.parts[family] = name, choices
        if name == defaults[family] == BY_KIND:
            arguments, unread = split_family(arguments, family)
            _add_family_by_kind(parser, family, choices, unread)
            continue
        if name not in choices:
            raise ConfigurationError(
                f"--{family} must be one of {describe_choices(family, choices)}, got {name!r}"
                f"{or_meant(name, choices)}"
            )
        # A data set is only handed its root: its levels are options.
        handed = {"root"} if family == "data" else HANDED
        check_options(module, choices[name], handed)
        _add_part(parser, family, name, choices, handed)
    for action in parser._actions:
        # jsonargparse reads options of a part from a file under the option that names it here.
        if action.option_strings and action.option_strings[0][2:] in FAMILIES:
            action.help = SUPPRESS
    return parser, arguments, unread


def _add_family_by_kind(
    parser: _Parser, family: str, choices: Mapping[str, Any], given: Mapping[str, str]
) -> None:
    """Add the option of a family whose part the data select; `given` are options of that part."""
    known = {n for part in choices.values() for n in inspect.signature(part).parameters} - HANDED
    if unknown := [option for option in given if option not in known]:
        raise ConfigurationError(
            f"unknown option --{family}.{unknown[0].replace('_', '-')}, which no {family} has"
            f"{or_meant(unknown[0], known)}"
        )
    parser.add_argument(
        f"--{family}.name",
        type=str,
        default=BY_KIND,
        help=f"One of {', '.join(choices)}; {BY_KIND} chooses by the kind of data, by the "
        "table in the model file.",
    )


def _add_part(
    parser: _Parser, family: str, name: str, choices: Mapping[str, Any], handed: set[str]
) -> None:
    """Add the options of one part, and the option that selects another."""
    part = choices[name]
    skip: set[str | int] = {*(handed & inspect.signature(part).parameters.keys())}
    add = parser.add_class_arguments if inspect.isclass(part) else parser.add_function_arguments
    add(part, family, skip=skip, as_group=True)
    assert parser.groups is not None
    if family == "data":
        parser.groups[family].add_argument(
            "--data.check",
            type=Judgement,
            default="refuse",
            help="Values that would make a wrong model, such as marks of missing values: refuse "
            "them, warn of them, or do not look (none).",
        )
    parser.groups[family].add_argument(
        f"--{family}.name",
        type=str,
        default=name,
        help=f"One of {describe_choices(family, choices)}.",
    )


def _to_plain(value: Any) -> Any:
    """Convert to values that YAML, JSON and a weights-only checkpoint can hold."""
    if isinstance(value, Mapping):
        named = {"name": value["name"]} if "name" in value else {}
        return {str(name): _to_plain(item) for name, item in {**named, **value}.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
