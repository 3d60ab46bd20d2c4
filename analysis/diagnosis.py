"""What a diagnosis is made of: a trained VAE with data, arrays that its sections share, and a bar over all steps.

Each array is drawn once, when a section first asks for it. What a program or its data do not have is
left out, and its reason recorded.
"""

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor
from tqdm import tqdm

from analysis.calibration.leave_one_out import LeaveOneOut, leave_one_element_out
from analysis.check import Check
from analysis.plotting.images import Limits, limits_of
from analysis.plotting.vectors import Elements
from analysis.predictive.data_statistics import (
    Statistic,
    measured,
    standardisation,
    statistics_for,
)
from analysis.predictive.element_pit import ElementPit, element_pit
from analysis.predictive.model_samples import (
    UndefinedCheckError,
    embedded,
    guide_blocks,
    mean_data,
    narrowed,
    new_data,
    to_array,
)
from pyro_vae.evidence import Evaluation, evaluate
from pyro_vae.json_values import to_jsonable
from pyro_vae.log_densities import NoDensityError, distribution_at
from pyro_vae.rng import derive_seed

if TYPE_CHECKING:
    import matplotlib.figure

Made = TypeVar("Made")

# New data sets, each as large as the real one: so many, or as fit into so many elements.
DATA_SETS = 20
GENERATED_ELEMENTS = 50_000_000
# Draws for each datum whose ELBO is set beside that of generated data: the same number for both.
SCORE_SAMPLES = 100
# Draws for each datum whose elements are forecast from one another.
FORECAST_SAMPLES = 200
# What a part raises that this program or these data do not have; the last is torch's word for what a
# distribution lacks. Any other ValueError is a mistake, and ends the program.
UNDEFINED = (UndefinedCheckError, NoDensityError, NotImplementedError)
# The modules whose warnings are notes.
LIBRARIES = r"(numpy|scipy|sklearn)\b"
# What is said of new data whose codes training never saw.
UNUSED_PRIOR = (
    "New data are made at codes z ~ p(z), a prior that the objective never used: how far they are from "
    "real data says how far the codes are from that prior, and little of the decoder."
)
# What the scores are, as a person reads it.
SCORES = {
    "elbo": "ELBO (nats)",
    "reconstruction": "reconstruction (nats): E_q log p(x | z)",
    "rate": "rate (nats)",
    "reconstruction_error": "reconstruction error: mean square",
}


class Steps:
    """Named steps, one bar over all of them, and the seconds that each took without those inside it.

    Args:
        names: All that may come; those that do not are taken as done by `finish`.
        visible: Whether to show the bar.
    """

    def __init__(self, names: Collection[str] = (), *, visible: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._left = set(names)
        self._bar = tqdm(total=len(self._left), unit="step", disable=not visible)
        self._inside: list[list[float]] = []
        self._names: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Name what is being done, and take it as done afterwards."""
        started = time.perf_counter()
        self._inside.append([])
        self._names.append(name)
        self._bar.set_description(name)
        try:
            yield
        finally:
            total = time.perf_counter() - started
            own = total - sum(self._inside.pop())
            self._names.pop()
            if self._inside:
                self._inside[-1].append(total)
                self._bar.set_description(self._names[-1])
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            self.finish([name])

    def finish(self, names: Collection[str]) -> None:
        """Take steps as done, whether they came or not."""
        done = self._left & set(names)
        self._left -= done
        self._bar.update(len(done))

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


@dataclass(frozen=True)
class Foreign:
    """Data of another kind than those that trained a VAE, prepared as its own.

    Args:
        name: What they are called.
        x: The m data that it is asked about, on its device.
        train: Others, to train a classifier with, on the CPU.
        labels: A label, or a row of factors, for each of x; None if there are none.
        train_labels: The same of `train`.
    """

    name: str
    x: Real[Tensor, " m *event"]
    train: Real[Tensor, " s *event"]
    labels: Real[np.ndarray, " m"] | Real[np.ndarray, "m factors"] | None = None
    train_labels: Real[np.ndarray, " s"] | Real[np.ndarray, "s factors"] | None = None


@dataclass(frozen=True)
class Subject:
    """A trained VAE and data that did not train it, with everything that is drawn for its diagnosis.

    Args:
        vae: The program, on its device.
        x: The n data, in the likelihood's support, on the device.
        train: The training data, in the likelihood's support, on the CPU.
        support: The likelihood's: binary, unit, integers, counts or real.
        untrained: Gives the same program as training found it.
        num_samples: The number of draws from the guide for each datum's importance weights.
        seed: The seed of all draws.
        event_names: What the elements of a datum are called.
        labels: A label, or a row of factors, for each of x, with -1 where one is missing; floats are a
            numeric target; None if there are none.
        train_labels: The same of `train`.
        label_names: What label 0, 1, ... is called; of factors, what the first, second, ... is.
        foreign: Data of another kind, to be told from x; None if there are none.
        whole: All data of the split that x are some of, on the CPU; None if they are x.
        whole_labels: The labels or factors of these.
        uses_prior: Whether the objective that trained the program has a term of p(z).
        step: Names what is being done.
    """

    vae: Any
    x: Real[Tensor, " n *event"]
    train: Real[Tensor, " t *event"]
    support: str
    untrained: Callable[[], Any]
    num_samples: int = 1000
    seed: int = 0
    event_names: tuple[str, ...] = ()
    labels: Real[np.ndarray, " n"] | Real[np.ndarray, "n factors"] | None = None
    train_labels: Real[np.ndarray, " t"] | Real[np.ndarray, "t factors"] | None = None
    label_names: tuple[str, ...] = ()
    foreign: Foreign | None = None
    whole: Real[Tensor, " w *event"] | None = None
    whole_labels: Real[np.ndarray, " w"] | Real[np.ndarray, "w factors"] | None = None
    uses_prior: bool = True
    step: Steps = field(default_factory=Steps)

    def seed_of(self, what: str) -> int:
        """A seed of a purpose's own."""
        return derive_seed(self.seed, what)

    @cached_property
    def real(self) -> Real[np.ndarray, " n *event"]:
        """x as an array."""
        return narrowed(to_array(self.x))

    @cached_property
    def training(self) -> Real[np.ndarray, " t *event"]:
        """The training data as an array."""
        return narrowed(to_array(self.train))

    @cached_property
    def limits(self) -> Limits:
        """What is drawn black and white: see `limits_of`."""
        return limits_of(self.real)

    @cached_property
    def elements(self) -> Elements | None:
        """Of vectors, names and scale of their elements, for figures."""
        return Elements.of(self.real, self.event_names)

    @cached_property
    def data_sets(self) -> int:
        """The number of new data sets."""
        return int(np.clip(GENERATED_ELEMENTS // max(1, self.x.numel()), 1, DATA_SETS))

    @cached_property
    def all_generated(self) -> Real[np.ndarray, " m *event"]:
        """x ~ p(x | z), z ~ p(z): `data_sets` sets of n, one after the other."""
        with self.step("new data from the model"):
            n = self.data_sets * len(self.x)
            return new_data(self.vae, self.x, n, seed=self.seed_of("new data")).x

    @property
    def generated(self) -> Real[np.ndarray, " n *event"]:
        """The first of the new data sets."""
        return self.all_generated[: len(self.x)]

    @cached_property
    def before_training(self) -> Real[np.ndarray, " n *event"]:
        """n new data from the untrained program."""
        with self.step("new data before training"):
            vae = self.untrained()
            return new_data(vae, self.x, len(self.x), seed=self.seed_of("before training")).x

    @cached_property
    def statistics(self) -> tuple[Statistic, ...]:
        """What is measured of each datum."""
        scaled = standardisation(self.training, self.support)
        return statistics_for(tuple(self.x.shape[1:]), self.support, scaled)

    @cached_property
    def real_statistics(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Each statistic of the data."""
        return measured(self.real, self.statistics)

    @cached_property
    def generated_statistics(self) -> dict[str, Float[np.ndarray, "sets n"]]:
        """Each statistic of each new data set."""
        data = self.all_generated
        with self.step("statistics of new data"):
            found = measured(data, self.statistics)
            return {name: v.reshape(self.data_sets, -1) for name, v in found.items()}

    @cached_property
    def evaluation(self) -> Evaluation:
        """Importance weights of the data, with `num_samples` draws."""
        with self.step("importance weights"):
            seed = self.seed_of("importance weights")
            return evaluate(self.vae, self.x, num_samples=self.num_samples, seed=seed)

    @cached_property
    def scores(self) -> dict[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
        """What the program says of real and of generated data: the ELBO, its terms, the reconstruction's error.

        Of a guide without a density, the reconstruction and its error.
        """
        generated = torch.as_tensor(self.generated, device=self.x.device)
        with self.step("scores of new data"):
            of_real, of_generated = (
                _scores(self.vae, x, self.seed_of(f"scores of {name}"))
                for name, x in (("data", self.x), ("new data", generated))
            )
        return {name: (of_real[name], of_generated[name]) for name in of_real}

    @cached_property
    def reconstructions(self) -> Float[np.ndarray, " n *event"]:
        """The mean of p(x | z) at the code of each datum."""
        return reconstructed(self.vae, self.x)

    @cached_property
    def leave_one_out(self) -> LeaveOneOut:
        """Each element forecast from the others of its datum."""
        with self.step("forecasts of elements"):
            return self._forecasts(self.x, "forecasts")

    @cached_property
    def own_leave_one_out(self) -> LeaveOneOut:
        """The same of n data that the model made: what fails there is the guide's, not the model's."""
        own = torch.as_tensor(self.generated).to(self.x)
        with self.step("forecasts of new data"):
            return self._forecasts(own, "forecasts of new data")

    @cached_property
    def element_pit(self) -> ElementPit:
        """Each element's place in its forecast, beside those of the model's own data."""
        forecasts = self.leave_one_out
        return element_pit(
            forecasts.pit,
            simulated=self.own_leave_one_out.pit,
            trusted=forecasts.trusted,
            seed=self.seed_of("element pit"),
        )

    def check_several(self) -> None:
        """Raise what a part does that a single datum does not have.

        Raises:
            UndefinedCheckError: If there are fewer than two data.
        """
        if len(self.x) < 2:
            raise UndefinedCheckError(f"at least two data can be checked, got {len(self.x)}.")

    def check_resolved(self) -> None:
        """Raise where rounding errors swallow the weights that elements are forecast by.

        Raises:
            UndefinedCheckError: If `LeaveOneOut.withheld` of the data or of new data.
        """
        for forecasts in (self.leave_one_out, self.own_leave_one_out):
            if forecasts.withheld:
                raise UndefinedCheckError(forecasts.withheld)

    def _forecasts(self, x: Tensor, purpose: str) -> LeaveOneOut:
        return leave_one_element_out(
            self.vae, x, num_samples=FORECAST_SAMPLES, seed=self.seed_of(purpose)
        )


@dataclass(frozen=True)
class Section:
    """What a section found.

    Args:
        record: Plain values for a file, with a "reading".
        figures: By name.
        captions: What each figure answers, by name.
        numbers: What a person sees first: what it is, and the number with its unit.
        readings: Sentences by part.
        left_out: Why, of parts that this program or these data do not have.
        made: What each part is, for a comparison with others.
    """

    record: dict[str, Any]
    figures: "dict[str, matplotlib.figure.Figure]"
    captions: dict[str, str]
    numbers: dict[str, str]
    readings: dict[str, str]
    left_out: dict[str, str]
    made: dict[str, Any] = field(default_factory=dict)


@contextmanager
def library_warnings() -> Iterator[list[str]]:
    """Collect what numerical libraries warn of, once each, instead of printing it through a progress bar."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("default", module=LIBRARIES)
        yield notes
    for warning in caught:
        text = " ".join(str(warning.message).split())
        note = f"Note: {text.rstrip('.')}."
        if note not in notes:
            notes.append(note)


class Parts:
    """A section in the making: each part is made, or left out with its reason.

    Args:
        subject: What is diagnosed.
        name: The section's name.
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject = subject
        self.name = name
        self.record: dict[str, Any] = {}
        self.numbers: dict[str, str] = {}
        self.readings: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._figures: dict[str, Any] = {}
        self._captions: dict[str, str] = {}
        self._made: dict[str, Any] = {}

    def add(self, name: str, make: Callable[[], Made], *, describe: bool = False) -> Made | None:
        """Make a part, and record its `summary()`; None if it is left out.

        What NumPy, SciPy and scikit-learn warn of becomes a note of the part.

        Args:
            name: The part's name.
            make: What makes it.
            describe: Whether another part answers its question: its reading is then its `description()`.
        """
        try:
            with self.subject.step(f"{self.name}: {name}"), library_warnings() as notes:
                made = make()
                summary = dict(made if isinstance(made, Mapping) else made.summary())  # pyright: ignore
        except UNDEFINED as error:
            self.left_out[name] = str(error)
            self.record[name] = {"left_out": str(error)}
            return None
        if describe:
            summary["reading"] = made.description()  # pyright: ignore
            del summary["verdicts"]
        if notes:
            summary["notes"] = notes
        self.record[name] = summary
        self.readings[name] = " ".join([summary["reading"], *notes])
        self._made[name] = made
        return made

    def check(self, check: Check) -> Any:
        """Run a check, record it and draw its figures; None if it is not defined on these data."""
        found = self.add(check.name, lambda: check.compute(self.subject))
        if found is None:
            return None
        self.record.update(to_jsonable(check.record(found)))
        self.numbers.update(check.headline(found))
        for plot in check.plots:
            if plot.when(found):
                self.draw(plot.name, plot.caption, partial(plot.draw, found, self.subject))
        return found

    def draw(
        self, name: str, caption: str, plot: "Callable[[], matplotlib.figure.Figure]"
    ) -> None:
        """Draw a figure, with what it answers; one that these data do not have is left out."""
        try:
            with self.subject.step(f"{self.name}: figures"):
                self._figures[name] = plot()
            self._captions[name] = caption
        except UNDEFINED as error:
            self.left_out[f"{name}.png"] = str(error)

    def section(self, *, of_new_data: bool = False) -> Section:
        """The section.

        Args:
            of_new_data: Whether it is about new data: it then begins with what to know of a prior
                that training did not use.

        Raises:
            UndefinedCheckError: If all parts were left out.
        """
        if not self.readings:
            raise UndefinedCheckError(next(iter(self.left_out.values())))
        if of_new_data and not self.subject.uses_prior:
            self.record["prior"] = {"reading": UNUSED_PRIOR}
            self.readings = {"prior": UNUSED_PRIOR, **self.readings}
        self.record["reading"] = " ".join(self.readings.values())
        return Section(
            self.record,
            self._figures,
            self._captions,
            self.numbers,
            self.readings,
            self.left_out,
            self._made,
        )


def reconstructed(vae: Any, x: Real[Tensor, " n *event"]) -> Float[np.ndarray, " n *event"]:
    """The mean of p(x | z) at the code of each datum."""
    return mean_data(vae, embedded(vae, x))


def replicates(
    vae: Any, x: Real[Tensor, " n *event"], num_draws: int, *, seed: int
) -> Real[np.ndarray, " draws n *event"]:
    """x' ~ p(x' | z), z ~ q(z | x): data beside the one whose code they share. They describe, and test nothing."""
    drawn = [
        to_array(distribution_at(terms.model_trace, "x").sample())
        for _, terms in guide_blocks(vae, x, num_draws, seed=seed)
    ]
    return np.concatenate(drawn, axis=1)


def _scores(vae: Any, x: Tensor, seed: int) -> dict[str, Float[np.ndarray, " n"]]:
    evaluation = evaluate(vae, x, num_samples=SCORE_SAMPLES, seed=seed)
    weights = evaluation.weights
    difference = (reconstructed(vae, x) - to_array(x)).reshape(len(x), -1).astype(np.float64)
    scores = {
        "elbo": weights.elbo if weights else None,
        "reconstruction": evaluation.reconstruction,
        "rate": weights.kl if weights else None,
        "reconstruction_error": np.square(difference).mean(1),
    }
    return {name: values for name, values in scores.items() if values is not None}
