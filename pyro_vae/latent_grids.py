"""Grids of generated data: one coordinate of a code moved, or two."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.checks import check_count
from pyro_vae.latent_paths import (
    TIED_SUPPORTS,
    central_row,
    coordinates_of,
    move_coordinate,
    rate_by_coordinate,
)
from pyro_vae.rng import evaluation_mode

# The quantiles between which a traversal moves a coordinate.
TRAVERSED = (0.01, 0.99)
# Draws of p(z) for its quantiles.
_PRIOR_DRAWS = 10_000


@dataclass(frozen=True)
class LatentGrid:
    """Data generated at the codes of a grid, in the units of the data.

    Args:
        examples: The data, means of p(x | z) or draws.
        codes: z.
        dimensions: Of `traverse`, the coordinate that each row moves; of `manifold`, the one that
            changes along each row, and the one that changes from row to row.
        rates: KL(q(z_j | x) || p(z_j)) of each of these coordinates in nats, a mean over data;
            None if it is not defined, and for a manifold.
        variances: The variance over data of the code in each; None for a manifold.
    """

    examples: Real[np.ndarray, " rows columns *event"]
    codes: Float[np.ndarray, "rows columns latent"]
    dimensions: tuple[int, ...]
    rates: Float[np.ndarray, " dimensions"] | None = None
    variances: Float[np.ndarray, " dimensions"] | None = None


class LatentGrids(nn.Module):
    """`traverse` and `manifold` of a VAE. Abstract: `Generation` encodes and generates."""

    prior: nn.Module
    posterior: nn.Module

    def traverse(
        self,
        data: Any,
        *,
        dimensions: Sequence[int] | None = None,
        steps: int = 9,
        base: int | None = None,
        y: Any = None,
        noise: bool = False,
        seed: int | None = None,
    ) -> LatentGrid:
        """Traversals: E[x | z] with one coordinate of a code moved, the others held fixed.

        Coordinate j is put at even quantiles, from 1 % to 99 %, of the aggregate posterior: of
        draws z ~ q(z | x) of the data. Rows are sorted by falling rate, the mean over the data of
        KL(q(z_j | x) || p(z_j)); by the variance of the code where that is not defined.

        Args:
            data: Data of any form that `fit` takes, a thousand or more.
            dimensions: The coordinates; None for all.
            steps: The number of values of each.
            base: The row whose code is moved; None for the code nearest to the median.
            y: Covariates, for a conditional program.
            noise: Draw x ~ p(x | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Raises:
            ValueError: If coordinates cannot move alone, as on the sphere, the simplex and of
                one-hot codes; or the data do not fit, a dimension or the base does not exist, or
                steps is below 2.
        """
        check_count(2, steps=steps)
        self._check_free("traverse")
        given = self._given(y)
        with evaluation_mode(self, seed=seed):
            codes, draws, rates = self._codes_and_rates(data, y)
            variances = codes.var(0)
            weights = variances if rates is None else rates
            latent = self._coordinates or codes.shape[1]
            moved = [*range(latent)] if dimensions is None else [*dimensions]
            _check_dimensions(moved, latent)
            if base is not None and not 0 <= base < len(codes):
                raise ValueError(f"base must be a row from 0 to {len(codes) - 1}, got {base}.")
            moved.sort(key=lambda j: -weights[j])
            start = codes[central_row(codes) if base is None else base]
            values = np.quantile(draws, np.linspace(*TRAVERSED, steps), axis=0)
            z = np.stack([move_coordinate(start, j, values[:, j]) for j in moved])
            examples = self._at_grid(z, noise, *given)
        known = None if rates is None else rates[moved]
        return LatentGrid(examples, z, tuple(moved), known, variances[moved])

    def manifold(
        self,
        data: Any = None,
        *,
        dimensions: Sequence[int] = (0, 1),
        size: int = 20,
        y: Any = None,
        noise: bool = False,
        seed: int | None = None,
    ) -> LatentGrid:
        """E[x | z] on a grid over two coordinates of z; any others are at their median.

        The grid is at the quantiles (i - 1/2) / size of each coordinate: those of p(z_j) where
        they have a closed form, as for N(0, I); otherwise those of the codes of data, or of draws
        of p(z) if no data are given. Row i is at the i-th quantile of the second of `dimensions`,
        column j at the j-th of the first.

        Args:
            data: Data of any form that `fit` takes; None to use p(z) alone.
            dimensions: The two coordinates.
            size: The number of values of each.
            y: Covariates, for a conditional program.
            noise: Draw x ~ p(x | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Raises:
            ValueError: If coordinates cannot move alone, as on the sphere, the simplex and of
                one-hot codes; or the data do not fit, `dimensions` are not two coordinates of z,
                or size is below 2.

        References:
            Auto-Encoding Variational Bayes (Kingma & Welling, 2014), figure 4,
            https://arxiv.org/abs/1312.6114
        """
        check_count(2, size=size)
        self._check_free("manifold")
        given = self._given(y)
        # The last one is the median.
        shares = np.append((np.arange(size) + 0.5) / size, 0.5)
        with evaluation_mode(self, seed=seed):
            if data is None:
                codes = self._new_codes(_PRIOR_DRAWS).numpy(force=True)
            else:
                codes = self.codes(data, y=y)
            axes = np.quantile(codes[:, : self._coordinates], shares, axis=0)
            across, down = _two_dimensions(dimensions, axes.shape[1])
            centre = axes[-1]
            if (p := self._prior_coordinates()) is not None:
                with suppress(NotImplementedError):
                    axes = p.icdf(self._tensor(shares)[:, None]).numpy(force=True)
            z = np.tile(axes[-1] if data is None else centre, (size, size, 1))
            z[..., across], z[..., down] = axes[None, :-1, across], axes[:-1, None, down]
            return LatentGrid(self._at_grid(z, noise, *given), z, (across, down))

    # ---- what a program says of its codes -------------------------------------------------------

    def _given(self, y: Any) -> tuple[Any, ...]:
        """The covariates, if there are any."""
        if y is not None and getattr(self, "labels", "none") == "none":
            raise ValueError(f"{type(self).__name__} has no covariates, got y={y!r}.")
        return () if y is None else (y,)

    @property
    def _coordinates(self) -> int | None:
        """The number of coordinates of a code, its first, that can be moved."""
        return getattr(self.prior, "latent_dim", None)

    def _prior_coordinates(self) -> Any:
        """p(z_j) of each coordinate of a code; None if they have no closed form."""
        return coordinates_of(self.prior())

    def _guide_at(self, x: Tensor, *y: Any) -> Any:
        """q(z | x) of prepared data, whose z is the first part of a code; None for several."""
        return self.posterior(x)

    def _check_free(self, what: str) -> None:
        support = getattr(self.prior, "support", "real")
        if support in TIED_SUPPORTS:
            raise ValueError(
                f"{what} moves single coordinates of a code, which leave the support {support}: "
                "use sample or reconstruct."
            )

    def _codes_and_rates(
        self, data: Any, y: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The codes of data, draws of q(z | x), and the rate of each coordinate if defined."""
        codes, draws, rates = [], [], []
        for x, *c in self._blocks(data, y):
            codes.append(self._code(x, *c).numpy(force=True))
            q = self._guide_at(x, *c)
            # Programs with several sites move their codes.
            draws.append(codes[-1] if q is None else q.sample().numpy(force=True))
            rate = None if q is None else rate_by_coordinate(q, self.prior())
            rates.append(None if rate is None else len(x) * rate.numpy(force=True))
        known: Any = None
        if all(rate is not None for rate in rates):
            known = np.sum(rates, axis=0) / sum(map(len, codes))
        z, moved = (np.concatenate(part).astype(np.float64) for part in (codes, draws))
        return z, moved, known

    def _at_grid(self, z: np.ndarray, noise: bool, *y: Any) -> np.ndarray:
        """The data at a grid of codes."""
        x = self._generated(self._tensor(z.reshape(-1, z.shape[-1])), noise, *y)
        return x.reshape(*z.shape[:2], *x.shape[1:]).numpy(force=True)

    # ---- of `Generation` ------------------------------------------------------------------------

    def codes(self, data: Any, *, y: Any = None) -> Float[np.ndarray, "n latent"]:
        """The code of each example."""
        raise NotImplementedError

    def _blocks(self, data: Any, y: Any = None) -> Iterator[tuple[Tensor, ...]]:
        raise NotImplementedError

    def _code(self, x: Tensor, *y: Any) -> Tensor:
        raise NotImplementedError

    def _new_codes(self, n: int) -> Tensor:
        raise NotImplementedError

    def _generated(self, z: Tensor, noise: bool, *y: Any) -> Tensor:
        raise NotImplementedError

    def _tensor(self, z: Any) -> Tensor:
        raise NotImplementedError


def _check_dimensions(dimensions: Sequence[int], latent: int) -> None:
    if wrong := [j for j in dimensions if not 0 <= j < latent]:
        raise ValueError(f"dimensions must be from 0 to {latent - 1}, got {wrong[0]}.")


def _two_dimensions(dimensions: Sequence[int], latent: int) -> tuple[int, int]:
    if len(dimensions) != 2 or len(set(dimensions)) != 2:
        raise ValueError(f"dimensions must be two coordinates, got {[*dimensions]}.")
    if latent < 2:
        raise ValueError("a manifold needs codes of two coordinates or more: use traverse.")
    _check_dimensions(dimensions, latent)
    across, down = dimensions
    return across, down
