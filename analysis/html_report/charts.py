"""The interactive charts of a run, and of several runs, from their stored records."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from analysis.html_report.chart import (
    FIRST,
    NEUTRAL,
    SECOND,
    Chart,
    Spec,
    axis,
    classes,
    is_finite,
    rounded,
    specification,
    value_line,
)
from analysis.html_report.datum_charts import PerDatum, codes, differences, khats
from analysis.html_report.rate_distortion_chart import rate_distortion
from analysis.hypothesis_tests import holm
from pyro_vae.data.nouns import noun
from pyro_vae.training.history import CROPPED_SHARE, TERMS

if TYPE_CHECKING:
    import xarray

# The family-wise level of the predictive checks.
LEVEL = 0.05
# The smallest p-value on the axis.
SMALLEST_P = 1e-6

Row = Mapping[str, float | int | None]


def run_charts(
    history: Sequence[Row],
    metrics: Mapping[str, Any] | None = None,
    diagnosis: Mapping[str, Any] | None = None,
    tree: "xarray.DataTree | None" = None,
    *,
    label_names: Sequence[str] = (),
) -> dict[str, Chart]:
    """The charts of one run; a chart whose numbers are missing is left out.

    Args:
        history: The rows of metrics.csv.
        metrics: The content of metrics.json.
        diagnosis: The content of diagnosis.json.
        tree: The content of inference_data.nc.
        label_names: The names of labels 0, 1, ....
    """
    charts: dict[str, Chart | None] = dict(learning_curves(history))
    data = None if tree is None else PerDatum.of(tree, label_names)
    if data is not None:
        charts |= {"codes": codes(data), "khat": khats(data)}
    sections = {
        name: section
        for name, section in (diagnosis or {}).items()
        if isinstance(section, Mapping) and not section.get("stale")
    }
    charts["checks"] = predictive_checks(
        _part(sections, "predictive", "p_values"), _labels(sections)
    )
    points = []
    if metrics and is_finite(metrics.get("kl")) and is_finite(metrics.get("reconstruction")):
        name = "test data" if metrics.get("split") == "test" else "evaluated data"
        point = {"name": name, "rate": metrics["kl"], "distortion": -metrics["reconstruction"]}
        points.append(point)
    charts["rate_distortion"] = rate_distortion(points, history)
    charts["dimensions"] = dimensions(_part(sections, "elbo", "decomposition", "by_dimension"))
    return {name: chart for name, chart in charts.items() if chart is not None}


def comparison_charts(
    log_evidence: Mapping[str, Float[np.ndarray, " n"]],
    points: Sequence[Mapping[str, Any]] = (),
    rows: Shaped[np.ndarray, " n"] | None = None,
) -> dict[str, Chart]:
    """The charts of several runs; a chart whose numbers are missing is left out.

    Args:
        log_evidence: log p(x) of each example in nats, by run, best run first.
        points: Rate and distortion of each run, as the models of `rate_distortion_summary`.
        rows: The row number of each example.
    """
    charts = {
        "differences": differences(log_evidence, rows),
        "rate_distortion": rate_distortion(points),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def learning_curves(history: Sequence[Row]) -> dict[str, Chart]:
    """Each term of the ELBO by epoch, of training and validation data."""
    charts = {}
    for field, title in TERMS.items():
        rows = [
            {"epoch": epoch["epoch"], "data": name, "value": rounded(value)}
            for name, prefix in (("training", ""), ("validation", "validation_"))
            for epoch in history
            if is_finite(value := epoch.get(prefix + field))
        ]
        if not rows:
            continue
        last = [
            f"{name} {next(r['value'] for r in reversed(rows) if r['data'] == name):.2f}"
            for name in dict.fromkeys(row["data"] for row in rows)
        ]
        domain, note = _crop(rows)
        unit = f"nats per {noun()}"
        spec = specification(
            rows,
            layer=[
                {"mark": {"type": "line", "clip": True, "aria": False}},
                {
                    "mark": {"type": "point", "filled": True, "size": 50, "clip": True},
                    "encoding": {
                        "opacity": {"value": 1 if len(history) < 15 else 0},
                        "tooltip": [
                            {"field": "epoch"},
                            {"field": "data"},
                            {"field": "value", "title": f"{title}, {unit}", "format": ",.2f"},
                        ],
                    },
                },
            ],
            x=axis(
                "epoch", "epoch", scale={"nice": False}, axis={"tickMinStep": 1, "grid": False}
            ),
            y=axis("value", unit, scale=domain),
            color=classes("data", ["training", "validation"], [FIRST, SECOND]),
            strokeDash=classes("data", ["training", "validation"], [[1, 0], [5, 3]]),
        )
        epochs = len({row["epoch"] for row in rows})
        alt = (
            f"{title} by epoch, over {epochs} epoch{'' if epochs == 1 else 's'}; after the last: "
            f"{', '.join(last)} {unit}."
        )
        charts[f"learning_{field}"] = Chart(f"{title} by epoch", alt, spec, note)
    return charts


def predictive_checks(
    p_values: Mapping[str, float | None], labels: Mapping[str, str] | None = None
) -> Chart | None:
    """The p-value of each predictive check beside its threshold by Holm's method.

    Args:
        p_values: By the name of the check.
        labels: What each check is called.
    """
    found = sorted(
        ((name, p) for name, p in p_values.items() if p is not None and math.isfinite(p)),
        key=lambda pair: pair[1],
    )
    if not found:
        return None
    adjusted = holm(np.array([p for _, p in found], dtype=np.float64))
    m = len(found)
    kinds = [f"below {LEVEL:g} by Holm's method", f"not below {LEVEL:g}"]
    rows = [
        {
            "check": name.replace("_", " "),
            "what": (labels or {}).get(name, name.replace("_", " ")),
            "p": max(p, SMALLEST_P),
            "p_text": f"< {SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.3g}",
            "adjusted": f"{corrected:.3g}",
            "threshold": LEVEL / (m - rank),
            "kind": kinds[int(corrected >= LEVEL)],
        }
        for rank, ((name, p), corrected) in enumerate(zip(found, adjusted, strict=True))
    ]
    tooltip = [
        {"field": "what", "title": "check"},
        {"field": "p_text", "title": "p-value"},
        {"field": "adjusted", "title": "p-value by Holm's method"},
        value_line("threshold", "threshold", ".3g"),
    ]
    powers = {"values": [10.0**k for k in range(-6, 1)]}
    scale = {"type": "log", "domain": [min(row["p"] for row in rows) / 1.5, 1]}
    spec = specification(
        rows,
        layer=[
            {
                "mark": {"type": "tick", "color": NEUTRAL, "thickness": 2, "aria": False},
                "encoding": {"x": {"field": "threshold", "type": "quantitative"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {
                    "x": axis("p", "p-value; bar: threshold", scale=scale, axis=powers),
                    "color": classes("kind", kinds, [SECOND, FIRST]),
                    "shape": classes("kind", kinds, ["triangle-up", "circle"]),
                    "tooltip": tooltip,
                },
            },
        ],
        y={"field": "check", "type": "nominal", "sort": None, "title": None},
        height=22 * m,
    )
    below = [row["check"] for row in rows if row["kind"] == kinds[0]]
    listed = f": {', '.join(below)}" if below else ""
    return Chart(
        "p-values of the predictive checks",
        f"p-values of {m} predictive checks; {len(below)} are below {LEVEL:g} after Holm's "
        f"correction{listed}.",
        spec,
    )


def dimensions(by_dimension: Mapping[str, Any]) -> Chart | None:
    """The rate by latent dimension, largest first.

    Args:
        by_dimension: The lists of `RateDecomposition.extra`, in nats.
    """
    parts = {
        "mutual_information": "mutual information I(x; z_d)",
        "marginal_kl": "marginal KL(q(z_d) || p(z_d))",
    }
    known = {name: each for name in parts if (each := by_dimension.get(name))}
    if not known:
        return None
    total = np.sum([np.array(each, dtype=np.float64) for each in known.values()], axis=0)
    if not np.isfinite(total).all():
        return None
    order = np.argsort(-total, kind="stable")
    rows = [
        {
            "dimension": int(d),
            "part": parts[name],
            "nats": rounded(each[d]),
            "sum": rounded(total[d]),
        }
        for d in order
        for name, each in known.items()
    ]
    unit = f"nats per {noun()}"
    shown = [parts[name] for name in known]
    what = "KL(q(z_d | x) || p(z_d))" if len(known) == 2 else shown[0]
    spec = specification(
        rows,
        mark={"type": "bar"},
        x={
            "field": "dimension",
            "type": "ordinal",
            "sort": None,
            "title": "latent dimension",
            "axis": {"labelOverlap": True, "labelAngle": 0},
        },
        y=axis("nats", unit, scale={"zero": True}),
        color=classes("part", shown, [FIRST, SECOND][: len(shown)]),
        tooltip=[
            {"field": "dimension"},
            {"field": "part"},
            value_line("nats", unit),
            *([value_line("sum", f"sum, {unit}")] if len(known) == 2 else []),
        ],
    )
    largest = ", ".join(f"{int(d)} ({total[d]:.2f})" for d in order[:5])
    return Chart(
        f"{what} by latent dimension",
        f"{what} in {unit} of {len(total)} latent dimensions, largest first; sum "
        f"{total.sum():.2f}, largest: {largest}.",
        spec,
    )


def _crop(rows: Sequence[Mapping[str, Any]]) -> tuple[Spec, str]:
    """The limits of the later epochs' values, and which epochs lie outside of them.

    The change in the first steps is larger than all later changes.
    """
    epochs = sorted({row["epoch"] for row in rows})
    start = epochs[int(CROPPED_SHARE * len(epochs))]
    late = [row["value"] for row in rows if row["epoch"] >= start]
    low, high = min(late), max(late)
    margin = 0.08 * (high - low)
    if not margin:
        return {}, ""
    outside = [row["epoch"] for row in rows if not low - margin <= row["value"] <= high + margin]
    domain = {"domain": [low - margin, high + margin], "nice": False}
    if not outside:
        return domain, ""
    which = "epoch" if max(outside) == epochs[0] else f"epochs {epochs[0]:g} to"
    return domain, f"Outside the axis: {which} {max(outside):g}."


def _part(record: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A part of a diagnosis; empty if it is missing or was left out."""
    for name in names:
        found = record.get(name)
        if not isinstance(found, Mapping):
            return {}
        record = found
    return record


def _labels(diagnosis: Mapping[str, Any]) -> dict[str, str]:
    """What each predictive check is called."""
    checks = _part(diagnosis, "predictive", "checks")
    named = {**_part(checks, "comparisons"), **_part(checks, "profiles")}
    return {name: each["label"] for name, each in named.items() if each.get("label")}
