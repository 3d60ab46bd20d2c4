"""The results of moving each coordinate of the code alone: rows of decoded data, and what they say."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.disentanglement.traversal_labels import DOMINANT, Movement
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite

# A coordinate follows one factor if it tells at least so much of the factor's entropy, and the next
# factor at most half of that.
FOLLOWED = 0.1


@dataclass(frozen=True)
class Traversal:
    """One coordinate moved through the range of its codes, all others held.

    Args:
        dimension: The coordinate's index.
        values: Its values.
        decoded: The mean of p(x | z) at each.
        change: The root mean square distance of the row from the base, over that of decoded data from
            their mean. Below 0.1 the coordinate does nothing.
        movement: What moves; None if nothing does.
        agreement: The share of other base data, moved in the same way, where the same kind moves.
        information: Of each factor, the share of its entropy that the coordinate tells, above chance.
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
        """What moves, in a few words, and the share of the change that it alone explains."""
        if self.movement is None:
            return "does nothing"
        if not self.movement.single:
            return self.movement.label
        return f"{self.movement.label}, {self.movement.share:.0%}"

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
        """The factor and the share of its entropy; all that are notable if there is no single one."""
        if self.factor is not None:
            return f"tells {self.information[self.factor]:.0%} of {self.factor}"
        told = [name for name, share in self.information.items() if share >= FOLLOWED]
        return f"tells of {', '.join(told)}" if told else "tells of no factor"

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        moved = self.movement
        return {
            "dimension": self.dimension,
            "low": finite(self.values[0]),
            "high": finite(self.values[-1]),
            "change": finite(self.change),
            "label": self.label,
            "kind": "nothing" if moved is None else moved.kind,
            "share": None if moved is None else finite(moved.share),
            "shares": {} if moved is None else moved.shares,
            "agreement": finite(self.agreement),
            "factor": self.factor,
            "information": self.information,
        }


@dataclass(frozen=True)
class Traversals:
    """Rows of decoded means, a coordinate each, the one that changes most first.

    Args:
        rows: The rows.
        base: The row of the datum that all start from.
        base_code: Its code.
        base_decoded: The mean of p(x | z) there.
        latent_dim: The number of coordinates that the code has.
        bases: The number of other data that `agreement` is taken over.
        units: The units in which the elements of data are compared.
    """

    rows: tuple[Traversal, ...]
    base: int
    base_code: Float[np.ndarray, " latent"]
    base_decoded: Float[np.ndarray, " *event"]
    latent_dim: int
    bases: int
    units: str

    def summary(self) -> dict[str, Any]:
        """Plain values of each row."""
        return {
            "base": self.base,
            "latent_dim": self.latent_dim,
            "units": self.units,
            "rows": [row.summary() for row in self.rows],
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How many coordinates have one meaning, and how far to believe it."""
        moved = [row for row in self.rows if row.movement is not None]
        named = [row for row in moved if row.movement is not None and row.movement.single]
        agreed = [row.agreement for row in moved if row.agreement is not None]
        said = (
            f"Of {len(self.rows)} coordinates shown ({self.latent_dim} in all), {len(named)} change one "
            f"thing (it alone explains at least {DOMINANT:.0%} of the change), "
            f"{len(moved) - len(named)} several or the shape, and {len(self.rows) - len(moved)} nothing."
        )
        if agreed:
            said += (
                f" From {self.bases} other data the same coordinate does the same in "
                f"{np.mean(agreed):.0%} of cases: near 100% a label holds everywhere, below "
                f"50% it is of the {noun()} shown alone."
            )
        if self.rows and self.rows[0].information:
            followed = sum(row.factor is not None for row in self.rows)
            said += (
                f" {followed} follow one factor: tell at least {FOLLOWED:.0%} of its entropy "
                "and at most half as much of any other's."
            )
        return said
