"""The exact command to try after a finding: about this run, with options that exist."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.posteriors import POSTERIORS
from pyro_vae.runs.training_review import Plan
from pyro_vae.training.validation import PATIENCE_STEPS

# The likelihood, and the prior, to try after one that does not fit.
NEXT_LIKELIHOOD = {
    "poisson": "negative_binomial",
    "negative_binomial": "zero_inflated_negative_binomial",
    "normal": "student_t",
    "laplace": "student_t",
    "continuous_bernoulli": "logit_normal",
    "beta": "logit_normal",
    "discretized_logistic": "logistic_mixture",
}
NEXT_PRIOR = {
    **dict.fromkeys(
        ("standard_normal", "laplace", "student_t", "logistic", "gaussian_mixture"), "vamp"
    ),
    "vamp": "flow",
}
# Epochs without a better score that `--early-stopping` allows.
PATIENCE = 10
TRUST = "--trust-model-file"
# The defaults of `diagnose.py`, and the entries of diagnosis.json that hold the values.
DIAGNOSED = {"--split": "test", "--images": 1000, "--samples": 1000, "--seed": 0}
STORED = {"--split": "split", "--images": "n", "--samples": "num_samples", "--seed": "seed"}


def options_of_diagnosis(
    diagnosis: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, str]:
    """The options of a stored diagnosis that are not the defaults.

    With other options its sections would become stale. Of fewer test data than `--images` all are
    taken; the evaluation of the test split shows how many there are.

    Args:
        diagnosis: diagnosis.json; may be empty.
        metrics: metrics.json; may be empty.
    """
    stored = {option: diagnosis.get(key) for option, key in STORED.items()}
    all_data = min(metrics.get("n") or DIAGNOSED["--images"], DIAGNOSED["--images"])
    return {
        option: str(value)
        for option, value in stored.items()
        if value not in (None, DIAGNOSED[option], *([all_data] if option == "--images" else ()))
    }


@dataclass(frozen=True)
class Commands:
    """The commands of one run.

    Args:
        metrics: Its metrics.json; empty if there is none.
        diagnosis: Its diagnosis.json; empty if there is none.
        run: The run directory.
        trust_model_file: Whether its commands must trust its own model file.
        cut_short: Whether its training was stopped before its planned end.
    """

    metrics: Mapping[str, Any]
    diagnosis: Mapping[str, Any]
    run: str
    trust_model_file: bool = False
    cut_short: bool = False

    def known(self, name: str) -> Any:
        """An entry of metrics.json, otherwise of diagnosis.json; None if neither has it."""
        value = self.metrics.get(name)
        return self.diagnosis.get(name) if value is None else value

    def fill(self, command: str) -> str:
        """A command of `analysis.result` with the run in place of RUN."""
        words = [self.run if word == "RUN" else word for word in command.split()]
        if "scripts/diagnose.py" in words:
            pairs = options_of_diagnosis(self.diagnosis, self.metrics).items()
            words += [word for pair in pairs if pair[0] not in words for word in pair]
        return shlex.join([*words, *[TRUST] * self.trust_model_file])

    def train_again(self, **changed: Any) -> str:
        """The command that trains from the start with changed options."""
        return self._plan().again(changed)

    def train_on(self, steps: int) -> str:
        """The command that trains to the planned end, or at least twice as long."""
        if self.cut_short:
            return self.fill("python scripts/svi_train.py --resume --out RUN")
        # An epoch has at least one step.
        return self._plan(epochs=1, max_steps=steps).train_on(steps, PATIENCE_STEPS)

    def other_likelihood(self) -> str | None:
        """Train with heavier tails or more dispersion, or where there are none, a larger code."""
        if other := NEXT_LIKELIHOOD.get(self.known("likelihood")):
            return self.train_again(likelihood=other)
        latent_dim = self.known("latent_dim")
        return self.train_again(latent_dim=2 * latent_dim) if latent_dim else None

    def other_prior(self) -> str | None:
        """Train with a richer prior."""
        other = NEXT_PRIOR.get(self.known("prior"))
        return self.train_again(prior=other) if other else None

    def keep_best(self) -> str:
        """Train until validation is best."""
        return self.train_again(keep="best", early_stopping=PATIENCE)

    def against_collapse(self) -> str | None:
        """Train with the first option that the review of the training names."""
        (_, text), *_ = self.review("collapsed") or [(None, "")]
        if option := re.search(r"\(--(\S+) ([^)]+)\)", text):
            return self.train_again(**{option[1]: option[2]})
        posterior = POSTERIORS.get(self.known("posterior"))
        if not text and getattr(posterior, "support", None) == "real":
            return self.train_again(posterior="batch_normalised")
        return None

    def review(self, name: str) -> list[tuple[str | None, str]]:
        """The command and the sentence of each line of the training's review of this name.

        Commands name the run where it is now: a directory may have been moved.
        """
        found = []
        for line in self.metrics.get("verdicts") or ():
            start, _, text = line.partition(": ")
            if start == name:
                said, python, words = text.partition("python scripts/")
                said = re.sub(r"(; to keep the best| Train on)?: *$", "", said).rstrip(".")
                command = self._moved(python + words) if python else None
                sentence = f"{said[:1].upper()}{said[1:]}.".replace("+-", "±")
                found.append((command, sentence))
        return found

    def _plan(self, epochs: int | None = None, max_steps: int | None = None) -> Plan:
        place = Path(self.run)
        return Plan(place, epochs, max_steps, trust_model_file=self.trust_model_file)

    def _moved(self, command: str) -> str:
        words = [word for word in shlex.split(command) if word != TRUST]
        places = {"--out": self.run, "--config": str(Path(self.run) / "config.yaml")}
        pairs = zip(["", *words], words, strict=False)
        moved = [places.get(before, word) for before, word in pairs]
        return shlex.join([*moved, *[TRUST] * self.trust_model_file])
