"""Fine-tuning with few labels: a trained encoder against an untrained one and a frozen one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.check import Check, Plot
from analysis.model_samples import block_size
from analysis.plotting.style import BLUE, GREEN, ORANGE, new_figure, tidy
from analysis.representation.codes import balanced_rows, held_out_rows, spread, with_error
from analysis.representation.inputs import RepresentationInputs
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.rng import as_floats, evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure


METHODS = ("fine-tuned", "from scratch", "frozen")
# Adam's learning rates, one of which the held-out labels choose for each method and draw of
# labels.
RATES = (1e-2, 1e-3)
# The share of labels held out to choose the rate and the step to stop at, evaluated every few
# steps.
VALIDATION = 0.2
_EVERY = 20
_BATCH = 32
# A difference is clear beyond this many standard errors over repeats, and this much accuracy.
CLEAR, WORTH = 2.0, 0.005
# With more than this share of trainings best at their last step, a method had too few steps.
MAX_UNFINISHED = 0.5
# Unlabelled examples that determine the standardisation of an encoder's codes.
_STANDARDISED = 2000
# A coordinate narrower than this share of the widest is not scaled up to unit width: in a VAE's
# code, whose active coordinates are about 1 wide, a collapsed one would become noise.
_NARROWEST = 0.1
# In a diagnosis: numbers of labels, steps and draws; each draw trains two networks.
TUNED, TUNING_STEPS, TUNING_REPEATS = (100,), 300, 3


@dataclass(frozen=True)
class FineTuning(Result):
    """Test accuracy by number of labels, for three ways to train the same classifier.

    Args:
        sizes: The numbers of labels.
        accuracy: By method; draws of labels are shared by all methods.
        stopped: The step at which each training stopped; NaN where there were too few labels to
            hold any out, and all steps were taken.
        steps: The number of available steps.
        chance: The share of the most frequent test label.
    """

    FIELDS: ClassVar = ("chance", "steps", "unfinished")

    sizes: tuple[int, ...]
    accuracy: dict[str, Float[np.ndarray, "sizes repeats"]]
    stopped: dict[str, Float[np.ndarray, "sizes repeats"]]
    steps: int
    chance: float

    @property
    def unfinished(self) -> dict[str, float]:
        """The share of each method's trainings that were best at their last step."""
        chosen = {name: at[np.isfinite(at)] for name, at in self.stopped.items()}
        return {
            name: float((at == self.steps).mean()) if len(at) else 0.0
            for name, at in chosen.items()
        }

    @property
    def without_validation(self) -> tuple[int, ...]:
        """The numbers of labels of which none were held out in some draw."""
        missing = np.atleast_1d(np.isnan(self.stopped["fine-tuned"]).any(axis=1))
        return tuple(size for size, few in zip(self.sizes, missing, strict=True) if few)

    def gain(self, other: str, row: int = 0) -> tuple[float, float | None]:
        """Mean lead of fine-tuning over another method at a size, and its standard error."""
        gain = self.accuracy["fine-tuned"][row] - self.accuracy[other][row]
        deviation = spread(gain)
        return float(gain.mean()), None if deviation is None else deviation / len(gain) ** 0.5

    def extra(self) -> dict[str, Any]:
        """Mean and standard deviation over draws of labels, by size and method."""
        return {
            "sizes": [
                {"labels": size}
                | {
                    method: {
                        "accuracy": values[row].mean(),
                        "spread": spread(values[row]),
                        "repeats": values.shape[1],
                    }
                    for method, values in self.accuracy.items()
                }
                for row, size in enumerate(self.sizes)
            ]
        }

    def reading(self) -> str:
        """The gain over each other method by number of labels, and whether it is clear."""
        parts = []
        for row, size in enumerate(self.sizes):
            gains = []
            for other in METHODS[1:]:
                mean, error = self.gain(other, row)
                clear = error is not None and abs(mean) >= max(WORTH, CLEAR * error)
                gain = with_error(100 * mean, None if error is None else 100 * error, "+.1f")
                gains.append(f"{gain} points against {other}{'' if clear else ' (not clear)'}")
            accuracy = self.accuracy["fine-tuned"][row].mean()
            parts.append(
                f"With {size} labels fine-tuning reaches {accuracy:.1%}: {', '.join(gains)}."
            )
        if few := self.without_validation:
            parts.append(f"Too few labels to hold any out: {', '.join(map(str, few))}.")
        if short := [n for n, share in self.unfinished.items() if share > MAX_UNFINISHED]:
            parts.append(f"Still improving at step {self.steps}: {', '.join(short)}.")
        return " ".join(parts)


class Classifier(nn.Module):
    """An encoder, its codes standardised, and a linear head initialised to 0.

    Args:
        program: A program with `embed(x)`, owned by the classifier.
        x: Data whose codes determine the standardisation.
        classes: The number of outputs.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, program: Any, x: Real[Tensor, " n *event"], classes: int) -> None:
        super().__init__()
        self.program = program.requires_grad_(True)
        self.encoder_parameters = _encoder_parameters(program, as_floats(x[:2]))
        self.mean, self.scale = torch.zeros(()), torch.ones(())
        codes = self.codes(x)
        deviation = codes.std(0)
        self.mean = codes.mean(0)
        self.scale = deviation.clamp(min=max(_NARROWEST * float(deviation.max()), 1e-12))
        self.head = nn.Linear(codes.shape[1], classes).to(codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def code(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "n latent"]:
        """The standardised code."""
        code = self.program.embed(x).flatten(1).to(torch.get_default_dtype())
        return (code - self.mean) / self.scale

    def forward(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "n classes"]:
        """The logits."""
        return self.head(self.code(x))

    def codes(self, x: Real[Tensor, " n *event"]) -> Float[Tensor, "n latent"]:
        """The standardised codes, block by block and without gradients."""
        with evaluation_mode(self):
            return torch.cat([self.code(as_floats(part)) for part in x.split(block_size(x, 1))])

    def predict(self, x: Real[Tensor, " n *event"]) -> Int[Tensor, " n"]:
        """The most probable label of each example."""
        codes = self.codes(x)
        with evaluation_mode(self):
            return self.head(codes).argmax(1)


def fine_tuning(
    vae: Any,
    train_x: Real[Tensor, " n *event"],
    train_labels: Int[Tensor, " n"],
    test_x: Real[Tensor, " m *event"],
    test_labels: Int[Tensor, " m"],
    *,
    untrained: Callable[[], Any] | None = None,
    sizes: Sequence[int] = (100, 1000),
    steps: int = 300,
    repeats: int = 3,
    seed: int = 0,
) -> FineTuning:
    """softmax(W s(embed(x)) + b), s standardising, trained by cross-entropy on few labels.

    Three ways, on the same labels and with the same minibatches of 32: encoder and head from the
    trained encoder; from an untrained one; the head alone, on the trained encoder's codes. s is
    fixed from each encoder's codes of unlabelled training data. A fifth of the labels, of each
    class in proportion, chooses Adam's rate, 0.01 or 0.001, and the step to stop at, by errors and
    then by cross-entropy. If there are too few labels to hold out a fifth and keep one of each
    class, all are trained on, for all steps, at the smallest rate with the fewest errors on them.
    The head starts from 0.

    Args:
        vae: A program with `embed(x)` that has gradients; it is copied, not changed.
        train_x: Data that labels are drawn from.
        train_labels: Their labels, from 0.
        test_x: Data that accuracy is evaluated on.
        test_labels: Their labels.
        untrained: Makes the program with its initial parameters; None for a copy whose layers are
            reset.
        sizes: The numbers of labels, in balanced draws; those above the number of data are left
            out.
        steps: The steps of each training.
        repeats: The number of draws of labels.
        seed: The seed of draws, minibatches and a reset.

    Returns:
        Accuracies; compare differences between methods with their standard errors over draws.

    Raises:
        UndefinedCheckError: If `embed` has no gradient, or layers cannot be reset and `untrained`
            is not given.
        ValueError: If no size can be drawn: each needs at least 5 labels; or a label is below 0.
    """
    fitting = tuple(size for size in sizes if 5 <= size <= len(train_x))
    if not fitting or steps < 1 or repeats < 1 or len(train_x) != len(train_labels):
        raise ValueError(
            f"sizes must be from 5 to {len(train_x)}, with a label per example and at least one "
            "step and repeat, "
            f"got {list(sizes)}, {len(train_labels)} labels, {steps} and {repeats}."
        )
    labels = train_labels.cpu().numpy()
    lowest = int(min(labels.min(), int(test_labels.min())))
    if lowest < 0:
        raise ValueError(f"labels must be from 0 on, got {lowest}.")
    classes = int(max(labels.max(), int(test_labels.max()))) + 1
    test_labels = test_labels.to(test_x.device)
    rng = np.random.default_rng(seed)
    devices = [train_x.device] if train_x.device.type == "cuda" else []
    accuracy = {method: np.zeros((len(fitting), repeats)) for method in METHODS}
    stopped = {method: np.zeros((len(fitting), repeats)) for method in METHODS}
    # Dropout and noise draw from the global stream.
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        unlabelled = train_x[:_STANDARDISED]
        tuned = Classifier(copy.deepcopy(vae), unlabelled, classes)
        initial = _reset_copy(vae, tuned.encoder_parameters) if untrained is None else untrained()
        scratch = Classifier(initial, unlabelled, classes)
        for row, size in enumerate(fitting):
            for repeat in range(repeats):
                drawn = balanced_rows(labels, size, seed=seed, repeat=repeat)
                mask = held_out_rows(labels[drawn], VALIDATION)
                held_out = 0 if mask is None else int(mask.sum())
                if mask is not None:
                    drawn = np.concatenate([drawn[mask], drawn[~mask]])
                rows = torch.as_tensor(drawn)
                x = as_floats(train_x[rows.to(train_x.device)])
                y = train_labels[rows.to(train_labels.device)].to(x.device).long()
                batches = _batches(size - held_out, steps, rng)
                for method, start in zip(METHODS, (tuned, scratch, tuned), strict=True):
                    net, at = _train(start, x, y, batches, held_out, frozen=method == "frozen")
                    hits = net.predict(test_x) == test_labels
                    accuracy[method][row, repeat] = float(hits.double().mean())
                    stopped[method][row, repeat] = at if held_out else np.nan
    chance = float(torch.bincount(test_labels.long()).max() / len(test_labels))
    return FineTuning(fitting, accuracy, stopped, steps, chance)


def plot_fine_tuning(found: FineTuning) -> "matplotlib.figure.Figure":
    """Draw accuracy by number of labels for each method: the mean, its spread and every draw."""
    figure = new_figure(7.2, 4.2)
    ax = figure.subplots()
    place = np.arange(len(found.sizes))
    for index, (method, values) in enumerate(found.accuracy.items()):
        at, colour = place + 0.18 * (index - 1), (BLUE, ORANGE, GREEN)[index]
        bars = [spread(row) or 0.0 for row in values]
        ax.errorbar(at, values.mean(1), bars, fmt="o", color=colour, capsize=4, label=method)
        ax.plot(at[:, None] + 0.05, values, ".", color=colour, alpha=0.5, markersize=5)
    ax.axhline(found.chance, color="0.5", linestyle="--", label="most frequent label")
    ax.set_xticks(place, [f"{size:,} labels" for size in found.sizes])
    ax.set(xlim=(-0.5, len(place) - 0.5), ylabel="accuracy on test data")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    mean, error = found.gain("from scratch")
    gain = with_error(100 * mean, None if error is None else 100 * error, "+.1f")
    title = f"With {found.sizes[0]:,} labels a trained encoder gains {gain} points over scratch"
    ax.set_title(title, fontsize=11)
    tidy([ax])
    return figure


def _train(
    start: Classifier, x: Tensor, y: Tensor, batches: list[Tensor], held_out: int, *, frozen: bool
) -> tuple[Classifier, int]:
    """Train a copy of `start`; return it at the best rate and step, and that step.

    The first `held_out` rows of x validate; without any, the rate is the smallest with the fewest
    errors on the training data after all steps. `batches` are rows of the others. `frozen` trains
    the head alone.
    """
    best, least, at = {}, (float("inf"), float("inf")), 0
    names = [] if frozen else start.encoder_parameters
    changing = {f"program.{name}" for name in names} | {name for name, _ in start.named_buffers()}
    changing |= {"head.weight", "head.bias"}
    # A frozen encoder's codes are computed once.
    codes = start.codes(x) if frozen else None
    validation = slice(held_out or len(x))
    for rate in RATES if held_out else sorted(RATES):
        net = copy.deepcopy(start)
        parameters = dict(net.program.named_parameters())
        data, forward = (x, net) if codes is None else (codes, net.head)
        trainable = [*(parameters[name] for name in names), *net.head.parameters()]
        optimiser = torch.optim.Adam(trainable, rate)
        net.train(not frozen)
        for step, rows in enumerate(batches, start=1):
            rows = held_out + rows.to(x.device)
            optimiser.zero_grad()
            F.cross_entropy(forward(data[rows]), y[rows]).backward()
            optimiser.step()
            if step == len(batches) or (held_out and step % _EVERY == 0):
                with evaluation_mode(net):
                    logits = forward(data[validation])
                # Cross-entropy alone would stop early: it grows with confidence while errors still
                # fall.
                errors = float((logits.argmax(1) != y[validation]).sum())
                # On training data it falls the faster the larger the rate.
                loss = (errors, float(F.cross_entropy(logits, y[validation])) if held_out else 0.0)
                if loss < least:
                    least, at = loss, step
                    state = net.state_dict().items()
                    best = {name: value.clone() for name, value in state if name in changing}
    net = copy.deepcopy(start)
    net.load_state_dict(best, strict=False)
    return net, at


def _encoder_parameters(program: Any, x: Float[Tensor, " n *event"]) -> list[str]:
    """The names of the parameters that the code's gradient reaches: not a decoder's."""
    parameters = dict(program.named_parameters())
    with evaluation_mode(program), torch.enable_grad():
        codes = program.embed(x)
        if not codes.requires_grad:
            raise UndefinedCheckError(
                "embed(x) has no gradient: its encoder cannot be fine-tuned."
            )
        gradients = torch.autograd.grad(codes.sum(), [*parameters.values()], allow_unused=True)
    reached = zip(parameters, gradients, strict=True)
    return [name for name, gradient in reached if gradient is not None]


def _reset_copy(vae: Any, names: Sequence[str]) -> Any:
    """A copy with reset layers, among them those of the named parameters."""
    program = copy.deepcopy(vae)
    for module in program.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for owner in {name.rpartition(".")[0] for name in names}:
        if not hasattr(program.get_submodule(owner), "reset_parameters"):
            raise UndefinedCheckError(
                f"the parameters of {owner or 'the program'} cannot be reset: pass untrained=."
            )
    return program


def _batches(n: int, steps: int, rng: np.random.Generator) -> list[Tensor]:
    batch = min(_BATCH, n)
    epochs = -(-steps * batch // n)
    rows = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    return list(torch.as_tensor(rows[: steps * batch]).split(batch))


def _diagnose(subject: Subject) -> FineTuning:
    inputs = subject.compute(RepresentationInputs)
    train_labels = inputs.train.labels
    # Labels are renumbered from 0 without gaps.
    classes = np.unique(np.concatenate([train_labels, inputs.labels]))
    return fine_tuning(
        subject.vae,
        inputs.labelled_train_x,
        torch.from_numpy(np.searchsorted(classes, train_labels)),
        inputs.labelled_x,
        torch.from_numpy(np.searchsorted(classes, inputs.labels)),
        untrained=subject.untrained,
        sizes=sorted({min(n, len(train_labels)) for n in TUNED}),
        steps=TUNING_STEPS,
        repeats=TUNING_REPEATS,
        seed=subject.seed_of("fine tuning"),
    )


def _headline(found: FineTuning) -> dict[str, str]:
    return {
        f"{method}, {n:,} labels": with_error(values[row].mean(), spread(values[row]))
        for row, n in enumerate(found.sizes)
        for method, values in found.accuracy.items()
        if method != "frozen"
    }


FINE_TUNING = Check(
    "fine_tuning",
    _diagnose,
    (
        Plot(
            "fine_tuning",
            "Is the trained encoder a better start for a classifier than an untrained one?",
            lambda found, _: plot_fine_tuning(found),
        ),
    ),
    headline=_headline,
)
