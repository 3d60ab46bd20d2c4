"""The interactive charts of a run, and of several runs, from their stored records."""

import math
from collections.abc import Mapping, Sequence
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
    is_finite,
    rounded,
    specification,
    value_line,
)
from analysis.html_report.datum_charts import PerDatum, codes, differences, khats
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


def rate_distortion(
    points: Sequence[Mapping[str, Any]], history: Sequence[Row] = ()
) -> Chart | None:
    """Rate and distortion of models, and of the validation data by epoch.

    Args:
        points: For each model `name`, `rate`, `distortion`, and their standard errors `rate_se`,
            `distortion_se` if they are known, in nats per example.
        history: The epochs of the training of the only model.
    """
    unit = f"nats per {noun()}"
    models = [
        _plane_row(each["rate"], each["distortion"])
        | {"name": each["name"]}
        | {f"{term}_text": _with_error(each, term) for term in ("rate", "distortion")}
        | {
            f"{term}_{side}": each[term] + sign * 2 * (each.get(f"{term}_se") or 0.0)
            for term in ("rate", "distortion")
            for side, sign in (("low", -1), ("high", 1))
        }
        for each in points
        if is_finite(each.get("rate")) and is_finite(each.get("distortion"))
    ]
    path = [
        _plane_row(rate, -reconstruction) | {"epoch": epoch["epoch"]}
        for epoch in history[int(CROPPED_SHARE * len(history)) :]
        if (rate := epoch.get("validation_kl")) is not None
        and (reconstruction := epoch.get("validation_reconstruction")) is not None
        and is_finite(rate + reconstruction)
    ]
    if not models:
        return None
    best = max(models, key=lambda row: row["elbo"])
    domain, line = _plane(models + path, best)
    rate, distortion = value_line("rate", f"rate, {unit}"), value_line("distortion", "distortion")
    elbo = value_line("elbo", "ELBO")
    names = [row["name"] for row in models]
    colours = cycle(COLOURS, len(names)) if len(names) > 1 else [SECOND]
    error = {"mark": {"type": "rule", "aria": False}, "data": {"values": models}}
    color = classes("name", names, colours)
    layers = [
        {
            "data": {"values": line},
            "mark": {"type": "line", "strokeDash": [5, 3], "color": NEUTRAL, "aria": False},
        },
        {
            "data": {"values": path},
            "mark": {
                "type": "line",
                "color": FIRST,
                "point": {"filled": True, "size": 30, "color": FIRST},
                "aria": False,
            },
            "encoding": {
                "tooltip": [{"field": "epoch"}, rate, distortion, elbo],
                "order": {"field": "epoch"},
            },
        },
        error
        | {"encoding": {"x": {"field": "rate_low"}, "x2": {"field": "rate_high"}, "color": color}},
        error
        | {
            "encoding": {
                "y": {"field": "distortion_low"},
                "y2": {"field": "distortion_high"},
                "color": color,
            }
        },
        {
            "data": {"values": models},
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
            "encoding": {
                "color": color,
                "shape": classes("name", names, cycle(SHAPES, len(names))),
                "tooltip": [
                    {"field": "name"},
                    {"field": "rate_text", "title": f"rate, {unit}"},
                    {"field": "distortion_text", "title": "distortion"},
                    elbo,
                ],
            },
        },
    ]
    spec = specification(
        [],
        layer=[layer for layer in layers if layer["data"]["values"]],
        x=axis("rate", f"rate, {unit}", scale={"domain": domain[0], "nice": False}),
        y=axis("distortion", f"distortion, {unit}", scale={"domain": domain[1], "nice": False}),
        height=320,
    )
    listed = "; ".join(
        f"{row['name']}: rate {row['rate_text']}, distortion {row['distortion_text']}, ELBO "
        f"{row['elbo']:.2f}"
        for row in models[:10]
    )
    beside = f". A line joins {len(path)} epochs of the validation data" if path else ""
    return Chart(
        "Rate against distortion",
        f"Rate against distortion in {unit}; {listed}{beside}. The dashed line has the ELBO of "
        f"{best['name']}.",
        spec,
        "Lower left is better; ELBOs are equal along the dashed line."
        + (" The solid line joins epochs of the validation data." if path else "")
        + (" Bars are two standard errors." if len(names) > 1 else ""),
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


def _plane_row(rate: float, distortion: float) -> dict[str, Any]:
    """A point of the plane of rate and distortion, whose sum is -ELBO."""
    return {
        "rate": rounded(rate),
        "distortion": rounded(distortion),
        "elbo": rounded(-rate - distortion),
    }


def _with_error(point: Mapping[str, Any], term: str) -> str:
    error = point.get(f"{term}_se")
    return f"{point[term]:,.2f}" + ("" if error is None else f" ± {error:.2f}")


def _plane(
    rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]
) -> tuple[list[list[float]], list[dict[str, float]]]:
    """The limits of both axes, and the ends of the line of the best model's ELBO."""
    corners = np.array(
        [
            [row.get(f"{term}_{side}", row[term]) for term in ("rate", "distortion")]
            for row in rows
            for side in ("low", "high")
        ]
    )
    low, high = corners.min(0), corners.max(0)
    # Some of the line shows around a single point.
    margin = 0.12 * np.maximum(high - low, max(0.1 * np.abs(corners).max(), 1.0))
    low, high = low - margin, high + margin
    total = best["rate"] + best["distortion"]
    ends = np.clip(total - np.array([high[1], low[1]]), low[0], high[0])
    line = [{"rate": float(each), "distortion": float(total - each)} for each in ends]
    return [[float(a), float(b)] for a, b in zip(low, high, strict=True)], line


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
