"""Does the verdict of a diagnosis name the fault that was planted, and none in a true model?

Draws data from small VAEs whose posterior is known, plants one fault, computes the sections of a
diagnosis, and compares the headline of its verdict with the name of the fault. Even seeds draw
real data, odd seeds counts; each seed has its own true model.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from tqdm import tqdm

from analysis.calibration.reliability import ELEMENTS
from analysis.calibration.simulation_based_calibration import SBC
from analysis.check import Check
from analysis.elbo.rate_decomposition import DECOMPOSITION
from analysis.elbo.terms import TERMS
from analysis.guide.psis_diagnostics import QUALITY
from analysis.html_report.findings import CHANCE, NO_FAULT, UNTRAINED, findings, overall
from analysis.html_report.rules import COLLAPSED
from analysis.predictive.checks import CHECKS
from analysis.predictive.generalisation import GENERALISATION
from analysis.representation.holes import HOLES
from analysis.sections import SECTIONS
from analysis.study import Row, Study
from analysis.study_results import Cell, Results, cells_of
from analysis.subject import Subject
from pyro_vae import build, likelihoods, posteriors, priors
from pyro_vae.model import VAE
from pyro_vae.posteriors.posterior import MINIMUM_SCALE
from pyro_vae.runs.run_directory import provenance

# Held-out and training data, training data of the encoder that overfits, draws from the guide.
TEST, TRAIN, FEW, DRAWS = 400, 1000, 100, 1000
ELEMENTS_OF_X, LATENT = 16, 2
NOISE, DISPERSION, MEAN_COUNT = 0.5, 5.0, 4.0
# The steps of Newton's method to the mode of the posterior.
NEWTON_STEPS = 15
# The checks whose numbers a verdict reads; their figures are not drawn.
READ: dict[str, tuple[Check, ...]] = {
    "predictive": (CHECKS,),
    "calibration": (ELEMENTS,),
    "elbo": (TERMS, DECOMPOSITION),
    "guide": (QUALITY, SBC, GENERALISATION),
    "representation": (HOLES,),
}
RIGHT, FALSE_ALARMS = 0.95, 0.10
FIRST_SEED = 100
Kind = Literal["real", "counts"]
KINDS: tuple[Kind, Kind] = ("real", "counts")


@dataclass(frozen=True)
class Truth:
    """z ~ N(0, I), x_i | z with location l = (W z + b)_i: a normal, or counts of mean exp(l).

    Args:
        kind: "real" or "counts".
        seed: The seed of W, b and all data.
    """

    kind: Kind
    seed: int

    @cached_property
    def generator(self) -> torch.Generator:
        """The stream of all draws."""
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """W and b; each column of W has about the length 2."""
        weight = torch.randn(ELEMENTS_OF_X, LATENT, generator=self.generator)
        bias = torch.randn(ELEMENTS_OF_X, generator=self.generator)
        weight = 2 * weight / math.sqrt(ELEMENTS_OF_X)
        return weight, bias if self.kind == "real" else math.log(MEAN_COUNT) + 0.3 * bias

    def draw(self, n: int, *, misfit: bool = False) -> Tensor:
        """Draw data; with `misfit`, of heavier tails or more dispersion than the model's."""
        weight, bias = self.parameters
        location = torch.randn(n, LATENT, generator=self.generator) @ weight.mT + bias
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator)))
            if self.kind == "counts":
                size = 2.0 if misfit else DISPERSION
                rate = location.exp() * dist.Gamma(size, size).sample(location.shape)
                return torch.poisson(rate)
            df = 3.0
            noise = (
                dist.StudentT(df, 0.0, math.sqrt((df - 2) / df)) if misfit else dist.Normal(0, 1)
            )
            return location + NOISE * noise.sample(location.shape)

    def vae(
        self,
        *,
        misfit: bool = False,
        collapsed: bool = False,
        guide_scale: float = 1.0,
        prior_scale: float = 1.0,
        memory: Tensor | None = None,
    ) -> VAE:
        """The true model with its posterior, or with faults; of counts, by Laplace's method.

        Args:
            misfit: The likelihood of counts is a Poisson.
            collapsed: The decoder ignores z, and the guide is the prior.
            guide_scale: The ratio of the guide's scales to the right ones.
            prior_scale: The scale of p(z); the guide is right for it.
            memory: Training data: the guide of any x is that of the nearest of them.
        """
        weight, bias = self.parameters
        if collapsed:
            spread = weight.square().sum(1)
            bias = bias + spread / 2 if self.kind == "counts" else bias
            weight = torch.zeros_like(weight)
        family = "poisson" if misfit and self.kind == "counts" else self.kind
        decoder = _Affine(weight, bias, family)
        encoder: nn.Module = _Laplace(weight, bias, family, guide_scale, prior_scale)
        if memory is not None:
            encoder = _Memory(encoder, memory, family)
        shape = (ELEMENTS_OF_X,)
        likelihood = {
            "real": lambda: likelihoods.Normal(
                shape, lambda _: decoder, scale="fixed", initial_scale=NOISE
            ),
            "counts": lambda: likelihoods.NegativeBinomial(
                shape, lambda _: decoder, initial_inverse_dispersion=DISPERSION
            ),
            "poisson": lambda: likelihoods.Poisson(shape, lambda _: decoder),
        }[family]()
        return VAE(
            _Wide(LATENT, prior_scale),
            likelihood,
            posteriors.FullNormal(LATENT, lambda _: encoder),
        )


class _Wide(priors.StandardNormal):
    """p(z) = N(z | 0, s^2 I)."""

    def __init__(self, latent_dim: int, scale: float) -> None:
        super().__init__(latent_dim)
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.zeros, self.full(self.scale)).to_event(1)


class _Affine(nn.Module):
    """W z + b; for the library's Poisson, the number whose softplus is exp(W z + b)."""

    def __init__(self, weight: Tensor, bias: Tensor, family: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.family = family

    def forward(self, z: Tensor) -> Tensor:
        location = (z @ self.weight.mT + self.bias).unsqueeze(-2)
        return inverse_softplus(location.exp()) if self.family == "poisson" else location


class _Laplace(nn.Module):
    """The mode of p(z | x) and the curvature there, which for normal data is the posterior."""

    def __init__(
        self, weight: Tensor, bias: Tensor, family: str, guide_scale: float, prior_scale: float
    ) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.family, self.guide_scale, self.prior_scale = family, guide_scale, prior_scale

    def forward(self, x: Tensor) -> Tensor:
        z = x.new_zeros(*x.shape[:-1], LATENT)
        steps = 1 if self.family == "real" else NEWTON_STEPS
        for _ in range(steps):
            slope, precision = self._slope_and_precision(x, z)
            step = torch.linalg.solve(precision, slope)
            far = step.norm(dim=-1, keepdim=True).clamp(min=1)
            z = z + (step if self.family == "real" else step / far)
        _, precision = self._slope_and_precision(x, z)
        tril = self.guide_scale * torch.linalg.cholesky(torch.linalg.inv(precision))
        diagonal = inverse_softplus(tril.diagonal(dim1=-2, dim2=-1) - MINIMUM_SCALE)
        raw = tril.tril(-1) + torch.diag_embed(diagonal)
        return torch.cat([z.unsqueeze(-2), raw], -2)

    def _slope_and_precision(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of log p(x, z) and minus its Hessian."""
        location = z @ self.weight.mT + self.bias
        if self.family == "real":
            slope, curvature = (x - location) / NOISE**2, torch.full_like(location, NOISE**-2)
        elif self.family == "poisson":
            slope, curvature = x - location.exp(), location.exp()
        else:
            mean, size = location.exp(), DISPERSION
            slope = size * (x - mean) / (size + mean)
            curvature = size * mean * (size + x) / (size + mean) ** 2
        shrinkage = self.prior_scale**-2
        precision = (self.weight.mT * curvature.unsqueeze(-2)) @ self.weight
        return (
            slope @ self.weight - shrinkage * z,
            precision + shrinkage * torch.eye(LATENT).to(x),
        )


class _Memory(nn.Module):
    """An encoder that has learned its training data by heart: that of the nearest of them."""

    train_x: Tensor

    def __init__(self, encoder: nn.Module, train_x: Tensor, family: str) -> None:
        super().__init__()
        self.encoder, self.family = encoder, family
        self.register_buffer("train_x", train_x)

    def forward(self, x: Tensor) -> Tensor:
        known, asked = (
            (each if self.family == "real" else each.log1p()) for each in (self.train_x, x)
        )
        nearest = torch.cdist(asked.flatten(0, -2), known).argmin(-1)
        return self.encoder(self.train_x[nearest].reshape(x.shape))


def inverse_softplus(value: Tensor) -> Tensor:
    """The number whose softplus is the value."""
    return value + torch.log(-torch.expm1(-value))


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Args:
        title: What was planted.
        headline: The right headline.
        options: Those of `Truth.vae`.
        misfit: Whether data and likelihood differ.
        few: Whether there are few training data, which the encoder knows by heart.
        steps: The number of training steps that the diagnosis reports.
    """

    title: str
    headline: str
    options: dict[str, Any]
    misfit: bool = False
    few: bool = False
    steps: int = 5000


FAULTS: dict[str, Fault] = {
    "none": Fault("none", NO_FAULT, {}),
    "collapsed": Fault("the decoder ignores z", COLLAPSED, {"collapsed": True}),
    "encoder": Fault(
        "the encoder knows 100 training data by heart", "The encoder overfits", {}, few=True
    ),
    "likelihood": Fault(
        "heavier tails, or more dispersion, than the likelihood's",
        "The likelihood does not fit",
        {"misfit": True},
        misfit=True,
    ),
    "prior": Fault("a prior twice as wide", "The prior has holes", {"prior_scale": 2.0}),
    "guide": Fault("a guide 0.3 times as wide", "The guide is too narrow", {"guide_scale": 0.3}),
    "untrained": Fault("no training step", UNTRAINED, {}, steps=0),
}


def subject_of(name: str, seed: int, *, n: int = TEST, n_train: int = TRAIN) -> Subject:
    """A VAE with a planted fault, and its data."""
    fault, kind = FAULTS[name], KINDS[seed % 2]
    truth = Truth(kind, seed)
    x, train = (
        truth.draw(size, misfit=fault.misfit) for size in (n, FEW if fault.few else n_train)
    )
    memory = train if fault.few else None

    def untrained() -> VAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(
                (ELEMENTS_OF_X,),
                LATENT,
                likelihood="normal" if kind == "real" else "negative_binomial",
                train_data=train,
                train_size=len(train),
            )

    vae = truth.vae(**fault.options, memory=memory) if fault.steps else untrained()
    return Subject(
        vae=vae.eval(),
        x=x,
        train=train,
        support=kind,
        untrained=untrained,
        num_samples=DRAWS,
        seed=seed,
    )


def diagnosis_of(
    subject: Subject, steps: int, read: dict[str, tuple[Check, ...]] = READ
) -> dict[str, Any]:
    """The record of a diagnosis of these checks, without figures."""
    record: dict[str, Any] = {
        "steps": steps,
        "latent_dim": LATENT,
        "prior": "standard_normal",
        "likelihood": "normal" if subject.support == "real" else "negative_binomial",
        "posterior": "full_normal",
    }
    for name, checks in read.items():
        bare = tuple(replace(check, plots=()) for check in checks)
        record[name] = replace(SECTIONS[name], checks=bare).run(name, subject).record
    return record


def verdicts(name: str, _seed: int, options: argparse.Namespace) -> Cell:
    """The headlines on VAEs with a planted fault, by seed."""
    fault = FAULTS[name]
    repeats = options.repeats if fault.headline != NO_FAULT else options.true_models
    seeds = range(FIRST_SEED, FIRST_SEED + repeats)
    wrong, named, alarmed = {}, 0, 0
    for seed in tqdm(seeds, desc=name, unit="page"):
        found = findings(None, diagnosis_of(subject_of(name, seed), fault.steps), run="RUN")
        headline = overall(found).headline
        faults = {each.title for each in found if each.level in ("bad", "suspicious")}
        named += fault.headline in {headline, *faults}
        alarmed += bool(faults) or any(CHANCE in each.sentence for each in found)
        if headline != fault.headline:
            wrong[str(seed)] = headline
    return {
        "repeats": repeats,
        "first_seed": FIRST_SEED,
        "headline": fault.headline,
        "wrong": wrong,
        "named": named,
        "alarmed_without_correction": alarmed,
        **provenance(),
    }


def others(cells: list[Cell]) -> str:
    """The wrong headlines, with their numbers."""
    counts = Counter(headline for cell in cells for headline in cell["wrong"].values())
    return "; ".join(f"{headline} ({count})" for headline, count in counts.most_common()) or "none"


def right(cell: Cell) -> float:
    """The share of right headlines."""
    return 1 - len(cell["wrong"]) / cell["repeats"]


def targets(results: Results) -> Iterator[str]:
    """Whether the targets are reached."""
    from scipy.stats import binomtest

    for name, fault in FAULTS.items():
        for cell in cells_of(results, name).values():
            share = right(cell)
            if fault.headline != NO_FAULT:
                reached = "reached" if share >= RIGHT else "MISSED"
                yield f"right verdicts on `{name}`: {share:.0%}, target {RIGHT:.0%}: {reached}"
                continue
            alarms, n = len(cell["wrong"]), cell["repeats"]
            low, high = binomtest(alarms, n).proportion_ci()
            reached = "reached" if alarms / n <= FALSE_ALARMS else "MISSED"
            yield (
                f"false alarms: {alarms / n:.0%} of {n} pages of true models (95 % interval "
                f"{low:.0%} to {high:.0%}), target at most {FALSE_ALARMS:.0%}: {reached}; without "
                f"the correction for several questions: "
                f"{cell['alarmed_without_correction'] / n:.0%}"
            )


COMMAND = "python scripts/studies/verdicts.py --only {row}"
STUDY = Study(
    name="verdicts",
    about=__doc__,
    rows={
        name: Row(
            title=fault.title,
            command=f"{COMMAND} --true-models {{true_models}}" if name == "none" else None,
            make=partial(verdicts, name),
            once=True,
        )
        for name, fault in FAULTS.items()
    },
    command=f"{COMMAND} --repeats {{repeats}}",
    options={"repeats": 20, "true_models": 100},
    seeds=(0,),
    first="planted fault",
    columns=(
        ("right headline", lambda cells: cells[0]["headline"]),
        ("pages", lambda cells: f"{cells[0]['repeats']}"),
        ("said", lambda cells: f"{right(cells[0]):.0%}"),
        ("named", lambda cells: f"{cells[0]['named'] / cells[0]['repeats']:.0%}"),
        ("wrong headlines", others),
    ),
    findings=targets,
    note=(
        f"Each page has a true model of its own, by seed from {FIRST_SEED} on, with {LATENT} "
        f"latent dimensions, {TEST} held-out and {TRAIN:,} training examples of {ELEMENTS_OF_X} "
        f"elements, and {DRAWS:,} draws from the guide. Even seeds have real data and their exact "
        "posterior, odd ones counts and its approximation by Laplace's method. `said`: the share "
        "of pages with the right headline. `named`: the share that names the fault anywhere. "
        "Whether a model is trained is read from its number of steps. The rules were chosen on "
        "seeds 0 to 59."
    ),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
