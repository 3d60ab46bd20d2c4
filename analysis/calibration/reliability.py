"""Check whether forecasts of binary elements come true, how sure they are, and where they fail.

The forecasts are those of `analysis.calibration.leave_one_out`. Elements of an example are
dependent, so that bands and tests resample whole examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.calibration.element_map import (
    ElementForecasts,
    ElementMap,
    element_map,
    plot_calibration_map,
)
from analysis.calibration.element_pit import compute_element_pit
from analysis.calibration.leave_one_out import (
    check_resolved,
    forecasts,
    generated_forecasts,
    plot_isotonic,
    same_image_probability,
)
from analysis.check import Check, Plot
from analysis.hypothesis_tests import NUM_FLIPS, bootstrap_interval, sign_flips
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.subject import Subject
from analysis.verdicts import LARGEST_ERROR, Verdict, judge_forecasts
from pyro_vae.data.nouns import nouns
from pyro_vae.statistics import standard_error

if TYPE_CHECKING:
    import matplotlib.figure


# Narrow at the ends, where most elements are: those of a background are nearly certain.
EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0)
# Least expected variance sum p (1 - p) of a bin, and of an element of the map.
LEAST_BIN_VARIANCE, LEAST_ELEMENT_VARIANCE = 20.0, 5.0
# An element with a smaller expected variance is judged if it had at least this multiple of events.
MANY_EVENTS = 4.0
# Standard errors beyond which sharpness has a direction.
_CLEAR = 3.0
# Keeps the logit of a nearly certain forecast within +-4.6, so that no single event decides.
_FLOOR = 0.01


@dataclass(frozen=True, kw_only=True)
class Calibration(ElementForecasts):
    """Forecasts p_i of binary elements against outcomes.

    Args:
        forecast: The mean forecast of each bin.
        observed: The share of ones in it.
        low: The lower end of the 95 % band of `observed`, by bootstrap over examples.
        high: Its upper end.
        count: The number of elements in each bin.
        bin_t: The sum of x_i - p_i in each bin over its standard error.
        sharpness_t_against_model: `sharpness_t` of the difference from generated data.
        bias: The mean of x_i - p_i: above 0, ones are more frequent than forecast.
        bias_se: Its standard error.
        sharpness_t: The sum of (x_i - p_i) logit p_i over its standard error. Above 0 outcomes are
            more extreme than the forecasts, which are underconfident; below 0 they are
            overconfident.
        error: The mean over elements of |forecast - observed| of their bin.
        error_by_chance: Its mean for perfect forecasts, by sign flips.
        doubtful_error: The same, each element weighted by p_i (1 - p_i).
        doubtful_error_by_chance: Its mean for perfect forecasts.
        brier: The mean of (x_i - p_i)^2.
        brier_se: Its standard error over examples.
        reliability: The part of it that calibration would save, in bins.
        resolution: The part of `uncertainty` that the forecasts save, in bins.
        uncertainty: The Brier score of forecasting the overall share for each element.
        elements: The map of x_i - p_i, or of its difference from generated data.
    """

    forecast: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    bin_t: Float[np.ndarray, " bins"]
    sharpness_t_against_model: float | None
    bias: float
    bias_se: float | None
    sharpness_t: float
    error: float
    error_by_chance: float
    doubtful_error: float
    doubtful_error_by_chance: float
    brier: float
    brier_se: float | None
    reliability: float
    resolution: float
    uncertainty: float
    elements: ElementMap

    FIELDS = (
        *("n", "p_value", "p_value_against_model", "sharpness_t_against_model", "bias", "bias_se"),
        *("sharpness_t", "error", "error_by_chance", "doubtful_error", "doubtful_error_by_chance"),
        *("brier", "brier_se", "reliability", "resolution", "uncertainty"),
    )

    @property
    def maps(self) -> dict[str, ElementMap]:
        """The map of observed minus forecast shares."""
        return {"{} where ones are more frequent than forecast": self.elements}

    def headline(self) -> dict[str, str]:
        """The error in doubtful elements, and the p-values."""
        error = f"{self.doubtful_error:.4f}, by chance {self.doubtful_error_by_chance:.4f}"
        return {"error in doubtful elements": error} | super().headline()

    def extra(self) -> Mapping[str, Any]:
        """The bins, and the map."""
        names = ("forecast", "observed", "low", "high", "count")
        bins = {name: getattr(self, name) for name in names}
        return {**super().extra(), "bins": bins, "elements": self.elements.summary()}

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the forecasts come true; empty where every element is certain."""
        if self.p_value is None:
            return ()
        effect = (
            "in doubtful elements forecast and observed shares differ by "
            f"{self.doubtful_error:.3f} ({self.doubtful_error_by_chance:.3f} by chance, at most "
            f"{LARGEST_ERROR} is fine)"
        )
        # Nearly certain forecasts have no weight among the doubtful, and may be wrong.
        if self.error > max(self.doubtful_error, LARGEST_ERROR):
            effect += f", and over all elements, with the certain ones, by {self.error:.3f}"
        against = self.sharpness_t_against_model
        verdict = judge_forecasts(
            effect,
            small=max(self.doubtful_error, self.error) <= LARGEST_ERROR,
            direction=_direction(self.sharpness_t if against is None else against),
            p=self.p_value,
            against=self.p_value_against_model,
            trusted=self.trusted,
        )
        return (verdict,)

    def reading(self) -> str:
        """The verdict."""
        return super().reading() or "Nothing to judge: every element is certain."


def _direction(t: float) -> str:
    if not abs(t) >= _CLEAR:
        return ""
    return f"the forecasts are too {'sure' if t < 0 else 'unsure'}"


def calibration(
    probability: Float[np.ndarray, " n *event"],
    outcome: Real[np.ndarray, " n *event"],
    *,
    simulated: tuple[Float[np.ndarray, " m *event"], Real[np.ndarray, " m *event"]] | None = None,
    trusted: bool | None = None,
    seed: int = 0,
    num_flips: int = NUM_FLIPS,
) -> Calibration:
    """Bins, bias, sharpness and map of forecasts p_i of x_i = 1.

    If p_i = p(x_i = 1 | x_-i) is true, E[g(p_i) (x_i - p_i)] = 0 for every g.

    With g the indicator of a bin this is the reliability diagram; with g = 1 the bias; with g the
    logit the sharpness. Contributions are summed by example, and the largest |t| of all is
    compared with random signs of whole examples, which allows for dependence within an example.

    Args:
        probability: The forecasts, such as `leave_one_element_out(...).probability`.
        outcome: The outcomes, 0 or 1.
        simulated: Forecasts and outcomes of as many generated examples, with the same guide and
            number of draws. A poor guide's weights are biased, and make forecasts fail where the
            model is true; the difference of a pair, one example of each, changes its sign with
            even odds all the same.
        trusted: `LeaveOneOut.trusted`, for the verdict.
        seed: The seed of bootstrap and signs.
        num_flips: The number of choices of signs.

    Returns:
        Read `doubtful_error` first: up to 0.02 is fine. `p_value_against_model` below 0.05 means
        that the model errs; `p_value` below 0.05, that the model or the guide does.

    Raises:
        ValueError: If the shapes differ, there are fewer than two examples, or these are no
            probabilities and binary outcomes.

    References:
        Increasing the Reliability of Reliability Diagrams (Broecker & Smith, 2007),
        https://doi.org/10.1175/WAF993.1; A New Vector Partition of the Probability Score (Murphy,
        1973)
    """
    p, x = _validate(probability, outcome)
    n, event = len(p), probability.shape[1:]
    residual, variance = x - p, p * (1 - p)
    edges = _edges(p, variance)
    bins = len(edges) + 1
    index = np.digitize(p, edges)
    count, doubt, off, mass = (
        _sums_in_bins(index, values, bins) for values in (np.ones_like(p), variance, residual, p)
    )
    size = count.sum(0)
    forecast, gap = mass.sum(0) / size, off.sum(0) / size
    scores = _scores(p, x, edges)
    against = None
    field, expected, suffix = residual, variance.sum(0), ""
    if simulated is not None:
        own_p, own_x = _validate(*simulated)
        if simulated[0].shape[1:] != event:
            raise ValueError(
                f"simulated must have events of shape {event}, got {simulated[0].shape[1:]}."
            )
        pairs = min(n, len(own_p))
        own_p, own_x = own_p[:pairs], own_x[:pairs]
        difference = scores[:pairs] - _scores(own_p, own_x, edges)
        against = sign_flips(difference, seed=seed, num_flips=num_flips)
        field = residual[:pairs] - (own_x - own_p)
        expected = (variance[:pairs] + own_p * (1 - own_p)).sum(0)
        suffix = ",\ndata minus generated"
    many = np.square(field).sum(0) >= MANY_EVENTS * LEAST_ELEMENT_VARIANCE
    flips = sign_flips(scores, seed=seed, num_flips=num_flips)
    low, high = np.clip(forecast + bootstrap_interval(off, count, seed=seed), 0, 1)
    # E|sum of centred contributions|, as for a normal sum.
    chance = np.sqrt(2 / np.pi * n * off.var(0))
    by_example, brier = residual.mean(1), np.square(residual).mean(1)
    share = float(x.mean())
    return Calibration(
        forecast=forecast,
        observed=forecast + gap,
        low=low,
        high=high,
        count=size.astype(np.int64),
        bin_t=flips.t[:bins],
        p_value=flips.p_value,
        p_value_against_model=against and against.p_value,
        sharpness_t_against_model=against and float(against.t[-1]),
        bias=float(by_example.mean()),
        bias_se=standard_error(by_example),
        sharpness_t=float(np.nan_to_num(flips.t[-1])),
        error=_weighted_mean(np.abs(gap), size),
        error_by_chance=_weighted_mean(chance / size, size),
        doubtful_error=_weighted_mean(np.abs(gap), doubt.sum(0)),
        doubtful_error_by_chance=_weighted_mean(chance / size, doubt.sum(0)),
        brier=float(brier.mean()),
        brier_se=standard_error(brier),
        reliability=_weighted_mean(gap**2, size),
        resolution=_weighted_mean((forecast + gap - share) ** 2, size),
        uncertainty=share * (1 - share),
        elements=element_map(
            field.reshape(-1, *event),
            f"observed - forecast share{suffix}",
            seed=seed,
            least_variance=expected.reshape(event),
            keep=(many | (expected >= LEAST_ELEMENT_VARIANCE)).reshape(event),
            num_flips=num_flips,
        ),
        trusted=trusted,
        n=n,
    )


def _validate(
    probability: Float[np.ndarray, " n *event"], outcome: Real[np.ndarray, " n *event"]
) -> tuple[Float[np.ndarray, "n elements"], Float[np.ndarray, "n elements"]]:
    if probability.shape != outcome.shape:
        raise ValueError(
            f"outcome must have the shape {probability.shape} of probability, got {outcome.shape}."
        )
    if len(probability) < 2:
        raise ValueError(f"calibration needs at least two data, got {len(probability)}.")
    p, x = (a.reshape(len(a), -1).astype(np.float64) for a in (probability, outcome))
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probability must lie from 0 to 1, got {p.min():.3g} to {p.max():.3g}.")
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(f"outcome must be 0 or 1, got {x.min():.3g} to {x.max():.3g}.")
    return p, x


def _scores(
    p: Float[np.ndarray, "n elements"], x: Float[np.ndarray, "n elements"], edges: np.ndarray
) -> Float[np.ndarray, "n scores"]:
    """Each example's sum of x - p in each bin, over all, and weighted with the logit of p."""
    off = _sums_in_bins(np.digitize(p, edges), x - p, len(edges) + 1)
    sharpness = ((x - p) * np.log((p + _FLOOR) / (1 - p + _FLOOR))).sum(1)
    return np.column_stack([off, off.sum(1), sharpness])


def _sums_in_bins(
    index: Int[np.ndarray, "n elements"], values: Float[np.ndarray, "n elements"], bins: int
) -> Float[np.ndarray, "n bins"]:
    n = len(index)
    place = index + bins * np.arange(n)[:, None]
    return np.bincount(place.ravel(), values.ravel(), n * bins).reshape(n, bins)


def _edges(
    p: Float[np.ndarray, "n elements"], variance: Float[np.ndarray, "n elements"]
) -> Float[np.ndarray, " edges"]:
    """Inner edges of bins; one with too few expected events joins its neighbour nearer to 1/2."""
    inner = np.array(EDGES[1:-1])
    doubt = np.bincount(np.digitize(p, inner).ravel(), variance.ravel(), len(inner) + 1)
    middle = int(np.argmax(doubt))
    edges = []
    # Accumulate from either end towards the bin with the largest variance.
    for bins, inwards in ((range(middle), 0), (range(len(inner), middle, -1), -1)):
        held = 0.0
        for k in bins:
            held += doubt[k]
            if held >= LEAST_BIN_VARIANCE:
                edges.append(inner[k + inwards])
                held = 0.0
    return np.sort(edges)


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean; 0 where the weights are."""
    total = float(weights.sum())
    return float(values @ weights) / total if total > 0 else 0.0


def plot_reliability(
    calibration: Calibration,
    descriptive: Calibration | None = None,
    simulated: Calibration | None = None,
) -> "matplotlib.figure.Figure":
    """Observed shares against forecasts, and the gap between them on its own scale.

    Forecasts that come true lie on the diagonal. Above it where p > 1/2 and below where p < 1/2,
    they are underconfident; the other way round overconfident. Bands are 95 %, by bootstrap over
    examples.

    Args:
        calibration: Of the leave-one-out forecasts.
        descriptive: Of `same_image_probability`, which has seen the element: off even for a true
            model.
        simulated: Of leave-one-out forecasts of generated data: the effect of the guide alone.
    """
    figure = new_figure(11.0, 5.4)
    axes = figure.subplots(2, 2, sharex="col", height_ratios=[3, 1.1])
    left, right = axes[0]
    left.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    right.axhline(0, color="black", linewidth=1, linestyle="--")
    for shown, colour, name in (
        (descriptive, GREY, "with the element in sight: no test"),
        (simulated, ORANGE, "the model's own data, same guide"),
        (calibration, BLUE, "data, each element from the others"),
    ):
        if shown is None:
            continue
        ends = np.stack([shown.observed - shown.low, shown.high - shown.observed])
        style = {"fmt": "o-", "ms": 4, "lw": 1.2, "elinewidth": 1.2}
        if shown is descriptive:
            ends, style = None, {"fmt": "-", "lw": 1.0}
        for ax, shift in ((left, 0.0), (right, shown.forecast)):
            values = shown.observed - shift
            ax.errorbar(shown.forecast, values, ends, color=colour, label=name, **style)
    left.legend(frameon=False, fontsize=9, loc="upper left")
    left.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02), ylabel="observed share of ones")
    left.set_title(f"Bars: 95 %, by bootstrap over {calibration.n} {nouns()}", fontsize=10)
    right.set(xlim=(-0.01, 1.01), ylabel="observed - forecast")
    right.set_title(
        f"In doubtful elements off by {calibration.doubtful_error:.3f}, "
        f"by chance {calibration.doubtful_error_by_chance:.3f}",
        fontsize=10,
    )
    for ax, values, label in (
        (axes[1, 0], calibration.count, "elements"),
        (axes[1, 1], np.nan_to_num(calibration.bin_t), "gap in s.e."),
    ):
        ax.bar(calibration.forecast, values, width=0.03, color=BLUE)
        ax.set(xlabel="forecast p(x_i = 1 | all other elements)", ylabel=label)
    # Bars on a logarithmic axis start at one element, so that their lengths compare.
    axes[1, 0].set(yscale="log", ylim=(1, None))
    axes[1, 1].axhline(0, color="0.6", linewidth=1)
    tidy(axes.flat, grid="both")
    figure.suptitle(f"{calibration.title()}: on the diagonal, forecasts come true")
    for column in axes.T:
        figure.align_ylabels(column)
    return figure


def _compute(subject: Subject) -> ElementForecasts:
    found = subject.compute(forecasts)
    if found.probability is None:
        return subject.compute(compute_element_pit)
    subject.check_size()
    check_resolved(subject)
    return calibration(
        *found.forecasts,
        simulated=subject.compute(generated_forecasts).forecasts,
        trusted=found.trusted,
        seed=subject.seed_of("calibration"),
    )


def _plot_reliability(found: Calibration, subject: Subject) -> "matplotlib.figure.Figure":
    seed, outcome = subject.seed_of("calibration"), subject.compute(forecasts).outcome
    with subject.step("calibration: reconstructions"):
        probability = same_image_probability(
            subject.vae,
            subject.x,
            num_samples=subject.compute(forecasts).num_samples,
            seed=subject.seed_of("seen"),
        )
        seen = calibration(probability, outcome, seed=seed)
    own = calibration(*subject.compute(generated_forecasts).forecasts, seed=seed)
    return plot_reliability(found, descriptive=seen, simulated=own)


ELEMENTS = Check(
    "elements",
    _compute,
    plots=(
        Plot(
            "reliability",
            "Do forecasts of elements come true, for real data and for the model's own?",
            _plot_reliability,
            when=lambda found: isinstance(found, Calibration),
        ),
        Plot(
            "isotonic",
            "The same without bins: which observed share goes with each forecast?",
            lambda _, subject: plot_isotonic(
                *subject.compute(forecasts).forecasts, seed=subject.seed_of("calibration")
            ),
            when=lambda found: isinstance(found, Calibration),
        ),
        Plot(
            "map",
            "Where do forecasts fail?",
            lambda found, subject: plot_calibration_map(found, subject.elements),
        ),
    ),
    headline=lambda found: found.headline(),
    shared=(
        *("new data from the model", "forecasts of elements", "forecasts of new data"),
        "calibration: reconstructions",
    ),
)
