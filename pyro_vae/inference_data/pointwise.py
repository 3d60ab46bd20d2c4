"""Data whose pointwise log likelihood LOO cannot take, named with what to do."""

from collections.abc import Mapping

import numpy as np

from pyro_vae.statistics import MINIMUM_SAMPLES, tail_length

# So many rows are named, and the others counted.
_MOST_ROWS = 10


def loo_attributes(
    densities: Mapping[str, np.ndarray], data_dim: str, rows: np.ndarray | None = None
) -> dict[str, str | list[int]]:
    """What `arviz_stats.loo` stops at, or makes NaN of: `notes` in words and the places `leave_out`.

    LOO fits a Pareto distribution to each datum's lowest log likelihoods, which must differ.

    Args:
        densities: Site -> log p(x_i | z), `(draw, data, ...)`.
        data_dim: The name of the data's dimension.
        rows: The number of each datum, where the data are a subsample.

    Returns:
        The attributes of the group; none where LOO takes all data.
    """
    notes, leave_out, size = [], set(), 0
    for site, values in densities.items():
        size = values.shape[1]
        lowest = np.sort(values, axis=0)
        finite = np.isfinite(values).all(0)
        # ArviZ refuses fewer draws itself.
        tail = tail_length(len(values)) if len(values) >= MINIMUM_SAMPLES else len(values)
        constant = finite & (lowest[0] == lowest[-1])
        tied = finite & (lowest[0] == lowest[tail - 1]) & ~constant
        raises = "arviz_stats.loo raises 'All tail values are the same'"
        kinds = {
            f"is the same at every draw, as it does not depend on global latent sites: {raises}, where "
            "the datum's own elpd is that value": constant,
            f"is the same at its {tail} lowest draws: {raises}": tied,
            "is not finite at some draws, as where the density is 0: the elpd of arviz_stats.loo is "
            "NaN, or it raises; a likelihood that gives all data a positive density mends it": ~finite,
        }
        for what, which in kinds.items():
            places = np.flatnonzero(which.reshape(len(which), -1).any(1))
            if len(places):
                leave_out.update(places.tolist())
                numbers = (places if rows is None else rows[places]).tolist()
                notes.append(f"log p({site} | z) in {named(numbers)} of {data_dim!r} {what}.")
    if not notes:
        return {}
    remedy = (
        'To leave such data out: tree["log_likelihood"] = tree["log_likelihood"].to_dataset()'
        f'.drop_isel({{{data_dim!r}: tree["log_likelihood"].attrs["leave_out"]}}).'
    )
    if len(leave_out) == size:
        remedy = "LOO takes none of these data."
    return {"notes": " ".join([*notes, remedy]), "leave_out": sorted(leave_out)}


def named(rows: list[int]) -> str:
    """The numbers of rows, counted from 0, of which many are counted.

    >>> named([7]), named([1, 2])
    ('row 7', 'rows 1, 2')
    """
    words = ", ".join(map(str, rows[:_MOST_ROWS]))
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {words}{more}"
