"""Training in one call."""

import inspect
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.data import DATASETS, DataContract, Dataset, PreparedData, Units, loader_for_path
from pyro_vae.data.inspection import Judgement, check_values
from pyro_vae.data.rows import ACCEPTED_DATA, as_rows
from pyro_vae.networks import UserUnits, user_units
from pyro_vae.objectives import OBJECTIVES, Objective
from pyro_vae.parts import named_part
from pyro_vae.rng import check_device
from pyro_vae.suggestions import or_meant
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.history import History
from pyro_vae.training.loop import Training
from pyro_vae.training.preparing import prepared, start_likelihood

log = logging.getLogger(__name__)


def fit(
    vae: nn.Module,
    data: Any,
    objective: str | Objective | None = None,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    check: Judgement = "refuse",
    **options: Any,
) -> History:
    """Train a VAE on data and return the history of its epochs. Afterwards it is in evaluation mode.

    >>> from pyro_vae import build
    >>> from pyro_vae.data import digits
    >>> history = fit(build((1, 8, 8), prior="vamp"), digits(), epochs=2)
    >>> len(history), history[-1]["epoch"]
    (2, 2)
    >>> history.table()["validation_elbo"].shape
    (2,)
    >>> figure = history.plot()

    The first call gives the VAE the units of real data and starts a likelihood of counts at their
    means, unless it was built with some or a state_dict brought them; `vae.contract` describes the
    data. A further call trains on, and needs data of the same shape, support and names.

    Args:
        vae: A VAE, trained in place, on the device its parameters are on.
        data: A `Dataset`, or data of your own: an array `(n, ...)`, a list of rows, a DataFrame, a
            sparse matrix, an AnnData, a torch data set or DataLoader, or a path. Grey levels are
            binarised at each visit for a likelihood of binary data; give a `PreparedData` to choose
            otherwise.
        objective: What is maximised: an objective, or the name of one of `OBJECTIVES` with its defaults;
            the ELBO if None.
        checkpoint: A file to keep the state in.
        resume: Whether to go on from that file where it exists.
        progress: Whether to show a bar.
        check: What is done about values that would make a wrong model, such as marks of missing values:
            "refuse" them, "warn" of them, or "none". Other findings are logged as warnings.
        **options: Those of `Training`: epochs, batch_size, lr and so on.

    Returns:
        A list of a record for each epoch, with `table()` and `plot()`.

    Raises:
        ValueError: If the data or an option do not fit.
        TypeError: If an option is unknown, the data are none of these, or the program has no `likelihood`
            and they are no `PreparedData`.
        NonFiniteError: If no step had a finite gradient for a while.
    """
    if not isinstance(vae, nn.Module):
        got = f"the class {vae.__name__}" if isinstance(vae, type) else type(vae).__name__
        raise TypeError(f"fit(vae, data) takes a VAE, as of build(event_shape), first, got {got}.")
    _check_options(options)
    check_device(vae)
    contract: DataContract | None = getattr(vae, "contract", None)
    likelihood: Any = getattr(vae, "likelihood", None)
    if isinstance(data, PreparedData):
        ready = data
        if contract is not None:
            contract.check_format(ready.dataset)
    elif contract is not None and not isinstance(data, Dataset | str | Path):
        # Columns are put in the order of the first call.
        ready = contract.new_data(as_rows(data, new=True), split=True)
    else:
        if likelihood is None:
            raise TypeError(
                f"{type(vae).__name__} has no `likelihood`, whose support says how to prepare data: give "
                "a PreparedData."
            )
        dataset = as_dataset(data, likelihood.support)
        if contract is not None:
            contract.check_format(dataset)
        ready = prepared(dataset, likelihood)
    shape = tuple(getattr(likelihood, "event_shape", ready.dataset.event_shape))
    if shape != ready.dataset.event_shape:
        raise ValueError(
            f"the VAE is one of data of shape {shape}, and those of {ready.dataset.name} have the shape "
            f"{ready.dataset.event_shape}: build it with that event shape."
        )
    units = _own_units(vae, ready) if contract is None else contract.units
    if units is not None and ready.likelihood_support == "real":
        ready = PreparedData(
            replace(ready.dataset, model_units=units), "real", dequantise=ready.dequantise
        )
    # Before the model takes anything from the data.
    found = check_values(ready.dataset, ready.likelihood_support, judgement=check)
    if contract is None:
        start_from(vae, ready)
    notes = (*ready.dataset.notes, *(finding.text for finding in found))
    for note in notes:
        log.warning("%s", note)
    training = Training(vae, ready, _objective(objective, vae, ready), notes=notes, **options)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None and path.exists():
        training.load_state_dict(load_checkpoint(path))
    history = History(training.run(checkpoint=path, progress=progress))
    vae.contract = training.contract  # pyright: ignore[reportArgumentType]
    return history


def _check_options(options: dict[str, Any]) -> None:
    """Make sure that `Training` has such options."""
    given = {"self", "program", "data", "objective", "notes"}
    known = [
        name
        for function in (fit, Training)
        for name in inspect.signature(function).parameters
        if name not in (given | {"vae", "options"})
    ]
    for name in options:
        if name not in known:
            raise TypeError(
                f"fit has no option {name!r}{or_meant(name, known)} Options are {', '.join(known)}."
            )


def _objective(
    objective: str | Objective | None, vae: nn.Module, data: PreparedData
) -> Objective | None:
    """The objective, with its defaults if it is named."""
    if objective is None or isinstance(objective, Objective):
        return objective
    made = named_part("objective", objective, OBJECTIVES)
    sizes = {
        "train_size": len(data.train),
        "latent_dim": getattr(getattr(vae, "prior", None), "latent_dim", None),
    }
    asked = inspect.signature(made).parameters
    return made(**{name: size for name, size in sizes.items() if name in asked})


def as_dataset(data: Any, likelihood_support: Any = None) -> Dataset:
    """Data of any form that `fit` takes, split and numbered.

    Args:
        data: The data.
        likelihood_support: That of the likelihood, which says what floats without a fraction are: counts,
            or real numbers.

    Raises:
        ValueError: If there is no such file, or the data cannot be a data set.
        TypeError: If they are none of these forms.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        loader = loader_for_path(str(data))
        if loader is None or not Path(data).exists():
            raise ValueError(f"there is no file or folder {str(data)!r}; data must be {ACCEPTED_DATA}.")
        return DATASETS[loader](path=data)
    rows = as_rows(data)
    if (
        rows.support is None
        and likelihood_support in ("counts", "real")
        and _are_whole(rows.values)
    ):
        rows = replace(rows, support=likelihood_support)
    return Dataset.from_rows(rows)


def _are_whole(values: Any) -> bool:
    """Whether an array or tensor holds floats, none of which has a fraction."""
    if not isinstance(values, np.ndarray | Tensor):
        return False
    array = np.asarray(values)
    return array.dtype.kind == "f" and bool((array == np.rint(array)).all())


def start_from(vae: nn.Module, data: PreparedData) -> None:
    """Give a VAE the units of data, and start its likelihood from them unless it was started before."""
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
        start_likelihood(vae, data)


def _own_units(vae: nn.Module, data: PreparedData) -> Units | None:
    """The units that a VAE was built with, or that its state_dict brought; None without."""
    own, of_data = user_units(vae), data.dataset.units
    if own is None or not own.known:
        return None
    center, spread, floor = (
        getattr(own, name).double().cpu() for name in ("center", "spread", "floor")
    )
    apart = ((center - of_data.center).abs() > spread) | (
        (spread / of_data.spread).log2().abs() > 1
    )
    if apart.any():
        log.warning(
            "the VAE keeps the center and spread that it was built with or loaded, which differ from "
            "those of %s: build a new one to take those of the data.",
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
