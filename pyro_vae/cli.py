"""Helpers of the command-line scripts: options, one-line errors, exit codes and signals."""

import argparse
import atexit
import ctypes
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import torch

from pyro_vae.checks import did_you_mean, or_meant
from pyro_vae.commands import as_typed
from pyro_vae.data.nouns import use_noun
from pyro_vae.statistics import MINIMUM_SAMPLES

if TYPE_CHECKING:
    from pyro_vae.runs.trained_run import TrainedRun

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Longer words in an error message, such as values from a damaged file, are shortened.
LONGEST_WORD = 1000


class Stopped(KeyboardInterrupt):
    """SIGTERM, which otherwise ends a process without a message."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and suggest the option that was meant.

    Args:
        prog: The script's name.
        usage: The usage line.
        doc: The script's docstring; its first line is the description.
        epilog: Text after the options.
        takes_data: Whether there are options `--data` and `--data.*`, which depend on the data, so
            that another parser reads them.
    """

    def __init__(
        self,
        prog: str,
        usage: str,
        doc: str | None,
        epilog: str | None = None,
        *,
        takes_data: bool = False,
    ) -> None:
        super().__init__(
            prog=as_typed(prog, names=True),
            usage=usage,
            description=(doc or "").partition("\n")[0],
            epilog=epilog,
            allow_abbrev=False,
        )
        self.takes_data = takes_data

    def format_help(self) -> str:
        """The help text."""
        return as_typed(super().format_help(), names=True)

    def error(self, message: str) -> NoReturn:
        """Reword argparse's message.

        Raises:
            ValueError: Always; `run_program` prints it.
        """
        options = [o for a in self._actions for o in a.option_strings if o[:2] == "--"]
        argument, _, said = message.removeprefix("argument ").partition(": ")
        if message.startswith("unrecognized arguments: "):
            words = said.split()
            word = next((w for w in words if w.startswith("--")), words[0]).partition("=")[0]
            allowed = ", ".join(options)
            if word.startswith("--"):
                meant = did_you_mean(word, options)
                message = f"unknown option {word}: {meant}allowed are RUN and {allowed}."
            else:
                message = f"unexpected argument {word}: one RUN is allowed, and {allowed}."
        elif choice := re.match(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", said):
            names = choice[2].replace("'", "")
            end = or_meant(choice[1], names.split(", "))
            message = f"{argument} must be one of {names}, got {choice[1]!r}{end}"
        elif said.startswith("must be"):
            message = f"{argument} {said}"
        elif said.startswith("expected "):
            message = f"{argument} needs a value."
        elif said == "RUN":
            message = "missing RUN, the run directory that svi_train.py wrote, such as runs/NAME."
            message = as_typed(message, names=True)
        raise ValueError(message)

    def add_held_out_options(self) -> None:
        """Add the options that select held-out data, and draws for importance weights with k-hat.

        The data must not have trained the model.
        """
        add = self.add_argument
        add("--split", choices=("test", "validation"), default="test", help="Default: test.")
        add(
            "--images",
            type=number_or_all,
            default=1000,
            metavar="N|all",
            help="Examples of the split, always the same. Default: 1000.",
        )
        add(
            "--samples",
            type=at_least(MINIMUM_SAMPLES),
            metavar="N",
            default=1000,
            help="Draws from the guide for the importance weights of each example. Default: 1000.",
        )

    def add_common_options(self, *, seed: bool = True, device: bool = True) -> None:
        """Add the options of every script that reads a run.

        Args:
            seed: Whether the script draws random numbers.
            device: Whether it computes on a device of one's choice.
        """
        if seed:
            self.add_argument(
                "--seed",
                type=at_least(0),
                metavar="N",
                default=0,
                help="Seed of all random draws. Default: 0.",
            )
        if device:
            self.add_argument(
                "--device",
                choices=("auto", "cpu", "cuda"),
                default="auto",
                help="Device to compute on. Default: auto.",
            )
        self.add_argument(
            "--data-root",
            type=Path,
            help="Folder of the data sets. Default: $PYRO_VAE_DATA, or data.",
        )
        self.add_argument(
            "--trust-model-file",
            action="store_true",
            help="Execute the model file stored in the run. It can do anything: read it first.",
        )


def run_program(
    parser: Parser,
    run: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
    *,
    stopped: str,
) -> int:
    """Parse the options, run a script and print its errors in one line.

    Args:
        parser: The options.
        run: The script's work, given the options; `data` are those of other data than the run's.
        arguments: The arguments; None for those of the command line.
        stopped: Message after an interruption: the state that was left behind.

    Returns:
        The exit code: 0; 2 for an error of the user; 130 after Ctrl-C and 143 after SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    data, others = split_data_options(words) if parser.takes_data else ([], words)
    try:
        with use_noun("datum"), sigterm_as_interrupt():
            options = parser.parse_args(others)
            options.data = data
            run(options)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"{parser.prog}: error: {as_typed(in_one_line(error))}\n")
        return 2
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{parser.prog}: stopped; {stopped}\n")
        return 143 if isinstance(stop, Stopped) else 130
    return 0


def split_data_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the options of the data, `--data` and `--data.*`, and the others.

    >>> split_data_options(["run", "--data", "mnist", "--data.size=32", "--data-root", "x"])
    (['--data', 'mnist', '--data.size=32'], ['run', '--data-root', 'x'])
    """
    data: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, _ = word.partition("=")
        if option != "--data" and not option.startswith("--data."):
            others.append(word)
            continue
        data.append(word)
        if not equals:
            data += [value for value in [next(words, None)] if value is not None]
    return data, others


def in_one_line(error: object) -> str:
    """An error's message on one line, with long words shortened and control characters escaped."""
    words = [
        word if len(word) <= LONGEST_WORD else f"{word[:50]}...{word[-50:]}"
        for word in str(error).split()
    ]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(words))


def select_device(name: str) -> torch.device:
    """The device called "auto", "cpu" or "cuda"; of several processes each gets its own GPU.

    On a CPU this process keeps the memory that tensors of up to 32 MiB have freed for the next
    ones.

    Raises:
        ValueError: If CUDA is requested but not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda needs a GPU, but torch found none; use cpu or auto.")
    if name == "cpu" or not available:
        _keep_freed_memory()
        return torch.device("cpu")
    # torchrun numbers the processes of a machine.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory, instead of asking the system for new pages each time.

    Otherwise these pages, which are cleared first, take 0.4 of the time of importance weighting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc's.
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


def check_writable(path: Path) -> None:
    """Make sure, before anything is computed, that a file or folder can be made.

    Raises:
        ValueError: If the nearest folder above it that exists is a file or cannot be written to.
    """
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise ValueError(f"{path} cannot be written: {above} is a file, not a folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: no permission to write to {above}.")


def check_output(
    path: Path, suffixes: Sequence[str], *, overwrite: bool, is_folder: bool = False
) -> None:
    """Make sure, before anything is computed, that the file of `--out` may be written.

    Args:
        path: The file.
        suffixes: The suffixes of the formats.
        overwrite: Whether a file may be replaced.
        is_folder: Whether the path is a folder that is one file of its format.

    Raises:
        ValueError: If the suffix is another, the file exists and `overwrite` is false, it is a
            directory, or it cannot be written.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"--out must end in {', '.join(suffixes)}, got {path}.")
    check_writable(path)
    if path.is_dir() and not is_folder:
        raise ValueError(f"--out must be a file, got the directory {path}.")
    if path.exists() and not overwrite:
        raise ValueError(
            f"{path} exists already: --overwrite replaces it, another --out keeps it."
        )


def open_run(
    options: argparse.Namespace, path: Path | None = None, split: str | None = None
) -> "TrainedRun":
    """The run and the data that a script's options name.

    Args:
        options: Those of `add_common_options`, with `run` and `split` unless these are given.
        path: The run directory.
        split: The split of its data.

    Raises:
        ValueError: As `TrainedRun.open`.
    """
    from pyro_vae.runs.trained_run import TrainedRun

    return TrainedRun.open(
        path or options.run,
        split or options.split,
        device=select_device(options.device),
        data_root=options.data_root,
        trust_model_file=options.trust_model_file,
        words=options.data,
    )


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: an integer that is not below `lowest`."""

    def read(text: str) -> int:
        # int() would also accept 1_000, digits of other scripts and any length.
        if not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) < lowest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {lowest}, got {text!r}."
            )
        return int(text)

    return read


def number_or_all(text: str) -> int | None:
    """An argparse type: a positive integer, or "all", which gives None."""
    if text == "all":
        return None
    try:
        return at_least(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"must be all, or {str(error)[8:]}") from error


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise like Ctrl-C. Files are written atomically, so this is safe anywhere.

    Raises:
        Stopped: In the running code, on SIGTERM.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruption:
    """A request to stop by Ctrl-C or SIGTERM; calling it returns whether there is one."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in a shell; 0 without a request."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second one acts as usual."""
    interruption = Interruption()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        interruption.signal = signal.Signals(number)
        restore()

    for number in handlers:
        signal.signal(number, request)
    try:
        yield interruption
    finally:
        restore()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write the log to a file; warnings are also printed."""
    log = logging.getLogger("pyro_vae")
    log.setLevel(logging.INFO)
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    for handler in (file, screen):
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, screen):
            log.removeHandler(handler)
            handler.close()


def exit_process(code: int) -> NoReturn:
    """End the process at once, after what is registered with `atexit`.

    Python would first take apart all that was imported, which takes tenths of a second. With
    several processes, threads of torch.distributed may abort it meanwhile, and `torchrun` would
    count a finished training as failed.
    """
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError):
        # A closed pipe, which Python reports.
        sys.exit(code)
    os._exit(code)
