"""Data that a run was not trained on, as its guide reads them."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from pyro_vae.cli.argv import normalised, overridden
from pyro_vae.cli.command_line import parse_stored, stored_arguments
from pyro_vae.data import READERS, PreparedData, default_root
from pyro_vae.runs.configuration import load_data, prepare_data
from pyro_vae.runs.run_directory import RunDirectory, stored_contract
from pyro_vae.training.checkpoint import load_checkpoint


def taken_data_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that say which data, `--data` and `--data.*`, and the others.

    >>> taken_data_options(["run", "--data", "mnist", "--data.size=32", "--data-root", "x"])
    (['--data', 'mnist', '--data.size=32'], ['run', '--data-root', 'x'])
    """
    data, others = [], []
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


def name_in_file(name: str) -> str:
    """A name of data as part of a file's name.

    >>> name_in_file("my data/2")
    'my_data_2'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def other_data(
    directory: RunDirectory,
    words: Sequence[str],
    *,
    data_root: Path | None = None,
    trust_model_file: bool = False,
    split: bool = False,
) -> PreparedData:
    """The data that a command line names, prepared as a run's own: its support, its binarisation.

    A file or folder is new data: it is not split, its columns are matched by name, and labels are not
    needed. A named set keeps its splits.

    Args:
        directory: The run's.
        words: Options as `scripts/svi_train.py` takes them: `--data mnist`, `--data x.npy`,
            `--data.size 32`. Without a name they are options of the run's own data.
        data_root: Where data lie; None for the usual place.
        trust_model_file: As of `load`.
        split: Whether a file or folder is split as for training, for what is fitted to some of its rows.

    Raises:
        ValueError: If an option is unknown, the data are not there, or they do not fit the run's: in
            shape, names, levels or support. In one line.
    """
    stored = stored_arguments(directory.path, trust_model_file=trust_model_file)
    configuration = parse_stored(overridden(stored, list(normalised(words))))
    contract = stored_contract(load_checkpoint(directory.checkpoint), directory.path)
    options = dict(configuration["data"])
    reader = READERS.get(options.pop("name"))
    if reader is not None:
        asked = inspect.signature(reader).parameters
        given = {name: value for name, value in options.items() if name in asked}
        if "columns" in asked:
            given["columns"] = contract.event_names
        return contract.new_data(reader(**given), split=split)
    data = prepare_data(configuration, load_data(configuration, data_root or default_root()))
    contract.check_format(data.dataset, trained=str(directory.path))
    return data
