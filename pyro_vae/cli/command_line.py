"""The command line: every option of every part, from its class, with errors in one line.

Nothing here lists a part or an option of one. Names come from the families' dictionaries, options
from the constructors' signatures, defaults from the signature of `build` in the model file.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, set_loader

from pyro_vae.cli.argv import (
    ListArgument,
    as_arguments,
    in_words,
    last,
    normalised,
    overridden,
    read_arguments,
    spell,
)
from pyro_vae.data import Kind, PreparedData
from pyro_vae.data.inspection import Judgement
from pyro_vae.runs.configuration import FAMILIES, UNSAVED
from pyro_vae.runs.model_files import (
    BY_KIND,
    DEFAULT_MODEL,
    check_options,
    likelihood_of_kind,
    model_defaults,
    model_file,
    model_parts,
)
from pyro_vae.runs.resume_plan import check_change
from pyro_vae.runs.strict_yaml import (
    Configuration,
    ConfigurationError,
    NotPlainError,
    load_plain,
)
from pyro_vae.suggestions import did_you_mean, or_meant
from pyro_vae.training.loop import Training

# What constructors are handed, and so is nobody's option.
HANDED = {
    *("event_shape", "latent_dim", "encoder", "decoder", "posterior", "train_data", "train_size"),
    *("levels", "units", "data_support", "input_shape", "output_shape", "root"),
}


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
        out: The run directory; runs/<data>-<prior>-<seed>, with a counter, if not given.
        resume: Go on with the run in --out, which needs no other option; --epochs N extends it.
        overwrite: Delete the run that --out holds.
        trust_model_file: Run the model file that the run in --out, or --config, brings along. It is
            a program, and may do anything: read it first.
        data_root: Where data sets lie; the environment variable PYRO_VAE_DATA, or data, if not given.
        seed: The seed of every random stream but the test split's.
        device: Where to train.
        evaluate: Evidence on all test data, on at most 1,000 fixed ones, or no evaluation.
    """


# One whole number, or several with commas.
_NUMBERS = r"\d+(?:,\d+)*"


set_loader("pyro_vae", load_plain, (yaml.YAMLError,), json_superset=True)


class _Parser(ArgumentParser):
    """jsonargparse's parser with our spelling of options, and errors in one line."""

    # Of each family: the name of the part chosen, and all parts by name.
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
            return f"{spell(names)} is needed, and has no default."
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
        kind, got = _in_words(expected[1]), expected[2]
        words = re.match(r"one of (.*?)(?: or null)?$", kind)
        end = or_meant(got, words[1].split(", ")) if words else "."
        return f"{spell(option)} must be {kind}, got {got!r}{end}"

    def _unknown(self, word: str) -> str:
        """What to say of a word that is no option."""
        if not word.startswith("--"):
            family = next((f for f, (_, choices) in self.parts.items() if word in choices), None)
            meant = f"did you mean --{family} {word}? " if family else ""
            return f"unexpected {word!r}: {meant}an option has two dashes, and takes one value."
        family, dot, inner = word.removeprefix("--").partition(".")
        if dot and family in self.parts:
            said = self._unknown_of_part(family, inner)
        else:
            options = [spell(option) for option in self._options()]
            top = sorted(
                {o for o in options if "." not in o} | {f"--{name}" for name in self.parts}
            )
            of_parts = [o for o in options if o.endswith(f".{spell(word)[2:]}")]
            meant = did_you_mean(spell(word), top)
            if of_parts:
                meant = f"did you mean {' or '.join(of_parts)}? "
            said = f"{meant}allowed are {', '.join(top)}"
        return f"unknown option {spell(word)}: {said}."

    def _unknown_of_part(self, family: str, inner: str) -> str:
        chosen, choices = self.parts[family]
        start = f"--{family}."
        own = [
            spell(option)[len(start) :] for option in self._options() if option.startswith(start)
        ]
        meant = did_you_mean(inner, own).replace("mean ", f"mean {start}")
        others = [
            name
            for name, part in choices.items()
            if not meant and name != chosen and inner in inspect.signature(part).parameters
        ]
        has = ", ".join(start + name for name in own) if own else "no options"
        elsewhere = f"; it is an option of --{family} {', '.join(others)}" if others else ""
        return f"{meant}--{family} {chosen} has {has}{elsewhere}"

    def _options(self) -> list[str]:
        """All options but those that choose a part, which stand for it, as `--prior` and not `--prior.name`."""
        options = {o for action in self._actions for o in action.option_strings if o[:2] == "--"}
        # jsonargparse appends to a list with `+`.
        return sorted(o for o in options - {"--print_shtab"} if not o.endswith((".name", "+")))

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        return spell(super().format_help(*args, **kwargs))


def _in_words(kind: str) -> str:
    """A type as a person says it: "one of a, b" for `Literal['a', 'b']`."""
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


def parse(arguments: Sequence[str]) -> Configuration:
    """The configuration that a command line asks for.

    Args:
        arguments: The command line, without the program's name.

    Returns:
        Plain values by name; a part is a dictionary of its `name` and its options.

    Raises:
        ConfigurationError: If an option or a value is unknown, in one line.
        SystemExit: After `--help`.
    """
    given = list(normalised(arguments))
    trusted = last(given, "trust_model_file") == "true"
    saved: list[str] = []
    for name in ("config", "out"):
        if last(given, name) == "":
            raise ConfigurationError(f"--{name} must be a path, got ''.")
    if (config := last(given, "config")) is not None:
        saved = read_arguments(Path(config))
        if _own_model(saved) and not trusted and last(given, "model") is None:
            raise ConfigurationError(
                f"{config} names a model file, {last(saved, 'model')!r}, which is a program: if you "
                "trust it, give it with --model, or add --trust-model-file."
            )
    if last(given, "resume") == "true":
        if (out := last(given, "out")) is None:
            raise ConfigurationError(
                "--resume needs --out DIR, the directory of the run to go on with."
            )
        if last(given, "overwrite") == "true":
            raise ConfigurationError(
                "--resume goes on with the run in --out, and --overwrite deletes it: give one of them."
            )
        if config is not None:
            raise ConfigurationError(
                f"--resume reads {Path(out, 'config.yaml')}: leave --config out, or start a new run from "
                "it without --resume."
            )
        if not Path(out, "config.yaml").exists():
            raise ConfigurationError(
                f"no run to go on with at {out}: a run directory holds config.yaml and checkpoint.pt."
            )
        stored = stored_arguments(Path(out), trust_model_file=trusted)
        return _resumed(stored, given)
    return _parsed(overridden(saved, given))


def stored_arguments(directory: Path, *, trust_model_file: bool) -> list[str]:
    """The command line that would give the configuration of a run; nothing of the run is executed.

    Args:
        directory: The run directory, which may be somebody else's.
        trust_model_file: Whether the model file in it may be run. Whatever the configuration says,
            that file is the only one that is.

    Raises:
        ConfigurationError: If there is no configuration, it is damaged, or it needs a model file that
            is not trusted or not there.
    """
    path = directory / "config.yaml"
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path} must be a file.")
    arguments = read_arguments(path)
    if not _own_model(arguments):
        return arguments
    model = directory / "model.py"
    if not trust_model_file:
        raise ConfigurationError(
            f"{directory} was trained with a model file of its own, {model}, which is a program: read "
            "it, and if you trust it add --trust-model-file (in Python, trust_model_file=True)."
        )
    if model.is_symlink() or not model.is_file():
        raise ConfigurationError(
            f"{directory} must hold the model file it was trained with, as {model}."
        )
    return [
        *(token for token in arguments if not token.startswith("--model=")),
        f"--model={model}",
    ]


def with_likelihood(configuration: Configuration, kind: Kind) -> Configuration:
    """The configuration with the likelihood that the model file has for a kind of data, if none was chosen.

    Args:
        configuration: What `parse` gave.
        kind: The kind of data, `dataset.kind`.

    Raises:
        ConfigurationError: If the model file has no likelihood for it, or an option given is not that
            likelihood's.
    """
    if configuration["likelihood"]["name"] != BY_KIND:
        return configuration
    name = likelihood_of_kind(model_file(configuration["model"]), kind)
    saved = {n: value for n, value in configuration.items() if n not in UNSAVED}
    saved["likelihood"] = {**configuration["likelihood"], "name": name}
    return {**_parsed([*as_arguments(saved)]), **{n: configuration[n] for n in UNSAVED}}


def parse_stored(arguments: list[str]) -> Configuration:
    """The configuration that `stored_arguments` stand for, checked as a command line is.

    Raises:
        ConfigurationError: If a part is not registered, or an option not its own or not of its type.
    """
    configuration = _parsed(arguments)
    return {name: value for name, value in configuration.items() if name not in UNSAVED}


def stored_model(arguments: list[str]) -> str:
    """What `--model` is in a command line."""
    return last(arguments, "model") or DEFAULT_MODEL


def _own_model(arguments: list[str]) -> bool:
    return last(arguments, "model") not in (None, DEFAULT_MODEL)


def _resumed(saved: list[str], given: list[str]) -> Configuration:
    before = _parsed(saved)
    after = _parsed(overridden(saved, given))
    unsaved = {name: after[name] for name in UNSAVED}
    check_change({**before, **unsaved}, after)
    return after


def _parsed(arguments: list[str]) -> Configuration:
    model = last(arguments, "model")
    model = DEFAULT_MODEL if model is None else model
    module = model_file(model)
    parts, defaults = model_parts(module), model_defaults(module)
    parser = _Parser(
        prog="svi_train.py",
        description="Train a VAE by stochastic variational inference, evaluate it and draw what it learned.",
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
        help="The model file: `vae`, which is pyro_vae/model.py, or your own with the same `build`.",
    )
    parser.add_function_arguments(run_options, as_group=False)
    parser.add_argument(
        "--latent_dim",
        type=int,
        default=defaults["latent_dim"],
        help="The length of the axis the decoder reads.",
    )
    parser.add_class_arguments(
        PreparedData, skip={"dataset", "likelihood_support"}, as_group=False
    )
    parser.add_class_arguments(
        Training, skip={"program", "data", "objective", "processes", "notes"}, as_group=False
    )
    unread: dict[str, Any] = {}
    for family, choices in {**FAMILIES, **parts}.items():
        name = last(arguments, f"{family}.name")
        name = defaults[family] if name is None else name
        parser.parts[family] = name, choices
        if name == defaults[family] == BY_KIND:
            # Its options are read once the data have said which part it is.
            arguments, unread = _without_options(arguments, family)
            known = {n for part in choices.values() for n in inspect.signature(part).parameters}
            if unknown := [option for option in unread if option not in known - HANDED]:
                raise ConfigurationError(
                    f"unknown option --{family}.{unknown[0].replace('_', '-')}, which no {family} has"
                    f"{or_meant(unknown[0], known - HANDED)}"
                )
            parser.add_argument(
                f"--{family}.name",
                type=str,
                default=name,
                help=f"One of {', '.join(choices)}; {BY_KIND} takes the one of the kind of data in the model file.",
            )
            continue
        if name not in choices:
            raise ConfigurationError(
                f"--{family} must be one of {in_words(family, choices)}, got {name!r}"
                f"{or_meant(name, choices)}"
            )
        # A data set is handed its root alone: its levels are the user's to say.
        handed = {"root"} if family == "data" else HANDED
        skip: set[str | int] = {*(handed & inspect.signature(choices[name]).parameters.keys())}
        check_options(module, choices[name], handed)
        if inspect.isclass(choices[name]):
            parser.add_class_arguments(choices[name], family, skip=skip, as_group=True)
        else:
            parser.add_function_arguments(choices[name], family, skip=skip, as_group=True)
        assert parser.groups is not None
        if family == "data":
            parser.groups[family].add_argument(
                "--data.check",
                type=Judgement,
                default="refuse",
                help="Values that would make a wrong model, such as marks of missing values: refuse them, warn "
                "of them, or do not look (none).",
            )
        parser.groups[family].add_argument(
            f"--{family}.name",
            type=str,
            default=name,
            help=f"One of {in_words(family, choices)}.",
        )
    for action in parser._actions:
        # jsonargparse reads a part's options from a file under the option that names the part here.
        if action.option_strings and action.option_strings[0][2:] in FAMILIES:
            action.help = SUPPRESS
    arguments = list(_bracketed(parser, arguments))
    for token in arguments:
        _check_plain(token)
    try:
        parsed = _plain(parser.parse_args(arguments).as_dict())
    except RecursionError as error:
        raise ConfigurationError("an option's value is nested too deeply.") from error
    _check_as_written(arguments, parsed)
    if not 0 <= parsed["seed"] < 2**32:
        raise ConfigurationError(f"--seed must be from 0 to {2**32 - 1}, got {parsed['seed']}.")
    if unread:
        parsed["likelihood"] |= unread
    return parsed


def _is_list(kind: Any) -> bool:
    """Whether a type is that of a list of whole numbers, or of none."""
    return kind in (Sequence[int], Sequence[int] | None)


def _without_options(arguments: list[str], family: str) -> tuple[list[str], dict[str, str]]:
    """The arguments without a family's options, but for its name, and these options."""
    kept: list[str] = []
    options: dict[str, str] = {}
    left = iter(arguments)
    for token in left:
        option, equals, value = token.partition("=")
        of, _, name = option.removeprefix("--").partition(".")
        if of == family and name != "name" and token.startswith("--"):
            options[name] = value if equals else next(left, "")
        else:
            kept.append(token)
    return kept, options


def _bracketed(parser: _Parser, arguments: Sequence[str]) -> Iterator[str]:
    """Whole numbers after an option that is a list, `--network.hidden 200 100`, as a list."""
    lists = {
        option
        for action in parser._actions
        for option in action.option_strings
        if _is_list(getattr(action, "_typehint", None))
    }
    words = [*arguments]
    while words:
        option, equals, value = words[0].partition("=")
        values = [value] if equals else []
        rest = words[1:]
        if option in lists:
            while rest and not equals and re.fullmatch(_NUMBERS, rest[0]):
                values.append(rest.pop(0))
        if option in lists and values and all(re.fullmatch(_NUMBERS, each) for each in values):
            yield f"{option}=[{','.join(values)}]"
        else:
            yield words[0]
            rest = words[1:]
        words = rest


def _check_plain(token: str) -> None:
    """Refuse what the parser's own YAML would expand: anchors, and brackets without end."""
    option, equals, value = token.partition("=")
    if value == "--":
        # argparse drops it, and reads an empty list.
        raise ConfigurationError(f"{spell(option)} needs a value, got '--'.")
    if not set(token) & set("[{&*"):
        return
    try:
        load_plain(value if equals and option.startswith("--") else token)
    except NotPlainError as error:
        raise ConfigurationError(f"{spell(option)[:100]}: {error}.") from error
    except yaml.YAMLError:
        # A word, or for the parser to refuse.
        return


def _check_as_written(arguments: list[str], parsed: Configuration) -> None:
    """Refuse values that the parser's own YAML reads as something else than what is written."""
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
