"""The data, the VAE and the objective that a configuration names."""

import inspect
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.configuration import Configuration, ConfigurationError
from pyro_vae.configuration.model_files import (
    BY_KIND,
    DEFAULT_MODEL,
    MODEL_FAMILIES,
    allows_missing,
    build_options,
    build_parameters,
    check_program,
    errors_located,
    likelihood_of_kind,
    model_file,
    model_parts,
)
from pyro_vae.data import DATASETS, Dataset, Kind, PreparedData, Units, allow_missing
from pyro_vae.data.inspection import check_values
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.objectives import OBJECTIVES, Objective
from pyro_vae.training.fit import initialise_likelihood, prepare_for_likelihood
from pyro_vae.training.loggers import LOGGERS, Logger
from pyro_vae.training.loop import Training

FAMILIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "data": DATASETS,
    **MODEL_FAMILIES,
    "objective": OBJECTIVES,
    "log": LOGGERS,
}

# Where and whether to write; not stored.
UNSAVED = ("config", "print_config", "out", "resume", "overwrite", "trust_model_file")

# For a larger option, or more elements of an example, memory is checked before the VAE is built.
LARGE_SIZE = 1024
LARGE_EXAMPLE = 1_000_000


def to_yaml(configuration: Configuration) -> str:
    """A configuration as `--config` reads it."""
    stored = {name: value for name, value in configuration.items() if name not in UNSAVED}
    return yaml.safe_dump(stored, sort_keys=False, allow_unicode=True)


def load_data(configuration: Configuration, root: Path) -> Dataset:
    """Load the data set that a configuration names."""
    loader = DATASETS[configuration["data"]["name"]]
    options = _options(configuration["data"])
    options.pop("check", None)
    if "root" in inspect.signature(loader).parameters:
        options["root"] = root
    with allow_missing(allows_missing(model_file(configuration["model"]))):
        return loader(**options)


def build_vae(
    configuration: Configuration,
    event_shape: Sequence[int],
    *,
    train_data: Tensor | None = None,
    train_size: int | None = None,
    train_labels: Tensor | None = None,
    levels: int | None = None,
    units: Units | None = None,
    kind: Kind = "binary",
) -> PyroModule:
    """Build the VAE that a configuration names.

    Args:
        configuration: The configuration.
        event_shape: The shape of an example.
        train_data: Training data, for parts that start from data.
        train_size: The number of training examples.
        train_labels: The labels of the training examples, or `distinct_labels` of them.
        levels: The number of levels of the data.
        units: The units of the data.
        kind: The kind of data, which selects the default likelihood.

    Raises:
        ValueError: If the parts do not fit together.
    """
    module = model_file(configuration["model"])
    parts = {
        family: partial(choices[configuration[family]["name"]], **_options(configuration[family]))
        for family, choices in model_parts(module).items()
        # The default of `build` depends on the kind of data.
        if configuration[family]["name"] != BY_KIND
    }

    asked = build_parameters(module)
    options = {name: configuration[name] for name in build_options(module)}

    def build(**data: Any) -> Any:
        # A model file gets what its `build` asks for.
        given = {name: value for name, value in data.items() if name in asked}
        given |= {**parts, **options}
        with errors_located(module):
            return module.build(tuple(event_shape), configuration["latent_dim"], **given)

    sizes = [configuration["latent_dim"]]
    sizes += _integers([configuration[f] for f in MODEL_FAMILIES if f in configuration])
    try:
        if max(sizes) > LARGE_SIZE or math.prod(event_shape) > LARGE_EXAMPLE:
            _check_memory(build, train_size, levels, kind)
        vae = build(
            train_data=train_data,
            train_size=train_size,
            train_labels=train_labels,
            levels=levels,
            units=units,
            kind=kind,
        )
        check_program(module, vae, event_shape)
        return vae
    except (OverflowError, MemoryError, RuntimeError, TypeError) as error:
        # torch raises each of these types for sizes; other messages are errors of the program.
        if not re.search(
            "overflow|allocate|out of memory|range error|too large", str(error), re.IGNORECASE
        ):
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"a VAE of these sizes cannot be built: {reason}.") from error


def build_vae_for(
    configuration: Configuration, data: PreparedData, *, start: bool = True
) -> PyroModule:
    """Build the VAE that a configuration names for these data.

    Parts that start from data only see the `starting_rows`, of which a model file may ask for
    another number, `STARTING_ROWS`. The same seed of the global random stream gives the same VAE.

    Args:
        configuration: The configuration.
        data: The data.
        start: Whether parts start from data; not where a state is loaded, which replaces it.

    Raises:
        ValueError: As `build_vae`.
    """
    number = getattr(model_file(configuration["model"]), "STARTING_ROWS", None)
    vae = build_vae(
        configuration,
        data.dataset.event_shape,
        train_data=data.starting_rows(number) if start else None,
        train_size=len(data.train),
        train_labels=data.dataset.labels.get("train"),
        levels=data.dataset.levels,
        units=data.dataset.units,
        kind=kind_of_data(configuration, data.dataset),
    )
    if start and isinstance(data.train, SparseRows):
        initialise_likelihood(vae, data)
    return vae


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield value


def _check_memory(
    build: Callable[..., nn.Module], train_size: int | None, levels: int | None, kind: Kind
) -> None:
    """Build on the device "meta" first, and compare with the memory of this machine.

    A system may grant more memory than it has and kill the process.

    Raises:
        ConfigurationError: If the tensors exceed the memory of this machine.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            vae = build(train_size=train_size, levels=levels, kind=kind)
    # Parts that read their tensors, or need data, cannot be built so.
    except (ValueError, RuntimeError) as error:
        if re.search("overflow", str(error), re.IGNORECASE):
            raise
        return
    tensors = [*vae.parameters(), *vae.buffers()]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigurationError(
            f"the VAE's tensors would need {needed / 2**30:,.0f} GiB, and this machine has "
            f"{memory / 2**30:,.0f}: choose a smaller latent_dim, or smaller parts."
        )


def kind_of_data(configuration: Configuration, dataset: Dataset) -> Kind:
    """The kind of data that selects the default likelihood; `dataset.kind` by default.

    Levels that are binarised count as grey images; those that are not do not.
    """
    binarisation = configuration["binarisation"]
    if dataset.support not in ("integers", "unit") or binarisation == "dynamic":
        return dataset.kind
    if binarisation != "none":
        return "grey"
    return "levels" if dataset.support == "integers" else "unit"


def prepare_data(configuration: Configuration, dataset: Dataset) -> PreparedData:
    """Prepare data for the configured likelihood.

    Raises:
        ValueError: If the likelihood is not defined on such data.
    """
    module = model_file(configuration["model"])
    names = inspect.signature(PreparedData).parameters.keys() & configuration.keys()
    options = {name: configuration[name] for name in names - {"dataset", "likelihood_support"}}
    options["allows_missing"] = allows_missing(module)
    if "likelihood" not in configuration:
        return PreparedData(dataset, module.SUPPORT, **options)
    name = configuration["likelihood"]["name"]
    if name == BY_KIND:
        name = likelihood_of_kind(module, kind_of_data(configuration, dataset))
    return prepare_for_likelihood(dataset, model_parts(module)["likelihood"][name], **options)


def check_data(configuration: Configuration, data: PreparedData) -> tuple[str, ...]:
    """Notes about the data, one line each.

    Raises:
        ValueError: If they would give a wrong model, and `data.check` is not "warn" or "none".
    """
    judgement = configuration["data"].get("check", "refuse")
    found = check_values(data.dataset, data.likelihood_support, judgement=judgement)
    return (*data.dataset.notes, *(finding.text for finding in found))


def build_objective(
    configuration: Configuration, program: nn.Module, *, train_size: int
) -> Objective:
    """Build the objective that a configuration names.

    Args:
        configuration: The configuration.
        program: The program, whose prior may have more dimensions than `latent_dim`.
        train_size: The number of training examples.
    """
    objective = OBJECTIVES[configuration["objective"]["name"]]
    prior = getattr(program, "prior", None)
    latent_dim = getattr(prior, "latent_dim", configuration["latent_dim"])
    given = {"train_size": train_size, "latent_dim": latent_dim}
    asked = inspect.signature(objective).parameters
    handed = {name: value for name, value in given.items() if name in asked}
    return objective(**handed, **_options(configuration["objective"]))


def build_logger(configuration: Configuration, directory: Path) -> Logger:
    """Build the logger that a configuration names, with the folder of its name for its files.

    Args:
        configuration: The configuration.
        directory: The run directory.
    """
    name = configuration["log"]["name"]
    logger = LOGGERS[name]
    given = {"directory": directory / name}
    asked = inspect.signature(logger).parameters
    handed = {option: value for option, value in given.items() if option in asked}
    return logger(**handed, **_options(configuration["log"]))


def training_options(configuration: Configuration) -> dict[str, Any]:
    """The options of `Training` in a configuration."""
    names = inspect.signature(Training).parameters.keys() & configuration.keys()
    return {
        name: configuration[name] for name in names - {"program", "data", "objective", "notes"}
    }


def number_of_parameters(program: nn.Module) -> int:
    """The number of elements of all parameters."""
    return sum(parameter.numel() for parameter in program.parameters())


def describe_model(configuration: Configuration, program: nn.Module) -> str:
    """The model in one line."""
    words = {"prior": "p(z)", "likelihood": "p(x|z)", "posterior": "q(z|x)", "network": ""}
    parts = [
        f"{word} {configuration[family]['name']}".strip()
        for family, word in words.items()
        if family in configuration
    ]
    model = configuration["model"]
    return ", ".join(
        [
            *([] if model == DEFAULT_MODEL else [f"model {model}"]),
            *parts,
            f"z in {configuration['latent_dim']} dimensions",
            f"{number_of_parameters(program):,} parameters",
        ]
    )


def _options(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "name"}
