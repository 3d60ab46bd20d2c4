"""What notebooks show: progress bars, and results as tables."""

import html
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

# A longer table is cut, and so is a longer list in one of its cells; longer cells are text.
LARGEST_TABLE, LONGEST_LIST, LONGEST_NUMBER = 40, 200, 40
NOTE = "Log densities are in nats, means per example; ± is a standard error."


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def progress_bar(shown: bool, **options: Any) -> tqdm:
    """A bar of tqdm: a widget in a notebook that has ipywidgets, otherwise text.

    Args:
        shown: Whether to show it.
        **options: The options of `tqdm.tqdm`.
    """
    if shown and in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as notebook_tqdm

        return notebook_tqdm(**options)
    return tqdm(disable=not shown, **options)


class SummaryTable:
    """A result whose `summary()` is a table in a notebook, with the first line of its class."""

    def summary(self) -> Mapping[str, Any]:
        """Plain values by name; the standard error of `NAME` is called `NAME_se`."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        summary = dict(self.summary())
        errors = {n: summary.pop(f"{n}_se") for n in [*summary] if f"{n}_se" in summary}
        rows = [
            (name.replace("_", " "), _cell(value, errors.get(name)))
            for name, value in _flat(summary)
        ]
        title = (inspect.getdoc(type(self)) or type(self).__name__).partition("\n")[0]
        return html_table(title, (), rows, NOTE)


def html_table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> str:
    """A table in HTML. All text is escaped; the colours are those of the page, light or dark.

    >>> html_table("a < b", ["x"], [["1"]]).startswith("<table><caption")
    True

    Args:
        caption: The text above it.
        header: The names of the columns; none for rows that begin with their name.
        rows: The cells.
        note: The text below it.
    """
    left, right = (f' style="text-align:{side}"' for side in ("left", "right"))

    def line(cells: Sequence[str], tag: str) -> str:
        first = f'<th scope="{"col" if tag == "th" else "row"}"{left}>{html.escape(cells[0])}</th>'
        scope = ' scope="col"' if tag == "th" else ""
        sides = (left if len(cell) > LONGEST_NUMBER else right for cell in cells[1:])
        rest = (
            f"<{tag}{scope}{side}>{html.escape(cell)}</{tag}>"
            for cell, side in zip(cells[1:], sides, strict=True)
        )
        return f"<tr>{first}{''.join(rest)}</tr>"

    body = [line(row, "td") for row in rows[:LARGEST_TABLE]]
    if len(rows) > LARGEST_TABLE:
        note = f"{note} {len(rows) - LARGEST_TABLE} more rows are left out.".strip()
    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    style = 'style="caption-side:top;text-align:left"'
    below = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f"<table><caption {style}>{html.escape(caption)}</caption>{head}"
        f"<tbody>{''.join(body)}</tbody></table>{below}"
    )


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by the names on the way to them."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", value


def _cell(value: Any, error: Any = None) -> str:
    """A value, perhaps with its standard error, as text."""
    if value is None:
        return "not known"
    if isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"
        return text if error is None else f"{text} ± {error:.2g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        value = " ".join(map(_cell, value.values()))
    if isinstance(value, list | tuple):
        text = ", ".join(map(_cell, value))
        return text if len(text) <= LONGEST_LIST else f"{text[:LONGEST_LIST]}..."
    return str(value)
