"""New data, reconstructions, paths, grids and completions, in the units of the data."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.checks import check_count
from pyro_vae.completion import Completion, Method, complete
from pyro_vae.conditional_draws import Conditionals
from pyro_vae.data import DataContract
from pyro_vae.latent_grids import LatentGrids
from pyro_vae.latent_paths import PathKind, latent_path
from pyro_vae.rng import evaluation_mode

# Rows encoded at a time.
_CHUNK = 1000


class Generation(LatentGrids):
    """`sample`, `reconstruct`, `interpolate`, `traverse`, `manifold` and `complete` of a VAE.

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
    >>> vae.traverse(x, steps=5).examples.shape, vae.manifold(size=6).examples.shape
    ((4, 5, 1, 8, 8), (6, 6, 1, 8, 8))
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
        check_count(1, n=n)
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
        self,
        a: Any,
        b: Any,
        *,
        steps: int = 9,
        path: PathKind = "straight",
        data: Any = None,
        y: Any = None,
        noise: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Interpolation: E[x | z(t)] for z(t) at even steps from the code of a to that of b.

        The first and the last are the reconstructions of a and b. z(t) stays in the support of
        codes; see `latent_paths.latent_path`.

        Args:
            a: One example: `x[0]` of an array, `df.iloc[0]` of a DataFrame, or the same with a
                leading axis of length 1.
            b: Another.
            steps: The number of points, including both ends.
            path: "straight", on the sphere the shorter great circle; "spherical", whose norm goes
                from that of one code to that of the other; or "data", the shortest path along
                codes of data.
            data: The data whose codes a path follows, such as the training data.
            y: The covariates of a and b, for a conditional program.
            noise: Draw x ~ p(x | z(t)) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            `steps` examples, in the form of `reconstruct(a)`.

        Raises:
            ValueError: If a or b is not a single example that fits the VAE, steps is below 2,
                codes are one-hot, or the path is not defined on their support.
        """
        check_count(2, steps=steps)
        support = getattr(self.prior, "support", "real")
        if support == "one_hot":
            raise ValueError(
                "interpolate needs a continuous code, got one-hot variables: decode each value "
                "with vae.decode(torch.eye(latent_dim))."
            )
        given = self._given(y)
        with evaluation_mode(self, seed=seed):
            ends = [self._single(example, name) for example, name in ((a, "a"), (b, "b"))]
            start, end = (self._code(self._prepared(x), *given).numpy(force=True) for x in ends)
            along = None if data is None else self.codes(data, y=y)
            z = latent_path(start, end, steps, support, path, along)[0]
            return self._as_given(self._generated(self._tensor(z), noise, *given), like=ends[0])

    def codes(self, data: Any, *, y: Any = None) -> Float[np.ndarray, "n latent"]:
        """The code of each example, as `reconstruct` and `interpolate` use them.

        It is `embed(x)`; for one-hot codes, the most probable one.

        Args:
            data: Data of any form that `fit` takes.
            y: Their covariates, for a conditional program.

        Raises:
            ValueError: If the data do not fit the VAE.
        """
        with evaluation_mode(self):
            blocks = self._blocks(data, y)
            codes = [self._code(x, *c).numpy(force=True) for x, *c in blocks]
        return np.concatenate(codes).astype(np.float64)

    def generate(
        self, z: Any, *, y: Any = None, noise: bool = False, seed: int | None = None
    ) -> Any:
        """E[x | z] at given codes, as `decode(z)` in the units of the data.

        Args:
            z: Codes `(n, latent_dim)`, as those of `embed`: a tensor, an array or a list.
            y: Covariates, for a conditional program.
            noise: Draw x ~ p(x | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            As `sample`.
        """
        given = self._given(y)
        with evaluation_mode(self, seed=seed):
            return self._as_given(self._generated(self._tensor(z), noise, *given))

    # ---- codes and their data -------------------------------------------------------------------

    def _blocks(self, data: Any, y: Any = None) -> Iterator[tuple[Tensor, ...]]:
        """Prepared data and their covariates, some rows at a time."""
        x = self._prepared(data)
        parts = (x, *self._covariates_of(y, len(x)))
        yield from zip(*(part.split(_CHUNK) for part in parts), strict=True)

    def _covariates_of(self, y: Any, n: int) -> tuple[Tensor, ...]:
        """The covariates of n rows that the encoder reads."""
        return ()

    def _tensor(self, z: Any) -> Tensor:
        """Codes on the device of the parameters."""
        device = next((p.device for p in self.parameters()), None)
        return torch.as_tensor(z, dtype=torch.get_default_dtype(), device=device)

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

        - importance: from a mixture m(z), with weights p(z) p(x_observed | z) / m(z). Its parts
          are q(z | x) at up to 32 completed rows x, the prior, and for a real z of up to 16
          dimensions normals with 1.5 times the covariance of weighted draws. The completed rows
          and the normals are first made of draws of the prior, and then in four rounds of those
          of the mixture, and so adapt to what is observed. `ess` and `khat` are of the weights.
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
        if tuple(sites) != ("z",):
            raise ValueError(
                f"complete is for programs with the latent site z, got {', '.join(sites)}."
            )
        parts = Conditionals(
            self.prior(),
            self.likelihood,
            self.posterior,
            reads_missing=getattr(self, "allows_missing", False),
            real=getattr(self.prior, "support", "") == "real",
        )
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
        return self._nearest_code(self.embed(x, *covariates))

    def _nearest_code(self, z: Tensor) -> Tensor:
        """A code in the prior's support: of the probabilities of values the most probable one."""
        if getattr(self.prior, "support", "real") != "one_hot":
            return z
        values = z.unflatten(-1, (-1, getattr(self.prior, "values", z.shape[-1])))
        return nn.functional.one_hot(values.argmax(-1), values.shape[-1]).flatten(-2).to(z.dtype)

    def _generated(self, z: Tensor, noise: bool, *y: Any) -> Tensor:
        """Data at codes, in the units of the training data."""
        return self._drawn(self.likelihood(z), noise)

    def _drawn(self, p: Any, noise: bool) -> Tensor:
        """The mean of p(x | z), or a draw, in the units of the training data."""
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
