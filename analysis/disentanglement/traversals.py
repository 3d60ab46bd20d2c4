"""What each coordinate of the code does to the decoded datum, in a row and in a few words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis.check import UndefinedCheckError
from analysis.disentanglement.factor_information import factor_information
from analysis.disentanglement.traversal_figure import plot_traversals
from analysis.disentanglement.traversal_labels import Movement, PictureMovements, vector_movement
from analysis.disentanglement.traversal_rows import Traversal, Traversals
from analysis.plotting.images import is_image
from analysis.predictive.model_samples import mean_data

__all__ = ["Traversal", "Traversals", "plot_traversals", "traversals"]

# A coordinate is moved between these quantiles of its codes.
RANGE = (0.01, 0.99)

# A coordinate does nothing if it moves the decoded mean by less than this share of how far decoded means
# of data lie from their own mean.
NOTHING = 0.1

# Where coordinates are tied, none can move alone.
TIED_SUPPORTS = ("sphere", "simplex", "one_hot")

# So many data are decoded for the spread, and so many coordinates are shown.
_DECODED = 500
_MOST_SHOWN = 10


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
    """E[x | z + (t - z_j) e_j] for t between the 1 % and 99 % quantiles of the codes' coordinate j.

    Images are labelled by what explains the change of their pixels (`PictureMovements`), other data by
    the elements that move most: each in units of its standard deviation over decoded data, of counts
    the square roots, whose noise is alike for rare and common ones. No label asks for a known factor; where there are some, the mutual information between
    the coordinate, cut into 20 classes of equal size, and each factor stands beside it.

    Args:
        vae: A program with `decode(z)`.
        codes: The embedded data.
        factors: The factors, or one label, of each datum, if known.
        names: What the factors are called.
        event_names: What the elements of a datum are called.
        dimensions: Which coordinates; None for the up to 10 that change the decoded datum most.
        steps: The number of values of each.
        base: The row of the datum to start from; None for the one nearest to the median code, in
            standard deviations of each coordinate.
        bases: From so many other data it is tried whether the same moves.
        seed: Of the choice of these, of the data decoded for the spread, and of permutations.

    Returns:
        A row for each coordinate. "does nothing" is what a collapsed coordinate should say; "changes
        shape" is a change that no simple movement explains, and no fault.

    Raises:
        UndefinedCheckError: If no coordinate of a code can move alone.
        ValueError: If there are fewer than 2 codes or 3 steps, factors are not as many as codes, or a
            dimension or the base does not exist.
    """
    support = getattr(getattr(vae, "prior", None), "support", "real")
    if support in TIED_SUPPORTS:
        raise UndefinedCheckError(
            f"no coordinate of a code on the support {support} can move alone: its others are tied to it."
        )
    n, latent_dim = codes.shape
    if n < 2 or steps < 3:
        raise ValueError(f"at least 2 codes and 3 steps are needed, got {n} and {steps}.")
    if factors is not None and len(factors) != n:
        raise ValueError(f"each code needs its factors, got {n} and {len(factors)}.")
    wanted = list(range(latent_dim) if dimensions is None else dimensions)
    outside = [j for j in wanted if not 0 <= j < latent_dim]
    if outside or (base is not None and not 0 <= base < n):
        raise ValueError(
            f"dimensions must be below {latent_dim} and the base below {n}, got {wanted}, {base}."
        )

    rng = np.random.default_rng(seed)
    base = _nearest_to_median(codes) if base is None else base
    limits = np.quantile(codes, RANGE, axis=0)
    rows = _Rows(vae, mean_data(vae, codes[rng.permutation(n)[:_DECODED]]), event_names)
    start = rows.decoded(codes[base : base + 1])[0]
    if dimensions is None:
        ends = np.concatenate([_moved(codes[base], j, limits[:, j]) for j in wanted])
        away = rows.distance(rows.decoded(ends), start).reshape(-1, 2)
        wanted = np.argsort(-(away**2).sum(1), kind="stable")[:_MOST_SHOWN].tolist()

    others = rng.permutation(np.delete(np.arange(n), base))[:bases]
    elsewhere = [rows(codes[other], wanted, limits, steps) for other in others]
    information = [{} for _ in wanted]
    if factors is not None:
        information = factor_information(codes[:, wanted], factors, names, seed=seed)
    found = []
    for index, (decoded, change, movement) in enumerate(rows(codes[base], wanted, limits, steps)):
        same = [_kind(other[index][2]) == _kind(movement) for other in elsewhere]
        found.append(
            Traversal(
                dimension=wanted[index],
                values=np.linspace(*limits[:, wanted[index]], steps),
                decoded=decoded,
                change=change,
                movement=movement,
                agreement=float(np.mean(same)) if same else None,
                information=information[index],
            )
        )
    found.sort(key=lambda row: -row.change)
    return Traversals(tuple(found), base, codes[base], start, latent_dim, len(others), rows.units)


class _Rows:
    """Rows from a code, with what moves along them.

    Args:
        vae: The program.
        spread: Decoded data.
        names: What the elements are called.
    """

    def __init__(self, vae: Any, spread: np.ndarray, names: Sequence[str]) -> None:
        self.vae, self.names = vae, names
        self.image = is_image(spread.shape[1:])
        self.counts = getattr(getattr(vae, "likelihood", None), "support", None) == "counts"
        deviation = spread.reshape(len(spread), -1).std(0)
        # An element that never varies cannot move; it is not made to by rounding.
        self.units = "square roots of counts" if self.counts else "standard deviations"
        self.units = "values of pixels" if self.image else self.units
        self.scale = np.where(deviation > 1e-6 * np.abs(spread).max(), deviation, np.inf)
        # How far decoded data lie from their mean; of a collapsed model, a thousandth of their size.
        flat = self.comparable(spread)
        away = np.sqrt(((flat - flat.mean(0)) ** 2).sum(1).mean())
        self.unit = float(max(away, 1e-3 * np.sqrt((flat**2).sum(1).mean()), 1e-12))

    def comparable(self, decoded: np.ndarray) -> Float[np.ndarray, "rows elements"]:
        """Decoded means as vectors in units in which their elements compare."""
        flat = decoded.reshape(len(decoded), -1)
        if self.image:
            return flat
        return np.sqrt(np.maximum(flat, 0)) if self.counts else flat / self.scale

    def decoded(self, codes: Float[np.ndarray, "rows latent"]) -> np.ndarray:
        """The means at codes."""
        return mean_data(self.vae, codes).astype(np.float64)

    def distance(self, decoded: np.ndarray, start: np.ndarray) -> Float[np.ndarray, " rows"]:
        """How far data lie from one, over how far decoded data lie from their mean."""
        away = self.comparable(decoded) - self.comparable(start[None])
        return np.linalg.norm(away, axis=1) / self.unit

    def __call__(
        self, code: np.ndarray, dimensions: Sequence[int], limits: np.ndarray, steps: int
    ) -> list[tuple[np.ndarray, float, Movement | None]]:
        """Of each coordinate: the decoded row, its change, and what moves."""
        start = self.decoded(code[None])
        moves = PictureMovements(start[0]) if self.image else None
        found = []
        for j in dimensions:
            row = self.decoded(_moved(code, j, np.linspace(*limits[:, j], steps)))
            change = float(np.sqrt((self.distance(row, start[0]) ** 2).mean()))
            if change < NOTHING:
                movement = None
            elif moves is not None:
                movement = moves(row)
            else:
                base = self.comparable(start)[0]
                movement = vector_movement(base, self.comparable(row), self.names)
            found.append((row, change, movement))
        return found


def _nearest_to_median(codes: np.ndarray) -> int:
    scaled = (codes - np.median(codes, axis=0)) / np.maximum(codes.std(0), 1e-12)
    return int((scaled**2).sum(1).argmin())


def _moved(code: np.ndarray, dimension: int, values: np.ndarray) -> np.ndarray:
    """The code with one coordinate set to each value."""
    path = np.tile(code, (len(values), 1))
    path[:, dimension] = values
    return path


def _kind(movement: Movement | None) -> str | None:
    return None if movement is None else movement.kind
