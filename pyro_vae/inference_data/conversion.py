"""`from_svi`: a Pyro model and its guide, as the tree that ArviZ reads."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.inference_data.blocks import Arguments
from pyro_vae.inference_data.draws import draw_prior
from pyro_vae.inference_data.pointwise import loo_attributes
from pyro_vae.inference_data.storable import check_attributes, storable, storable_constants
from pyro_vae.inference_data.taking import plan, take
from pyro_vae.inference_data.tree import (
    GROUPS,
    SAMPLING,
    Variable,
    about,
    constants_of,
    dataset_of,
    groups_of,
    name_of,
    names_of,
)
from pyro_vae.rng import check_device, evaluation_mode, owners_of

if TYPE_CHECKING:
    import xarray

log = logging.getLogger(__name__)


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

    Any model and guide will do: hand-written or automatic, with global or local latent sites, with
    parameters in Pyro's store or in modules, with masks, factors, computed sites, subsampled plates
    (all draws share one subsample) or no plate at all. Draws are taken at once if the programs can do
    that, which is tried and checked, and one by one if not: the attribute `draws_taken` says which, and
    why. Modules among `model` and `guide`, or
    whose methods they are, are in evaluation mode meanwhile.

    `posterior` holds the latent and the computed sites; `posterior_predictive` data drawn at the
    posterior's z; `prior` and `prior_predictive` the same from the model alone; then
    `observed_data` and `constant_data`. Variables have the dimensions `(chain, draw, plates, event
    axes)`, with one chain. `sample_stats` holds log p(x | z), log p(z), log q(z | x) and log weights
    in nats and float64. The rest depends on where the latent sites are:

    - All in the plate over data, as in a VAE: each datum has its own terms, `(chain, draw, data)`.
      `per_datum` has the ELBO, log p(x), k-hat, ESS and the mean and standard deviation of the latent
      sites for *all* data; raw draws are kept for the first `num_stored`. Its `kl` is exact where there
      is a closed form, which the attribute `estimate` says; other variables have the attribute
      `num_draws`. There is no `log_likelihood`: as pointwise LOO it would rank the worst guide first.
    - Otherwise the terms are those of all data together, `(chain, draw)`, and the pointwise
      `log_likelihood` is there for `arviz_stats.loo` and `loo_approximate_posterior`. Its attribute
      `notes` names the data that these cannot take, and what to do. Under a
      subsample the plate's sum stands for all data, as in Pyro's ELBO.

    Data of the first kind go through in blocks when they are more than `num_stored`. Every argument
    that is a tensor or an array and as long as the first such one is cut along its first axis. The
    stored data are a block of their own: under one seed their draws are the same whatever the size
    of the others. Programs that cannot be cut, such as ones with a parameter for each datum, are run
    on all data at once.

    Sites may have any name. The name of a site is a variable's; where a dimension would have the same
    one, the dimension is called otherwise: `image_dim` beside a site called `image`. A site called
    `draw` or `chain`, which are ArviZ's dimensions, is the variable `draw_site`; one called `a/b` is
    `a%2Fb`. The attribute `site` of such a variable holds the site's name.

    A log density has no weight: `poutine.scale` does not enter. A latent site that the guide lacks,
    such as one that training summed out, is drawn from the model given the others.

    Args:
        model: A Pyro model.
        guide: Its guide.
        *args: What both are called with.
        num_draws: The number of draws from the guide.
        num_prior_draws: The number of draws from the model, each of as many data as are stored; 0 for
            none, which a model with an improper prior needs.
        num_stored: The number of data whose raw draws are kept, where each datum has its own.
        block_size: The number of data taken at once. None for about 4 million elements.
        coords: Dimension -> the values along it, of all data or of those stored; of all the data of a
            subsampled plate, those in it are taken. Without, integers from 0; of a subsample, its rows.
        dims: Site -> the names of its event axes. Without, for a site in the plate over data, `row,
            column` after a `channel` for two or three axes, and for one `latent_dim` if the site is
            latent and `element` if observed; for others `SITE_dim_0` and so on. For a variable of
            `constant_data`, the names of all its axes.
        constant_data: Variables that are no site, such as labels; an axis in front that is as long as
            the data, or as those stored, is theirs.
            Of all the data of a subsample, those in it are taken.
        rows: The number of each of the data in the file that they are of: the coordinate along their
            dimension, whatever that is called, to join the tree with other tables.
        row_names: The name of each of the data: the coordinate `row_name` along the same dimension.
        configuration: The options of the run, stored as the attribute `configuration` in JSON.
        attrs: Further attributes of the tree: strings, numbers or lists of these.
        data_plate: The plate over data. None for the outermost one with an observed site in it.
        data_dim: The name of the data's dimension in the tree. None for the plate's, or `image` if
            a datum has two or three axes.
        max_plate_nesting: The number of axes that plates take. None to find out.
        seed: The seed of a random stream of its own. None to draw from the global one.
        **kwargs: What both are called with.

    Returns:
        A tree that `arviz_stats.summary`, `arviz_plots` and the rest of ArviZ take as it is.

    Raises:
        ValueError: If a number is too small, a name is not one of the program's, `block_size` is given
            and data cannot be taken in blocks, draws differ in their sites, or, before any draw, if
            something cannot be stored.
    """
    import xarray

    at_least = {"num_draws": 1, "num_prior_draws": 0, "num_stored": 1, "block_size": 1}
    given = {"num_draws": num_draws, "num_prior_draws": num_prior_draws, "num_stored": num_stored}
    for name, number in {**given, "block_size": block_size}.items():
        if number is not None and number < at_least[name]:
            raise ValueError(f"{name} must be at least {at_least[name]}, got {number}.")
    check_attributes(attrs or {})
    check_device(*owners_of(model, guide))
    arguments = Arguments(args, kwargs)
    with evaluation_mode(model, guide, seed=seed):
        planned = plan(
            model,
            guide,
            arguments,
            num_draws=num_draws,
            num_stored=num_stored,
            block_size=block_size,
            options={"data_plate": data_plate, "max_plate_nesting": max_plate_nesting},
        )
        # Before the draws, which may take long: names, and values that come from outside.
        dims, constants = dims or {}, storable_constants(constant_data or {})
        names = names_of(planned.layout, data_dim, dims, constants)
        coords = {
            names.renamed.get(dim, dim): storable(values, f"coords of {dim!r}")
            for dim, values in (coords or {}).items()
        }
        if rows is not None:
            coords = {names.data_dim: storable(rows, "rows")} | coords
        taken = take(model, guide, planned, num_draws=num_draws, num_stored=num_stored)
        few, layout = planned.parts[0][1], taken.layout
        prior = {}
        if num_prior_draws:
            prior = draw_prior(model, few.args, few.kwargs, layout, num_prior_draws)

    groups = groups_of(taken, prior, names)
    stored = taken.terms["log_p_x_given_z"].shape[1] if taken.statistics else planned.size
    subsampled = {
        names.plate(plate): subsample for plate, subsample in layout.subsampled().items()
    }
    size, subsample = subsampled.get(names.data_dim, (None, None))
    called = None if row_names is None else storable(row_names, "row_names")
    if called is not None and len(called) != (size or planned.size):
        raise ValueError(
            f"row_names must be {size or planned.size}, one of each of the data, got {len(called)}."
        )
    if called is not None and subsample is not None:
        called = called[subsample]
    constants = {
        name: values[subsample] if values.shape[:1] == (size,) else values
        for name, values in constants.items()
    }
    few_constants, all_constants = constants_of(
        constants, dims, names, size=planned.size, stored=stored
    )
    groups["constant_data"] = few_constants
    if taken.statistics:
        groups["per_datum"] |= all_constants

    labels = dict(coords)
    known = {dim: n for group in groups.values() for v in group.values() for dim, n in _sizes(v)}
    for dim, values in labels.items():
        size, chosen = subsampled.get(dim, (None, None))
        if chosen is not None and len(values) == size:
            labels[dim] = values[chosen]
            continue
        expected = [stored, planned.size] if dim == names.data_dim else [known.get(dim)]
        if dim in known and len(values) not in expected:
            lengths = " or ".join(sorted({str(length) for length in expected}))
            raise ValueError(f"coords of {dim!r} must be {lengths} values, got {len(values)}.")
    for dim, (_, chosen) in subsampled.items():
        labels.setdefault(dim, chosen)

    made = about()
    root = made | {"model": name_of(model), "guide": name_of(guide), "sampling": SAMPLING}
    root["draws_taken"] = "at once"
    if not layout.at_once:
        root["draws_taken"] = f"one by one: {layout.obstacle}" if layout.obstacle else "one by one"
    root |= dict(attrs or {})
    if configuration is not None:
        # NetCDF attributes are strings or numbers: None, booleans and mappings are refused.
        root["configuration"] = json.dumps(dict(configuration), default=str)
    pointwise = {
        name: np.moveaxis(values[0], list(dims).index(names.data_dim) - 1, 1)
        for name, (dims, values, _) in groups["log_likelihood"].items()
        if names.data_dim in dims
    }
    notes = loo_attributes(pointwise, names.data_dim, subsample)
    if notes:
        root["notes"] = str(notes["notes"])
        log.warning("log_likelihood: %s", notes["notes"])
    datasets = {
        group: dataset_of(
            groups[group],
            labels,
            made | {"description": description} | (notes if group == "log_likelihood" else {}),
        )
        for group, description in GROUPS.items()
        if groups[group]
    }
    if called is not None:
        datasets = {
            group: dataset.assign_coords(
                row_name=(names.data_dim, called[: dataset.sizes[names.data_dim]])
            )
            if names.data_dim in dataset.sizes and "row_name" not in dataset
            else dataset
            for group, dataset in datasets.items()
        }
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=root), **datasets})


def _sizes(variable: Variable) -> Iterable[tuple[str, int]]:
    return zip(variable[0], variable[1].shape, strict=False)
