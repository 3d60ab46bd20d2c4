"""New data, reconstructions, interpolations and completions, in the units of the data."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.completion import Completion, Method, complete
from pyro_vae.conditional_draws import Conditionals
from pyro_vae.data import DataContract
from pyro_vae.rng import evaluation_mode


class Generation(nn.Module):
    """`sample`, `reconstruct`, `interpolate` and `complete` of a VAE.

    Inputs and outputs are in the units of the training data: a column of prices in its currency,
    counts as counts, grey levels as 0 to 255. The exception are grey levels that were binarised
    for a likelihood of binary data: the output is the probability of each pixel to be 1.

    >>> from pyro_vae import build, fit
    >>> from pyro_vae.data import digits
    >>> vae = build((1, 8, 8), latent_dim=4)
    >>> history = fit(vae, digits(), epochs=1)
    >>> x = digits().test.numpy()
    >>> vae.sample(16, seed=0).shape, vae.reconstruct(x[:3]).shape
    ((16, 1, 8, 8), (3, 1, 8, 8))
    >>> vae.interpolate(x[0], x[1], steps=9).shape
    (9, 1, 8, 8)
    """

    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module
    contract: DataContract | None

    def sample(self, n: int = 1, *, noise: bool = False, seed: int | None = None) -> Any:
        """New data: E[x | z] for n codes z ~ p(z).

        Args:
            n: The number of examples.
            noise: Draw x ~ p(x | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            A DataFrame if the elements of the training data have names, as columns do; otherwise a
            NumPy array `(n, *event_shape)`.

        Raises:
            ValueError: If n is below 1.
        """
        if not isinstance(n, Integral) or n < 1:
            raise ValueError(f"n must be a whole number of at least 1, got {n!r}.")
        with evaluation_mode(self, seed=seed):
            return self._as_given(self._generated(self._new_codes(n), noise))

    def reconstruct(self, x: Any, *, noise: bool = False, seed: int | None = None) -> Any:
        """Reconstructions: E[x' | z] at the code z of each x.

        The code is `embed(x)`; for one-hot codes, the most probable one. If the likelihood is
        conditional on the total of a row, as for bags of words, the mean has the total of the row.

        Args:
            x: Data in the units of the training data, in any form that `fit` takes. Before
                training, a tensor in the likelihood's support.
            noise: Draw x' ~ p(x' | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            A tensor for a tensor and an array for an array, of the same shape; otherwise as
            `sample`. A DataFrame has the columns of training and the index of x (the `obs_names`
            of an AnnData).

        Raises:
            ValueError: If the data do not fit the VAE.
        """
        with evaluation_mode(self, seed=seed):
            prepared = self._prepared(x)
            y = self._generated(self._code(prepared), noise)
            return self._as_given(y if noise else self._with_total(y, prepared), like=x)

    def interpolate(
        self, a: Any, b: Any, *, steps: int = 9, noise: bool = False, seed: int | None = None
    ) -> Any:
        """Interpolation: E[x | z(t)] for z(t) at even steps from the code of a to that of b.

        The first and the last are the reconstructions of a and b. z(t) is the straight line; on
        the sphere the shorter great circle.

        Args:
            a: One example: `x[0]` of an array, `df.iloc[0]` of a DataFrame, or the same with a
                leading axis of length 1.
            b: Another.
            steps: The number of points, including both ends.
            noise: Draw x ~ p(x | z(t)) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            `steps` examples, in the form of `reconstruct(a)`.

        Raises:
            ValueError: If a or b is not a single example that fits the VAE, steps is below 2, or
                codes are one-hot.
        """
        if not isinstance(steps, Integral) or steps < 2:
            raise ValueError(f"steps must be a whole number of at least 2, got {steps!r}.")
        support = getattr(self.prior, "support", "real")
        if support == "one_hot":
            raise ValueError(
                "interpolate needs a continuous code, got one-hot variables: decode each value "
                "with vae.decode(torch.eye(latent_dim))."
            )
        with evaluation_mode(self, seed=seed):
            ends = [self._single(data, name) for data, name in ((a, "a"), (b, "b"))]
            start, end = (self._code(self._prepared(x)) for x in ends)
            path = latent_path(start.numpy(force=True), end.numpy(force=True), steps, support)[0]
            z = torch.as_tensor(path, dtype=start.dtype, device=start.device)
            return self._as_given(self._generated(z, noise), like=ends[0])

    def complete(
        self,
        x: Any,
        observed: Any = None,
        *,
        y: Any = None,
        draws: int = 1,
        method: Method = "importance",
        num_samples: int = 1000,
        seed: int | None = None,
    ) -> Completion:
        """Completions: draws of the missing elements of x given the observed ones.

        The elements are independent given z, so that p(x_missing | x_observed) is p(x_missing | z)
        averaged over p(z | x_observed), which is proportional to p(z) p(x_observed | z). Of z
        there are `num_samples` draws for each row:

        - importance: from a mixture m(z) of q(z | x) at eight completed rows x and the prior, with
          weights p(z) p(x_observed | z) / m(z). The completed rows are redrawn in three rounds,
          and so adapt to what is observed. `ess` and `khat` are those of the weights.
        - gibbs: chains that alternate x_missing ~ p(x_missing | z) with z ~ q(z | x), which is
          accepted or rejected by Metropolis and Hastings' rule. They start at importance draws.
          `ess` is over chains. To be used where weights are poor, at about twice the cost.

        Both are exact as `num_samples` grows; the guide decides how fast.

        Args:
            x: Data in the units of the training data, in any form that `fit` takes, with NaN or
                empty cells where they are missing. Before training, a tensor in the likelihood's
                support.
            observed: Which elements of an array, a tensor or a DataFrame x are observed, of its
                shape; None for those that are not NaN.
            y: The covariates of the rows, for a program of data with covariates.
            draws: The number of draws of each row.
            method: "importance" or "gibbs".
            num_samples: The number of draws of z for each row; of chains at least 16, and up to
                twice its root more.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            Draws, mean and standard deviation in the units of the data, with their accuracy. Grey
            levels that were binarised are returned binary, also observed ones, and the mean is the
            probability of each pixel to be 1.

        Raises:
            ValueError: If the data do not fit, `observed` has another shape, an option is out of
                its range, the elements are not independent given z, the guide has no density, or
                the model has no density at the observed elements.

        References:
            Adaptive importance sampling: The past, the present, and the future (Bugallo et al.,
            2017), https://doi.org/10.1109/MSP.2017.2699226; Leveraging the Exact Likelihood of
            Deep Latent Variable Models (Mattei & Frellsen, 2018), section 4, for gibbs,
            https://arxiv.org/abs/1802.04826
        """
        options: Any = {"y": y, "draws": draws, "method": method, "num_samples": num_samples}
        return complete(self, x, observed, seed=seed, **options)

    def _conditionals(self, y: Any, n: int) -> Callable[[Tensor], Conditionals]:
        """The numbers of some of n rows to the distributions that a completion needs of them."""
        sites = getattr(self, "latent_sites", ("z",))
        if tuple(sites) != ("z",) or y is not None:
            got = "covariates y" if y is not None else f"the sites {', '.join(sites)}"
            raise ValueError(
                f"complete needs a program with one latent site z and no covariates, got {got}."
            )
        reads_missing = getattr(self, "allows_missing", False)
        parts = Conditionals(self.prior(), self.likelihood, self.posterior, reads_missing)
        return lambda rows: parts

    def _prepared(self, data: Any) -> Tensor:
        """Data in the likelihood's support."""
        if not isinstance(data, Tensor):
            return self.prepare(data)
        if self.contract is None:
            return data
        levels = self.contract.levels or 0
        if levels > 2 and self.contract.high > 1 and data.numel() and 0 < float(data.max()) <= 1:
            raise ValueError(
                f"x holds values up to {float(data.max()):g}, but the training data were levels 0 "
                f"to {levels - 1}: give levels, or for prepared data use vae.decode(vae.embed(x))."
            )
        return self.prepare(data)

    def _new_codes(self, n: int) -> Tensor:
        """Draws of p(z)."""
        return self.prior().sample((n,))

    def _with_total(self, y: Tensor, x: Tensor) -> Tensor:
        """Means with the totals of the rows of x, if the likelihood is given those."""
        if not getattr(self.likelihood, "given_total", False):
            return y
        return y * (x.flatten(1).sum(1) / y.flatten(1).sum(1)).view(-1, *y[0].dim() * (1,))

    def _code(self, x: Tensor, *covariates: Any) -> Tensor:
        """The code of prepared data, in the prior's support."""
        z = self.embed(x, *covariates)
        if getattr(self.prior, "support", "real") != "one_hot":
            return z
        values = z.unflatten(-1, (-1, getattr(self.prior, "values", z.shape[-1])))
        return nn.functional.one_hot(values.argmax(-1), values.shape[-1]).flatten(-2).to(z.dtype)

    def _generated(self, z: Tensor, noise: bool) -> Tensor:
        """Means of p(x | z), or draws, in the units of the training data."""
        p = self.likelihood(z)
        x = p.sample() if noise else p.mean
        return x if self.contract is None else self.contract.to_data_units(x, draws=noise)

    def _single(self, data: Any, name: str) -> Any:
        """An example as data of one row."""
        if type(data).__name__ == "Series":
            data = data.to_frame().T.infer_objects()
        shape = getattr(data, "shape", None)
        event = tuple(getattr(self.likelihood, "event_shape", ()))
        if shape is not None and tuple(shape) in (event, event[event[:1] == (1,) :]):
            data = data[None]
        n = len(data) if shape is None else data.shape[0]
        if n != 1:
            raise ValueError(f"{name} must be one {self._noun}, got {n}: give one, such as x[0].")
        return data

    @property
    def _noun(self) -> str:
        return "datum" if self.contract is None else self.contract.noun

    def _as_given(self, x: Real[Tensor, " n *event"], like: Any = None) -> Any:
        """Data in the form of `like`: tensor, array, or DataFrame if elements have names."""
        if isinstance(like, np.ndarray | Tensor):
            x = x.reshape(len(x), *like.shape[1:])
            return x.to(like.device) if isinstance(like, Tensor) else x.numpy(force=True)
        values = x.numpy(force=True)
        names = () if self.contract is None else self.contract.event_names
        if not names or values.ndim != 2:
            return values
        import pandas as pd

        frame = pd.DataFrame(values, columns=pd.Index(names))
        index = like.index if isinstance(like, pd.DataFrame) else getattr(like, "obs_names", None)
        if index is not None and len(index) == len(frame):
            frame.index = index
        return frame


def latent_path(
    start: Float[np.ndarray, "pairs latent"],
    end: Float[np.ndarray, "pairs latent"],
    steps: int,
    support: str = "real",
) -> Float[np.ndarray, "pairs steps latent"]:
    """z(t) = (1 - t) z_a + t z_b; on the sphere (sin((1 - t) w) z_a + sin(t w) z_b) / sin w.

    w is the angle between the ends; of opposite ends any arc is taken. Lines stay in every convex
    support: R^d, positive codes, the unit cube, the simplex.

    Args:
        start: z_a.
        end: z_b.
        steps: The number of points, with both ends.
        support: "sphere" for great circles; any other for straight lines.
    """
    t = np.linspace(0, 1, steps)[:, None]
    start, end = start[:, None].astype(np.float64), end[:, None].astype(np.float64)
    if support != "sphere":
        return (1 - t) * start + t * end
    start, end = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (start, end))
    cosine = (start * end).sum(-1, keepdims=True)
    # The direction from the first end to the other, orthogonal to the first.
    across = end - cosine * start
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    axis = np.eye(start.shape[-1])[np.abs(start).argmin(-1)]
    other = axis - (axis * start).sum(-1, keepdims=True) * start
    other /= np.linalg.norm(other, axis=-1, keepdims=True)
    direction = np.where(length > 1e-9, across / np.maximum(length, 1e-9), other)
    angle = np.arctan2(length, cosine)
    return np.cos(t * angle) * start + np.sin(t * angle) * direction
