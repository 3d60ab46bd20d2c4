"""Check whether forecasts of elements come true, by their PIT: data of any kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.calibration.element_map import ElementForecasts, ElementMap, element_map
from analysis.calibration.leave_one_out import check_resolved, forecasts, generated_forecasts
from analysis.check import Check, Plot
from analysis.hypothesis_tests import NUM_FLIPS, bootstrap_interval, p_text, sign_flips
from analysis.plotting.style import BLUE, ORANGE, new_figure, tidy
from analysis.subject import Subject
from analysis.verdicts import LARGEST_BIAS, LARGEST_SPREAD, Verdict, judge_forecasts
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure


# Bins of the histogram. Forecasts from 200 draws have no finer structure.
BINS = 20
# Number of Legendre polynomials whose means are tested. Bins are not tested: with few data or
# dependent elements a bin has few events, and the signs of rare events cannot be flipped, which
# rejects a true model in 20 % of cases with 60 examples of 8 elements.
DEGREES = 6
# Standard errors beyond which bias and spread have a direction.
_CLEAR = 3.0


@dataclass(frozen=True, kw_only=True)
class ElementPit(ElementForecasts):
    """The PIT of each element against a uniform distribution.

    Args:
        edges: The edges of the histogram's bins.
        density: The density of the PIT in each bin: 1 if all is well.
        low: The lower end of its 95 % band, by bootstrap over examples.
        high: The upper end.
        model_density: The density of the PIT of generated data; None without them.
        bias: The mean PIT - 1/2: above 0 the data are larger than forecast.
        bias_t: In standard errors.
        spread: The variance of the PIT around 1/2 over that of a uniform one: above 1 the
            forecasts are too narrow, below 1 too wide.
        spread_t: spread - 1 in standard errors.
        model_bias: The `bias` of generated data; None without them.
        model_spread: Their `spread`.
        bias_t_against_model: bias - model_bias in standard errors.
        spread_t_against_model: spread - model_spread in standard errors.
        location: The map of PIT - 1/2, or of its difference from generated data.
        width: The map of 4 |PIT - 1/2| - 1, or of its difference: above 0 the forecasts are too
            narrow.
    """

    edges: Float[np.ndarray, " edges"]
    density: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    model_density: Float[np.ndarray, " bins"] | None
    bias: float
    bias_t: float
    spread: float
    spread_t: float
    model_bias: float | None
    model_spread: float | None
    bias_t_against_model: float | None
    spread_t_against_model: float | None
    location: ElementMap
    width: ElementMap

    FIELDS = (
        *("n", "p_value", "p_value_against_model", "bias", "bias_t", "spread", "spread_t"),
        *("model_bias", "model_spread", "bias_t_against_model", "spread_t_against_model"),
    )

    @property
    def maps(self) -> dict[str, ElementMap]:
        """The maps of location and width."""
        return {
            "Location: {} where data are larger than forecast": self.location,
            "Width: {} where forecasts are too narrow": self.width,
        }

    def headline(self) -> dict[str, str]:
        """Mean and variance of the PIT, and the p-values."""
        return {
            "mean PIT (0.5 is right)": f"{0.5 + self.bias:.3f}",
            "variance of the PIT (1 is right)": f"{self.spread:.2f}",
        } | super().headline()

    def extra(self) -> Mapping[str, Any]:
        """The bins, and both maps."""
        names = ("density", "low", "high", "model_density")
        maps = {"location": self.location.summary(), "width": self.width.summary()}
        return {**super().extra(), "bins": {name: getattr(self, name) for name in names}, **maps}

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the forecasts come true, compared with generated data where possible."""
        bias, spread = self.bias, self.spread - 1.0
        errors = self.bias_t, self.spread_t
        effect = (
            f"the mean PIT is {0.5 + bias:.3f} (0.5 is right, within {LARGEST_BIAS} is fine) and "
            f"its variance {self.spread:.2f} times a uniform one's (1 is right, within "
            f"{LARGEST_SPREAD} is fine)"
        )
        if self.model_bias is not None and self.model_spread is not None:
            bias, spread = bias - self.model_bias, self.spread - self.model_spread
            errors = self.bias_t_against_model or 0.0, self.spread_t_against_model or 0.0
            own = f"{0.5 + self.model_bias:.3f} and {self.model_spread:.2f}"
            effect += f", where the model's own data have {own}"
        verdict = judge_forecasts(
            effect,
            small=abs(bias) <= LARGEST_BIAS and abs(spread) <= LARGEST_SPREAD,
            direction=_direction(*errors),
            p=1.0 if self.p_value is None else self.p_value,
            against=self.p_value_against_model,
            trusted=self.trusted,
        )
        return (verdict,)

    def description(self) -> str:
        """The number of elements that fail alone."""
        together = (
            "" if self.p_value is None else f"; model and guide together: p {p_text(self.p_value)}"
        )
        return (
            f"{self.location.fails.sum()} of {self.location.t.size} elements fail alone in "
            f"location and {self.width.fails.sum()} in width{together}."
        )


def _direction(bias_t: float, spread_t: float) -> str:
    words = []
    if abs(bias_t) > _CLEAR:
        words.append("too low" if bias_t > 0 else "too high")
    if abs(spread_t) > _CLEAR:
        words.append("too narrow" if spread_t > 0 else "too wide")
    return f"the forecasts are {' and '.join(words)}" if words else ""


def element_pit(
    pit: Float[np.ndarray, " n *event"],
    *,
    simulated: Float[np.ndarray, " m *event"] | None = None,
    trusted: bool | None = None,
    seed: int = 0,
    num_flips: int = NUM_FLIPS,
) -> ElementPit:
    """Histogram, bias, spread and maps of F(x_i | x_-i), which is uniform if the model is true.

    Under a true model the means of an example's Legendre polynomials P_k(2 u - 1), k = 1, ..., 6,
    have expectation zero; the first is the bias, the second the spread. The largest |t| of all is
    compared with random signs of whole examples, which allows for dependence within an example. It
    is Neyman's smooth test, by coordinates.

    The PIT is that of an estimated forecast, biased by about 1 / ESS towards the guide's beliefs:
    with a poor guide it fails though the model is true. With `simulated` the same is done to the
    difference between an example and a generated one. Under a true model the two are exchangeable
    whatever the guide, and the test is exact.

    Args:
        pit: Such as `leave_one_element_out(...).pit`.
        simulated: The PIT of as many generated examples, with the same guide and number of draws.
        trusted: `LeaveOneOut.trusted`, for the verdict.
        seed: The seed of bootstrap and signs.
        num_flips: The number of choices of signs.

    Returns:
        Read `bias` and `spread` first. `p_value_against_model` below 0.05 means that the model
        errs; `p_value` below 0.05, that the model or the guide does.

    Raises:
        ValueError: If there are fewer than two examples, events differ, or a PIT is outside [0,
            1].

    References:
        Probabilistic forecasts, calibration and sharpness (Gneiting, Balabdaoui & Raftery, 2007),
        https://doi.org/10.1111/j.1467-9868.2007.00587.x; "Smooth test" for goodness of fit
        (Neyman, 1937), https://doi.org/10.1080/03461238.1937.10404821
    """
    n, event = len(pit), pit.shape[1:]
    flat = _validate(pit, "pit")
    share, scores, fields = _shares(flat), _legendre_means(flat), _fields(flat)
    flips = sign_flips(scores, seed=seed, num_flips=num_flips)
    low, high = bootstrap_interval(share, np.ones_like(share), seed=seed)
    own = against = model_bias = model_spread = None
    suffix = ""
    if simulated is not None:
        if simulated.shape[1:] != event:
            raise ValueError(
                f"simulated must have events of shape {event}, got {simulated.shape[1:]}."
            )
        own = _validate(simulated, "simulated")
        pairs = min(n, len(own))
        difference = scores[:pairs] - _legendre_means(own[:pairs])
        against = sign_flips(difference, seed=seed, num_flips=num_flips)
        fields = [a[:pairs] - b[:pairs] for a, b in zip(fields, _fields(own), strict=True)]
        suffix = ",\ndata minus generated"
        model_bias, model_spread = _moments(own)
    location, width = (
        element_map(values.reshape(-1, *event), what + suffix, seed=seed, num_flips=num_flips)
        for values, what in zip(fields, ("mean PIT - 1/2", "mean 4 |PIT - 1/2| - 1"), strict=True)
    )
    bias, spread = _moments(flat)
    return ElementPit(
        edges=np.linspace(0, 1, BINS + 1),
        density=share.mean(0),
        low=low,
        high=high,
        model_density=None if own is None else _shares(own).mean(0),
        p_value=flips.p_value,
        p_value_against_model=against and against.p_value,
        bias=bias,
        bias_t=float(np.nan_to_num(flips.t[0])),
        spread=spread,
        spread_t=float(np.nan_to_num(flips.t[1])),
        model_bias=model_bias,
        model_spread=model_spread,
        bias_t_against_model=against and float(against.t[0]),
        spread_t_against_model=against and float(against.t[1]),
        location=location,
        width=width,
        trusted=trusted,
        n=n,
    )


def plot_element_pit(pit: ElementPit) -> "matplotlib.figure.Figure":
    """The histogram of the leave-one-out PIT, flat where forecasts come true, with 95 % bands."""
    figure = new_figure(8.0, 4.6)
    ax = figure.subplots()
    centres = (pit.edges[:-1] + pit.edges[1:]) / 2
    ends = np.stack([pit.density - pit.low, pit.high - pit.density])
    ax.bar(centres, pit.density, width=0.94 * np.diff(pit.edges), color=BLUE, alpha=0.55)
    ax.errorbar(centres, pit.density, np.maximum(ends, 0), fmt="none", color=BLUE, elinewidth=1.5)
    ax.axhline(1, color="black", linestyle="--", linewidth=1, label="forecasts come true")
    top = max(pit.density.max(), pit.high.max())
    if pit.model_density is not None:
        name = "the model's own data, same guide"
        ax.stairs(pit.model_density, pit.edges, color=ORANGE, linewidth=1.5, label=name)
        top = max(top, pit.model_density.max())
    ax.legend(frameon=False, loc="upper center", fontsize=9, ncols=2)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.25 * float(top)),  # Room for the legend.
        xlabel="PIT of an element, forecast from all others (0: below all forecasts)",
        ylabel="density over all elements",
    )
    ax.set_title(
        f"Mean {0.5 + pit.bias:.3f} (0.5 is right), variance {pit.spread:.2f} of a uniform one's. "
        f"Bars: 95 %, by bootstrap over {pit.n} {nouns()}\n"
        "High ends: forecasts too narrow; high middle: too wide",
        fontsize=9,
    )
    figure.suptitle(pit.title())
    tidy([ax])
    return figure


def compute_element_pit(subject: Subject) -> ElementPit:
    """The PIT of a subject's elements.

    Raises:
        UndefinedCheckError: If there is only one example, or rounding errors dominate the weights.
    """
    subject.check_size()
    check_resolved(subject)
    found = subject.compute(forecasts)
    return element_pit(
        found.pit,
        simulated=subject.compute(generated_forecasts).pit,
        trusted=found.trusted,
        seed=subject.seed_of("element pit"),
    )


# The verdict is given by the section "calibration".
ELEMENT_PIT = Check(
    "elements",
    compute_element_pit,
    plots=(
        Plot(
            "elements",
            "Are forecasts of elements too low, too high, too wide or too narrow?",
            lambda pit, _: plot_element_pit(pit),
        ),
    ),
    headline=lambda pit: ElementForecasts.headline(pit),
    shared=("forecasts of elements", "forecasts of new data"),
    reading=ElementPit.description,
)


def _validate(pit: Float[np.ndarray, " n *event"], name: str) -> Float[np.ndarray, "n elements"]:
    if len(pit) < 2:
        raise ValueError(f"{name} needs at least two data, got {len(pit)}.")
    flat = pit.reshape(len(pit), -1).astype(np.float64)
    if not ((flat >= 0) & (flat <= 1)).all():
        raise ValueError(f"{name} must lie between 0 and 1.")
    return flat


def _shares(flat: Float[np.ndarray, "n elements"]) -> Float[np.ndarray, "n bins"]:
    """The density of each example's PIT in each bin."""
    n = len(flat)
    index = np.minimum((flat * BINS).astype(np.int64), BINS - 1)
    place = (index + BINS * np.arange(n)[:, None]).ravel()
    return np.bincount(place, minlength=n * BINS).reshape(n, BINS) * (BINS / flat.shape[1])


def _legendre_means(flat: Float[np.ndarray, "n elements"]) -> Float[np.ndarray, "n degrees"]:
    """The mean over an example's elements of each Legendre polynomial but the constant one."""
    from numpy.polynomial.legendre import legval

    means = [legval(2 * flat - 1, np.eye(DEGREES + 1)[k]).mean(1) for k in range(1, DEGREES + 1)]
    return np.column_stack(means)


def _fields(flat: Float[np.ndarray, "n elements"]) -> list[Float[np.ndarray, "n elements"]]:
    """The contributions to the maps of location and width.

    Both are symmetric around zero for a uniform PIT, so that flips of signs are right however few
    the data. The square of PIT - 1/2 is not: of 30 examples with 64 elements it rejects a true
    model in 18 %.
    """
    return [flat - 0.5, 4 * np.abs(flat - 0.5) - 1]


def _moments(flat: Float[np.ndarray, "n elements"]) -> tuple[float, float]:
    """Bias and spread."""
    return float((flat - 0.5).mean()), float(12 * np.square(flat - 0.5).mean())
