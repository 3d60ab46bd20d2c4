"""What a conditional model made of its covariates: how much of them is left in z, and figures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.plotting.images import draw_grid, is_image, value_limits
from analysis.plotting.style import new_figure, shorten
from analysis.plotting.vectors import Elements, plot_vectors
from pyro_vae.data.nouns import nouns
from pyro_vae.rng import evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure

FOLDS = 5
NEIGHBOURS = 15
# Rows of the probes, and conditions, samples and examples in a figure.
PROBED, CONDITIONS, SAMPLES, EXAMPLES = 5_000, 10, 8, 6


def scores(program: Any, held_out: Any) -> dict[str, float | None]:
    """How well each covariate is predicted from z, by two probes, and without z.

    A category has the accuracies `covariate_accuracy` of a logistic regression and
    `covariate_accuracy_neighbours` of 15 nearest neighbours, beside `covariate_accuracy_chance`,
    that of the most frequent category. A number has the R^2 likewise, `covariate_r2`,
    `covariate_r2_neighbours` and `covariate_r2_chance`. All are of rows that the probe was not
    fitted to, by 5-fold cross-validation. Near chance, z has little of the covariate that these
    probes find. Of several covariates, the keys end in the name or number of each.

    Args:
        program: A `Conditional`.
        held_out: Held-out data with labels.
    """
    x, y = held_out.x[:PROBED], held_out.y[:PROBED]
    with evaluation_mode(program):
        z = program.embed(x, y).numpy(force=True)
    columns = y.reshape(len(y), -1).numpy(force=True)
    found = {}
    for column, values in enumerate(columns.T):
        categories = bool(program.covariates.categories(column))
        kind = "accuracy" if categories else "r2"
        own = f"_{column_name(held_out, column)}" if columns.shape[1] > 1 else ""
        for probe, score in probe_scores(z, values, categories=categories).items():
            found["_".join(filter(None, ["covariate", kind, probe])) + own] = score
    return found


def probe_scores(
    z: Float[np.ndarray, "n latent"], values: Real[np.ndarray, " n"], *, categories: bool
) -> dict[str, float | None]:
    """Cross-validated scores of a linear probe (""), of "neighbours", and of "chance", without z.

    Args:
        z: The codes.
        values: The covariate of each.
        categories: Whether it is a category, scored by accuracy; otherwise by R^2.

    Returns:
        The scores; None for a covariate that does not vary, or fewer than 30 rows.
    """
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if categories:
        probes = {
            "": LogisticRegression(max_iter=1000),
            "neighbours": KNeighborsClassifier(NEIGHBOURS),
            "chance": DummyClassifier(strategy="most_frequent"),
        }
        values, score = values.astype(np.int64), accuracy_score
    else:
        neighbours = KNeighborsRegressor(NEIGHBOURS)
        probes = {"": Ridge(), "neighbours": neighbours, "chance": DummyRegressor()}
        score = r2_score
    counts = np.unique(values, return_counts=True)[1]
    # Each fold needs two categories to fit to.
    if (
        len(z) < 2 * NEIGHBOURS
        or len(counts) < 2
        or (categories and counts.sum() - counts.max() < 2)
    ):
        return dict.fromkeys(probes)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return {
        name: float(
            score(
                values,
                cross_val_predict(make_pipeline(StandardScaler(), probe), z, values, cv=folds),
            )
        )
        for name, probe in probes.items()
    }


def column_name(held_out: Any, column: int) -> str:
    """The name of a covariate, or its number."""
    names = held_out.label_names
    several = held_out.y.dim() == 2 and len(names) == held_out.y.shape[1]
    return names[column] if several else str(column)


def figures(program: Any, held_out: Any) -> "dict[str, Callable[[], matplotlib.figure.Figure]]":
    """Samples by condition, and counterfactuals: held-out data under each condition.

    Of several covariates the first varies; the others keep their most frequent value (their
    median, of a number) in samples, and their own in counterfactuals.

    Args:
        program: A `Conditional`.
        held_out: Held-out data with labels.
    """
    labels, values = conditions(program, held_out)
    x, y = held_out.x[:EXAMPLES], held_out.y[:EXAMPLES]
    usual = usual_rows(program, held_out.y, SAMPLES)
    with evaluation_mode(program, seed=0):
        z = program.prior().sample(torch.Size((SAMPLES,)))
        samples = [_arrays(program.decode(z, with_first(usual, v))) for v in values]
        codes, size = program.embed(x, y), program.size(x)
        others = [_arrays(program.decode(codes, with_first(y, v), size=size)) for v in values]
    data, names = _arrays(held_out.x), held_out.event_names
    total = max(len(program.covariates.categories(0)), len(values))
    some = f"\nthe first {len(values)} of {total} categories" if total > len(values) else ""
    title = f"New {nouns()}: the mean of p(x | z, c), at the same z under each condition{some}"
    switched = f"Held-out {nouns()}, and the mean of p(x | z, c) at their z under each condition"
    switched += some
    examples = {"data": _arrays(x), **dict(zip(labels, others, strict=True))}
    return {
        "samples_by_condition": partial(
            plot_conditions, dict(zip(labels, samples, strict=True)), data, names, title
        ),
        "counterfactuals": partial(
            plot_conditions, examples, data, names, switched, by_column=True
        ),
    }


def conditions(program: Any, held_out: Any) -> tuple[list[str], list[float]]:
    """Values of the first covariate with their names: categories, or quantiles of a number."""
    categories = program.covariates.categories(0)
    if categories:
        chosen = categories[:CONDITIONS]
        names = held_out.label_names if held_out.y.dim() == 1 else ()
        called = [str(names[c]) if c < len(names) else str(c) for c in chosen]
        return called, [float(c) for c in chosen]
    first = held_out.y.reshape(len(held_out.y), -1)[:, 0].double()
    quantiles = [float(first.quantile(q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return [f"{value:.3g}" for value in quantiles], quantiles


def usual_rows(program: Any, y: Tensor, n: int) -> Tensor:
    """n rows of the most frequent category, or the median of a number, of each covariate."""
    rows = y.reshape(len(y), -1)
    usual = [
        (values.mode() if program.covariates.categories(k) else values.median(0)).values
        for k, values in enumerate(rows.unbind(1))
    ]
    return torch.stack(usual).expand(n, -1).reshape(n, *y.shape[1:])


def with_first(y: Tensor, value: float) -> Tensor:
    """Covariates with the first one replaced: `(n, columns)`, or `(n,)` of a single one."""
    y = y.double().clone()
    (y[:, 0] if y.dim() == 2 else y).fill_(value)
    return y


def plot_conditions(
    panels: dict[str, Real[np.ndarray, " _ *event"]],
    data: Real[np.ndarray, " n *event"],
    event_names: Sequence[str],
    title: str,
    *,
    by_column: bool = False,
) -> "matplotlib.figure.Figure":
    """Examples under each condition: vectors as heat maps, others in a grid.

    Args:
        panels: The examples by condition, the same number of each.
        data: Data, for the scale of the figure.
        event_names: The names of the elements, if there are names.
        title: The title.
        by_column: Whether conditions are the columns of a grid, not the rows.
    """
    elements = Elements.from_data(data, event_names)
    if elements is not None:
        return plot_vectors(panels, elements, title)
    rows, names = [*panels.values()], [shorten(name) for name in panels]
    limits = value_limits(data)
    if by_column:
        rows = [np.stack(examples) for examples in zip(*rows, strict=True)]
    side = 0.9 if is_image(data.shape[1:]) else 1.3
    figure = new_figure(max(side * len(rows[0]) + 1.5, 8.0), side * len(rows) + 0.8)
    if by_column:
        draw_grid(figure, rows, limits, titles=dict(enumerate(names)))
    else:
        draw_grid(figure, rows, limits, names=names)
    figure.suptitle(title)
    return figure


def _arrays(x: Tensor) -> Real[np.ndarray, " n *event"]:
    return x.numpy(force=True)
