"""A VAE that clusters: a class y above the code z, with as many values as there are clusters.

    y ~ Categorical(pi),  z ~ N(mu_y, diag(sigma_y^2)),  x ~ p(x | z)

In the two-step form y is summed out of the model: p(z) is a mixture, and p(y | z) follows from
Bayes' rule. In the one-step form the guide has a classifier q(y | z) of its own, and y is summed
out of the ELBO. `python scripts/svi_train.py --model clustering --data mnist` trains the first.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int, Real
from pyro.nn import pyro_method
from torch import Tensor, nn

import pyro_vae.model
from pyro_vae import networks, posteriors
from pyro_vae.checks import Part, check_at_least, check_choice
from pyro_vae.data import Kind, Units, check_batch, check_observed
from pyro_vae.distributions import DiagonalNormalMixture
from pyro_vae.model import LIKELIHOOD_OF_KIND, VAE
from pyro_vae.priors import GaussianMixture, Prior
from pyro_vae.programs import Labels
from pyro_vae.rng import evaluation_mode

log = logging.getLogger(__name__)

Form = Literal["two_step", "one_step"]
Start = Literal["none", "kmeans", "autoencoder", "tsne"]

# The training rows that `train_data` of a run holds at most: an autoencoder overfits few.
STARTING_ROWS = 50_000
# The hidden units of the one-step form's classifier, which reads z.
CLASSIFIER_WIDTH = 256
# Of the starts from codes, which do not depend on the seed of the run but for the networks.
START_SEED, START_BATCH, START_LR = 0, 128, 1e-3
# Fits of the mixture, of which the most likely is taken, the codes they are fitted to, and the
# nearest of these whose groups the other codes join.
FITS, FITTED, NEIGHBOURS = 20, 10_000, 15
# A floor under the variances of the fit, as a share of that of the codes: equal codes, of equal
# data, are no class.
MINIMUM_SHARE = 1e-3
_CHUNK = 1000


class Clustering(VAE):
    """A VAE whose prior is a mixture of normals, one for each class. Abstract: see the two forms.

    Classes are numbered from 0; which class becomes which number is arbitrary.
    """

    labels: ClassVar[Labels] = "none"

    @property
    def classes(self) -> int:
        """The number K of classes."""
        return len(self.mixture.loc)

    @property
    def mixture(self) -> Any:
        """p(z), with `logits`, `loc` and `scale` of its components, one for each class."""
        return self.prior()

    def class_logits(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch classes"]:
        """log p(y | z), or log q(y | z), up to a constant."""
        raise NotImplementedError

    def class_probabilities(
        self, x: Any, *, draws: int = 32, seed: int | None = 0
    ) -> Float[Tensor, "batch classes"]:
        """The probability of each class given x: the mean of p(y | z) over z ~ q(z | x).

        Args:
            x: A tensor in the likelihood's support, or data of any form that `fit` takes.
            draws: The number of draws of z for each x.
            seed: The seed of the draws; None for the global random stream.

        Raises:
            ValueError: If `draws` is below 1, or the data do not fit the program.
        """
        check_at_least(1, draws=draws)
        x = x if isinstance(x, Tensor) else self.prepare(x)
        check_batch(x, self.likelihood)
        with evaluation_mode(self, seed=seed):
            z = [self.posterior(rows).sample((draws,)) for rows in x.split(_CHUNK)]
            return torch.cat([self.class_logits(each).softmax(-1).mean(0) for each in z])

    def sample(
        self,
        n: int = 1,
        *,
        cluster: int | None = None,
        noise: bool = False,
        seed: int | None = None,
    ) -> Any:
        """New data, of all clusters or of one: E[x | z] for z ~ p(z), or z ~ p(z | y).

        Args:
            n: The number of examples.
            cluster: The class y; None to draw one for each example.
            noise: Draw x ~ p(x | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            As `VAE.sample`.

        Raises:
            ValueError: If n is below 1, or there is no such class.
        """
        if cluster is None:
            return super().sample(n, noise=noise, seed=seed)
        check_at_least(1, n=n)
        if not 0 <= cluster < self.classes:
            raise ValueError(f"cluster must be from 0 to {self.classes - 1}, got {cluster}.")
        with evaluation_mode(self, seed=seed):
            p = self.mixture
            z = dist.Normal(p.loc[cluster], p.scale[cluster]).sample((n,))
            return self._as_given(self._generated(z, noise))


class TwoStepClustering(Clustering):
    """y is summed out of the model: p(z) = sum_k pi_k N(z | mu_k, diag(sigma_k^2)), q(z | x).

    Model and guide are those of `VAE`, with one site z; so is the bound, of log p(x). Weights,
    means and scales are learned.

    References:
        Variational Deep Embedding (Jiang et al., 2017), https://arxiv.org/abs/1611.05148, with
        q(y | x) = E_q(z | x) p(y | z); Deep Unsupervised Clustering with Gaussian Mixture
        Variational Autoencoders (Dilokthanakul et al., 2016), https://arxiv.org/abs/1611.02648
    """

    def class_logits(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch classes"]:
        """log pi_y N(z | mu_y, diag(sigma_y^2)) = log p(y, z)."""
        p = self.mixture
        components = dist.Normal(p.loc, p.scale).to_event(1)
        return p.logits.log_softmax(-1) + components.log_prob(z.unsqueeze(-2))


class OneStepClustering(Clustering):
    """y ~ Categorical(1 / K), z ~ N(mu_y, I), x ~ p(x | z); q(z | x) q(y | z), a classifier of z.

    y is enumerated: the ELBO has the sum over q(y | z), not a draw,

        E_q(z | x) [log p(x | z) - log q(z | x) + sum_y q(y | z) log(p(z | y) p(y) / q(y | z))],

    and is below that of the two-step form by E_q(z | x) KL(q(y | z) || p(y | z)).

    Args:
        prior: The mixture p(z).
        likelihood: `likelihood(z)` is p(x | z).
        posterior: `posterior(x)` is q(z | x).
        classifier: The network from z to log q(y | z), up to a constant.

    References:
        A one-step scheme of clustering with VAEs (Su, 2018, in Chinese),
        https://spaces.ac.cn/archives/5887
    """

    classifier: nn.Module

    def __init__(
        self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module, classifier: nn.Module
    ) -> None:
        super().__init__(prior, likelihood, posterior)
        self.classifier = classifier

    @pyro_method
    def model(self, x: Real[Tensor, " batch *event"], y: None = None) -> Tensor:
        """y ~ p(y), z ~ p(z | y), x ~ p(x | z)."""
        check_observed(x, self.likelihood, self.contract)
        p = self.mixture
        with pyro.plate("data", len(x)):
            c = pyro.sample("y", dist.Categorical(logits=p.logits))
            z = pyro.sample("z", dist.Normal(p.loc[c], p.scale[c]).to_event(1))
            return pyro.sample("x", self.likelihood(z), obs=x)

    @pyro_method
    def guide(self, x: Real[Tensor, " batch *event"], y: None = None) -> Tensor:
        """z ~ q(z | x), y ~ q(y | z)."""
        check_batch(x, self.likelihood)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.posterior(x))
            q = dist.Categorical(logits=self.class_logits(z))
            pyro.sample("y", q, infer={"enumerate": "parallel"})
            return z

    def class_logits(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch classes"]:
        """log q(y | z), up to a constant."""
        return self.classifier(z)


class ClassNormals(Prior):
    """p(z) = 1 / K sum_y N(z | mu_y, I), with learned means.

    Args:
        latent_dim: The dimension of z.
        classes: The number K of classes.
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, classes: int) -> None:
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.randn(classes, latent_dim))

    def forward(self) -> dist.Distribution:
        return DiagonalNormalMixture(
            self.loc.new_zeros(len(self.loc)), self.loc, torch.ones_like(self.loc)
        )


def build(
    event_shape: Sequence[int],
    latent_dim: int = 10,
    *,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    posterior: Part = posteriors.DiagonalNormal,
    network: Part = networks.MLP,
    form: Form = "two_step",
    classes: int = 10,
    start: Start = "none",
    start_steps: int = 2000,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
) -> Clustering:
    """A clustering program from its parts; the defaults are those of the command line.

    The start of the two-step form is made from `train_data`, of which a run gives at most 50,000:
    "kmeans" puts the means at K-means centres of the untrained posterior's codes; "autoencoder"
    first trains encoder and decoder on log p(x | z) at the code z of x alone, and then fits the
    mixture to the codes; "tsne" fits it to groups in a map of these codes to the plane. Both then
    train on the bound given the group of each code. Without `train_data`, as for a program whose
    parameters are loaded, there is none.

    Args:
        event_shape: The shape of an example.
        latent_dim: The dimension of z.
        likelihood: As in `pyro_vae.build`.
        posterior: As in `pyro_vae.build`; on the real line.
        network: As in `pyro_vae.build`.
        form: Whether y is summed out of the model, "two_step", or has a classifier, "one_step".
        classes: The number K of classes.
        start: "none" for random means, "kmeans", "autoencoder" or "tsne".
        start_steps: The steps of the autoencoder, of 128 examples each.
        kind: The kind of data.
        train_data: Training data in the likelihood's support.
        train_size: The number of training examples.
        levels: The number of levels of the data.
        units: The units of the data.

    Raises:
        ValueError: If `classes` or `start_steps` is below 1, there are more classes than training
            examples, form or start is unknown, or the one-step form is given a start; and as
            `pyro_vae.build`.
    """
    check_choice(Form, form=form)
    check_choice(Start, start=start)
    check_at_least(1, classes=classes, start_steps=start_steps)
    rows = train_size if train_data is None else len(train_data)
    if rows is not None and classes > rows:
        raise ValueError(f"classes must be at most the {rows} training data, got {classes}.")
    if form == "one_step" and start != "none":
        raise ValueError(
            "start must be none for form one_step, which is trained by its ELBO alone, got "
            f"{start}."
        )
    if form == "two_step":
        prior = partial(
            GaussianMixture, components=classes, start="kmeans" if start == "kmeans" else "random"
        )
    else:
        prior = partial(ClassNormals, classes=classes)
    vae = pyro_vae.model.build(
        event_shape,
        latent_dim,
        prior=prior,
        likelihood=likelihood,
        posterior=posterior,
        network=network,
        kind=kind,
        train_data=train_data,
        train_size=train_size,
        levels=levels,
        units=units,
    )
    parts = vae.prior, vae.likelihood, vae.posterior
    if form == "one_step":
        return OneStepClustering(
            *parts, networks.MLP((latent_dim,), (classes,), hidden=(CLASSIFIER_WIDTH,))
        )
    program = TwoStepClustering(*parts)
    if start in ("autoencoder", "tsne") and train_data is not None:
        start_from_codes(program, train_data, start, start_steps)
    return program


# ---- the starts from an autoencoder's codes -----------------------------------------------------


def start_from_codes(
    program: TwoStepClustering,
    train_data: Real[Tensor, " n *event"],
    start: Start,
    steps: int,
) -> None:
    """Train an autoencoder, find groups among its codes, and train the program on them.

    Three parts: log p(x | z) at the code z of x; groups of the codes, see `fit_mixture`; then, for
    three quarters as many steps, E_q(z | x) log(p(x | z) p(z, y) / q(z | x)) with y the group of
    x. The
    order of the data and the draws do not depend on the seed of the run, and the global random
    stream does not move. Logs the result.

    Raises:
        ValueError: If a bound is not finite.
        ImportError: If scikit-learn cannot be imported.
    """

    def reconstruction(rows: Tensor) -> Tensor:
        x = train_data[rows]
        return program.likelihood(program.posterior.embed(x)).log_prob(x)

    def bound_given_group(rows: Tensor) -> Tensor:
        x = train_data[rows]
        q = program.posterior(x)
        z = q.rsample()
        log_joint = program.class_logits(z).gather(-1, groups[rows, None])[:, 0]
        return program.likelihood(z).log_prob(x) + log_joint - q.log_prob(z)

    with pyro.validation_enabled(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(START_SEED)
        reached = _maximise(program, reconstruction, len(train_data), steps)
        with evaluation_mode(program):
            codes = torch.cat([program.posterior.embed(x) for x in train_data.split(_CHUNK)])
        groups = fit_mixture(program, codes, neighbours=start == "tsne")
        bound = _maximise(program, bound_given_group, len(codes), max(1, 3 * steps // 4))
    if not math.isfinite(reached + bound):
        raise ValueError(
            f"the {start} start has no finite bound: scale the data, or use another start."
        )
    shares = groups.bincount(minlength=program.classes) / len(groups)
    log.info(
        "%s start: %d steps on %d rows, at the end log p(x | z) %.2f nats/datum; %d groups with "
        "%.1f to %.1f %% of the codes.",
        *(start, steps, len(train_data), reached, program.classes),
        *(100 * shares.min(), 100 * shares.max()),
    )


def _maximise(
    program: nn.Module, bound: Callable[[Tensor], Tensor], rows: int, steps: int
) -> float:
    """Maximise a bound of rows by Adam; return its mean over the last 100 steps."""
    optimizer = torch.optim.Adam(program.parameters(), lr=START_LR)
    size = min(START_BATCH, rows)
    order, recent = torch.empty(0, dtype=torch.int64), []
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(rows)
        batch, order = order[:size], order[size:]
        value = bound(batch).mean()
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
        recent = [*recent[-99:], float(value.detach())]
    optimizer.zero_grad()
    return sum(recent) / len(recent)


def fit_mixture(
    program: TwoStepClustering, codes: Float[Tensor, "n latent"], *, neighbours: bool
) -> Int[Tensor, " n"]:
    """Set the mixture to groups of codes, and return the group of each code.

    The groups are those of EM, the most likely of several fits, with full covariances: the codes
    of an autoencoder are correlated within a group. The program keeps the diagonals.

    Args:
        program: The program.
        codes: Codes. Groups are found among 10,000; others join most of their 15 nearest.
        neighbours: Find the groups in a map of the codes to the plane, by t-SNE. It keeps
            neighbours together, and groups that are not normal become so.

    References:
        Visualizing Data using t-SNE (van der Maaten & Hinton, 2008),
        https://www.jmlr.org/papers/v9/vandermaaten08a.html; groups in such a map: N2D (McConville
        et al., 2021), https://arxiv.org/abs/1908.05968
    """
    try:
        from sklearn.manifold import TSNE
        from sklearn.mixture import GaussianMixture as Mixture
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise ImportError(
            f"this start needs scikit-learn, which cannot be imported ({error}): "
            "pip install scikit-learn"
        ) from error
    generator = torch.Generator().manual_seed(START_SEED)
    chosen = torch.randperm(len(codes), generator=generator)[:FITTED]
    values = codes[chosen].double().numpy()
    points, n = values, len(values)
    # In the plane already, or too few to have neighbours.
    if neighbours and values.shape[1] > 2 and n > program.classes + 10:
        plane = TSNE(
            2, init="pca", perplexity=min(30, n / 4), max_iter=500, random_state=START_SEED
        )
        points = plane.fit_transform(values.astype(np.float32)).astype(np.float64)
    floor = max(MINIMUM_SHARE * points.var(0).mean(), 1e-6)
    mixture = Mixture(program.classes, n_init=FITS, random_state=START_SEED, reg_covar=floor)
    with warnings.catch_warnings():
        # Of a fit that has not converged the best of several is a start, too.
        warnings.filterwarnings("ignore", message=".*not converge")
        shares = mixture.fit(points).predict_proba(points)
    counts = shares.sum(0)[:, None]
    loc = shares.T @ values / counts
    variance = np.maximum(shares.T @ values**2 / counts - loc**2, MINIMUM_SHARE * values.var(0))
    program.prior.set(*map(torch.from_numpy, (np.log(shares.mean(0)), loc, np.sqrt(variance))))
    found = shares.argmax(1)
    near = KNeighborsClassifier(min(NEIGHBOURS, n)).fit(values, found)
    groups = torch.from_numpy(near.predict(codes.double().numpy()))
    groups[chosen] = torch.from_numpy(found)
    return groups
