"""The figures of a run: arrays are drawn from a trained VAE here, figures elsewhere."""

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Real, Shaped
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from analysis.data_statistics import standardisation, statistics_for
from analysis.guide.psis_diagnostics import plot_guide_quality
from analysis.plotting.images import plot_reconstructions, plot_samples, value_limits
from analysis.plotting.latent import plot_dimensions, plot_latent_space, plot_latents
from analysis.plotting.style import new_figure, to_png
from analysis.plotting.vectors import Elements, plot_largest, plot_vectors
from analysis.predictive.checks import compare_statistics
from analysis.predictive.figures import plot_comparisons
from analysis.predictive.two_sample import Comparison
from pyro_vae.data import DataContract
from pyro_vae.data.nouns import nouns
from pyro_vae.evidence import Evaluation
from pyro_vae.inference_data import unconditioned
from pyro_vae.log_densities import distribution_at
from pyro_vae.programs import labels_of_program
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.training.history import plot_learning_curves

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

log = logging.getLogger("pyro_vae")

Plot = Callable[[], "matplotlib.figure.Figure"]

# Figures of generated data, whose titles state whether training used the prior.
OF_PRIOR = ("prior_samples", "predictive_check")
UNUSED_PRIOR = "training did not use p(z): codes are not distributed as it"
# The characters in a line of the figure of the data.
LINE = 95


def draw_figures(
    vae: PyroModule,
    tree: "xarray.DataTree",
    evaluation: Evaluation,
    history: Sequence[Mapping[str, float | int | None]],
    x_test: Real[Tensor, " n *event"],
    labels: Shaped[Tensor, " n *factors"] | None,
    out: Path,
    **options: Any,
) -> list[Path]:
    """Draw every figure of a trained VAE, or of another program, into a directory.

    Args:
        vae: See `figures_of_model`.
        tree: From `from_svi`, for a few test examples.
        evaluation: From `evaluate`, on test data.
        history: See `figures_of_model`.
        x_test: See `figures_of_model`.
        labels: See `figures_of_model`.
        out: The directory, created if it does not exist.
        **options: Those of `figures_of_model`.

    Returns:
        The files. A figure that cannot be drawn is omitted, with a warning in the log.
    """
    plots = figures_of_model(vae, history, x_test, labels, **options)
    plots |= figures_of_evaluation(evaluation) | {"forest": partial(plot_latents, tree)}
    return write_figures({name: partial(_draw, plot) for name, plot in plots.items()}, out)


def figures_of_model(
    vae: PyroModule,
    history: Sequence[Mapping[str, float | int | None]],
    x_test: Real[Tensor, " n *event"],
    labels: Shaped[Tensor, " n *factors"] | None,
    *,
    label_names: Sequence[str] = (),
    event_names: Sequence[str] = (),
    seed: int = 0,
    num_reconstructions: int = 20,
    num_samples: int = 64,
    num_checked: int = 1000,
    uses_prior: bool = True,
    contract: DataContract | None = None,
) -> dict[str, Plot]:
    """The figures of a trained program that its evaluation does not enter.

    The global random state is preserved.

    Args:
        vae: A program with `model(x)`, whose observed site is `"x"`, `embed(x)` and `decode(z)`;
            one that always needs labels gets those of the data.
        history: The epochs of training, see `plot_learning_curves`.
        x_test: The test data, in the likelihood's support; integers are converted to floats.
        labels: A label, or a row of factors, for each example, if there are any.
        label_names: The names of labels 0, 1, ...; with factors, of the factors.
        event_names: The names of an example's elements.
        seed: The seed of draws from the prior.
        num_reconstructions: The number of examples reconstructed.
        num_samples: The number of samples from the prior.
        num_checked: The largest number of test examples, and of generated ones, in the predictive
            check.
        uses_prior: Whether the training objective has a term of p(z). Without one, codes are not
            distributed as the prior, and titles state it.
        contract: The description of the data, to draw it.

    Returns:
        The figures by name, each a function of arrays that can be pickled.
    """
    device = next((p.device for p in vae.parameters()), x_test.device)
    x = as_floats(x_test.to(device))
    shown, checked = x[:num_reconstructions], x[:num_checked]
    y = [] if labels is None or labels_of_program(vae) != "always" else [labels.to(device)]
    with evaluation_mode(vae, seed=seed):
        parts = zip(*(each.split(1000) for each in (x, *y)), strict=True)
        codes = torch.cat([vae.embed(*part) for part in parts])
        reconstructions = vae.decode(codes[: len(shown)], *(each[: len(shown)] for each in y))
        # The model uses no more of x than the number of examples.
        rows = torch.arange(num_samples, device=device) % len(x)
        like = x[:1].expand(num_samples, *x.shape[1:])
        means, _ = _generate(vae.model, like, *(each[rows] for each in y))
        _, new = _generate(vae.model, checked, *(each[:num_checked] for each in y))

    elements = Elements.from_data(_array(checked), event_names)
    if elements is None and x.dim() == 2:
        # Spectra and other series are drawn as lines.
        shown, reconstructions, means = (
            data.unsqueeze(1) for data in (shown, reconstructions, means)
        )
    drawn = checked
    if x.dim() == 5:
        # Images in time are drawn as images of many channels, side by side.
        shown, reconstructions, means, drawn = (
            data.flatten(1, 2) for data in (shown, reconstructions, means, drawn)
        )
    shown, reconstructions, means = map(_array, (shown, reconstructions, means))
    limits = value_limits(_array(drawn) if elements is None else shown)
    plots: dict[str, Plot] = {
        "learning_curves": partial(plot_learning_curves, history),
        "reconstructions": (
            partial(plot_reconstructions, shown, reconstructions, limits)
            if elements is None
            else partial(_reconstructed_vectors, shown, reconstructions, elements)
        ),
        "prior_samples": (
            partial(plot_samples, means, limits)
            if elements is None
            else partial(_new_vectors, _array(checked), means, elements)
        ),
        "predictive_check": partial(_plot_quick_checks, _array(checked), _array(new)),
        "latent_space": partial(
            plot_latent_space,
            _array(codes),
            None if labels is None else _array(labels),
            label_names,
        ),
    }
    if not uses_prior:
        plots |= {name: partial(_without_prior, plots[name]) for name in OF_PRIOR}
    if contract is not None:
        plots["data"] = partial(plot_data, contract)
    return plots


def figures_of_evaluation(evaluation: Evaluation) -> dict[str, Plot]:
    """The figures of an evaluation."""
    plots: dict[str, Plot] = {
        "kl_by_dimension": partial(
            plot_dimensions, evaluation.kl_by_dimension, evaluation.embeddings
        )
    }
    if (weights := evaluation.weights) is not None:
        plots["guide_quality"] = partial(
            plot_guide_quality, weights.khat, weights.ess, weights.num_samples
        )
    return plots


def write_figures(figures: Mapping[str, Callable[[], bytes]], out: Path) -> list[Path]:
    """Write figures into a directory, which is created if it does not exist.

    Args:
        figures: By name, functions that return the content of a PNG file.
        out: The directory.

    Returns:
        The files. A figure that cannot be drawn is omitted, with a warning in the log.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = out / f"{name}.png"
        # Extreme numbers that cannot be drawn do not end a run that was trained.
        try:
            path.write_bytes(figure())
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            log.warning("%s omitted: %s", path.name, " ".join(str(error).split())[:200])
            continue
        paths.append(path)
    return paths


def _draw(plot: Plot) -> bytes:
    return to_png(plot())


def _without_prior(plot: Plot) -> "matplotlib.figure.Figure":
    """A figure of generated data whose title states that training did not use the prior."""
    figure = plot()
    figure.suptitle(f"{figure.get_suptitle()}\n{UNUSED_PRIOR}")
    return figure


def _plot_quick_checks(real: np.ndarray, new: np.ndarray) -> "matplotlib.figure.Figure":
    return plot_comparisons(_quick_checks(real, new))


def plot_data(contract: DataContract) -> "matplotlib.figure.Figure":
    """A page of text: the form, splits and scale of a run's data, and what was found in them."""
    sizes = ", ".join(f"{size:,} {split}" for split, size in contract.sizes.items())
    levels = "" if contract.levels is None else f", {contract.levels} levels"
    values = f"training values from {contract.low:g} to {contract.high:g}"
    facts = {
        "data": contract.name,
        "values": f"{contract.support}{levels}, {values}",
        "shape": " x ".join(map(str, contract.event_shape)),
        nouns(): sizes,
        "split": contract.split_rule,
        "scaled for the networks by": contract.units.kind,
    }
    if contract.label_names:
        facts["classes" if contract.has_classes else "factors"] = ", ".join(contract.label_names)
    lines = []
    for name, value in facts.items():
        text = f"{name}: {value}"
        lines += textwrap.wrap(text, LINE, subsequent_indent="    ", max_lines=3)
    lines += ["", "found before training:" if contract.notes else "nothing to note was found"]
    for note in contract.notes:
        lines += textwrap.wrap(note, LINE, initial_indent="- ", subsequent_indent="  ")
    figure = new_figure(9.0, 0.6 + 0.22 * len(lines))
    text = {"va": "top", "family": "monospace", "fontsize": 9, "parse_math": False}
    figure.text(0.03, 0.97, "\n".join(lines), **text)
    return figure


def _generate(model: Callable[..., Tensor], like: Tensor, *y: Tensor) -> tuple[Tensor, Tensor]:
    """As many generated examples as `like` has: means of p(x | z), z ~ p(z), and draws."""
    trace = poutine.trace(unconditioned(model)).get_trace(like, *y)
    x = cast("dict[str, Any]", trace.nodes["x"])["value"]
    return distribution_at(trace, "x").mean, x


def _reconstructed_vectors(
    x: np.ndarray, means: np.ndarray, elements: Elements
) -> "matplotlib.figure.Figure":
    means_of = "the mean of p(x | z) at the code of x"
    if elements.largest:
        title = f"The largest elements of test {nouns()}, and {means_of}"
        return plot_largest(means, elements.names if elements.named else (), x, title)
    panels = {f"test {nouns()}": x, "reconstructions": means}
    title = f"Test {nouns()} and their reconstructions, {means_of}"
    return plot_vectors(panels, elements, title, paired=True)


def _new_vectors(
    x: np.ndarray, means: np.ndarray, elements: Elements
) -> "matplotlib.figure.Figure":
    if elements.largest:
        return plot_largest(means, elements.names if elements.named else ())
    few = min(len(x), len(means), 30)
    panels = {f"test {nouns()}": x[:few], "means of p(x | z) at z ~ p(z)": means[:few]}
    return plot_vectors(panels, elements, f"Test {nouns()}, and new {nouns()} from the model")


def _quick_checks(real: np.ndarray, new: np.ndarray) -> tuple[Comparison, ...]:
    """Three statistics: of images ink, total variation and symmetry, which any support has.

    Raises:
        ValueError: If values are missing, on which the statistics depend.
    """
    if np.isnan(real).any():
        raise ValueError("statistics of data with missing values are not those of complete data.")
    whole = bool(real.min() >= 0 and (real == np.floor(real)).all())
    support = "counts" if whole else "real"
    scaled = standardisation(real, support)
    statistics = statistics_for(real.shape[1:], support, scaled)[:3]
    return compare_statistics(real, new, statistics)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
