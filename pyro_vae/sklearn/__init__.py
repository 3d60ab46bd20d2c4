"""scikit-learn estimators: VAEs as transformers and as densities.

`VAETransformer` gives codes as features, and `VAEDensity` is an estimator of a density, such as
`KernelDensity`. Both are wrappers of `build` and `fit`; the trained VAE is their attribute `vae_`.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import DensityMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted

from pyro_vae.rng import evaluation_mode
from pyro_vae.sklearn.base import VAEEstimator, one_at_a_time


class VAETransformer(TransformerMixin, VAEEstimator):
    """A variational autoencoder whose codes are features: `transform` is x -> E[z | x] of q.

    >>> from sklearn.datasets import load_iris
    >>> from pyro_vae.sklearn import VAETransformer
    >>> X = load_iris().data
    >>> vae = VAETransformer(n_components=2, epochs=1, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.get_feature_names_out().tolist()
    ((150, 2), ['vae0', 'vae1'])

    A part of the VAE is a name of its family, a class, or a `partial` of a class with options,
    such as `partial(GaussianMixture, components=20)`, as for `pyro_vae.build`.

    X must be in the support of the likelihood: any numbers for "student_t", "normal" and other
    likelihoods of real data; numbers in [0, 1] for unit data; 0 and 1 for binary data; whole
    numbers of at least 0 for counts and integers. Real data need no scaling: see `scaling`.

    Codes, means and densities are computed in float64, and codes are returned in the type of X.

    Args:
        n_components: The latent dimension.
        prior: p(z), of `pyro_vae.priors.PRIORS`.
        likelihood: p(x | z), of `pyro_vae.likelihoods.LIKELIHOODS`.
        posterior: q(z | x), of `pyro_vae.posteriors.POSTERIORS`.
        network: The networks of both, of `pyro_vae.networks.NETWORKS`.
        hidden_layer_sizes: The widths of the hidden layers of a perceptron, () for a linear map;
            None for those of the network.
        objective: What is maximised, of `pyro_vae.objectives.OBJECTIVES`, or an `Objective`, which
            is copied.
        epochs: The number of passes over the training rows; None for 100, or with fewer than 1,000
            rows for as many as 10 steps for each row take, at most 4,000 steps.
        batch_size: The number of rows of a step.
        learning_rate: Adam's learning rate.
        validation_fraction: The share of the rows that `fit` holds out, to stop early and to keep
            the parameters of the best epoch. 0 to train on all rows to the end.
        scaling: How real data are scaled for the networks: "standard", "robust", "unit" or "none".
        levels: The number of levels of integers, 0 to levels - 1; None for those of the data.
        event_shape: The shape that rows have for the networks, such as (1, 8, 8) for images; None
            for that of a table, (n_features,).
        n_importance_samples: The number of draws for each log p(x), which is tighter with more.
        device: The device of the VAE.
        random_state: The seed of all random numbers, in training and of scores.
        verbose: Whether to show a progress bar.

    Attributes:
        vae_: The trained `pyro_vae.VAE`.
        history_: A record for each epoch, as returned by `pyro_vae.fit`.
        n_iter_: The number of epochs.
        n_features_in_: The number of columns of X.
        feature_names_in_: Their names, if X had any.
    """

    @one_at_a_time
    def transform(self, X: Any) -> Float[np.ndarray, "n components"]:
        """The code of each row: the mean of q(z | x), or `vae_.embed` of it.

        Args:
            X: Data `(n_samples, n_features)`.

        Returns:
            Codes `(n_samples, n_components)` in the type of X.
        """
        check_is_fitted(self, "vae_")
        X = self._validated(X, reset=False)
        vae = self._in_float64()
        with evaluation_mode(vae, seed=self._seed):
            codes = torch.cat([vae.embed(x) for x in self._blocks(X)])
        return codes.numpy(force=True).astype(X.dtype, copy=False)

    @one_at_a_time
    def inverse_transform(self, X: Any) -> Float[np.ndarray, "n features"]:
        """The mean of p(x | z) at codes, in the units of the data.

        The codes of one-hot variables are first replaced by their most probable value.

        Args:
            X: Codes `(n_samples, n_components)`.

        Returns:
            Rows `(n_samples, n_features)` in the type of the codes. Those of the likelihood
            "multinomial" have the mean total of the training data.

        Raises:
            ValueError: If codes have another dimension.
        """
        check_is_fitted(self, "vae_")
        z = check_array(X, dtype=(np.float64, np.float32))  # pyright: ignore[reportArgumentType]
        vae = self._in_float64()
        contract = vae.contract
        assert contract is not None
        with evaluation_mode(vae):
            codes = torch.tensor(z, dtype=torch.float64, device=next(vae.parameters()).device)
            x = contract.to_data_units(vae.decode(vae._nearest_code(codes)), draws=False)
        return x.flatten(1).numpy(force=True).astype(z.dtype, copy=False)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the codes: vae0, vae1, ...

        Args:
            input_features: Ignored.
        """
        check_is_fitted(self, "vae_")
        return np.array([f"vae{i}" for i in range(self._n_features_out)], dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class VAEDensity(DensityMixin, VAEEstimator):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A variational autoencoder as a density: `score_samples` is log p(x), in nats.

    >>> from sklearn.datasets import load_iris
    >>> from pyro_vae.sklearn import VAEDensity
    >>> X = load_iris().data
    >>> vae = VAEDensity(n_components=2, epochs=1, random_state=0).fit(X)
    >>> vae.score_samples(X).shape, vae.sample(10, random_state=0).shape
    ((150,), (10, 4))

    Args:
        n_components: The latent dimension. This and all other parameters and attributes are those
            of `VAETransformer`.
    """

    # That of the mixin, which comes first, returns None.
    score = VAEEstimator.score  # pyright: ignore[reportAssignmentType]


__all__ = ["VAEDensity", "VAETransformer"]
