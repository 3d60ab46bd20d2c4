"""A Pyro model and its guide as a tree that ArviZ reads, and its files."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.checks import check_at_least
from pyro_vae.inference_data.sampling import Pair, plan_blocks, sample_in_blocks, sample_prior
from pyro_vae.inference_data.terms import loo_attributes
from pyro_vae.inference_data.tree import (
    GROUPS,
    constants_of,
    dataset_of,
    groups_of,
    names_of,
    storable_name,
)
from pyro_vae.rng import check_device, evaluation_mode, owners_of

if TYPE_CHECKING:
    import xarray

log = logging.getLogger(__name__)

SAMPLING = (
    "Independent draws from the guide q(z | x), neither reweighted nor a Markov chain: their "
    "r_hat and ESS say nothing about the guide; k-hat and ESS of log_weight do. "
    "posterior_predictive holds replicates of the same data, x ~ p(x | z) with z ~ q(z | x); they "
    "describe the fit and are not a calibrated test of it. prior_predictive holds new data, z ~ "
    "p(z)."
)


def from_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_draws: int = 100,
    num_prior_draws: int = 25,
    num_stored: int = 64,
    block_size: int | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    constant_data: Mapping[str, ArrayLike] | None = None,
    rows: ArrayLike | None = None,
    row_names: ArrayLike | None = None,
    configuration: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
    data_plate: str | None = None,
    data_dim: str | None = None,
    max_plate_nesting: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> "xarray.DataTree":
    """z ~ q(z | x), x' ~ p(x | z) and the terms of each draw, as the groups that ArviZ reads.

    Any model and guide are possible: hand-written or automatic, with global or local latent sites,
    with parameters in Pyro's store or in modules, with masks, factors, deterministic sites,
    subsampled plates (all draws share one subsample) or no plate at all. Draws are vectorised if
    the programs allow it, which is tried and checked, and otherwise taken one by one: the
    attribute `draws_taken` says which, and why. Modules among `model` and `guide`, or of which
    they are methods, are in evaluation mode.

    `posterior` holds the latent and the deterministic sites; `posterior_predictive` data drawn at
    the posterior's z; `prior` and `prior_predictive` the same from the model alone; then
    `observed_data` and `constant_data`. Variables have the dimensions `(chain, draw, plates, event
    axes)`, with one chain. `sample_stats` holds log p(x | z), log p(z), log q(z | x) and log
    weights in nats and float64. The rest depends on the plates of the latent sites:

    - All in the plate over data, as in a VAE: each example has its own terms, of the dimensions
      `(chain, draw, data)`. `per_datum` has the ELBO, log p(x), k-hat, ESS and the mean and
      standard deviation of the latent sites for *all* data; raw draws are kept for the first
      `num_stored`. Its `kl` is exact where there is a closed form, as the attribute `estimate`
      says; other variables have the attribute `num_draws`. There is no `log_likelihood`: pointwise
      LOO would rank the worst guide first.
    - Otherwise the terms are those of all data together, `(chain, draw)`, and the pointwise
      `log_likelihood` is there for `arviz_stats.loo` and `loo_approximate_posterior`. Its
      attribute `notes` names the data for which these are not defined, and a remedy. Sums over a
      subsample are scaled to all data, as in Pyro's ELBO.

    Data of the first kind are processed in blocks if there are more than `num_stored`. Every
    argument that is a tensor or an array and as long as the first such one is divided along its
    first axis. The stored data are a separate block: under one seed their draws do not depend on
    the block size. Programs that cannot be run on a part of the data, such as ones with a
    parameter per example, are run on all data at once.

    Sites may have any name, which is also that of the variable. A dimension that would have the
    same name gets a suffix: `image_dim` beside a site called `image`. A site called `draw` or
    `chain`, which are ArviZ's dimensions, is the variable `draw_site`; one called `a/b` is
    `a%2Fb`. The attribute `site` of such a variable holds the site's name.

    Log densities are unscaled: `poutine.scale` does not enter. A latent site that the guide lacks,
    such as one that training marginalises, is drawn from the model given the others.

    Args:
        model: A Pyro model.
        guide: Its guide.
        *args: The arguments of both.
        num_draws: The number of draws from the guide.
        num_prior_draws: The number of draws from the model, each of as many data as are stored; 0
            for none, which a model with an improper prior needs.
        num_stored: The number of data whose raw draws are kept, if each example has its own.
        block_size: The number of data processed at once. None for about 4 million elements.
        coords: Dimension -> the values along it, for all data or for those stored; of values for
            all data of a subsampled plate, those in it are used. By default integers from 0; for a
            subsample, its rows.
        dims: Site -> the names of its event axes. By default, for a site in the plate over data,
            `row, column` after a `channel` for two or three axes, and for one `latent_dim` if the
            site is latent and `element` if observed; for others `SITE_dim_0` and so on. For a
            variable of `constant_data`, the names of all its axes.
        constant_data: Variables that are not sites, such as labels; a first axis that is as long
            as the data, or as those stored, is theirs. Of all data of a subsample, those in it are
            used.
        rows: The row numbers of the data in their file: the coordinate along their dimension, to
            join the tree with other tables.
        row_names: The name of each example: the coordinate `row_name` along the same dimension.
        configuration: The options of the run, stored as the attribute `configuration` in JSON.
        attrs: Further attributes of the tree: strings, numbers or lists of these.
        data_plate: The plate over data. None for the outermost one with an observed site in it.
        data_dim: The name of the data's dimension in the tree. None for the plate's, or `image` if
            an example has two or three axes.
        max_plate_nesting: The number of axes of plates. None to find out.
        seed: The seed of a separate random stream. None to draw from the global one.
        **kwargs: The keyword arguments of both.

    Returns:
        A tree for `arviz_stats.summary`, `arviz_plots` and the rest of ArviZ.

    Raises:
        ValueError: If a number is too small, a name is not one of the program's, `block_size` is
            given and data cannot be divided, draws differ in their sites, or, before any draw, if
            something cannot be stored.
    """
    import xarray

    check_at_least(1, num_draws=num_draws, num_stored=num_stored)
    check_at_least(0, num_prior_draws=num_prior_draws)
    if block_size is not None:
        check_at_least(1, block_size=block_size)
    _check_attributes(attrs or {})
    check_device(*owners_of(model, guide))
    with evaluation_mode(model, guide, seed=seed):
        plan = plan_blocks(
            Pair(model, guide, args, kwargs),
            num_draws=num_draws,
            num_stored=num_stored,
            block_size=block_size,
            options={"data_plate": data_plate, "max_plate_nesting": max_plate_nesting},
        )
        # Names and values from outside are checked before the draws, which may take long.
        dims, constants = dims or {}, _storable_constants(constant_data or {})
        names = names_of(plan.layout, data_dim, dims, constants)
        labels = {
            names.renamed.get(dim, dim): storable(values, f"coords of {dim!r}")
            for dim, values in (coords or {}).items()
        }
        if rows is not None:
            labels = {names.data_dim: storable(rows, "rows")} | labels
        sample = sample_in_blocks(plan, num_draws=num_draws, num_stored=num_stored)
        layout = sample.layout
        prior = {}
        if num_prior_draws:
            prior = sample_prior(plan.blocks[0][1], layout, num_prior_draws)

    groups = groups_of(sample, prior, names)
    stored = sample.terms["log_p_x_given_z"].shape[1] if sample.statistics else plan.size
    subsamples = {names.plate(name): found for name, found in layout.subsamples().items()}
    size, subsample = subsamples.get(names.data_dim, (None, None))
    row_labels = None if row_names is None else storable(row_names, "row_names")
    if row_labels is not None:
        if len(row_labels) != (size or plan.size):
            raise ValueError(
                f"row_names must be {size or plan.size}, one per example, got {len(row_labels)}."
            )
        if subsample is not None:
            row_labels = row_labels[subsample]
    constants = {
        name: values[subsample] if values.shape[:1] == (size,) else values
        for name, values in constants.items()
    }
    few, every = constants_of(constants, dims, names, size=plan.size, stored=stored)
    groups["constant_data"] = few
    if sample.statistics:
        groups["per_datum"] |= every

    lengths = {
        dim: length
        for group in groups.values()
        for axes, values, _ in group.values()
        for dim, length in zip(axes, values.shape, strict=False)
    }
    for dim, values in labels.items():
        full_size, chosen = subsamples.get(dim, (None, None))
        if chosen is not None and len(values) == full_size:
            labels[dim] = values[chosen]
            continue
        expected = [stored, plan.size] if dim == names.data_dim else [lengths.get(dim)]
        if dim in lengths and len(values) not in expected:
            allowed = " or ".join(sorted({str(length) for length in expected}))
            raise ValueError(f"coords of {dim!r} must be {allowed} values, got {len(values)}.")
    for dim, (_, chosen) in subsamples.items():
        labels.setdefault(dim, chosen)

    creation = _creation()
    pointwise = {
        name: np.moveaxis(values[0], list(axes).index(names.data_dim) - 1, 1)
        for name, (axes, values, _) in groups["log_likelihood"].items()
        if names.data_dim in axes
    }
    notes = loo_attributes(pointwise, names.data_dim, subsample)
    if notes:
        log.warning("log_likelihood: %s", notes["notes"])
    root = creation | {
        "model": _program_name(model),
        "guide": _program_name(guide),
        "sampling": SAMPLING,
        "draws_taken": "at once" if layout.at_once else "one by one",
    }
    if layout.obstacle and not layout.at_once:
        root["draws_taken"] += f": {layout.obstacle}"
    root |= dict(attrs or {})
    if configuration is not None:
        # NetCDF attributes cannot be None, booleans or mappings.
        root["configuration"] = json.dumps(dict(configuration), default=str)
    if notes:
        root["notes"] = str(notes["notes"])
    datasets = {}
    for group, description in GROUPS.items():
        if not groups[group]:
            continue
        attributes = creation | {"description": description}
        attributes |= notes if group == "log_likelihood" else {}
        dataset = dataset_of(groups[group], labels, attributes)
        if (
            row_labels is not None
            and names.data_dim in dataset.sizes
            and "row_name" not in dataset
        ):
            some = row_labels[: dataset.sizes[names.data_dim]]
            dataset = dataset.assign_coords(row_name=(names.data_dim, some))
        datasets[group] = dataset
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=root), **datasets})


def _creation() -> dict[str, Any]:
    """The attributes that say when and by what the tree was created."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyro_vae.inference_data",
        "inference_library": "pyro",
        "inference_library_version": version("pyro-ppl"),
        "torch_version": version("torch"),
    }


def _program_name(program: Any) -> str:
    """The name of a function, a method or a module."""
    owner = getattr(program, "__self__", None)
    name = getattr(program, "__name__", type(program).__name__)
    return name if owner is None else f"{type(owner).__name__}.{name}"


# ---- values from outside ------------------------------------------------------------------------


def storable(values: ArrayLike, what: str) -> np.ndarray:
    """Values as an array of numbers, strings or times, which NetCDF and Zarr can store.

    Args:
        values: The values.
        what: What they are, for the message.

    Raises:
        ValueError: If they are anything else.
    """
    array = np.asarray(values)
    if array.dtype == object:
        kinds = {type(value) for value in array.flat}
        numbers = (bool, int, float, np.number, np.bool_)
        if all(issubclass(kind, str) for kind in kinds):
            return array.astype(str)
        if all(issubclass(kind, numbers) for kind in kinds):
            # Integers beyond 64 bits stay objects.
            array = np.array(array.tolist())
    if array.dtype.kind not in "biufUSMm":
        found = sorted({type(value).__name__ for value in array.flat}) if array.size else []
        raise ValueError(
            f"{what} must be numbers, strings or times, which files can store, got "
            f"{' and '.join(found) or array.dtype}: convert them, missing strings to ''."
        )
    return array


def _storable_constants(constants: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The variables of `constant_data`, under names that a file can store."""
    return {
        storable_name(name, "variable of constant_data"): storable(
            values, f"constant_data of {name!r}"
        )
        for name, values in constants.items()
    }


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    """Check that attributes are strings, numbers or lists of one of these."""
    for name, value in attributes.items():
        storable_name(name, "attribute")
        if isinstance(value, (bool, np.bool_)) or np.asarray(value).dtype.kind not in "iufU":
            raise ValueError(
                f"attrs of {name!r} must be a string, a number or a list of these, got {value!r}: "
                "give options in `configuration`, which is stored as JSON."
            )


# ---- files --------------------------------------------------------------------------------------


def write_netcdf(tree: "xarray.DataTree", path: str | os.PathLike[str]) -> Path:
    """Write a tree to a compressed NetCDF file, atomically.

    `xarray.open_datatree`, `arviz_base.convert_to_datatree` and `arviz.from_netcdf` of both lines
    open the file.

    Args:
        tree: A tree from `from_svi`.
        path: The file, which is replaced if it exists.

    Returns:
        The path.
    """
    path = Path(path)
    encoding = {
        node.path: {name: {"zlib": True, "complevel": 4} for name, v in node.items() if v.ndim}
        for node in tree.leaves
    }
    # In the same directory, for an atomic rename. The fixed name lets the next process overwrite
    # what a killed one left behind.
    partial = path.with_name(f".{path.name}.tmp")
    try:
        tree.to_netcdf(partial, engine="h5netcdf", encoding=encoding)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_zarr(tree: "xarray.DataTree", path: str | os.PathLike[str]) -> Path:
    """Write a tree to a Zarr store, completely or not at all.

    The store is a directory. `xarray.open_datatree(path, engine="zarr")` opens it, and so does
    `arviz.from_zarr` from ArviZ 1.0 on; that of 0.x refuses any Zarr that current xarray accepts.
    The format is Zarr's second, which both read without a warning.

    Replacing a store takes two steps, with the old one kept as `.NAME.old`: a process killed
    between them leaves that, and the new one as `.NAME.tmp`.

    Args:
        tree: A tree from `from_svi`.
        path: The store, which is replaced if it exists.

    Returns:
        The path.

    Raises:
        ImportError: If `zarr` is not installed.
        ValueError: If there is something other than a Zarr store at the path.
    """
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError("write_zarr needs Zarr: pip install zarr.") from error
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} must be a directory, got a file.")
    if path.is_dir() and any(path.iterdir()) and not (path / ".zgroup").exists():
        raise ValueError(f"{path} is a directory, but not a Zarr store: it is not replaced.")
    partial, old = (path.with_name(f".{path.name}.{suffix}") for suffix in ("tmp", "old"))
    try:
        for directory in (partial, old):
            shutil.rmtree(directory, ignore_errors=True)
        tree.to_zarr(partial, mode="w", zarr_format=2, consolidated=True)
        _exchange(partial, path, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
    return path


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Put a directory in place of another, which a rename over a non-empty one cannot."""
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
