"""What paths between codes say, in numbers and sentences."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import standard_error

# A draw that is less probable than this share of the reference data counts as unlikely: as many of the
# reference data are by chance.
UNLIKELY = 0.05
# Paths stay with the data if at most this share of their middles is unlikely: twice chance.
MOST_UNLIKELY = 0.1
# A step of so many mean steps is a jump; an even path has 1, a path of one jump as many as it has steps.
JUMP = 3.0
# Below this ratio of lengths a path is next to a straight cross-fade of the decoded ends.
STRAIGHT = 1.05
# A middle so many standard deviations from draws of p(z), in log p(z), is untypical of the prior.
UNTYPICAL = 2.0


@dataclass(frozen=True)
class Profiles:
    """log p(z) and log p(x) along paths and of what they are set beside, in nats.

    Args:
        shares: t of each point, from 0 to 1.
        log_prior: log p(z(t)); None where it has no one unit or is not finite.
        prior_draws: log p(z) of draws of p(z).
        log_evidence: log p(x) of x ~ p(x | z(t)): a lower bound by importance weighting.
        cross_fade: The same of cross-fades of the data; None without data.
        data: The same of real data; None without.
        model_draws: The same of new data, z ~ p(z).
        num_samples: The number of draws from the guide for each.
        withheld: Why rounding errors allow no verdict on log p(x); None where they are small.
    """

    shares: Float[np.ndarray, " steps"]
    log_prior: Float[np.ndarray, "pairs steps"] | None
    prior_draws: Float[np.ndarray, " draws"] | None
    log_evidence: Float[np.ndarray, "pairs steps"]
    cross_fade: Float[np.ndarray, "pairs steps"] | None
    data: Float[np.ndarray, " data"] | None
    model_draws: Float[np.ndarray, " draws"]
    num_samples: int
    withheld: str | None = None

    @cached_property
    def middle(self) -> int:
        """The point that is nearest to half the way."""
        return int(np.abs(self.shares - 0.5).argmin())

    @property
    def reference(self) -> Float[np.ndarray, " draws"]:
        """log p(x) of the data; of new data, if there are none."""
        return self.model_draws if self.data is None else self.data

    @property
    def unlikely_below(self) -> float:
        """The log p(x) that 5 % of the reference data are below."""
        return float(np.quantile(self.reference, UNLIKELY))

    def below(self, log_evidence: Float[np.ndarray, " *some"]) -> float:
        """The share that is less probable than 95 % of the reference data; no number counts as such."""
        return float((~(log_evidence >= self.unlikely_below)).mean())

    @property
    def middle_below(self) -> float:
        """The share of middles that are unlikely: 5 % is chance."""
        return self.below(self.log_evidence[:, self.middle])

    @property
    def end_below(self) -> float:
        """The share of draws at the ends, the codes of data, that are unlikely."""
        return self.below(self.log_evidence[:, [0, -1]])

    @property
    def dip(self) -> Float[np.ndarray, " pairs"]:
        """log p(x) at the middle less the mean of both ends, of each path, in nats."""
        ends = self.log_evidence[:, [0, -1]].mean(1)
        return self.log_evidence[:, self.middle] - ends

    def prior_score(self, index: int) -> float | None:
        """How many standard deviations of log p(z), z ~ p(z), a point of the paths is off in the mean."""
        if self.log_prior is None or self.prior_draws is None:
            return None
        spread = float(self.prior_draws.std())
        off = float(self.log_prior[:, index].mean() - self.prior_draws.mean())
        # A uniform density is the same everywhere.
        return off / spread if spread > 1e-5 * max(1.0, abs(off)) else 0.0

    def summary(self) -> dict[str, Any]:
        """Means in nats with standard errors, and shares of unlikely draws."""
        m = self.middle
        score = self.prior_score(m)
        record: dict[str, Any] = {
            "num_samples": self.num_samples,
            "log_prior_middle": _mean(None if self.log_prior is None else self.log_prior[:, m]),
            "log_prior_ends": _mean(
                None if self.log_prior is None else self.log_prior[:, [0, -1]].ravel()
            ),
            "log_prior_draws": _mean(self.prior_draws),
            "log_prior_middle_deviations": None if score is None else finite(score),
            "dip": finite(self.dip.mean()),
            "dip_se": finite(standard_error(self.dip)),
            "middle_below": finite(self.middle_below),
            "end_below": finite(self.end_below),
            "model_draws_below": finite(self.below(self.model_draws)),
            "cross_fade_below": None
            if self.cross_fade is None
            else finite(self.below(self.cross_fade[:, m])),
        }
        for name, values in (
            ("middle", self.log_evidence[:, m]),
            ("ends", self.log_evidence[:, [0, -1]].mean(1)),
            ("cross_fade_middle", None if self.cross_fade is None else self.cross_fade[:, m]),
            ("data", self.data),
            ("model_draws", self.model_draws),
        ):
            record[f"log_evidence_{name}"] = _mean(values)
            error = None if values is None else finite(standard_error(values))
            record[f"log_evidence_{name}_se"] = error
        return record

    def reading(self) -> str:
        """Whether the middle of paths is as probable as data."""
        if self.withheld:
            return self.withheld
        kind = "new data from the model" if self.data is None else "real data"
        error = standard_error(self.dip)
        spread = "" if error is None else f" (s.e. {error:.2g})"
        beside = f"{self.end_below:.0%} of draws at their ends"
        faded = None
        if self.cross_fade is not None:
            faded = self.below(self.cross_fade[:, self.middle])
            beside += f", {faded:.0%} of cross-fades of the data"
        if self.data is not None:
            beside += f", {self.below(self.model_draws):.0%} of new data from the prior"
        text = (
            f"Draws of p(x | z) at the middle differ by {self.dip.mean():+.1f} nats{spread} in log p(x) from "
            f"those at the ends; {self.middle_below:.0%} of them are less probable than {1 - UNLIKELY:.0%} of {kind} "
            f"(chance {UNLIKELY:.0%}; {beside})"
        )
        doubt = 2 * np.sqrt(self.middle_below * (1 - self.middle_below) / len(self.log_evidence))
        if self.end_below > 2 * MOST_UNLIKELY and self.middle_below <= 1.5 * self.end_below:
            text += (
                ": the model's own draws at codes of data are as unlikely, which is a fault of the model or "
                "its guide and not of the paths."
            )
        elif self.middle_below <= MOST_UNLIKELY:
            text += ": the middle of paths is about as probable as data."
            if faded is not None and faded <= MOST_UNLIKELY:
                text += " So are cross-fades: log p(x) varies too much over these data to tell what is off."
        elif self.middle_below - doubt <= MOST_UNLIKELY:
            text += ": with so few pairs that is not told from data; take more."
        else:
            text += ": paths cross places from which the model makes unlikely data."
        middle, ends = self.prior_score(self.middle), self.prior_score(0)
        if middle is not None and ends is not None and abs(middle) > UNTYPICAL:
            text += (
                f" In log p(z) the middle lies {middle:+.1f} standard deviations from draws of the prior, and the "
                f"ends {ends:+.1f}"
            )
            text += (
                ": a straight line between codes passes nearer to a mode than draws do, which is as "
                "untypical as too far."
                if middle > 0
                else ": the prior has little mass there."
            )
        return text


@dataclass(frozen=True)
class Interpolation:
    """Decoded paths between random pairs of codes, in the units of the data.

    Args:
        length: sum_i |x_{i+1} - x_i| of each path of means: from below, the length of the curve.
        distance: |x_b - x_a| of its ends.
        largest_step: Of each path.
        mean_step: Of each path.
        bend: sum_i |second differences| over the length: 0 is straight and even.
        steps: The number of points.
        support: Of z: "sphere" if paths are great circles, otherwise they are straight.
        profiles: Of log densities; None for a guide without a density.
        shown: A few decoded paths, for a picture.
        ends: The data at both ends of each of these; None if they were not given.
    """

    length: Float[np.ndarray, " pairs"]
    distance: Float[np.ndarray, " pairs"]
    largest_step: Float[np.ndarray, " pairs"]
    mean_step: Float[np.ndarray, " pairs"]
    bend: Float[np.ndarray, " pairs"]
    steps: int
    support: str
    profiles: Profiles | None
    shown: Float[np.ndarray, " few steps *event"]
    ends: Real[np.ndarray, " ends *event"] | None = None

    @property
    def ratio(self) -> Float[np.ndarray, " moving"]:
        """Length over distance, at least 1, of the paths whose ends differ."""
        moves = self._moves
        return self.length[moves] / self.distance[moves]

    @property
    def largest_relative_step(self) -> Float[np.ndarray, " moving"]:
        """Largest over mean step, from 1, even speed, to `steps` - 1, one jump."""
        moves = self._moves
        return self.largest_step[moves] / self.mean_step[moves]

    @property
    def _moves(self) -> np.ndarray:
        # Codes that no datum depends on decode to the same but for rounding.
        return self.distance > 1e-6 * max(1.0, float(np.abs(self.shown).max()))

    def summary(self) -> dict[str, Any]:
        """Medians over pairs with quartiles, what the profiles say, and a reading."""
        record: dict[str, Any] = {
            "pairs": len(self.length),
            "steps": self.steps,
            "path": "great circle" if self.support == "sphere" else "straight line",
            "pairs_that_move": int(self._moves.sum()),
        }
        for name, values in (
            ("length", self.length),
            ("distance", self.distance),
            ("length_ratio", self.ratio),
            ("largest_relative_step", self.largest_relative_step),
            ("bend", self.bend[self._moves]),
        ):
            low, mid, high = (
                np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else [np.nan] * 3
            )
            record[name] = finite(mid)
            record[f"{name}_quartiles"] = [finite(low), finite(high)]
        record["density"] = None if self.profiles is None else self.profiles.summary()
        record["reading"] = self.reading()
        return record

    def reading(self) -> str:
        """How the decoder moves along a path, and whether its middle is as probable as data."""
        if not len(self.ratio):
            return "The decoded data do not move along any path: the decoder ignores the code."
        ratio, jump = (float(np.median(v)) for v in (self.ratio, self.largest_relative_step))
        text = f"A decoded path is {ratio:.2f} times as long as the straight line between its ends"
        text += (
            f", next to 1: it fades from one {noun()} into the other as a cross-fade does, and bends through no others"
            if ratio < STRAIGHT
            else " (1 is a cross-fade in data space, which bends through no other data)"
        )
        text += f"; its largest step is {jump:.1f} mean steps (1 is even speed): "
        text += "it jumps." if jump > JUMP else "it moves without jumps."
        if self.profiles is None:
            return f"{text} The guide has no density, and log p(x) along the path is not defined."
        return f"{text} {self.profiles.reading()}"


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None else finite(values.mean())
