"""What the estimators share: training, log p(x) and samples."""

import copy
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Real
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_vae.checks import Part, check_choice, check_positive, class_of, named_part
from pyro_vae.data import Dataset, PreparedData, Rows
from pyro_vae.data.dataset import NOT_SPLIT
from pyro_vae.data.rows import select_rows
from pyro_vae.data.sparse_rows import SparseRows, from_scipy
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.validation import Support, as_tensor
from pyro_vae.evidence.row_scores import RowScorer
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.model import VAE, build, construct
from pyro_vae.networks import MLP, NETWORKS, GatedMLP
from pyro_vae.networks.dense import FEW_ROWS
from pyro_vae.objectives import OBJECTIVES, Objective
from pyro_vae.rng import derive_seed, random_stream
from pyro_vae.training import fit
from pyro_vae.training.history import History
from pyro_vae.training.loggers import Logger
from pyro_vae.training.loop import Training
from pyro_vae.training.schedules import EPOCHS, LEAST_STEPS

# The number of elements of the rows that are encoded at once.
_BLOCK_ELEMENTS = 2**22
# By default a table gets this many steps for each row, at most `LEAST_STEPS`.
_STEPS_PER_ROW = 10


# Pyro's handlers and torch's random stream are those of the process, which threads would mix up.
_LOCK = threading.RLock()


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let one thread at a time compute, such as joblib's."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return method(*args, **kwargs)

    return wrapped


class VAEEstimator(BaseEstimator):
    """A VAE with scikit-learn's methods of a density. Abstract.

    The parameters are those of `VAETransformer`.
    """

    vae_: VAE
    n_features_in_: int

    @no_type_check  # `fit` checks parameters.
    def __init__(
        self,
        n_components: int = 8,
        *,
        prior: Part = "standard_normal",
        likelihood: Part = "student_t",
        posterior: Part = "diagonal_normal",
        network: Part = "mlp",
        hidden_layer_sizes: Sequence[int] | None = None,
        objective: Part | Objective = "elbo",
        epochs: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        validation_fraction: float = 0.1,
        scaling: ScaleKind = "standard",
        levels: int | None = None,
        event_shape: Sequence[int] | None = None,
        n_importance_samples: int = 100,
        device: str | torch.device = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.network = network
        self.hidden_layer_sizes = hidden_layer_sizes
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.scaling = scaling
        self.levels = levels
        self.event_shape = event_shape
        self.n_importance_samples = n_importance_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @one_at_a_time
    def fit(self, X: Any, y: Any = None) -> Any:
        """Train a new VAE.

        The numbers depend on `random_state`, the data and the parameters alone.

        Args:
            X: Data `(n_samples, n_features)`, at least 2 rows: an array, a DataFrame or a sparse
                matrix.
            y: Ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: If a parameter is out of its range, or X is not in the support of the
                likelihood.
        """
        self._check_parameters()
        X = self._validated(X, reset=True, ensure_min_samples=2)
        self._start()
        n = X.shape[0]
        held_out = min(math.ceil(self.validation_fraction * n), n - 1)
        data = self._prepared(X, held_out)
        self._train(data, held_out, epochs=self._number_of_epochs(len(data.train)))
        return self

    @one_at_a_time
    def partial_fit(self, X: Any, y: Any = None) -> Any:
        """Train the VAE on more rows: one pass over all of them.

        The first call builds the VAE, and takes from its rows the center and spread of each
        column, which later calls keep: it should have many rows. No rows are held out, and the
        state of Adam goes on from call to call. After `fit`, it trains the fitted VAE further.

        Args:
            X: Data `(n_samples, n_features)`, with the columns of the first call.
            y: Ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: As `fit`.
        """
        first = not hasattr(self, "vae_")
        self._check_parameters()
        X = self._validated(X, reset=first)
        if first:
            self._start()
        adam = _AdamState(self._adam_state, self.learning_rate)
        self._train(self._prepared(X, 0), 0, epochs=1, loggers=[adam])
        self._adam_state = adam.state
        return self

    @one_at_a_time
    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:
        """log p(x) of each row, in nats.

        The mean over `n_importance_samples` importance weights in float64. All rows have the same
        random numbers, in all calls, so that the score of a row does not depend on others, but
        the Monte Carlo errors of rows do not cancel in a mean. In expectation a score is at most
        log p(x), and increases with more draws. The density is one of X in its own units: the
        scaling is part of it, by the change of variables.

        Args:
            X: Data `(n_samples, n_features)`.

        Raises:
            NoDensityError: If the posterior has all its mass at one point.
        """
        check_is_fitted(self, "vae_")
        X = self._validated(X, reset=False)
        scorer = RowScorer(
            self.vae_,
            num_samples=self.n_importance_samples,
            seed=derive_seed(self._seed, "scores"),
            dtype=torch.float64,
            # Whether compiling pays, and so the rounding, depends on the number of rows.
            compile="off",
        )
        return np.concatenate([scorer(x).log_p for x in self._blocks(X)])

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, as of `GaussianMixture` and `FactorAnalysis`.

        Args:
            X: Data `(n_samples, n_features)`.
            y: Ignored.
        """
        return float(self.score_samples(X).mean())

    @one_at_a_time
    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> Real[np.ndarray, "n features"]:
        """Draws x ~ p(x | z), z ~ p(z), in the units of X.

        Args:
            n_samples: The number of rows.
            random_state: The seed of the draws.

        Returns:
            Rows `(n_samples, n_features)`; integers for whole numbers.

        Raises:
            ValueError: If `n_samples` is below 1.
        """
        check_is_fitted(self, "vae_")
        _check_whole(n_samples=n_samples)
        rows = self._in_float64().sample(n_samples, noise=True, seed=_draw_seed(random_state))
        return np.asarray(rows).reshape(n_samples, -1)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = self._support != "real"
        return tags

    # ---- data ---------------------------------------------------------------------------------

    @property
    def _support(self) -> Support:
        """The support of the likelihood, "real" if there is none of this name."""
        try:
            likelihood = class_of(named_part("likelihood", self.likelihood, LIKELIHOODS))
        except (TypeError, ValueError):
            return "real"
        return getattr(likelihood, "support", "real")

    def _validated(self, X: Any, *, reset: bool, **options: Any) -> Any:
        """X as an array or a CSR matrix of floats, with the columns of `fit`."""
        return validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            ensure_non_negative=self._support != "real",
            **options,
        )

    def _values(self, X: Any) -> Tensor | SparseRows:
        """Rows of the event shape."""
        if not isinstance(X, np.ndarray):
            (X,) = from_scipy([X], "X", counts=self._support in ("binary", "counts"))
        values = X if isinstance(X, SparseRows) else as_tensor(X, "X", copy=False)
        if self.event_shape is None:
            return values
        if math.prod(self.event_shape) != X.shape[1]:
            raise ValueError(
                f"event_shape {tuple(self.event_shape)} is that of rows with "
                f"{math.prod(self.event_shape)} features, but X has {X.shape[1]}."
            )
        if isinstance(values, SparseRows):
            values = values[:]
        return values.reshape(len(values), *self.event_shape)

    def _prepared(self, X: Any, held_out: int) -> PreparedData:
        """Training and validation rows; the same, all, if none are held out."""
        n, values = X.shape[0], self._values(X)
        order = torch.from_numpy(np.random.RandomState(self._seed).permutation(n))
        train, validation = order[held_out:].sort().values, order[: held_out or n].sort().values
        rows = {"train": train, "validation": validation, "test": validation}
        contract = self.vae_.contract if hasattr(self, "vae_") else None
        levels = self.levels or max(2, int(X.max()) + 1) if self._support == "integers" else None
        if contract is not None:
            levels = contract.levels
            contract.check_precision(values.dtype, "X")
        splits: dict[str, Any] = {split: select_rows(values, i) for split, i in rows.items()}
        dataset = Dataset(
            "X",
            self._support,
            levels,
            **splits,
            event_names=() if self.event_shape else tuple(getattr(self, "feature_names_in_", ())),
            rows=rows,
            scale=self.scaling,
            # Held-out rows only stop the training: they may repeat training rows.
            split_rule=NOT_SPLIT,
            model_units=None if contract is None else contract.units,
        )
        return PreparedData(dataset, self._support)

    def _blocks(self, X: Any) -> Iterator[Tensor]:
        """Checked rows in float64, in blocks that bound the memory."""
        for rows in gen_batches(X.shape[0], max(1, _BLOCK_ELEMENTS // X.shape[1])):
            values = self._values(X[rows])
            # Prepared values are these, perhaps in float32.
            prepared = self.vae_.prepare(Rows(values, "X"))
            yield values[:].to(prepared.device, torch.float64)

    # ---- the VAE ------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        """Check the parameters that `build` and `fit` do not, or know by another name."""
        for name in ("n_components", "n_importance_samples"):
            _check_whole(**{name: getattr(self, name)})
        check_positive(learning_rate=self.learning_rate)
        check_choice(ScaleKind, scaling=self.scaling)
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be from 0 to below 1, got {self.validation_fraction!r}."
            )
        if self.levels is not None and self._support != "integers":
            raise ValueError(
                f"levels are those of a likelihood of integers, and {self.likelihood!r} is one of "
                f"{self._support} data: leave levels None."
            )

    def _start(self) -> None:
        """Forget an earlier VAE."""
        self.__dict__.pop("vae_", None)
        self._seed = _draw_seed(self.random_state)
        self._n_features_out = self.n_components
        self._adam_state: dict[str, Any] | None = None
        self.history_ = History()
        self.n_iter_ = 0

    def _number_of_epochs(self, rows: int) -> int:
        if self.epochs is not None:
            return self.epochs
        steps = min(LEAST_STEPS, _STEPS_PER_ROW * rows) if rows < FEW_ROWS else 0
        return max(EPOCHS, math.ceil(steps / math.ceil(rows / self.batch_size)))

    def _train(
        self, data: PreparedData, held_out: int, *, epochs: int, loggers: Sequence[Logger] = ()
    ) -> None:
        """Train for some epochs, under a random stream of their own; build the VAE first."""
        device = torch.device(self.device)
        with random_stream(derive_seed(self._seed, f"epoch {self.n_iter_}"), device):
            vae = self.vae_ if hasattr(self, "vae_") else self._built(data).to(device)
            history = fit(
                vae,
                data,
                self._new_objective(data),
                epochs=epochs,
                batch_size=self.batch_size,
                lr=float(self.learning_rate),
                early_stopping="auto" if held_out else None,
                keep="auto" if held_out else "last",
                # Compiled steps round differently, and when they start is a matter of time.
                compile="graph",
                progress=bool(self.verbose),
                loggers=loggers,
            )
        self.vae_ = vae
        self.history_ += history
        self.n_iter_ += len(history)

    def _built(self, data: PreparedData) -> VAE:
        """A VAE that starts from data."""
        network = named_part("network", self.network, NETWORKS)
        if self.hidden_layer_sizes is not None:
            if not issubclass(class_of(network), MLP | GatedMLP):
                raise ValueError(
                    "hidden_layer_sizes are those of the networks mlp and gated_mlp, got them for "
                    f"{self.network!r}: give a partial of the network with its own options."
                )
            network = functools.partial(network, hidden=tuple(self.hidden_layer_sizes))
        return build(
            data.dataset.event_shape,
            self.n_components,
            prior=self.prior,
            likelihood=self.likelihood,
            posterior=self.posterior,
            network=network,
            train_data=data.starting_rows(),
            train_size=len(data.train),
            levels=data.dataset.levels,
            units=data.dataset.units,
        )

    def _new_objective(self, data: PreparedData) -> Objective:
        if isinstance(self.objective, Objective):
            return copy.deepcopy(self.objective)
        part = named_part("objective", self.objective, OBJECTIVES)
        given = {"train_size": len(data.train), "latent_dim": self.n_components}
        return construct(part, given)  # pyright: ignore[reportReturnType]

    def _in_float64(self) -> VAE:
        """A copy of the VAE in float64."""
        return copy.deepcopy(self.vae_).double()


class _AdamState(Logger):
    """Continues Adam's moments from one training to the next.

    Args:
        state: The state at the end of the last training; None at the first.
        lr: The learning rate, which may have changed.
    """

    def __init__(self, state: dict[str, Any] | None, lr: float) -> None:
        self.state = state
        self.lr = lr

    def begin(self, training: Training) -> None:
        step = training.optimizer_step
        self._optimizer = step.optimizer
        if self.state is not None:
            groups = [{**self.state["param_groups"][0], "lr": self.lr}]
            groups += self.state["param_groups"][1:]
            step.load_state_dict({**self.state, "param_groups": groups}, step.totals.to_dict())

    def close(self) -> None:
        self.state = self._optimizer.state_dict()


def _check_whole(**parameters: Any) -> None:
    for name, value in parameters.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _draw_seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))
