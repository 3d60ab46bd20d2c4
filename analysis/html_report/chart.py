"""A chart as a Vega-Lite specification, the library that draws it in a page, and parts of both.

Vega draws SVG, with roles and labels for screen readers and colours from CSS variables, and its
interpreter of expressions needs no `unsafe-eval`. Plotly's Python package carries only the full
bundle of 4.8 MB; Bokeh draws on a canvas and needs inline styles. The library is in the package
vl-convert-python (BSD-3-Clause) of the extra `report`.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyro_vae.compilation.products import cache_folder
from pyro_vae.json_values import to_jsonable
from pyro_vae.training.checkpoint import write_atomically

HERE = Path(__file__).parent

# Colours by their variables in charts.css, which differ between light and dark.
COLOURS = tuple(f"var(--chart-{index})" for index in range(10))
FIRST, SECOND, NEUTRAL = "var(--chart-first)", "var(--chart-second)", "var(--chart-muted)"
# With ten colours, seven shapes tell 70 classes apart.
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left")

Spec = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart, and what it shows in words.

    Args:
        title: What is drawn against what.
        alt: The alternative text: what the chart shows, with its numbers and units.
        spec: The Vega-Lite specification, with its data.
        note: What is not drawn, if anything.
    """

    title: str
    alt: str
    spec: Spec
    note: str = ""

    def html(self, name: str) -> str:
        """The figure with its specification as a block of JSON, for the script to draw.

        Args:
            name: The chart's name, for its id `chart-NAME`.
        """
        spec = {**self.spec, "description": self.alt}
        text = json.dumps(to_jsonable(spec), allow_nan=False, separators=(",", ":"))
        # A block of JSON ends at the first "</script>", whatever it is in.
        text = text.replace("<", "\\u003c")
        note = f' <span class="chart-note">{html.escape(self.note)}</span>' if self.note else ""
        return (
            f'<figure class="chart" id="chart-{name}">'
            f"<figcaption>{html.escape(self.title)}{note}</figcaption>"
            f'<div class="chart-plot" role="img" aria-label="{html.escape(self.alt)}"></div>'
            f'<script type="application/json">{text}</script></figure>'
        )


@cache
def library_script() -> str | None:
    """Vega, Vega-Lite and Vega-Embed as one script of 0.9 MB, to be put before `script`.

    It is made once for each version of the package, in a second or two, and kept in the user's
    cache folder.

    Returns:
        The script, which can stand in a page; None if vl-convert-python is not installed.
    """
    if find_spec("vl_convert") is None:
        return None
    path = cache_folder() / f"vega_{version('vl-convert-python')}.js"
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # A script ends at the first "</script", whatever it is in.
    bundle = bundle.replace("</script", "<\\/script")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bundle.encode())
    return bundle


def script() -> str:
    """The script that draws the charts of a page, shows values, and handles the keyboard."""
    return (HERE / "charts.js").read_text(encoding="utf-8")


def style() -> str:
    """The style sheet of charts, with their colours in light and dark."""
    return (HERE / "charts.css").read_text(encoding="utf-8")


def specification(rows: Sequence[Mapping[str, Any]], **parts: Any) -> Spec:
    """A specification as wide as the page; channels are moved into its encoding."""
    spec: Spec = {"width": "container", "height": 260, "data": {"values": list(rows)}}
    channels = ("x", "y", "color", "shape", "strokeDash", "tooltip")
    encoding = {name: parts.pop(name) for name in channels if name in parts}
    return spec | parts | {"encoding": encoding}


def axis(field: str, title: str, **options: Any) -> Spec:
    """A numeric channel; options are those of Vega-Lite."""
    scale = options.pop("scale", {})
    if scale.get("type") != "log":
        scale = {"zero": False, **scale}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, **options}


def value_line(field: str, title: str, form: str = ",.2f") -> Spec:
    """A line of the values shown at a point."""
    return {"field": field, "type": "quantitative", "title": title, "format": form}


def classes(
    field: str, names: Sequence[str], values: Sequence[Any], title: str | None = None
) -> Spec:
    """A channel of classes with a colour, a shape or a line style each."""
    scale = {"domain": list(names), "range": list(values)}
    # Entries of the legend are in as many columns as fit.
    width = 40 + 7 * max(map(len, names))
    legend = {"columns": {"expr": f"max(1, floor(width / {width}))"}, "labelLimit": 0}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend, "title": title}


def zoom() -> Spec:
    """Drag to move the axes; turn the wheel with Shift to scale them."""
    select = {"type": "interval", "zoom": "wheel![event.shiftKey]"}
    return {"name": "zoom", "select": select, "bind": "scales"}


def is_finite(value: float | None) -> bool:
    """Whether a value is there, and finite."""
    return value is not None and math.isfinite(value)


def rounded(value: Any) -> float:
    """Five significant digits, which are more than can be seen."""
    return float(f"{float(value):.5g}")


def cycle(values: Sequence[str], count: int, start: int = 0) -> list[str]:
    """As many values, from the first again after the last."""
    return [values[(start + index) % len(values)] for index in range(count)]
