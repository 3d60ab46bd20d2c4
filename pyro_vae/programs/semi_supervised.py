"""Few labels: the VAE whose code is a class y and a style z, M2 of Kingma et al. (2014).

`python scripts/svi_train.py --model semi_supervised --data mnist --labelled 100` trains it on
images of which 100 have labels. Read `SemiSupervised.model` and `guide` first.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int, Real
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.checks import (
    Part,
    check_at_least,
    check_count,
    check_nonnegative,
    check_parts,
    checked_sizes,
    class_of,
    support_of,
)
from pyro_vae.conditional_draws import Conditionals
from pyro_vae.data import (
    DataContract,
    Kind,
    Units,
    check_batch,
    check_observed,
    check_prepared,
    prepare,
)
from pyro_vae.data.labels import UNLABELLED
from pyro_vae.data.validation import SUPPORTS
from pyro_vae.generation import Generation
from pyro_vae.model import LIKELIHOOD_OF_KIND, check_pair, construct, find_parts
from pyro_vae.parameter_names import UniqueParameterNames
from pyro_vae.programs.few_labels import checked_classes, conditionals, stored_rows
from pyro_vae.rng import as_floats, evaluation_mode, exportable

# log 0: exp(-1e4) is 0 in float32 and in float64, and 0 times it is not NaN.
IMPOSSIBLE = -1e4
# The number of labelled rows whose class is predicted in each step, if there are more.
LABELLED_BATCH = 100


class SemiSupervised(Generation, UniqueParameterNames, PyroModule):
    """p(y) p(z) p(x | y, z) with y one of K classes, and the guide q(y | x) q(z | x, y).

    A row without a label has the bound that sums over the classes,

        U(x) = sum_y q(y | x) (L(x, y) - log q(y | x)) <= log p(x),
        L(x, y) = E_q(z | x, y)[log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y)],

    and one with a label L(x, y) <= log p(x, y). Both are one program: a label is an observation
    of y without error, p(label | y) = 1 where they are equal and 0 elsewhere. The guide of such a
    row has all its mass at the label, and U is then L. So a batch may mix both, and y is
    enumerated in one product with a leading axis of classes.

    L(x, y) does not train q(y | x). In training mode the objective is therefore increased by
    `alpha` E[log q(y | x)], a mean over labelled rows, for which the site "classification" of the
    model stands. It is no part of a bound: in evaluation mode the site is absent. In training, it
    counts among the observed sites: the logged reconstruction includes it. There are two forms:

    - With stored labelled rows, the mean is over these, or 100 of them drawn anew in each step,
      and is added to each row of the batch, so that each step sees labels however few there are.
      The terms of N rows add up to the paper's objective, whose alpha is N times the one here.
    - Without, each labelled row of the batch adds its own alpha log q(y | x). The terms of all
      rows add up to the same, with alpha times the number of labelled rows in its place.

    A code is z and the one-hot y side by side; `likelihood` reads codes.

    Args:
        prior: `prior()` is p(z).
        likelihood: `likelihood(code)` is p(x | y, z).
        posterior: `posterior(h)` is q(z | x, y), where h is `encoder(x)` plus a learned vector of
            the class.
        encoder: x -> `(*batch, features)`.
        classifier: x -> the logits of q(y | x), `(*batch, classes)`.
        classes: The number K of classes. p(y) = 1 / K.
        alpha: The weight of E[log q(y | x)], in nats per row.
        labelled_x: Labelled rows to store, in the likelihood's support; None for none.
        labelled_y: Their classes.
        labelled_rows: Their places among the training rows.

    Raises:
        ValueError: If prior and posterior do not fit together, there are fewer than two classes,
            or alpha is negative.

    References:
        Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298
    """

    latent_sites: ClassVar[tuple[str, ...]] = ("z",)
    labels: ClassVar[Literal["none", "training", "always"]] = "training"
    # Describes the training data; set by training.
    contract: DataContract | None = None
    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module
    labelled_x: Tensor | None
    labelled_y: Tensor
    labelled_rows: Tensor
    numbers: Tensor
    uniform: Tensor

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        encoder: nn.Module,
        classifier: nn.Module,
        *,
        classes: int,
        features: int,
        alpha: float = 10.0,
        labelled_x: Real[Tensor, " labelled *event"] | None = None,
        labelled_y: Int[Tensor, " labelled"] | None = None,
        labelled_rows: Int[Tensor, " labelled"] | None = None,
    ) -> None:
        super().__init__()
        check_parts(prior=prior, likelihood=likelihood, posterior=posterior)
        check_pair(prior, posterior)
        check_at_least(2, classes=classes)
        check_nonnegative(alpha=alpha)
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.encoder = encoder
        self.classifier = classifier
        self.classes = classes
        self.alpha = alpha
        self.class_features = nn.Linear(classes, features, bias=False)
        # Buffers, so that .to(device) moves them.
        self.register_buffer("numbers", torch.arange(classes), persistent=False)
        self.register_buffer("uniform", torch.zeros(classes), persistent=False)
        self.register_buffer("labelled_x", labelled_x)
        self.register_buffer("labelled_y", labelled_y)
        self.register_buffer("labelled_rows", labelled_rows)

    @pyro_method
    def model(
        self, x: Real[Tensor, " batch *event"], y: Int[Tensor, " batch"] | None = None
    ) -> Tensor:
        """y ~ p(y), z ~ p(z), x ~ p(x | y, z), and the labels where they are known.

        Args:
            x: Data in the likelihood's support.
            y: Classes, -1 where unknown.
        """
        check_observed(x, self.likelihood, self.contract)
        with pyro.plate("data", len(x)):
            c = pyro.sample("y", dist.Categorical(logits=self.uniform))
            z = pyro.sample("z", self.prior())
            if y is not None:
                contradicted = (y != UNLABELLED) & (c != y)
                self.observe("label", torch.where(contradicted, IMPOSSIBLE, 0.0))
            if self.training and (y is not None or self.labelled_x is not None):
                self.observe("classification", self.alpha * self.classification(x, y))
            return pyro.sample("x", self.likelihood(self.code(z, c)), obs=x)

    @pyro_method
    def guide(
        self, x: Real[Tensor, " batch *event"], y: Int[Tensor, " batch"] | None = None
    ) -> Tensor:
        """y ~ q(y | x), or its label where it is known; z ~ q(z | x, y)."""
        check_batch(x, self.likelihood)
        with pyro.plate("data", len(x)):
            q = dist.Categorical(logits=self.class_logits(x, y))
            c = pyro.sample("y", q, infer={"enumerate": "parallel"})
            return pyro.sample("z", self.posterior(self.features(x, c)))

    @staticmethod
    def observe(name: str, log_factor: Float[Tensor, "*batch"]) -> None:
        """Add a term to the log density: `pyro.factor`, whose site counts as auxiliary."""
        unit = dist.Unit(log_factor)
        pyro.sample(name, unit, obs=unit.sample())

    def classification(
        self, x: Real[Tensor, " batch *event"], y: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, " batch"]:
        """The mean of log q(y | x) over stored labelled rows; without any, that of each row."""
        if self.labelled_x is None:
            assert y is not None
            log_q = self.log_q(x, y.clamp(min=0))
            return torch.where(y == UNLABELLED, 0.0, log_q)
        inputs, classes = self.labelled_x, self.labelled_y
        if (n := len(inputs)) > LABELLED_BATCH:
            drawn = torch.randint(n, (LABELLED_BATCH,), device=inputs.device)
            inputs, classes = inputs[drawn], classes[drawn]
        return self.log_q(as_floats(inputs), classes).mean().expand(len(x))

    def log_q(
        self, x: Real[Tensor, " batch *event"], y: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """log q(y | x) of given classes."""
        return self.classifier(x).log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)

    def class_logits(
        self, x: Real[Tensor, " batch *event"], y: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """log q(y | x); of a labelled row, 0 at the label and log 0 elsewhere."""
        log_q = self.classifier(x).log_softmax(-1)
        if y is None:
            return log_q
        point = torch.where(self.one_hot(y), 0.0, IMPOSSIBLE).to(log_q.dtype)
        return torch.where((y == UNLABELLED).unsqueeze(-1), log_q, point)

    def one_hot(self, c: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch classes"]:
        """Whether each class is c; `torch.nn.functional.one_hot` reads values on the CPU."""
        return c.unsqueeze(-1) == self.numbers

    def features(
        self, x: Real[Tensor, " batch *event"], c: Int[Tensor, "*leading"]
    ) -> Float[Tensor, "*batch features"]:
        """What the posterior reads; only the sum with the class has the axis of classes."""
        h = self.encoder(x)
        return h + self.class_features(self.one_hot(c).to(h.dtype))

    def code(
        self, z: Float[Tensor, "*batch latent"], c: Int[Tensor, "*classes"]
    ) -> Float[Tensor, "*both code"]:
        """z and the one-hot class side by side; leading axes are broadcast."""
        y = self.one_hot(c).to(z.dtype)
        shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
        return torch.cat([z.expand(*shape, -1), y.expand(*shape, -1)], -1)

    def training_labels(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The labels that training may read: with stored rows theirs alone, and -1 elsewhere.

        Args:
            labels: The class of each training row, -1 where unknown.

        Raises:
            ValueError: If they are not those that the program was built with.
        """
        checked_classes(self.classes, labels, None)
        if self.labelled_x is None:
            return labels
        rows = self.labelled_rows.to(labels.device)
        if not rows.any():
            # The stored rows are still to be loaded: those of a program are distinct.
            return torch.full_like(labels, UNLABELLED)
        if len(labels) <= int(rows.max()) or not torch.equal(
            labels[rows].cpu(), self.labelled_y.cpu()
        ):
            raise ValueError("the labels are not those of the rows that the program was built on.")
        return torch.full_like(labels, UNLABELLED).index_copy(0, rows, labels[rows])

    # ---- use after training ---------------------------------------------------------------------

    def prepare(self, data: Any) -> Real[Tensor, " batch *event"]:
        """Prepare new data as the training data: columns in order, levels binarised or scaled.

        Raises:
            ValueError: If the program was not trained, or the data do not fit it.
        """
        return prepare(data, self.contract).to(next(self.parameters()).device)

    def class_probabilities(self, x: Any) -> Float[Tensor, "batch classes"]:
        """q(y | x).

        Args:
            x: As for `embed`.
        """
        x = self._checked(x)
        with exportable():
            return self.classifier(x).softmax(-1)

    def embed(self, x: Any, y: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch code"]:
        """The mean of the code under q(y | x) q(z | x, y): that of z, and q(y | x).

        Args:
            x: A tensor in the likelihood's support; or data of any form that `fit` takes.
            y: Known classes, -1 where unknown.
        """
        x = self._checked(x)
        with exportable():
            # The classes first, as where they are enumerated.
            z = self.posterior.embed(self.features(x, self.numbers.unsqueeze(-1)))
            q = self.class_logits(x, y).softmax(-1)
            return torch.cat([(q.T.unsqueeze(-1) * z).sum(0), q], -1)

    def decode(self, z: Any, y: Any = None) -> Float[Tensor, "*batch_event"]:
        """The mean of p(x | y, z).

        Args:
            z: Styles `(*batch, latent_dim)`; without y, codes `(*batch, latent_dim + classes)`.
            y: A class, or classes that can be broadcast with `(*batch,)`.

        Raises:
            ValueError: If z has another length, or y is not a class.
        """
        z = torch.as_tensor(z, dtype=torch.get_default_dtype(), device=self.numbers.device)
        latent_dim: Any = self.prior.latent_dim
        length = latent_dim + (self.classes if y is None else 0)
        if z.dim() == 0 or z.shape[-1] != length:
            what = "of codes without a class y" if y is None else "with a class y"
            raise ValueError(
                f"z must have the shape (..., {length}) {what}, got {tuple(z.shape)}."
            )
        with exportable():
            code = z if y is None else self.code(z, self._class_numbers(y))
            return self.likelihood(code).mean

    def sample(
        self, n: int = 1, y: Any = None, *, noise: bool = False, seed: int | None = None
    ) -> Any:
        """New data: E[x | y, z] for n codes y ~ p(y), z ~ p(z).

        Args:
            n: The number of examples.
            y: Their class, or the class of each; None to draw them.
            noise: Draw x ~ p(x | y, z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Raises:
            ValueError: If n is below 1, or y is not a class.
        """
        check_count(1, n=n)
        with evaluation_mode(self, seed=seed):
            return self._as_given(self._generated(self._new_codes(n), noise, *self._given(y)))

    def _new_codes(self, n: int) -> Tensor:
        z = self.prior().sample((n,))
        return self.code(z, torch.randint(self.classes, (n,), device=self.numbers.device))

    def _guide_at(self, x: Tensor, *y: Any) -> Any:
        """q(z | x, y) at the most probable class."""
        return self.posterior(self.features(x, self.classifier(x).argmax(-1)))

    def _generated(self, z: Tensor, noise: bool, *y: Any) -> Tensor:
        latent_dim: Any = self.prior.latent_dim
        if not y and z.shape[-1] == latent_dim:
            raise ValueError("styles z without a class need the class y.")
        code = self.code(z[..., :latent_dim], self._class_numbers(y[0])) if y else z
        return super()._generated(code, noise)

    def _class_numbers(self, y: Any) -> Int[Tensor, "*shape"]:
        c = torch.as_tensor(y, device=self.numbers.device)
        if c.is_floating_point() or ((c < 0) | (c >= self.classes)).any():
            raise ValueError(f"y must hold classes from 0 to {self.classes - 1}, got {y}.")
        return c

    def _checked(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            x = self.prepare(x)
        check_prepared(x, self.likelihood, self.contract)
        return x

    def _code(self, x: Tensor, *y: Any) -> Tensor:
        """The most probable class of prepared data, and its mean of z."""
        c = self.classifier(x).argmax(-1)
        return self.code(self.posterior.embed(self.features(x, c)), c)

    def _conditionals(self, y: Any, n: int) -> Callable[[Tensor], Conditionals]:
        return conditionals(self)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 20,
    *,
    prior: Part = priors.StandardNormal,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    posterior: Part = posteriors.DiagonalNormal,
    network: Part = networks.MLP,
    classes: int | None = None,
    labelled: int | None = None,
    alpha: float = 10.0,
    features: int = 200,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
    train_labels: Tensor | None = None,
) -> SemiSupervised:
    """M2 from its parts, by name or class. The defaults above are those of the command line.

    Args:
        event_shape: The shape of an example.
        latent_dim: The dimension of z.
        prior: p(z), as for `pyro_vae.build`.
        likelihood: p(x | y, z), whose decoder reads z and the one-hot y.
        posterior: q(z | x, y), which reads the sum of `features` of x and of y.
        network: The network of classifier, encoder and decoder.
        classes: The number of classes; None for that of the labels.
        labelled: The number of training rows that keep their labels, as many of each class as
            possible, by a fixed choice among the rows of `train_data`. They are stored with the
            parameters, as they are there: binarised once. None to keep all labels, and to store
            none: for data of which most rows have labels.
        alpha: The weight of the mean of log q(y | x) over labelled rows, in nats per row.
        features: The number of features of x.
        kind: The kind of data.
        train_data: Training data in the likelihood's support.
        train_size: The number of training examples.
        levels: The number of levels of the data.
        units: The center and spread of real data.
        train_labels: The class of each training row, of which `train_data` are the first, -1 where
            unknown; without `train_data` any labels with all classes.

    Raises:
        ValueError: If there are training data without labels, labels are not class numbers,
            `labelled` is below the number of classes or above that of labelled rows, or as
            `pyro_vae.build`.
    """
    event_shape, latent_dim = checked_sizes(event_shape, latent_dim)
    check_at_least(1, features=features)
    classes = checked_classes(classes, train_labels, labelled)
    prior, likelihood, posterior, network = find_parts(
        kind, train_size, prior=prior, likelihood=likelihood, posterior=posterior, network=network
    )
    support = support_of(class_of(likelihood), "likelihood", SUPPORTS)
    stored = stored_rows(event_shape, support, labelled, train_data, train_labels)
    if units is None:
        units = likelihoods.find_units(class_of(likelihood), train_data)
    data = {"event_shape": event_shape, "levels": levels, "units": units}
    encoder = likelihoods.wrap_encoder(class_of(likelihood), partial(network, event_shape), **data)

    def head(shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.ReLU(), networks.MLP((features,), shape, hidden=()))

    given: dict[str, Any] = {
        **data,
        "latent_dim": latent_dim,
        "encoder": head,
        "decoder": partial(network, (latent_dim + classes,)),
        "train_data": train_data,
        "train_size": train_size,
        "data_support": support,
    }

    return SemiSupervised(
        *(construct(part, given) for part in (prior, likelihood, posterior)),
        encoder((features,)),
        encoder((classes,)),
        classes=classes,
        alpha=alpha,
        features=features,
        **stored,
    )
