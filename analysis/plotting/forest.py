"""The posterior of a few data, latent by latent, drawn by ArviZ from the DataTree."""

from typing import TYPE_CHECKING

from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

INTERVALS = (0.5, 0.9)


def plot_latents(
    tree: "xarray.DataTree", images: int = 3, dimensions: int = 8, site: str | None = None
) -> "matplotlib.figure.Figure":
    """Medians and central intervals of q(z | x) for the first data of a tree.

    Args:
        tree: From `from_svi`: its `posterior` has the dimensions `(chain, draw, image, ...)`.
        images: The number of data.
        dimensions: The number of latent dimensions of each.
        site: The latent site; without, the first.
    """
    import arviz_plots
    import xarray
    from matplotlib import pyplot

    posterior = tree["posterior"].to_dataset()
    name = site or str(next(iter(posterior.data_vars)))
    chain, draw, image, *event = posterior[name].dims
    few = {image: slice(images)} | {dim: slice(dimensions) for dim in event}
    chosen = posterior[[name]].isel(few)
    intervals = chosen[name].sizes
    rows = chosen[name].size // (intervals[chain] * intervals[draw])
    collection = arviz_plots.plot_forest(
        xarray.DataTree.from_dict({"posterior": chosen}),
        sample_dims=[chain, draw],
        combined=True,
        point_estimate="median",
        ci_kind="eti",
        ci_probs=INTERVALS,
        labels=[image, *event],
        shade_label=image,
        visuals={"shade": {"color": "0.6"}},
        backend="matplotlib",
        figure_kwargs={
            "figsize": (8, 1.4 + 0.24 * rows),
            "figsize_units": "inches",
            "width_ratios": [1, 4],
            "layout": "constrained",
        },
    )
    figure = collection.viz["figure"].item()
    # ArviZ makes its figures with pyplot, which would keep this one.
    pyplot.close(figure)
    half, most = (f"{probability:.0%}" for probability in INTERVALS)
    names, forest = figure.axes
    # Centred, the last name would run into the forest's axis.
    names.get_xticklabels()[-1].set_ha("right")
    forest.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    spread = chosen[name].max([chain, draw]) - chosen[name].min([chain, draw])
    forest.set_xlabel(
        f"{name}: median, {half} and {most} intervals of q({name} | x)"
        if bool((spread > 0).any())
        else f"{name}: the code, a point without a spread"
    )
    figure.suptitle(f"What the guide says of {intervals[image]} test {nouns()}")
    return figure
