"""Training in one call, and data prepared for a likelihood."""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.checks import named_part, or_meant
from pyro_vae.data import (
    DATASETS,
    DataContract,
    Dataset,
    Kind,
    PreparedData,
    SupportMismatchError,
    Units,
    allow_missing,
    loader_for_path,
)
from pyro_vae.data.inspection import Judgement, check_values, grey_levels
from pyro_vae.data.missing import REMEDY
from pyro_vae.data.preprocessing import FITS
from pyro_vae.data.rows import ACCEPTED_DATA, as_rows
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.suspect_values import ColumnStatistics
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.model import names_of_support
from pyro_vae.networks import UserUnits, user_units
from pyro_vae.notebooks import in_notebook
from pyro_vae.objectives import OBJECTIVES, Objective
from pyro_vae.rng import check_device
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.history import History
from pyro_vae.training.loggers import Logger
from pyro_vae.training.loop import Training

log = logging.getLogger(__name__)


def fit(
    vae: nn.Module,
    data: Any,
    objective: str | Objective | None = None,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    loggers: Sequence[Logger] = (),
    check: Judgement = "refuse",
    **options: Any,
) -> History:
    """Train a VAE on data and return the history of its epochs. The VAE ends in evaluation mode.

    >>> from pyro_vae import build
    >>> from pyro_vae.data import digits
    >>> history = fit(build((1, 8, 8), prior="vamp"), digits(), epochs=2)
    >>> len(history), history[-1]["epoch"]
    (2, 2)
    >>> history.table()["validation_elbo"].shape
    (2,)
    >>> figure = history.plot()

    The first call gives the VAE the units of real data and initialises a likelihood of counts at
    their means, unless it was built with them or loaded them from a state_dict; `vae.contract`
    describes the data. A later call continues training, and needs data of the same shape, support
    and names.

    Args:
        vae: A VAE, trained in place, on the device of its parameters.
        data: A `Dataset`, or your own data: an array `(n, ...)`, a list of rows, a DataFrame, a
            sparse matrix, an AnnData, a torch Dataset or DataLoader, or a path. Grey levels are
            binarised at each visit for a likelihood of binary data; pass a `PreparedData` to
            choose otherwise.
        objective: The objective to maximise, or the name of one of `OBJECTIVES` with its defaults;
            the ELBO if None.
        checkpoint: A file for the state.
        resume: Whether to continue from that file if it exists.
        progress: Whether to show a progress bar; None for in a notebook only.
        loggers: What to write while training, such as
            `pyro_vae.training.loggers.TensorBoard("runs/mine")`.
        check: What to do about values that would make a wrong model, such as codes for missing
            values: "refuse" them, "warn" of them, or "none". Other findings are logged as
            warnings.
        **options: The options of `Training`: epochs, batch_size, lr and so on.

    Returns:
        A list of a record for each epoch, with `table()` and `plot()`.

    Raises:
        ValueError: If the data or an option do not fit.
        TypeError: If an option is unknown, the data have another type, or the program has no
            `likelihood` and the data are not a `PreparedData`.
        NonFiniteError: If too many consecutive steps have no finite gradient.
    """
    if not isinstance(vae, nn.Module):
        got = f"the class {vae.__name__}" if isinstance(vae, type) else type(vae).__name__
        raise TypeError(
            f"the first argument of fit must be a VAE, such as build(event_shape), got {got}."
        )
    _check_options(options)
    check_device(vae)
    contract: DataContract | None = getattr(vae, "contract", None)
    likelihood: Any = getattr(vae, "likelihood", None)
    # What a program says of missing values, and removes itself.
    gaps = {"allows_missing": getattr(vae, "allows_missing", False)}
    if rate := getattr(vae, "missing_rate", 0.0):
        gaps["missing_rate"] = rate
    if isinstance(data, PreparedData):
        ready = data
        if contract is not None:
            contract.check_format(ready.dataset)
    elif contract is not None and not isinstance(data, Dataset | str | Path):
        # Columns are put in the order of the first call.
        with allow_missing(contract.allows_missing):
            rows = as_rows(data, new=True)
        ready = contract.new_data(rows, split=True)
    else:
        if likelihood is None:
            raise TypeError(
                f"{type(vae).__name__} has no `likelihood`, whose support decides how data are "
                "prepared: pass a PreparedData."
            )
        with allow_missing(gaps["allows_missing"]):
            dataset = as_dataset(data, likelihood.support)
        if contract is not None:
            contract.check_format(dataset)
        ready = prepare_for_likelihood(dataset, likelihood, **gaps)
    shape = tuple(getattr(likelihood, "event_shape", ready.dataset.event_shape))
    if shape != ready.dataset.event_shape:
        raise ValueError(
            f"the VAE was built for data of shape {shape}, but those of {ready.dataset.name} have "
            f"the shape {ready.dataset.event_shape}: build it with that event shape."
        )
    units = _units_of(vae, ready) if contract is None else contract.units
    if units is not None and ready.likelihood_support == "real":
        ready = PreparedData(
            replace(ready.dataset, model_units=units),
            "real",
            dequantise=ready.dequantise,
            allows_missing=ready.allows_missing,
        )
    if ready.dataset.missing and not gaps["allows_missing"]:
        raise ValueError(
            f"{ready.dataset.name} has missing values, which {type(vae).__name__} does not leave "
            f"out of its likelihood: fill them in, or {REMEDY}."
        )
    # Before the model takes anything from the data.
    found = check_values(ready.dataset, ready.likelihood_support, judgement=check)
    if contract is None:
        initialise_from_data(vae, ready)
    notes = (*ready.dataset.notes, *(finding.text for finding in found))
    for note in notes:
        log.warning("%s", note)
    training = Training(vae, ready, _objective(objective, vae, ready), notes=notes, **options)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None and path.exists():
        training.load_state_dict(load_checkpoint(path))
    shown = in_notebook() if progress is None else progress
    history = History(training.run(checkpoint=path, progress=shown, loggers=loggers))
    vae.contract = training.contract  # pyright: ignore[reportArgumentType]
    return history


def _check_options(options: dict[str, Any]) -> None:
    """Check that `Training` has these options."""
    given = {"self", "vae", "program", "data", "objective", "notes", "options"}
    parameters = (*inspect.signature(fit).parameters, *inspect.signature(Training).parameters)
    known = [name for name in parameters if name not in given]
    for name in options:
        if name not in known:
            raise TypeError(
                f"fit has no option {name!r}{or_meant(name, known)} Options are "
                f"{', '.join(known)}."
            )


def _objective(
    objective: str | Objective | None, vae: nn.Module, data: PreparedData
) -> Objective | None:
    """The objective, with its defaults if it is given by name."""
    if objective is None or isinstance(objective, Objective):
        return objective
    part = named_part("objective", objective, OBJECTIVES)
    sizes = {
        "train_size": len(data.train),
        "latent_dim": getattr(getattr(vae, "prior", None), "latent_dim", None),
    }
    accepted = inspect.signature(part).parameters
    return part(**{name: size for name, size in sizes.items() if name in accepted})


def as_dataset(data: Any, likelihood_support: Any = None) -> Dataset:
    """Convert data of any form that `fit` takes, with splits.

    Args:
        data: The data.
        likelihood_support: The likelihood's support, which decides whether floats without a
            fraction are counts or real numbers.

    Raises:
        ValueError: If there is no such file, or the data cannot be a data set.
        TypeError: If the data have another type.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        loader = loader_for_path(str(data))
        if loader is None or not Path(data).exists():
            raise ValueError(
                f"there is no file or folder {str(data)!r}; data must be {ACCEPTED_DATA}."
            )
        return DATASETS[loader](path=data)
    rows = as_rows(data)
    known = rows.support is not None or likelihood_support not in ("counts", "real")
    if not known and _are_whole_floats(rows.values):
        rows = replace(rows, support=likelihood_support)
    return Dataset.from_rows(rows)


def _are_whole_floats(values: Any) -> bool:
    if not isinstance(values, np.ndarray | Tensor):
        return False
    array = np.asarray(values)
    # A missing value may be either.
    return array.dtype.kind == "f" and bool(((array == np.rint(array)) | np.isnan(array)).all())


def prepare_for_likelihood(dataset: Dataset, likelihood: Any, **options: Any) -> PreparedData:
    """Prepare data for a likelihood.

    Args:
        dataset: The data set.
        likelihood: A likelihood, or its class.
        **options: The options of `PreparedData`.

    Raises:
        ValueError: If an option is unknown, or the likelihood is not defined on such data. The
            message names the likelihoods that are.
    """
    try:
        return PreparedData(dataset, likelihood.support, **options)
    except SupportMismatchError as error:
        fitting = [f"{word}: {names_of_support(LIKELIHOODS, word)}" for word in error.fits]
        name = getattr(likelihood, "__name__", type(likelihood).__name__)
        # They were not inspected yet, and may be another kind of data than they seem.
        grey = next(grey_levels(ColumnStatistics(dataset, likelihood.support)), "")
        raise ValueError(
            f"{name} does not fit: {error} These are "
            f"{'; '.join(fitting)}.{grey and f' But {grey}'}"
        ) from error


def describe_default_likelihood(dataset: Dataset, name: str, kind: Kind) -> str:
    """A line with the default likelihood of the data, and the others that fit.

    Args:
        dataset: The data set.
        name: The likelihood's name.
        kind: The kind of data that it was chosen by.
    """
    words = {
        "grey": "grey images" if dataset.kind == "grey" else "binarised data",
        "levels": f"data of {dataset.levels} levels",
        "counts": "counts",
    }
    others = [
        other
        for other, part in LIKELIHOODS.items()
        if getattr(part, "support", None) in FITS[dataset.support] and other != name
    ]
    return (
        f"p(x|z) is {name}, the default for {words.get(kind, f'{kind} data')}; others that fit: "
        f"--likelihood {', '.join(others)}"
    )


def initialise_from_data(vae: nn.Module, data: PreparedData) -> None:
    """Give a VAE the units of data, and initialise its likelihood unless it already was."""
    units = data.dataset.units
    for module in vae.modules():
        if isinstance(module, UserUnits):
            module.set(units)
    posterior = getattr(vae, "posterior", None)
    if isinstance(posterior, nn.Module) and user_units(posterior) is None and not units.identity:
        log.warning(
            "the encoder reads the data in their own units: let it read them scaled, with "
            "networks.on_user_units(encoder, event_shape), as `build` does."
        )
    if not getattr(getattr(vae, "likelihood", None), "started", False):
        initialise_likelihood(vae, data)


def initialise_likelihood(vae: Any, data: PreparedData) -> None:
    """Initialise a likelihood that can be at the means of training data."""
    start = getattr(getattr(vae, "likelihood", None), "start_from", None)
    if start is not None:
        start(data.train if isinstance(data.train, SparseRows) else data.starting_rows())


def _units_of(vae: nn.Module, data: PreparedData) -> Units | None:
    """The units that a VAE was built with, or loaded from a state_dict; None without."""
    own, of_data = user_units(vae), data.dataset.units
    if own is None or not own.known:
        return None
    center, spread, floor = (
        getattr(own, name).double().cpu() for name in ("center", "spread", "floor")
    )
    different = ((center - of_data.center).abs() > spread) | (
        (spread / of_data.spread).log2().abs() > 1
    )
    if different.any():
        log.warning(
            "the VAE keeps the center and spread that it was built with or loaded, which differ "
            "from those of %s: build a new one to take those of the data.",
            data.dataset.name,
        )
    return replace(
        of_data,
        center=center,
        spread=spread,
        floor=floor,
        constant=torch.zeros_like(center, dtype=torch.bool),
        double=own.center.dtype == torch.float64,
    )
