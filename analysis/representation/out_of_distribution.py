"""Out-of-distribution detection: does a score separate foreign data from test data?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.plotting.images import is_image
from analysis.plotting.style import BLUE, GREY, list_names, new_figure, tidy
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.ood_scores import (
    DEFINITIONS,
    DENSITY_SCORES,
    Detection,
    ScoredData,
    Scorer,
    detection,
)
from analysis.result import Result
from analysis.subject import Subject
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.rng import derive_seed
from pyro_vae.statistics import LARGEST_ROUNDING

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


# A score with this AUROC is good enough to use: with equal numbers of both, about 15 % of data are
# on the wrong side of the best threshold.
GOOD = 0.9
# log p(x) of a set is a loose bound if the k-hat of more than this share is too high.
MAX_KHATS_ABOVE = 0.1
# In a diagnosis: own and foreign data, and draws for each.
SCORED, SCORED_SAMPLES = 500, 50
# The middle of the colour map is white, so that chance has no colour.
_COLOURS = "RdBu"
# Histograms reach this many widths of the own data; outliers are clipped.
_REACH, _BINS = 6, 120


@dataclass(frozen=True)
class OutOfDistribution(Result):
    """Scores of the model's own test data and of foreign data.

    Args:
        own: The test data.
        foreign: The foreign sets by name.
        num_samples: The number of draws for each log p(x).

    References:
        Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
        https://arxiv.org/abs/1810.09136
    """

    FIELDS: ClassVar = ("num_samples", "best_score")

    own: ScoredData
    foreign: Mapping[str, ScoredData]
    num_samples: int

    @cached_property
    def detections(self) -> dict[str, dict[str, Detection | None]]:
        """By set and score; None if not defined, or if rounding errors decide its order."""
        found: dict[str, dict[str, Detection | None]] = {}
        for name, scored in self.foreign.items():
            rounding = max(self.own.rounding or 0.0, scored.rounding or 0.0)
            found[name] = {
                score: _detection(
                    self.own.scores.get(score),
                    scored.scores.get(score),
                    rounding if score in DENSITY_SCORES else 0.0,
                )
                for score in DEFINITIONS
            }
        return found

    def auroc(self, score: str) -> dict[str, float]:
        """The AUROC of a score on each foreign set; empty where it is not defined."""
        found = {name: by_score[score] for name, by_score in self.detections.items()}
        return {name: each.auroc for name, each in found.items() if each is not None}

    @property
    def best_score(self) -> str:
        """The score whose lowest AUROC over the foreign sets is highest."""
        return max(DEFINITIONS, key=lambda score: min(self.auroc(score).values(), default=-1.0))

    def extra(self) -> dict[str, Any]:
        """Definitions of the scores; by set, the number of examples, log p(x) and detections."""
        foreign = {}
        for name, by_score in self.detections.items():
            records = {score: each and each.record() for score, each in by_score.items()}
            foreign[name] = _describe(self.foreign[name]) | records
        return {"scores": dict(DEFINITIONS), "own": _describe(self.own), "foreign": foreign}

    def reading(self) -> str:
        """The best score, whether likelihood alone fails, and whether log p(x) is reliable."""
        reached = self.auroc(self.best_score)
        if not reached:
            return "No score is defined for all of these data."
        worst = min(reached, key=lambda name: reached[name])
        good = "good enough" if reached[worst] >= GOOD else "not reliable"
        lowest = f"AUROC at least {reached[worst]:.2f}, on {worst}"
        text = f"The best score is {self.best_score} ({lowest}): {good}."
        fooled = [
            name
            for name, by_score in self.detections.items()
            if (found := by_score["likelihood"]) is not None and found.below_chance
        ]
        if fooled:
            text += f" Likelihood alone fails on {list_names(fooled)}."
        shares = [each.khat_share_above or 0.0 for each in (self.own, *self.foreign.values())]
        if max(shares) > MAX_KHATS_ABOVE:
            text += f" k-hat is too high for up to {max(shares):.0%} of a set."
        return text


def out_of_distribution(
    vae: Any,
    train_x: Real[Tensor, " t *event"],
    x: Real[Tensor, " n *event"],
    foreign: Mapping[str, Tensor],
    *,
    num_samples: int = 100,
    seed: int = 0,
) -> OutOfDistribution:
    """s(x) for own and foreign data, and P(s_foreign > s_own), for several scores s.

    - `likelihood`: -log p(x), by importance weighting with K draws from the guide. Known to fail:
      data that are simpler than the model's own get a higher log p(x), constant images the
      highest.
    - `typicality`: |-log p(x) - H|, H the mean of -log p(x) over up to 1,000 training examples:
      most draws of a model are about as probable as its entropy says, and none is near its mode.
      It detects data that are too probable as well. Training data have a somewhat higher log p(x)
      than test data.
    - `complexity_ratio`: -log p(x) - L(x), L(x) the compressed length in nats: simple data are
      probable under any model, which this corrects. It fails where the compressor does:
      incompressible noise looks ordinary.
    - `background_ratio`: log p_0(x) - log p(x), p_0 a product of each element's distribution in
      the training data: what the model knows beyond single elements. p_0 needs no network, but
      fails itself on foreign data, which then look better explained by the model.
    - `rate`: KL(q(z | x) || p(z)). Large where the guide is far from the prior, or very certain.
    - `reconstruction`: root mean square of x less the mean of p(x | z) at its code; for counts,
      after log(1 + .). Simple foreign data are often reconstructed better than own data.
    - `mahalanobis`: the distance of the code to the mean training code, in units of their
      covariance, with Ledoit and Wolf's shrinkage; on up to 10,000 training examples.
    - `neighbours`: the mean distance of the code to its 10 nearest of these; on the sphere,
      chordal.

    A guide that is a point, an autoencoder's, has the last three only.

    Args:
        vae: A program with `model`, `guide`, `embed`, `decode` and `latent_sites`.
        train_x: Training data in the likelihood's support; may be on another device.
        x: Held-out data, in the support and on the program's device.
        foreign: Sets of foreign data by name, of the same event shape and preprocessing; the
            numbers of examples may differ.
        num_samples: The number K of draws from the guide for each example.
        seed: The seed of the draws.

    Returns:
        The scores, and in `detections` the AUROC of each on each set: 1 is perfect, 0.5 chance,
        and below 0.5 foreign data look more ordinary than own data.

    Raises:
        ValueError: If there are no own or foreign data, or foreign data are of another shape or
            not in the support, such as grey values where own data are binary.

    References:
        Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
        https://arxiv.org/abs/1810.09136; Detecting Out-of-Distribution Inputs to Deep Generative
        Models Using Typicality (Nalisnick et al., 2019), https://arxiv.org/abs/1906.02994; Input
        complexity and out-of-distribution detection with likelihood-based generative models (Serrà
        et al., 2020), https://arxiv.org/abs/1909.11480; Likelihood Ratios for Out-of-Distribution
        Detection (Ren et al., 2019), https://arxiv.org/abs/1906.02845
    """
    sizes = (len(train_x), len(x), len(foreign))
    if min(sizes) == 0:
        raise ValueError(
            f"there must be training data, own data and a foreign set, got "
            f"{sizes[0]}, {sizes[1]} and {sizes[2]}."
        )
    support = getattr(getattr(vae, "likelihood", None), "support", None)
    levels = getattr(vae.likelihood, "levels", None) if support else None
    for name, data in foreign.items():
        _check_foreign(x, data, support, levels, name)
    scorer = Scorer(vae, train_x, x, support, levels, num_samples, seed)
    return OutOfDistribution(
        own=scorer("own", x),
        foreign={name: scorer(name, data.to(x.device)) for name, data in foreign.items()},
        num_samples=num_samples,
    )


def _check_foreign(
    own: Tensor, foreign: Tensor, support: str | None, levels: int | None, name: str
) -> None:
    """Raise unless foreign data have the shape of own data and lie in the likelihood's support."""
    if len(foreign) == 0:
        raise ValueError(f"{name}: there must be at least one example, got none.")
    if foreign.shape[1:] != own.shape[1:]:
        raise ValueError(
            f"{name}: data must have the shape {tuple(own.shape[1:])} of the model's own, got "
            f"{tuple(foreign.shape[1:])}."
        )
    if support is None and _guess_support(own) == "binary":
        support = "binary"
    low, high = float(foreign.min()), float(foreign.max())
    whole = not foreign.is_floating_point() or bool((foreign == foreign.floor()).all())
    fits = {
        "binary": whole and low >= 0 and high <= 1,
        "unit": low >= 0 and high <= 1,
        "integers": whole and low >= 0 and (levels is None or high <= levels - 1),
        "counts": whole and low >= 0,
    }
    if not (np.isfinite([low, high]).all() and fits.get(str(support), True)):
        raise ValueError(
            f"{name}: data must be prepared as the model's own, for a {support} likelihood, got "
            f"{'values' if whole else 'fractions'} from {low:.3g} to {high:.3g}."
        )


def stand_ins(
    x: Real[Tensor, " n *event"],
    *,
    seed: int = 0,
    support: str | None = None,
    levels: int | None = None,
) -> dict[str, Real[Tensor, " n *event"]]:
    """Foreign data made from the model's own data, each by changing one thing.

    `shuffled` applies one permutation of the elements to all data. `noise` permutes each element's
    values over the data: draws from the product of the marginals. `inverted` is levels - 1 - v, 1
    - x, or a reflection about each element's mean. `constant` has all elements equal: the most
    frequent value of binary data, otherwise a value between the lowest and highest, drawn for each
    example. Images are `flipped` upside down and, if square, `rotated` by 90 degrees as well:
    these are near, and a model may rightly find some of them ordinary (a 0 or an 8). Counts are
    `shuffled`, `noise`, and `pooled`: each example's total distributed by the proportions of all
    data.

    Args:
        x: Own data in the likelihood's support.
        seed: The seed of permutations and draws.
        support: binary, unit, real, integers or counts; guessed from the values if None: whole
            numbers are integers in images and counts elsewhere.
        levels: The number of levels of integers; the largest value plus one if None.

    Returns:
        By name, in the type of x and in its support.

    Raises:
        ValueError: If there are no data.
    """
    if len(x) == 0:
        raise ValueError("stand-ins are made from at least one example, got none.")
    support = support or _guess_support(x)
    generator = torch.Generator().manual_seed(derive_seed(seed, "stand-ins"))
    flat = x.flatten(1)
    n, elements = flat.shape
    made: dict[str, Tensor] = {}
    if support != "counts":
        top = (int(flat.max()) if levels is None else levels - 1) if support == "integers" else 1
        made["inverted"] = (2 * flat.mean(0) if support == "real" else top) - flat
        if is_image(tuple(x.shape[1:])):
            made["flipped"] = x.flip(-2)
            if x.shape[-1] == x.shape[-2]:
                made["rotated"] = x.rot90(1, (-2, -1))
    made["shuffled"] = flat[:, torch.randperm(elements, generator=generator).to(x.device)]
    order = torch.rand(n, elements, generator=generator).argsort(0).to(x.device)
    made["noise"] = flat.gather(0, order)
    if support == "counts":
        made["pooled"] = _pooled(flat, generator)
    else:
        made["constant"] = _constant(flat, support, generator).expand(n, elements)
    return {name: data.reshape(x.shape).to(x.dtype) for name, data in made.items()}


def _constant(flat: Tensor, support: str, generator: torch.Generator) -> Tensor:
    if support == "binary":
        most_frequent = float(flat.double().mean() >= 0.5)
        return torch.full((len(flat), 1), most_frequent, device=flat.device)
    low, high = float(flat.min()), float(flat.max())
    share = torch.rand(len(flat), 1, generator=generator).to(flat.device)
    if support == "integers":
        return (low + share * (high + 1 - low)).floor().clamp(max=high)
    return low + share * (high - low)


def _pooled(flat: Tensor, generator: torch.Generator) -> Tensor:
    """Multinomial(total of the example, proportions of all data)."""
    proportions = flat.double().sum(0).cpu()
    drawn = torch.zeros(flat.shape, dtype=torch.double)
    for row, total in enumerate(flat.double().sum(1).long().tolist()):
        if total:
            taken = torch.multinomial(proportions, total, replacement=True, generator=generator)
            drawn[row] = torch.bincount(taken, minlength=flat.shape[1]).double()
    return drawn.to(flat.device)


def _guess_support(x: Tensor) -> str:
    if bool(((x == 0) | (x == 1)).all()):
        return "binary"
    if x.min() < 0:
        return "real"
    if not x.is_floating_point() or bool((x == x.floor()).all()):
        return "integers" if is_image(tuple(x.shape[1:])) else "counts"
    return "unit" if x.max() <= 1 else "real"


def _detection(
    own: np.ndarray | None, foreign: np.ndarray | None, rounding: float
) -> Detection | None:
    if own is None or foreign is None:
        return None
    scores = np.concatenate([own, foreign])
    if np.isnan(scores).any():
        return None
    # Where rounding errors reach across the middle half of all scores, their order is chance.
    with np.errstate(invalid="ignore"):  # Scores may be infinite.
        spread = np.subtract(*np.quantile(scores, [0.75, 0.25], method="nearest"))
    return None if rounding > LARGEST_ROUNDING and spread <= rounding else detection(own, foreign)


def _describe(scored: ScoredData) -> dict[str, Any]:
    cost = scored.scores.get("likelihood")
    return {
        "n": len(scored),
        "log_evidence": None if cost is None else -float(cost.mean()),
        "khat_share_above": scored.khat_share_above,
    }


def plot_out_of_distribution(result: OutOfDistribution) -> "matplotlib.figure.Figure":
    """Draw the AUROC of each score on each foreign set, and log p(x) of all sets.

    A row of the heat map is a score, a column a foreign set: blue is separated, white is chance,
    and red is the wrong way round. Below are histograms of log p(x): where a foreign set lies to
    the right of own data, likelihood alone fails. Without a density the distance of codes to their
    neighbours is drawn.
    """
    sets = list(result.foreign)
    rows = [score for score in DEFINITIONS if result.auroc(score)]
    heights = [0.33 * len(rows) + 0.5, 0.36 * (len(sets) + 1) + 0.8]
    figure = new_figure(max(9.0, 4.5 + 0.8 * len(sets)), sum(heights) + 0.5)
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    found = [[result.detections[name][score] for name in sets] for score in rows]
    table = np.array([[np.nan if each is None else each.auroc for each in row] for row in found])
    image = upper.imshow(table, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
    for (row, column), auroc in np.ndenumerate(table):
        if np.isfinite(auroc):
            colour = "white" if abs(auroc - 0.5) > 0.38 else "black"
            upper.text(column, row, f"{auroc:.2f}", ha="center", va="center", color=colour)
    upper.set_yticks(range(len(rows)), [score.replace("_", " ") for score in rows])
    upper.set_xticks(range(len(sets)), sets)
    upper.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    upper.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=upper, ticks=[0, 0.5, 1], pad=0.01)
    bar.ax.set_yticklabels(["0, wrong way round", "0.5, chance", "1, separated"])
    bar.outline.set_visible(False)
    _draw_histograms(lower, result)
    best, lowest = result.best_score, min(result.auroc(result.best_score).values())
    name = best.replace("_", " ")
    figure.suptitle(f"Best score: {name}, AUROC at least {lowest:.2f} (1 perfect, 0.5 chance)")
    return figure


def _draw_histograms(ax: "matplotlib.axes.Axes", result: OutOfDistribution) -> None:
    """Draw a row for each set, over a band that holds the middle 90 % of own data."""
    density = result.own.scores["likelihood"] is not None
    score, sign = ("likelihood", -1) if density else ("neighbours", 1)
    sets = {"own test data": result.own, **result.foreign}
    values = [sign * np.asarray(scored.scores[score]) for scored in sets.values()]
    first, middle, last = np.quantile(values[0], (0.05, 0.5, 0.95))
    reach = _REACH * max(last - first, 1e-9)
    pooled = np.concatenate(values)
    low, high = max(pooled.min(), middle - reach), min(pooled.max(), middle + reach)
    bins = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    ax.axvspan(first, last, color=BLUE, alpha=0.12, linewidth=0)
    for row, v in enumerate(values):
        shares = np.histogram(np.clip(v, bins[0], bins[-1]), bins)[0]
        foot, colour = len(values) - 1 - row, GREY if row else BLUE
        ax.stairs(
            foot + 0.85 * shares / shares.max(), bins, baseline=foot, fill=True, color=colour
        )
        ax.axhline(foot, color="0.85", linewidth=0.8)
    ax.set_yticks(np.arange(len(values)) + 0.3, list(sets)[::-1])
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(bins[0], bins[-1]), ylim=(0, len(values)))
    clipped = " (clipped at the edges)" if np.ptp(pooled) > high - low else ""
    if density:
        title = "Band: 90% of own data. Sets to the right are more probable and fool likelihood"
        ax.set(xlabel=f"log p(x), nats{clipped}", title=title)
    else:
        title = "Band: 90% of own data. The guide is a point, without log p(x)"
        ax.set(xlabel=f"mean distance to the nearest training codes{clipped}", title=title)
    tidy([ax], grid="x")
    ax.spines["left"].set_visible(False)


def _diagnose(subject: Subject) -> OutOfDistribution:
    x = subject.x[fixed_rows(len(subject.x), SCORED).to(subject.x.device)]
    levels = getattr(getattr(subject.vae, "likelihood", None), "levels", None)
    seed = subject.seed_of("stand-ins")
    foreign = stand_ins(x, support=subject.support, levels=levels, seed=seed)
    if subject.foreign is not None:
        data = subject.foreign.x
        rows = fixed_rows(len(data), SCORED).to(data.device)
        foreign = {subject.foreign.name: data[rows], **foreign}
    return out_of_distribution(
        subject.vae,
        subject.compute(RepresentationInputs).train_x,
        x,
        foreign,
        num_samples=SCORED_SAMPLES,
        seed=subject.seed_of("out of distribution"),
    )


def _headline(found: OutOfDistribution) -> dict[str, str]:
    aurocs = found.auroc(found.best_score).values()
    if not aurocs:
        return {}
    return {
        "foreign data, AUROC at least": f"{min(aurocs):.2f}",
        "foreign data, best score": found.best_score.replace("_", " "),
    }


OUT_OF_DISTRIBUTION = Check(
    "out_of_distribution",
    _diagnose,
    (
        Plot(
            "out_of_distribution",
            "Which score separates foreign data from own, and where does likelihood fail?",
            lambda found, _: plot_out_of_distribution(found),
        ),
    ),
    headline=_headline,
)
