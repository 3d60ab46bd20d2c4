"""What programs that a person calls have in common."""

import argparse
import hashlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from jaxtyping import Int, Real
from torch import Tensor

from pyro_vae.data import DataContract, PreparedData, default_root
from pyro_vae.data.nouns import use_noun
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.runs.configuration import load_data, prepare_data
from pyro_vae.runs.run_directory import RunDirectory, load
from pyro_vae.runs.strict_yaml import Configuration
from pyro_vae.suggestions import did_you_mean

# A path may be this long; what is longer is no word that a person typed.
LONGEST_WORD = 1000


class Stopped(KeyboardInterrupt):
    """SIGTERM, which otherwise ends a process without a word."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong.

        Raises:
            ValueError: Always, and `main` says it.
        """
        options = [o for a in self._actions for o in a.option_strings if o[:2] == "--"]
        argument, _, said = message.removeprefix("argument ").partition(": ")
        if message.startswith("unrecognized arguments: "):
            words = said.split()
            word = next((w for w in words if w.startswith("--")), words[0]).partition("=")[0]
            meant = did_you_mean(word, options)
            if word.startswith("--"):
                message = (
                    f"unknown option {word}: {meant}allowed are RUN and {', '.join(options)}."
                )
            else:
                message = (
                    f"unexpected argument {word}: one RUN is allowed, and {', '.join(options)}."
                )
        elif choice := re.match(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", said):
            names = choice[2].replace("'", "")
            meant = did_you_mean(choice[1], names.split(", ")).strip()
            message = f"{argument} must be one of {names}, got {choice[1]!r}"
            message += f"; {meant}" if meant else "."
        elif said.startswith("must be"):
            message = f"{argument} {said}"
        elif said.startswith("expected "):
            message = f"{argument} needs a value."
        elif said == "RUN":
            message = "RUN is needed: the directory of a run, as svi_train.py makes it, in runs/."
        raise ValueError(message)

    def add_common_options(self, *, seed: bool = True) -> None:
        """What every program that reads a run can be told: a seed, a device, where data lie, and trust.

        Args:
            seed: Whether the program draws anything.
        """
        if seed:
            self.add_argument(
                "--seed",
                type=at_least(0),
                metavar="N",
                default=0,
                help="The seed of all draws. Default: 0.",
            )
        self.add_argument(
            "--device",
            choices=("auto", "cpu", "cuda"),
            default="auto",
            help="Where to compute. Default: auto.",
        )
        self.add_argument(
            "--data-root", type=Path, help="Where data lie; else PYRO_VAE_DATA, or data."
        )
        self.add_argument(
            "--trust-model-file",
            action="store_true",
            help="Run the model file that a run brings along. It is a program: read it first.",
        )


def run_program(
    parser: Parser,
    run: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
    *,
    stopped: str,
) -> int:
    """Read the options and run a program; what goes wrong is one line.

    Args:
        parser: Its options, with its name.
        run: What it does with them.
        arguments: What was typed; None for the command line.
        stopped: What is left when it was stopped.

    Returns:
        The exit code: 0; 2 for an error that its user can mend; 130 after Ctrl-C and 143 after SIGTERM.
    """
    typed = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    try:
        # Programs name the data once they are read.
        with use_noun("datum"), sigterm_as_interrupt():
            run(parser.parse_args(typed))
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{parser.prog}: error: {in_one_line(error)}\n")
        return 2
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{parser.prog}: stopped; {stopped}\n")
        return 143 if isinstance(stop, Stopped) else 130
    return 0


@dataclass(frozen=True)
class TrainedRun:
    """A trained run and its data.

    Args:
        directory: The run's.
        vae: The trained program, on the device, with `configuration`.
        data: Its data.
        x: The split, on the CPU; sparse if the data are.
        device: Where to compute.
        checkpoint_hash: The SHA-256 of the checkpoint.
    """

    directory: RunDirectory
    vae: Any
    data: PreparedData
    x: Real[Tensor, " n *event"] | SparseRows
    device: torch.device
    checkpoint_hash: str

    @property
    def order(self) -> Int[Tensor, " n"]:
        """The split's rows in a fixed order: fewer data are the first of more.

        The first rows of it, sorted, are those of `fixed_rows`.
        """
        generator = torch.Generator("cpu").manual_seed(0)
        return torch.randperm(len(self.x), generator=generator, device="cpu")


def trained_run(
    path: Path,
    split: str,
    *,
    device: torch.device,
    data_root: Path | None = None,
    trust_model_file: bool = False,
    words: Sequence[str] = (),
) -> TrainedRun:
    """A run and a split of its data, as a program reads them that is about to write beside them.

    Args:
        path: The run directory.
        split: "train", "validation" or "test".
        device: Where to compute.
        data_root: Where data lie; None for the usual place.
        trust_model_file: As of `load`.
        words: The options that name other data; none for the run's own, which must not have changed.

    Raises:
        ValueError: If there is no run, it is damaged or holds links, its data are not there or have
            changed, or the split is empty.
    """
    from pyro_vae.runs.other_data import other_data

    directory, vae, checkpoint = opened_run(path, trust_model_file=trust_model_file)
    if words:
        data = other_data(directory, words, data_root=data_root, trust_model_file=trust_model_file)
    else:
        data = run_data(vae, path, data_root)
    x = data.fixed(split)
    if len(x) == 0:
        raise ValueError(f"the {split} split of {data.dataset.name} holds no data.")
    return TrainedRun(directory, vae.to(device), data, x, device, checkpoint)


def run_data(vae: Any, path: Path, data_root: Path | None = None) -> PreparedData:
    """A run's own data, which must be those of training; other labels are said.

    Args:
        vae: The trained program, with `configuration` and `contract`.
        path: The run directory.
        data_root: Where data lie; None for the usual place.

    Raises:
        ValueError: If they are not there, or have changed since training.
    """
    contract = vae.contract
    configuration = with_data_path(vae.configuration, contract, path)
    data = prepare_data(configuration, load_data(configuration, data_root or default_root()))
    contract.check(data, trained=str(path))
    if note := contract.check_labels(data.dataset):
        sys.stderr.write(f"{note}\n")
    return data


def with_data_path(
    configuration: Configuration, contract: DataContract, path: Path
) -> Configuration:
    """A run's configuration, with the path of its data where it was relative to another folder.

    Args:
        configuration: The run's.
        contract: What its data were.
        path: The run directory, for the message.

    Raises:
        ValueError: If the data are not there.
    """
    options = configuration["data"]
    if "path" not in options or not contract.source:
        return configuration
    source = Path(contract.source)
    if not source.exists() and not Path(options["path"]).exists():
        raise ValueError(
            f"{path} was trained on {source}, which is not there now: put it back, or give rows as new "
            "data, with --data FILE."
        )
    if not source.exists() or Path(options["path"]).is_absolute():
        return configuration
    return {**configuration, "data": {**options, "path": str(source)}}


def opened_run(path: Path, *, trust_model_file: bool = False) -> tuple[RunDirectory, Any, str]:
    """A run without its data: the directory, the trained program, and the checkpoint's SHA-256.

    Raises:
        ValueError: If there is no run, or it is damaged or holds links.
    """
    directory = RunDirectory(path)
    if directory.path.exists() and not directory.path.is_dir():
        raise ValueError(f"RUN must be a run directory, got the file {directory.path}.")
    directory.check_plain()
    vae = load(directory.path, trust_model_file=trust_model_file)
    return directory, vae, hashlib.sha256(directory.checkpoint.read_bytes()).hexdigest()


def in_one_line(error: Exception) -> str:
    """What an error says; values of any length and any characters are cut to fit a line."""
    words = [
        word if len(word) <= LONGEST_WORD else f"{word[:50]}...{word[-50:]}"
        for word in str(error).split()
    ]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(words))


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda asks for a GPU, but torch finds none here; use cpu or auto."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # torchrun gives each process on a machine a number, and with it a GPU.
    return (
        torch.device(name, int(os.environ.get("LOCAL_RANK", "0")))
        if name == "cuda"
        else torch.device(name)
    )


def at_least(lowest: int) -> Callable[[str], int]:
    """What reads a whole number that is not below another."""

    def read(text: str) -> int:
        # Digits alone: int() would take 1_000 and others' digits, too, and any length.
        if not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) < lowest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {lowest}, got {text!r}."
            )
        return int(text)

    return read


def number_or_all(text: str) -> int | None:
    """A number of data, or None for all."""
    if text == "all":
        return None
    try:
        return at_least(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"must be all, or {str(error)[8:]}") from error


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM stops the program at once, as Ctrl-C does: a file is whole or absent anyway.

    Raises:
        Stopped: In whatever is running, when SIGTERM comes.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
