"""Charts with a point for each example: codes, k-hats, differences between runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from analysis.html_report.chart import (
    COLOURS,
    FIRST,
    NEUTRAL,
    SECOND,
    SHAPES,
    Chart,
    Spec,
    axis,
    classes,
    cycle,
    rounded,
    specification,
    value_line,
    zoom,
)
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import MINIMUM_SAMPLES, khat_threshold, standard_error

if TYPE_CHECKING:
    import xarray

# The largest number of points in a chart; of more data, evenly spaced ones are drawn.
MOST_POINTS = 1500
# The largest number of labels that have a colour each.
MOST_LABELS = 20
# Points at the ends of an axis are inside of it.
PADDED = {"padding": 10}


@dataclass(frozen=True)
class PerDatum:
    """The statistics of each example in inference_data.nc.

    Args:
        statistics: Columns such as `elbo`, `log_evidence`, `khat`, by name.
        code_means: The mean of the code of each example; None if it is not continuous.
        labels: The label of each example, or None.
        rows: The row number of each example.
        num_draws: The number of draws from the guide behind each statistic.
        label_names: The names of labels 0, 1, ....
    """

    statistics: dict[str, Float[np.ndarray, " n"]]
    code_means: Float[np.ndarray, "n latent"] | None
    labels: Shaped[np.ndarray, " n"] | None
    rows: Shaped[np.ndarray, " n"]
    num_draws: int
    label_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, tree: "xarray.DataTree", label_names: Sequence[str] = ()) -> "PerDatum | None":
        """Read a tree of `from_svi`; None if examples have no statistics of their own."""
        if "per_datum" not in tree.children:
            return None
        group = tree["per_datum"].dataset
        columns = {str(name): np.asarray(each) for name, each in group.data_vars.items()}
        labels = columns.pop("label", None)
        statistics = {name: each for name, each in columns.items() if each.ndim == 1}
        if not statistics:
            return None
        name = next(iter(statistics))
        dim, n = group[name].dims[0], len(statistics[name])
        means = [each for key, each in columns.items() if key.endswith("_mean") and each.ndim == 2]
        # Factors are not classes.
        labels = None if labels is None or labels.shape != (n,) else labels
        draws = [each.attrs["num_draws"] for each in group.values() if "num_draws" in each.attrs]
        rows = np.asarray(group[dim]) if dim in group.coords else np.arange(n)
        return cls(
            {key: each.astype(np.float64) for key, each in statistics.items()},
            means[0].astype(np.float64) if means else None,
            labels,
            rows,
            int(draws[0]) if draws else 0,
            tuple(label_names),
        )

    def table(self, columns: Mapping[str, np.ndarray]) -> tuple[list[Spec], int]:
        """Rows of the examples for which all columns are finite, evenly thinned out, and n."""
        stacked = np.stack([np.asarray(each) for each in columns.values()])
        positions = np.flatnonzero(np.isfinite(stacked).all(0))
        chosen = positions[_evenly(len(positions))]
        rows: list[Spec] = [{"row": self.rows[i].item()} for i in chosen]
        for row, i in zip(rows, chosen, strict=True):
            row |= {name: rounded(each[i]) for name, each in columns.items()}
            if self.labels is not None:
                row["label"] = self._label(self.labels[i].item())
        return rows, len(positions)

    def _label(self, value: Any) -> str:
        if value == -1:
            return "none"
        is_name = isinstance(value, int) and 0 <= value < len(self.label_names)
        return self.label_names[value] if is_name else str(value)

    @property
    def classes(self) -> list[str] | None:
        """The labels if they are classes, few enough for a colour each."""
        if self.labels is None or self.labels.dtype.kind == "f":
            return None
        values = np.unique(self.labels)
        return [self._label(v.item()) for v in values] if len(values) <= MOST_LABELS else None


def codes(data: PerDatum) -> Chart | None:
    """The codes of test data in the two dimensions in which they vary most."""
    if data.code_means is None or data.code_means.shape[1] < 2:
        return None
    first, second = np.argsort(-data.code_means.var(0), kind="stable")[:2]
    columns = {"x": data.code_means[:, first], "y": data.code_means[:, second]}
    columns |= {name: data.statistics[name] for name in ("elbo",) if name in data.statistics}
    rows, n = data.table(columns)
    if not rows:
        return None
    names = [f"dimension {each} of E[z | x]" for each in (first, second)]
    tooltip = [
        {"field": "row"},
        *([{"field": "label"}] if data.labels is not None else []),
        {"field": "x", "title": f"z[{first}]", "format": ".2f"},
        {"field": "y", "title": f"z[{second}]", "format": ".2f"},
        *([value_line("elbo", "ELBO, nats")] if "elbo" in columns else []),
    ]
    spec = specification(
        rows,
        mark={"type": "point", "filled": True, "size": 45, "aria": False},
        params=[zoom()],
        x=axis("x", names[0], scale=PADDED),
        y=axis("y", names[1], scale=PADDED),
        color={"value": FIRST},
        tooltip=tooltip,
        height=380,
    )
    coloured = ""
    if (labels := data.classes) is not None:
        coloured = f", by {len(labels)} labels"
        count = len(labels)
        spec["encoding"] |= {
            "color": classes("label", labels, cycle(COLOURS, count), title="label"),
            "shape": classes("label", labels, cycle(SHAPES, count), title="label"),
            "opacity": {"condition": {"param": "shown", "value": 0.9}, "value": 0.08},
        }
        # A click on an entry of the legend shows this label alone.
        select = {"type": "point", "fields": ["label"]}
        spec["params"].append({"name": "shown", "select": select, "bind": "legend"})
    variances = data.code_means.var(0)
    share = variances[[first, second]].sum() / variances.sum() if variances.sum() else 1.0
    return Chart(
        f"Codes of test {nouns()}{coloured}",
        f"Codes of {len(rows):,} test {nouns()}{coloured}, in dimensions {first} and {second} of "
        f"{data.code_means.shape[1]}, which have {share:.0%} of the variance of all.",
        spec,
        _thinned(len(rows), n),
    )


def khats(data: PerDatum) -> Chart | None:
    """Pareto k-hat of each example's importance weights against log p(x)."""
    needed = ("khat", "log_evidence", "ess")
    if data.num_draws < MINIMUM_SAMPLES or any(name not in data.statistics for name in needed):
        return None
    rows, n = data.table({name: data.statistics[name] for name in needed})
    if not rows:
        return None
    threshold = khat_threshold(data.num_draws)
    finite = data.statistics["khat"][np.isfinite(data.statistics["khat"])]
    kinds = [f"up to {threshold:.2f}", f"above {threshold:.2f}"]
    for row in rows:
        row["kind"] = kinds[row["khat"] > threshold]
    unit = f"nats per {noun()}"
    spec = specification(
        rows,
        layer=[
            {
                "mark": {"type": "point", "filled": True, "size": 45, "aria": False},
                "params": [zoom()],
                "encoding": {
                    "x": axis("log_evidence", f"log p(x), {unit}", scale=PADDED),
                    "y": axis("khat", "Pareto k-hat", scale=PADDED),
                    "color": classes("kind", kinds, [FIRST, SECOND], title="k-hat"),
                    "shape": classes("kind", kinds, ["circle", "triangle-up"], title="k-hat"),
                    "tooltip": [
                        {"field": "row"},
                        *([{"field": "label"}] if data.labels is not None else []),
                        value_line("khat", "k-hat"),
                        value_line("ess", f"effective draws of {data.num_draws}", ".1f"),
                        value_line("log_evidence", "log p(x), nats"),
                    ],
                },
            },
            {
                "mark": {"type": "rule", "strokeDash": [5, 3], "color": NEUTRAL, "aria": False},
                "encoding": {"y": {"datum": threshold}},
            },
        ],
    )
    return Chart(
        f"k-hat of the importance weights of each {noun()}, from {data.num_draws} draws",
        f"Pareto k-hat of the importance weights of {len(finite):,} test {nouns()}, from "
        f"{data.num_draws} draws each: median {np.median(finite):.2f}; "
        f"{np.mean(finite > threshold):.1%} above the threshold {threshold:.2f}, where log p(x) "
        "is not to be trusted.",
        spec,
        _thinned(len(rows), n),
    )


def differences(
    log_evidence: Mapping[str, Float[np.ndarray, " n"]],
    rows: Shaped[np.ndarray, " n"] | None = None,
) -> Chart | None:
    """log p(x) of the first run minus that of each other, example by example."""
    best, *others = log_evidence
    first = np.asarray(log_evidence[best], dtype=np.float64)
    if not others or not len(first):
        return None
    numbers = np.arange(len(first)) if rows is None else rows
    unit = f"nats per {noun()}"
    table, sentences, total, drawn = [], [], 0, 0
    for name in others:
        second = np.asarray(log_evidence[name], dtype=np.float64)
        difference = first - second
        finite = (np.isfinite(difference) & np.isfinite(first)).nonzero()[0]
        if not len(finite):
            continue
        error = standard_error(difference[finite])
        sentences.append(
            f"{name}: {difference[finite].mean():.2f}"
            + ("" if error is None else f" +- {error:.2f}")
            + f", above 0 for {np.mean(difference[finite] > 0):.0%}"
        )
        chosen = finite[_evenly(len(finite), MOST_POINTS // len(others))]
        total, drawn = total + len(finite), drawn + len(chosen)
        table += [
            {
                "row": numbers[i].item(),
                "name": name,
                "first": rounded(first[i]),
                "second": rounded(second[i]),
                "difference": rounded(difference[i]),
            }
            for i in chosen
        ]
    if not table:
        return None
    colours, shapes = (cycle(each, len(others), start=1) for each in (COLOURS, SHAPES))
    spec = specification(
        table,
        layer=[
            {
                "mark": {"type": "rule", "color": NEUTRAL, "aria": False},
                "encoding": {"y": {"datum": 0}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 45, "aria": False},
                "params": [zoom()],
                "encoding": {
                    "x": axis("first", f"log p(x) of {best}, {unit}", scale=PADDED),
                    "y": axis("difference", f"{best} minus the other, {unit}", scale=PADDED),
                    "color": classes("name", others, colours, title="other"),
                    "shape": classes("name", others, shapes, title="other"),
                    "tooltip": [
                        {"field": "row"},
                        {"field": "name", "title": "other"},
                        value_line("difference", f"difference, {unit}"),
                        value_line("first", f"log p(x) of {best}, nats"),
                        value_line("second", "log p(x) of the other, nats"),
                    ],
                },
            },
        ],
        height=340,
    )
    return Chart(
        f"Differences of log p(x), {noun()} by {noun()}",
        f"log p(x) of {best} minus that of each other run, in {unit}, for each test {noun()}; "
        f"mean +- standard error of {'; '.join(sentences)}.",
        spec,
        _thinned(drawn, total),
    )


def _evenly(count: int, most: int = MOST_POINTS) -> Shaped[np.ndarray, " n"]:
    """At most so many evenly spaced positions."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _thinned(drawn: int, count: int) -> str:
    return "" if drawn == count else f"{drawn:,} of {count:,} {nouns()} are drawn."
