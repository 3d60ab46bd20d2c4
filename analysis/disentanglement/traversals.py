"""Latent traversals: what each coordinate of the code changes in the decoded data."""

import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from analysis.disentanglement.factors import encode_factors
from analysis.disentanglement.information_metrics import factor_information
from analysis.disentanglement.traversal_labels import ImageMovements, Movement, vector_movement
from analysis.model_samples import mean_data
from analysis.plotting.images import Limits, draw_grid, is_image
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, shorten, tidy
from analysis.result import Result, UndefinedCheckError
from pyro_vae.data.nouns import noun
from pyro_vae.latent_grids import TRAVERSED
from pyro_vae.latent_paths import TIED_SUPPORTS, central_row, move_coordinate

if TYPE_CHECKING:
    import matplotlib.figure

# A coordinate that moves the decoded mean by less than this share of the distance of decoded means
# from their own mean does nothing.
NOTHING = 0.1
# A coordinate follows one factor if it determines at least this share of the factor's entropy, and
# at most half as much of any other's.
FOLLOWED = 0.1
# The number of data decoded to measure their spread, and of coordinates shown.
_DECODED = 500
_MOST_SHOWN = 10


@dataclass(frozen=True)
class Traversal:
    """One coordinate moved through the range of its codes while all others are held fixed.

    Args:
        dimension: The coordinate's index.
        values: Its values.
        decoded: The mean of p(x | z) at each.
        change: The root mean square distance from the base, relative to that of decoded data from
            their mean. Below 0.1 the coordinate does nothing.
        movement: What changes; None if nothing does.
        agreement: The share of other base data for which the same kind of movement is found.
        information: For each factor, the share of its entropy that the coordinate determines,
            above chance.
    """

    dimension: int
    values: Float[np.ndarray, " steps"]
    decoded: Float[np.ndarray, " steps *event"]
    change: float
    movement: Movement | None
    agreement: float | None
    information: dict[str, float]

    @property
    def label(self) -> str:
        """What changes, and the share of the change that it alone explains."""
        if self.movement is None:
            return "does nothing"
        share = f", {self.movement.share:.0%}" if self.movement.single else ""
        return f"{self.movement.label}{share}"

    @property
    def factor(self) -> str | None:
        """The one factor that the coordinate follows; None if none, or several alike."""
        ranked = sorted(self.information.items(), key=lambda item: -item[1])
        if not ranked or ranked[0][1] < FOLLOWED:
            return None
        alone = len(ranked) == 1 or ranked[1][1] <= ranked[0][1] / 2
        return ranked[0][0] if alone else None

    @property
    def factor_label(self) -> str:
        """The followed factor and the share of its entropy, or all notable factors."""
        if self.factor is not None:
            return f"tells {self.information[self.factor]:.0%} of {self.factor}"
        notable = [name for name, share in self.information.items() if share >= FOLLOWED]
        return f"tells of {', '.join(notable) or 'no factor'}"

    def summary(self) -> dict[str, Any]:
        """The recorded values of the row."""
        movement = self.movement
        return {
            "dimension": self.dimension,
            "low": self.values[0],
            "high": self.values[-1],
            "change": self.change,
            "label": self.label,
            "kind": "nothing" if movement is None else movement.kind,
            "share": None if movement is None else movement.share,
            "shares": {} if movement is None else movement.shares,
            "agreement": self.agreement,
            "factor": self.factor,
            "information": self.information,
        }


@dataclass(frozen=True)
class Traversals(Result):
    """Traversals of several coordinates, sorted by falling change.

    Args:
        rows: One traversal per coordinate.
        base: The row of the data point that all start from.
        base_code: Its code.
        base_decoded: The mean of p(x | z) there.
        latent_dim: The number of coordinates of the code.
        bases: The number of other data that `agreement` is computed over.
        units: The units in which the elements of data are compared.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("base", "latent_dim", "units")

    rows: tuple[Traversal, ...]
    base: int
    base_code: Float[np.ndarray, " latent"]
    base_decoded: Float[np.ndarray, " *event"]
    latent_dim: int
    bases: int
    units: str

    def extra(self) -> dict[str, Any]:
        """The recorded values of each row."""
        return {"rows": [row.summary() for row in self.rows]}

    @property
    def counts(self) -> tuple[int, int]:
        """How many coordinates change one thing, and how many nothing."""
        movements = [row.movement for row in self.rows]
        return sum(m is not None and m.single for m in movements), movements.count(None)

    def reading(self) -> str:
        """How many coordinates have a single meaning, and how far that holds."""
        one, nothing = self.counts
        several = len(self.rows) - one - nothing
        agreements = [
            row.agreement for row in self.rows if row.movement and row.agreement is not None
        ]
        text = (
            f"Of {len(self.rows)} coordinates shown ({self.latent_dim} in all), {one} change one "
            f"thing, {several} several or the shape, and {nothing} nothing"
        )
        if agreements:
            share = np.mean(agreements)
            text += f"; the same is found from {self.bases} other data in {share:.0%} of cases"
        if self.rows and self.rows[0].information:
            followed = sum(row.factor is not None for row in self.rows)
            text += f"; {followed} follow one factor"
        return f"{text}."


def traversals(
    vae: Any,
    codes: Float[np.ndarray, "n latent"],
    *,
    factors: Int[np.ndarray, " n *factors"] | None = None,
    names: Sequence[str] = (),
    event_names: Sequence[str] = (),
    dimensions: Sequence[int] | None = None,
    steps: int = 9,
    base: int | None = None,
    bases: int = 4,
    seed: int = 0,
) -> Traversals:
    """E[x | z + (t - z_j) e_j], t between the 1 % and 99 % quantiles of the codes' coordinate j.

    Images are labelled by what explains the change of their pixels (`ImageMovements`), other data
    by the elements that change most, in units of their standard deviation over decoded data;
    counts by their square roots, whose noise is alike for rare and common ones. Labels need no
    known factors; where there are some, the mutual information of coordinate and factor is
    reported beside them.

    Args:
        vae: A program with `decode(z)`.
        codes: The embedded data.
        factors: The factors, or one label, of each data point, if known.
        names: The factors' names.
        event_names: The names of the elements of a data point.
        dimensions: Which coordinates; None for the up to 10 that change the decoded data most.
        steps: The number of values of each.
        base: The row to start from; None for the one nearest to the median code, in standard
            deviations of each coordinate.
        bases: The number of other data from which the movement is recomputed.
        seed: The seed of their choice, of the data decoded for the spread, and of permutations.

    Returns:
        One row per coordinate. A collapsed coordinate "does nothing"; "changes shape" is a change
        that no simple movement explains, which is no fault.

    Raises:
        UndefinedCheckError: If no coordinate of a code can move alone.
        ValueError: If there are fewer than 2 codes or 3 steps, the numbers of factors and codes
            differ, or a dimension or the base does not exist.
    """
    support = getattr(getattr(vae, "prior", None), "support", "real")
    if support in TIED_SUPPORTS:
        raise UndefinedCheckError(
            f"no coordinate of a code on the support {support} can move alone."
        )
    n, latent_dim = codes.shape
    if n < 2 or steps < 3:
        raise ValueError(f"at least 2 codes and 3 steps are needed, got {n} and {steps}.")
    if factors is not None and len(factors) != n:
        raise ValueError(f"expected factors of {n} codes, got {len(factors)}.")
    shown = list(range(latent_dim) if dimensions is None else dimensions)
    if any(not 0 <= j < latent_dim for j in shown) or (base is not None and not 0 <= base < n):
        raise ValueError(
            f"dimensions must be below {latent_dim} and the base below {n}, got {shown}, {base}."
        )

    rng = np.random.default_rng(seed)
    if base is None:
        base = central_row(codes)
    limits = np.quantile(codes, TRAVERSED, axis=0)
    mover = _Mover(vae, mean_data(vae, codes[rng.permutation(n)[:_DECODED]]), event_names)
    start = mover.decode(codes[base : base + 1])[0]
    if dimensions is None:
        ends = np.concatenate([move_coordinate(codes[base], j, limits[:, j]) for j in shown])
        distance = mover.distance(mover.decode(ends), start).reshape(-1, 2)
        shown = np.argsort(-(distance**2).sum(1), kind="stable")[:_MOST_SHOWN].tolist()

    others = rng.permutation(np.delete(np.arange(n), base))[:bases]
    elsewhere = [mover(codes[other], shown, limits, steps) for other in others]
    shares = [{} for _ in shown]
    if factors is not None:
        shares = factor_shares(codes[:, shown], factors, names, seed=seed)
    rows = []
    for index, (decoded, change, movement) in enumerate(mover(codes[base], shown, limits, steps)):
        same = [_kind(other[index][2]) == _kind(movement) for other in elsewhere]
        rows.append(
            Traversal(
                dimension=shown[index],
                values=np.linspace(*limits[:, shown[index]], steps),
                decoded=decoded,
                change=change,
                movement=movement,
                agreement=float(np.mean(same)) if same else None,
                information=shares[index],
            )
        )
    rows.sort(key=lambda row: -row.change)
    return Traversals(tuple(rows), base, codes[base], start, latent_dim, len(others), mover.units)


def factor_shares(
    codes: Float[np.ndarray, "n latent"],
    factors: Int[np.ndarray, " n *factors"],
    names: Sequence[str] = (),
    *,
    seed: int = 0,
) -> list[dict[str, float]]:
    """(I(z_j; v_k) - c) / (H(v_k) - c), with c the mean of I over permutations of the factor.

    Coordinates are cut into classes of equal size.

    Returns:
        A dictionary by factor for each coordinate: 1 if the coordinate determines the factor, 0 if
        there is no information, or the factor is constant.
    """
    from scipy.stats import rankdata

    columns = factors.reshape(len(factors), -1)
    if len(names) != columns.shape[1]:
        names = [f"factor {k}" for k in range(columns.shape[1])] if factors.ndim > 1 else ["label"]
    shares = dict.fromkeys(names, np.zeros(codes.shape[1]))
    with suppress(UndefinedCheckError):  # No factor varies.
        encoded = encode_factors(columns, names)
        found = factor_information(rankdata(codes, axis=0), encoded, seed=seed)
        above = (found.nats - found.bias) / np.maximum(found.entropies - found.bias, 1e-12)
        shares |= dict(zip(encoded.names, above.T.clip(0, 1), strict=True))
    return [
        {name: float(values[j]) for name, values in shares.items()} for j in range(codes.shape[1])
    ]


class _Mover:
    """Move coordinates of a code and describe what changes."""

    def __init__(self, vae: Any, spread: np.ndarray, names: Sequence[str]) -> None:
        self.vae, self.names = vae, names
        self.image = is_image(spread.shape[1:])
        self.counts = getattr(getattr(vae, "likelihood", None), "support", None) == "counts"
        self.units = "square roots of counts" if self.counts else "standard deviations"
        self.units = "values of pixels" if self.image else self.units
        deviation = spread.reshape(len(spread), -1).std(0)
        # Rounding must not make an element move that never varies.
        self.scale = np.where(deviation > 1e-6 * np.abs(spread).max(), deviation, np.inf)
        # The distance of decoded data from their mean; at least a thousandth of their size, which
        # matters for a collapsed model.
        flat = self.comparable(spread)
        away = np.sqrt(((flat - flat.mean(0)) ** 2).sum(1).mean())
        self.unit = float(max(away, 1e-3 * np.sqrt((flat**2).sum(1).mean()), 1e-12))

    def comparable(self, decoded: np.ndarray) -> np.ndarray:
        """Decoded means as vectors with elements in comparable units."""
        flat = decoded.reshape(len(decoded), -1)
        if self.image:
            return flat
        return np.sqrt(np.maximum(flat, 0)) if self.counts else flat / self.scale

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return mean_data(self.vae, codes).astype(np.float64)

    def distance(self, decoded: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The distance of data from a start, relative to that of decoded data from their mean."""
        away = self.comparable(decoded) - self.comparable(start[None])
        return np.linalg.norm(away, axis=1) / self.unit

    def __call__(
        self, code: np.ndarray, dimensions: Sequence[int], limits: np.ndarray, steps: int
    ) -> list[tuple[np.ndarray, float, Movement | None]]:
        """For each coordinate: the decoded row, its change, and the movement."""
        start = self.decode(code[None])
        describe = ImageMovements(start[0]) if self.image else None
        rows = []
        for j in dimensions:
            row = self.decode(move_coordinate(code, j, np.linspace(*limits[:, j], steps)))
            change = float(np.sqrt((self.distance(row, start[0]) ** 2).mean()))
            movement = None
            if change >= NOTHING and describe is not None:
                movement = describe(row)
            elif change >= NOTHING:
                base = self.comparable(start)[0]
                movement = vector_movement(base, self.comparable(row), self.names)
            rows.append((row, change, movement))
        return rows


def _kind(movement: Movement | None) -> str | None:
    return None if movement is None else movement.kind


def plot_traversals(found: Traversals, limits: Limits | None = None) -> "matplotlib.figure.Figure":
    """Draw what each coordinate changes, from the low to the high end of its codes.

    Images have one row per coordinate, with its label on the left. Other data have one panel per
    coordinate, with the elements that change most.

    Args:
        found: The traversals.
        limits: The values drawn black and white; None for the range of the rows, or 0 and 1 where
            all lie between.
    """
    one, nothing = found.counts
    title = f"{len(found.rows)} of {found.latent_dim} coordinates moved alone: "
    title += f"{one} change one thing, {nothing} nothing"
    if is_image(found.base_decoded.shape):
        return _plot_images(found, limits, title)
    return _plot_elements(found, title)


def _plot_images(
    found: Traversals, limits: Limits | None, title: str
) -> "matplotlib.figure.Figure":
    if limits is None:
        low = min(float(row.decoded.min()) for row in found.rows)
        high = max(float(row.decoded.max()) for row in found.rows)
        limits = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-6))
    steps = len(found.rows[0].values)
    figure = new_figure(0.72 * steps + 3.0, 0.76 * len(found.rows) + 0.9)
    (ax,) = draw_grid(
        figure,
        [row.decoded for row in found.rows],
        limits,
        names=[_label(row) for row in found.rows],
        titles={0: "1 %", (steps - 1) // 2: "quantiles of codes", steps - 1: "99 %"},
        framed=[
            (i, int(np.abs(row.values - found.base_code[row.dimension]).argmin()))
            for i, row in enumerate(found.rows)
        ],
    )
    for name, row in zip(ax.get_yticklabels(), found.rows, strict=True):
        name.set_color(GREY if row.movement is None else "black")
    figure.suptitle(
        f"{title}\nframed: nearest to the {noun()} that all rows start from", fontsize=12
    )
    return figure


def _plot_elements(found: Traversals, title: str) -> "matplotlib.figure.Figure":
    columns = min(2, len(found.rows))
    bands = math.ceil(len(found.rows) / columns)
    figure = new_figure(5.2 * columns, 1.9 * bands + 0.8)
    panels = figure.subplots(bands, columns, squeeze=False, sharex=True).flat
    for row, ax in zip(found.rows, panels, strict=False):
        ax.set_title(_label(row, 48), fontsize=10, color=GREY if row.movement is None else "black")
        ends = {} if row.movement is None else row.movement.ends
        colours = [BLUE if value > 0 else ORANGE for value in ends.values()]
        ax.barh(range(len(ends)), list(ends.values()), color=colours)
        ax.set_yticks(range(len(ends)), [shorten(name) for name in ends], fontsize=9)
        ax.invert_yaxis()
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.tick_params(labelbottom=True)
    tidy(figure.axes, grid="x")
    for index, ax in enumerate(figure.axes):
        if index >= len(found.rows) or found.rows[index].movement is None:
            ax.set_axis_off()
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(
        f"from the 1 % to the 99 % quantile of the code, in {found.units}", fontsize=10
    )
    return figure


def _label(row: Traversal, width: int = 30) -> str:
    lines = [textwrap.fill(f"z[{row.dimension}]: {row.label}", width)]
    if row.information:
        lines.append(textwrap.fill(row.factor_label, width))
    return "\n".join(lines)
