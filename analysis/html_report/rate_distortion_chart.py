"""The chart of the plane of rate and distortion, of one run by epoch or of several runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.html_report.chart import (
    COLOURS,
    FIRST,
    NEUTRAL,
    SECOND,
    SHAPES,
    Chart,
    axis,
    classes,
    cycle,
    is_finite,
    rounded,
    specification,
    value_line,
)
from pyro_vae.data.nouns import noun
from pyro_vae.training.history import CROPPED_SHARE


def rate_distortion(
    points: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, float | int | None]] = ()
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
