"""Covariates as features, networks that read them beside their input, and size factors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from pyro_vae import distributions, likelihoods
from pyro_vae.checks import or_meant
from pyro_vae.data.batch_checks import OneLineError
from pyro_vae.data.labels import UNLABELLED
from pyro_vae.posteriors.posterior import bounded

# Columns of whole numbers among floats are categories up to this number of values.
_MOST_CATEGORIES = 20
_NEGATIVE_BINOMIALS = (likelihoods.NegativeBinomial, likelihoods.ZeroInflatedNegativeBinomial)
# The logarithm of the largest inverse dispersion, where a negative binomial is nearly a Poisson.
_LOG_DISPERSION = 12.0


class Covariates(nn.Module):
    """c(y): 1 or 0 for each category, and (y - mean) / sd of each number, over the training data.

    A number that never varied has the feature 0. In a row with a category that the training data
    lack, or with a missing value, all features are NaN, and `check` says what is wrong.

    Args:
        train_labels: y of the training data, `(n,)` or `(n, columns)`.
        categorical: The columns that are categories. None for all columns of integers, and of
            floats in several columns for those of at most 20 whole numbers.
        train_size: The number of training rows, if `train_labels` are only the distinct ones.

    Raises:
        ValueError: If values are missing, there is no such column, or each row is a category of
            its own.
    """

    column: Tensor
    value: Tensor
    scale: Tensor
    categorical: Tensor

    def __init__(
        self,
        train_labels: Real[Tensor, " n *columns"],
        categorical: Sequence[int] | None = None,
        train_size: int | None = None,
    ) -> None:
        super().__init__()
        y = train_labels.reshape(len(train_labels), -1)
        self.columns = y.shape[1]
        if wrong := [k for k in categorical or () if not 0 <= k < self.columns]:
            raise ValueError(
                f"categorical must name columns of y from 0 to {self.columns - 1}, got {wrong[0]}."
            )
        are_categories = torch.tensor(
            [
                _are_categories(y[:, k], self.columns) if categorical is None else k in categorical
                for k in range(self.columns)
            ]
        )
        if missing := int(_missing(y, are_categories).any(1).sum()):
            raise ValueError(
                f"a conditional model needs the covariates of every row, and {missing} of the "
                f"{len(y)} training rows lack one (-1 or NaN): leave these rows out, or give them "
                "a category of their own."
            )
        # Of each feature: its column, and the category, or the mean and the standard deviation.
        features: list[tuple[int, float, float, bool]] = []
        for k, values in enumerate(y.unbind(1)):
            distinct = values.unique().tolist()
            if not are_categories[k]:
                numbers = values.double()
                features.append(
                    (k, numbers.mean().item(), numbers.std(correction=0).item(), False)
                )
            elif len(distinct) == (train_size or len(y)) > 1:
                raise ValueError(
                    f"column {k} of the covariates is another category in each of {len(distinct)} "
                    "rows: give categories that repeat, or floats for a numeric covariate."
                )
            else:
                features += [(k, category, 1.0, True) for category in distinct]
        column, value, scale, categories = zip(*features, strict=True)
        self.register_buffer("column", torch.tensor(column))
        self.register_buffer("value", torch.tensor(value, dtype=torch.float64))
        scale = torch.tensor(scale, dtype=torch.float64)
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0))
        self.register_buffer("categorical", torch.tensor(categories))

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.value)

    def categories(self, column: int) -> list[int]:
        """The categories of a column in the training data; none of a number."""
        return self.value[(self.column == column) & self.categorical].long().tolist()

    def forward(self, y: Real[Tensor, " n *columns"]) -> Float[Tensor, "n features"]:
        """The features, NaN in rows with an unknown category or a missing value."""
        rows = y.reshape(y.shape[0], -1)
        numbers = rows[:, self.column].double()
        hot = (numbers == self.value).double()
        features = torch.where(self.categorical, hot, (numbers - self.value) / self.scale)
        of_column = self.column[:, None] == torch.arange(self.columns, device=y.device)
        found = torch.where(self.categorical, hot, 1.0) @ of_column.double()
        known = (found > 0) & ~_missing(rows, self._are_categories)
        features = torch.where(known.all(1, keepdim=True), features, torch.nan)
        return features.to(torch.get_default_dtype())

    @property
    def _are_categories(self) -> Bool[Tensor, " columns"]:
        """Whether each column holds categories."""
        counts = self.categorical.new_zeros(self.columns, dtype=torch.long)
        return counts.index_add(0, self.column, self.categorical.long()) > 0

    def check(self, y: Any, n: int, names: Sequence[str] = ()) -> None:
        """Check that y has the covariates of n rows, all of them known from training.

        Of a program that is exported only the shape is checked.

        Args:
            y: The covariates.
            n: The number of rows.
            names: The names of the categories 0, 1, ... of a single column.

        Raises:
            OneLineError: A ValueError, if it has not.
        """
        self.check_shape(y, n)
        if torch.compiler.is_exporting():
            return
        rows = y.reshape(n, -1)
        if missing := int(_missing(rows, self._are_categories).any(1).sum()):
            raise OneLineError(
                f"a conditional model needs the covariates of every row, and {missing} of {n} "
                "rows of y lack one (-1 or NaN)."
            )
        for k, values in enumerate(rows.unbind(1)):
            known = self.categories(k)
            unseen = [value for value in values.unique().tolist() if known and value not in known]
            if unseen:
                where = f" in column {k}" if self.columns > 1 else ""
                got, allowed = (
                    ", ".join(_called(each, names if self.columns == 1 else ()) for each in values)
                    for values in (unseen, known)
                )
                raise OneLineError(
                    f"y holds {got}{where}, which the training data lack: it must be one of "
                    f"{allowed}."
                )

    def rows(self, y: Any, n: int, names: Sequence[str] = ()) -> Any:
        """y of n rows as a tensor, from numbers or names, of one row for all or of each.

        Args:
            y: The covariates.
            n: The number of rows.
            names: The names of the categories 0, 1, ... of a single column.

        Raises:
            ValueError: If there is no category of a name, or as `check`.
        """
        if y is not None and not isinstance(y, Tensor):
            array = np.asarray(y)
            if array.dtype.kind in "UO" and all(isinstance(word, str) for word in array.flat):
                if unknown := [word for word in map(str, array.flat) if word not in names]:
                    raise ValueError(
                        f"y must be one of {', '.join(names) or 'the numbers of categories'}, got "
                        f"{unknown[0]!r}{or_meant(unknown[0], names)}"
                    )
                array = np.vectorize(names.index, otypes=[np.int64])(array)
            y = torch.as_tensor(array)
        if y is not None:
            if y.dim() == 0 or (self.columns > 1 and y.dim() == 1):
                y = y.expand(n, *y.shape)
            y = y.to(self.value.device)
        self.check(y, n, names)
        return y

    def check_shape(self, y: Any, n: int) -> None:
        """Check that y is a tensor of n rows with the columns of training.

        Raises:
            OneLineError: A ValueError, if it is not.
        """
        shape = (n,) if self.columns == 1 else (n, self.columns)
        if y is None:
            raise OneLineError(
                "a conditional model needs the covariates y beside x, the labels of the data, of "
                f"shape {shape}; got none."
            )
        if not isinstance(y, Tensor) or tuple(y.shape) not in (shape, (n, self.columns)):
            got = f"of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise OneLineError(f"y must be a tensor of shape {shape}, got {got}.")


class GivenCovariates(nn.Module):
    """f(s(v), c): a network f that reads the covariates beside v, which s puts on its scale.

    The input is v, flattened, and c after it.

    Args:
        scale: s.
        network: The class of f, called with an input and an output shape.
        shape: The shape of v.
        width: The number of features in c.
        output_shape: The shape of the output.
        axes: The number of last axes of v over which c is a constant channel, for a convolution; 0
            where c is further elements of a vector.
    """

    def __init__(
        self,
        scale: nn.Module,
        network: Callable[..., nn.Module],
        shape: Sequence[int],
        width: int,
        output_shape: tuple[int, ...],
        axes: int = 0,
    ) -> None:
        super().__init__()
        self.scale, self.shape, self.width = scale, tuple(shape), width
        self.sides = self.shape[len(self.shape) - axes :]
        elements = math.prod(self.shape) // math.prod(self.sides)
        self.network = network((elements + width, *self.sides), output_shape)

    def forward(self, joined: Real[Tensor, "*batch elements"]) -> Float[Tensor, "*outputs"]:
        v, c = joined[..., : -self.width], joined[..., -self.width :]
        v = self.scale(v.unflatten(-1, self.shape))
        batch, axes = c.shape[:-1], len(self.sides)
        c = c.reshape(*c.shape, *(1,) * axes).expand(*c.shape, *self.sides).to(v.dtype)
        return self.network(torch.cat([v.reshape(*batch, -1, *self.sides), c], -1 - axes))


def join(v: Real[Tensor, "*batch_event"], c: Float[Tensor, "*some features"]) -> Tensor:
    """v and c in one vector, `(*batch, elements + features)`; c broadcasts."""
    return torch.cat([v, c.expand(*v.shape[:-1], c.shape[-1])], -1)


# ---- size factors of counts ---------------------------------------------------------------------


def has_size(likelihood: type) -> bool:
    """Whether a class of likelihoods has means that a size factor multiplies."""
    return issubclass(likelihood, (*_NEGATIVE_BINOMIALS, likelihoods.Poisson))


def check_counts(likelihood: type, size_factor: bool | None, dispersion_by_category: bool) -> None:
    """Check the options of counts.

    Raises:
        ValueError: If a likelihood does not have what they are about.
    """
    name = likelihood.__name__
    if size_factor and not has_size(likelihood):
        reason = (
            "is given the total of a row already"
            if getattr(likelihood, "given_total", False)
            else "is not one of counts"
        )
        raise ValueError(
            "size_factor needs a negative_binomial, zero_inflated_negative_binomial or poisson "
            f"likelihood, and {name} {reason}."
        )
    if dispersion_by_category and not issubclass(likelihood, _NEGATIVE_BINOMIALS):
        raise ValueError(
            "dispersion_by_category needs a negative_binomial or zero_inflated_negative_binomial "
            f"likelihood, and {name} has no dispersion."
        )


def with_size(p: Any, size: Float[Tensor, "*some"]) -> Any:
    """Counts with means s rho_i in place of mu_i, rho_i = mu_i / sum_j mu_j.

    Args:
        p: A negative binomial or a Poisson of each element, with an event of all axes of x.
        size: s, which broadcasts to the batch shape of p.
    """
    axes = tuple(range(-len(p.event_shape), 0))
    log_size = size.reshape(*size.shape, *(1,) * len(axes)).log()
    base = p.base_dist
    if isinstance(base, distributions.Poisson):
        log_rate = base.rate.log()
        log_rate = log_rate - log_rate.logsumexp(axes, keepdim=True) + log_size
        return distributions.Poisson(log_rate.exp()).to_event(len(axes))
    log_mean = base.log_mean - base.log_mean.logsumexp(axes, keepdim=True) + log_size
    return distributions.NegativeBinomial(
        log_mean, base.log_inverse_dispersion, base.gate_logits
    ).to_event(len(axes))


def with_dispersion(p: Any, shift: Float[Tensor, "*some elements"]) -> Any:
    """Negative binomials with their log inverse dispersions shifted, and bounded again.

    Args:
        p: A negative binomial of each element, with an event of all axes of x.
        shift: The shifts, which broadcast to the batch shape of p.
    """
    base = p.base_dist
    shift = shift.unflatten(-1, p.event_shape)
    log_t = bounded(base.log_inverse_dispersion + shift, _LOG_DISPERSION)
    shifted = distributions.NegativeBinomial(base.log_mean, log_t, base.gate_logits)
    return shifted.to_event(len(p.event_shape))


def mean_total(likelihood: Any) -> Float[Tensor, ""]:
    """The total of the initial means of a likelihood of counts, those of the training data."""
    if isinstance(likelihood, likelihoods.Poisson):
        return likelihood.unit_rate.sum().double() * math.log(2)
    return likelihood.log_start.exp().sum()


# ---- values -------------------------------------------------------------------------------------


def _are_categories(values: Real[Tensor, " n"], columns: int) -> bool:
    """Whether the values of one of several columns are categories."""
    if not values.is_floating_point():
        return True
    if columns == 1:
        return False
    distinct = values[~values.isnan()].unique()
    return len(distinct) <= _MOST_CATEGORIES and bool((distinct == distinct.round()).all())


def _missing(
    y: Real[Tensor, "n columns"], categorical: Bool[Tensor, " columns"]
) -> Bool[Tensor, "n columns"]:
    """NaN, and -1 as a category or an integer."""
    if not y.is_floating_point():
        return y == UNLABELLED
    return y.isnan() | ((y == UNLABELLED) & categorical)


def _called(value: Any, names: Sequence[str]) -> str:
    """A category with its name."""
    named = value == int(value) and 0 <= value < len(names)
    return f"{value:g}" + (f" ({names[int(value)]})" if named else "")
