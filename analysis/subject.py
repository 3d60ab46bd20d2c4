"""The subject of a diagnosis: a trained VAE with data, and arrays that its checks share.

Each array is computed once, when a check first asks for it.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor
from tqdm import tqdm

from analysis.data_statistics import Statistic, compute_statistics, standardisation, statistics_for
from analysis.model_samples import embed_data, mean_data, narrow_dtype, new_data, to_array
from analysis.plotting.images import Limits, value_limits
from analysis.plotting.vectors import Elements
from analysis.result import UndefinedCheckError
from pyro_vae.compilation.fast_functions import FastFunctions
from pyro_vae.evidence import Evaluation, evaluate
from pyro_vae.rng import derive_seed

Computed = TypeVar("Computed")

# Generated data sets, each as large as the real one: at most this number, and this many elements
# in all.
DATA_SETS = 20
GENERATED_ELEMENTS = 50_000_000
# Guide draws per example for scores of real and of generated data: the same number for both.
SCORE_SAMPLES = 100
# The scores' labels.
SCORES = {
    "elbo": "ELBO (nats)",
    "reconstruction": "reconstruction (nats): E_q log p(x | z)",
    "rate": "rate (nats)",
    "reconstruction_error": "reconstruction error: mean square",
}


class Steps:
    """Named steps under one progress bar, each timed without the steps inside it.

    Args:
        names: All steps that may come. Those that do not are counted by `finish`.
        visible: Whether to show the bar.
    """

    def __init__(self, names: Collection[str] = (), *, visible: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._remaining = set(names)
        self._bar: Any = tqdm(total=len(self._remaining), unit="step", disable=not visible)
        # Of each open step its name and the seconds of the steps inside it.
        self._open: list[tuple[str, list[float]]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Show and time a step, and count it afterwards."""
        started = time.perf_counter()
        self._open.append((name, []))
        self._bar.set_description(name)
        try:
            yield
        finally:
            total = time.perf_counter() - started
            _, inner = self._open.pop()
            if self._open:
                outer, seconds = self._open[-1]
                seconds.append(total)
                self._bar.set_description(outer)
            self.seconds[name] = self.seconds.get(name, 0.0) + total - sum(inner)
            self.finish([name])

    def finish(self, names: Collection[str]) -> None:
        """Count steps as done, whether they came or not."""
        done = self._remaining & set(names)
        self._remaining -= done
        self._bar.update(len(done))

    def relay(self, send: Callable[[str, Any], None]) -> None:
        """Send what the bar shows, to the `relayed` of another process's steps."""
        self._bar = _RelayedBar(send)

    def relayed(self, method: str, value: Any) -> None:
        """Show what the steps of another process have sent."""
        getattr(self._bar, method)(value)

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()


class _RelayedBar:
    """A bar that another process shows."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send = send

    def update(self, count: int) -> None:
        self._send("update", count)

    def set_description(self, name: str) -> None:
        self._send("set_description", name)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Foreign:
    """Data of another kind than the training data, preprocessed in the same way.

    Args:
        name: The name of the data set.
        x: Held-out data, on the program's device.
        train: Training data, on the CPU.
        labels: A label, or a row of factors, for each example of `x`; None if there are none.
        train_labels: The same for `train`.
    """

    name: str
    x: Real[Tensor, " m *event"]
    train: Real[Tensor, " s *event"]
    labels: Real[np.ndarray, " m"] | Real[np.ndarray, "m factors"] | None = None
    train_labels: Real[np.ndarray, " s"] | Real[np.ndarray, "s factors"] | None = None


@dataclass(frozen=True)
class Subject:
    """A trained VAE and held-out data, with everything that is computed once for its diagnosis.

    Args:
        vae: The program, on its device.
        x: The n held-out examples, in the likelihood's support, on the device.
        train: The training data, in the likelihood's support, on the CPU.
        support: The likelihood's support: binary, unit, integers, counts or real.
        untrained: Returns the same program before training.
        num_samples: The number of guide draws per example for importance weights.
        seed: The seed of all draws.
        event_names: The names of an example's elements.
        labels: A label, or a row of factors, for each example of `x`, -1 where missing; floats are
            a numeric target; None if there are none.
        train_labels: The same for `train`.
        label_names: The names of labels 0, 1, ...; with factors, of the factors.
        foreign: Data of another kind to compare with; None if there are none.
        whole: The whole split of which `x` is a part, on the CPU; None if it is `x`.
        whole_labels: The labels or factors of `whole`.
        uses_prior: Whether the training objective has a term of p(z).
        step: Times and shows the steps.
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
    _computed: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def seed_of(self, purpose: str) -> int:
        """The seed of a purpose."""
        return derive_seed(self.seed, purpose)

    def compute(self, function: "Callable[[Subject], Computed]") -> Computed:
        """`function(self)`, computed once."""
        if function not in self._computed:
            self._computed[function] = function(self)
        return self._computed[function]

    @cached_property
    def real(self) -> Real[np.ndarray, " n *event"]:
        """x as an array."""
        return narrow_dtype(to_array(self.x))

    @cached_property
    def training(self) -> Real[np.ndarray, " t *event"]:
        """The training data as an array."""
        return narrow_dtype(to_array(self.train))

    @cached_property
    def limits(self) -> Limits:
        """The grey scale of images, see `value_limits`."""
        return value_limits(self.real)

    @cached_property
    def elements(self) -> Elements | None:
        """The names and scale of the elements of vectors, for figures; None for other data."""
        return Elements.from_data(self.real, self.event_names)

    @cached_property
    def data_sets(self) -> int:
        """The number of generated data sets."""
        return int(np.clip(GENERATED_ELEMENTS // max(1, self.x.numel()), 1, DATA_SETS))

    @cached_property
    def all_generated(self) -> Real[np.ndarray, " m *event"]:
        """x ~ p(x | z), z ~ p(z): `data_sets` data sets of n examples, concatenated."""
        with self.step("new data from the model"):
            n = self.data_sets * len(self.x)
            return new_data(self.vae, self.x, n, seed=self.seed_of("new data")).x

    @property
    def generated(self) -> Real[np.ndarray, " n *event"]:
        """The first generated data set."""
        return self.all_generated[: len(self.x)]

    @cached_property
    def before_training(self) -> Real[np.ndarray, " n *event"]:
        """n examples generated by the untrained program."""
        with self.step("new data before training"):
            vae = self.untrained()
            return new_data(vae, self.x, len(self.x), seed=self.seed_of("before training")).x

    @cached_property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics of an example."""
        scaled = standardisation(self.training, self.support)
        return statistics_for(tuple(self.x.shape[1:]), self.support, scaled)

    @cached_property
    def real_statistics(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Each statistic of the held-out data."""
        return compute_statistics(self.real, self.statistics)

    @cached_property
    def generated_statistics(self) -> dict[str, Float[np.ndarray, "sets n"]]:
        """Each statistic of each generated data set."""
        data = self.all_generated
        with self.step("statistics of new data"):
            found = compute_statistics(data, self.statistics)
            return {name: v.reshape(self.data_sets, -1) for name, v in found.items()}

    @cached_property
    def evaluation(self) -> Evaluation:
        """The importance weights of the held-out data, with `num_samples` draws."""
        with self.step("importance weights"), FastFunctions():
            seed = self.seed_of("importance weights")
            return evaluate(self.vae, self.x, num_samples=self.num_samples, seed=seed)

    @cached_property
    def scores(self) -> dict[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
        """Scores of real and of generated data: the ELBO, its terms and the reconstruction error.

        For a guide without a density, the reconstruction and its error only.
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
        """The mean of p(x | z) at the code of each example."""
        return reconstruct(self.vae, self.x)

    def check_size(self, minimum: int = 2) -> None:
        """Check the number of held-out examples.

        Raises:
            UndefinedCheckError: If there are fewer than `minimum`.
        """
        if len(self.x) < minimum:
            raise UndefinedCheckError(f"expected at least {minimum} examples, got {len(self.x)}.")


def reconstruct(vae: Any, x: Real[Tensor, " n *event"]) -> Float[np.ndarray, " n *event"]:
    """The mean of p(x | z) at the code of each example."""
    return mean_data(vae, embed_data(vae, x))


def _scores(vae: Any, x: Tensor, seed: int) -> dict[str, Float[np.ndarray, " n"]]:
    with FastFunctions():
        evaluation = evaluate(vae, x, num_samples=SCORE_SAMPLES, seed=seed)
    weights = evaluation.weights
    difference = (reconstruct(vae, x) - to_array(x)).reshape(len(x), -1).astype(np.float64)
    scores = {
        "elbo": weights.elbo if weights else None,
        "reconstruction": evaluation.reconstruction,
        "rate": weights.kl if weights else None,
        "reconstruction_error": np.square(difference).mean(1),
    }
    return {name: values for name, values in scores.items() if values is not None}
