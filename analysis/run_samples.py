"""What `scripts/sample.py` generates from a run, by kind, in the units of the run's data."""

import argparse
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.conditions import Condition, as_number, conditions, covariate_names
from analysis.generated import Generated
from analysis.plotting.images import is_image
from pyro_vae.data import Rows, allow_missing, read_rows
from pyro_vae.data.nouns import nouns
from pyro_vae.evidence.evaluation import row_order
from pyro_vae.latent_paths import latent_path
from pyro_vae.programs.clustering import Clustering
from pyro_vae.programs.conditional import Conditional
from pyro_vae.programs.semi_supervised import SemiSupervised
from pyro_vae.rng import derive_seed
from pyro_vae.runs.trained_run import TrainedRun

# The parts of an image that `--missing` names: the axis, and whether its first half is missing.
HALVES = {
    "lower-half": (-2, False),
    "upper-half": (-2, True),
    "left-half": (-1, True),
    "right-half": (-1, False),
}
# Training data, and elements of them, whose codes a path follows or a traversal is measured on.
ROWS, ELEMENTS = 5000, 2**25
# The fewest of them under one condition.
FEWEST = 10
# A side of the manifold of images, and of other data.
SIDES = 20, 8


class RunSamples:
    """The kinds of generated data of a run.

    Args:
        trained: The run with its data.
        options: The options of `scripts/sample.py`.
    """

    def __init__(self, trained: TrainedRun, options: argparse.Namespace) -> None:
        self.trained, self.options = trained, options
        # Without the labels beside its rows.
        self.program: Any = getattr(trained.vae, "program", trained.vae)
        self.dataset = trained.data.dataset
        self.event_shape = self.dataset.event_shape
        self.names: tuple[str, ...] = tuple(self.program.contract.event_names)
        self.conditional = isinstance(self.program, Conditional)

    def generate(self) -> Generated:
        """The data of the kind that is asked for.

        Raises:
            ValueError: If the kind is not defined for the program or its data, or an option does
                not fit.
        """
        return replace(getattr(self, self.options.kind)(), event_names=self.names)

    # ---- the kinds ------------------------------------------------------------------------------

    def prior(self) -> Generated:
        """New data, z ~ p(z)."""
        condition = self.condition(needed=self.conditional)
        x = self.program.sample(self.options.n, **condition.arguments, **self.how)
        return Generated("prior", np.asarray(x), {"sample": range(self.options.n)})

    def classes(self) -> Generated:
        """New data of each class, cluster or category."""
        found = conditions(self.program, self.options.given)
        if not found:
            raise ValueError(
                "classes need a program with classes or covariates (clustering, "
                f"semi_supervised or conditional), and this is {type(self.program).__name__}: use "
                "prior."
            )
        x = [self.program.sample(self.options.n, **c.arguments, **self.how) for c in found]
        axes = {"class": [c.label for c in found], "sample": range(self.options.n)}
        return Generated("classes", np.stack([np.asarray(each) for each in x]), axes)

    def reconstructions(self) -> Generated:
        """E[x' | z] at the code of each x; under other covariates where they are given."""
        rows = self.rows(self.options.n)
        if self.conditional:
            own, to = self.labels(rows), self.condition()
            again = self.program.counterfactual(
                self.given(rows), own, to.y if to.label else own, **self.how
            )
        else:
            self.check_no_condition()
            again = self.program.reconstruct(self.given(rows), **self.how)
        others = {"data": (("row",), self.shown(self.raw[rows]))}
        return Generated("reconstructions", np.asarray(again), {"row": rows.tolist()}, others)

    def interpolations(self) -> Generated:
        """Paths between the codes of pairs of rows."""
        options = self.options
        rows = self.rows(2 * options.n)
        if len(rows) % 2:
            raise ValueError(f"--rows must be pairs of rows, got {len(rows)} rows.")
        support = getattr(self.program.prior, "support", "real")
        if support == "one_hot":
            raise ValueError("interpolations need a continuous code, got one-hot variables.")
        y = self.y()
        codes, along = self.codes(rows), None
        if options.path == "data":
            along = self.codes(self.training_rows(None), "train")
        path = latent_path(codes[::2], codes[1::2], options.steps, support, options.path, along)
        x = self.program.generate(path.reshape(-1, path.shape[-1]), y=y, **self.how)
        pairs, ends = len(path), self.shown(self.raw[rows])
        others = {
            "codes": (("pair", "step"), path),
            "ends": (("pair",), ends.reshape(pairs, 2, *ends.shape[1:])),
            "from_row": (("pair",), rows[::2].numpy()),
            "to_row": (("pair",), rows[1::2].numpy()),
        }
        axes = {"pair": range(pairs), "t": np.linspace(0, 1, options.steps).tolist()}
        values = np.asarray(x).reshape(pairs, options.steps, *self.event_shape)
        name = "great circle" if support == "sphere" else f"{options.path} path"
        name = "path along the data" if options.path == "data" else name
        return Generated("interpolations", values, axes, others, metadata={"path_name": name})

    def traversals(self) -> Generated:
        """Coordinates moved one by one, the one of the largest rate first."""
        options, y = self.options, self.y()
        rows = self.training_rows(y)
        x, base = self.given(rows, "train"), None
        if options.rows is not None:
            if len(options.rows) > 1:
                raise ValueError(f"traversals start at one row, got {len(options.rows)}.")
            # It becomes the last of the data.
            start = self.raw[self.rows(1)].to(x.values.dtype)
            x, base = replace(x, values=torch.cat([x.values, start])), len(rows)
        grid = self.program.traverse(
            x, dimensions=options.dimensions, steps=options.steps, base=base, y=y, **self.how
        )
        shown = slice(0, options.n if options.dimensions is None else None)
        dimensions = list(grid.dimensions[shown])
        moved = [codes[:, j] for codes, j in zip(grid.codes[shown], dimensions, strict=True)]
        name, weights = "rate", grid.rates
        if weights is None:
            name, weights = "variance", grid.variances
        others = {
            "codes": (("dimension", "quantile"), grid.codes[shown]),
            "z": (("dimension", "quantile"), np.stack(moved)),
            name: (("dimension",), weights[shown]),
        }
        quantiles = np.linspace(0.01, 0.99, options.steps).round(4).tolist()
        axes = {"dimension": dimensions, "quantile": quantiles}
        return Generated("traversals", grid.examples[shown], axes, others)

    def manifold(self) -> Generated:
        """A grid over two coordinates."""
        options, y = self.options, self.y()
        size = options.steps or SIDES[not is_image(self.event_shape)]
        x = self.given(self.training_rows(y), "train")
        grid = self.program.manifold(x, dimensions=options.dimensions, size=size, y=y, **self.how)
        axes = {"row": range(size), "column": range(size)}
        places = {f"z{j}": (tuple(axes), grid.codes[..., j]) for j in grid.dimensions}
        others = {"codes": (tuple(axes), grid.codes), **places}
        return Generated("manifold", grid.examples, axes, others)

    def completions(self) -> Generated:
        """Missing elements drawn given the observed ones, with the effective sample size."""
        options = self.options
        rows, whole, x = self.incomplete()
        if self.conditional:
            y = self.y() if options.given else self.labels(rows)
        else:
            y = self.check_no_condition()
        found = self.program.complete(
            x,
            y=y,
            draws=options.draws,
            method=options.method,
            num_samples=options.samples,
            seed=options.seed,
        )
        shape = (len(rows), *self.event_shape)
        others: dict[str, Any] = {
            "data": (("row",), self.shown(whole)),
            "observed": (("row",), ~x.values.isnan().numpy()),
            "mean": (("row",), np.asarray(found.mean).reshape(shape)),
            "sd": (("row",), np.asarray(found.sd).reshape(shape)),
            "ess": (("row",), found.ess),
        }
        if found.khat is not None:
            others["khat"] = (("row",), found.khat)
        axes = {"row": rows.tolist(), "draw": range(options.draws)}
        metadata = {"num_samples": found.num_samples, "method": found.method}
        return Generated("completions", np.asarray(found.values), axes, others, metadata=metadata)

    # ---- data -----------------------------------------------------------------------------------

    @property
    def how(self) -> dict[str, Any]:
        """Whether to draw x, and the seed."""
        return {"noise": self.options.noise, "seed": self.options.seed}

    @cached_property
    def raw(self) -> Any:
        """The split in the units of the data."""
        return getattr(self.dataset, self.options.split)

    @cached_property
    def reference(self) -> np.ndarray:
        """Some real data as they are shown, for the scale of figures."""
        return self.shown(self.raw[row_order(len(self.raw))[:1000].sort().values])

    def shown(self, raw: Tensor) -> np.ndarray:
        """Data beside generated ones: grey levels that are binarised as shares, from 0 to 1."""
        x, levels = raw.numpy(force=True), self.dataset.levels
        return x / (levels - 1) if self.trained.data.binarisation and levels else x

    def given(self, rows: Tensor, split: str | None = None) -> Rows:
        """Rows of a split as the methods of a program take them."""
        raw = getattr(self.dataset, split or self.options.split)[rows]
        return self.as_rows(raw)

    def as_rows(self, values: Tensor) -> Rows:
        """Values with the name and the support of the data."""
        support: Any = self.dataset.support
        return Rows(values, self.dataset.name, support=support)

    def labels(self, rows: Tensor, split: str | None = None) -> Tensor:
        """The labels of rows.

        Raises:
            ValueError: If there are none.
        """
        found = self.dataset.labels.get(split or self.options.split)
        if found is None:
            raise ValueError(
                f"{type(self.program).__name__} needs labels with its data, and "
                f"{self.dataset.name} has none."
            )
        return found[rows]

    def codes(self, rows: Tensor, split: str | None = None) -> np.ndarray:
        """The codes of rows, of a conditional program given their own covariates."""
        y = self.labels(rows, split) if self.conditional else None
        return self.program.codes(self.given(rows, split), y=y)

    def rows(self, n: int | None) -> Tensor:
        """The rows asked for, or the first n of a fixed random order.

        Raises:
            ValueError: If there is no such row.
        """
        size, asked = len(self.raw), self.options.rows
        if asked is not None:
            if wrong := [row for row in asked if row >= size]:
                raise ValueError(f"--rows must be below {size:,}, got {wrong[0]}.")
            return torch.tensor(asked)
        if self.options.kind == "interpolations" and size < 2:
            raise ValueError(f"interpolations need at least 2 {nouns()}, got {size}.")
        rows = row_order(size)[:n]
        return (
            rows[: len(rows) // 2 * 2]
            if self.options.kind == "interpolations"
            else rows.sort().values
        )

    def training_rows(self, y: Any) -> Tensor:
        """Rows of the training data, or of a file given; under the categories y, if there are any.

        Raises:
            ValueError: If too few have these.
        """
        size = len(self.dataset.train)
        rows = row_order(size)
        if self.conditional and y is not None:
            labels = self.labels(rows, "train").reshape(size, -1)
            wanted = self.program.conditions(y, 1).reshape(1, -1)
            fixed = [k for k in range(labels.shape[1]) if self.program.covariates.categories(k)]
            rows = rows[(labels[:, fixed] == wanted[:, fixed].cpu()).all(1)]
        if not self.dataset.is_split and size < FEWEST:
            raise ValueError(
                f"{self.options.kind} measure codes of at least {FEWEST} {nouns()}, and "
                f"{self.dataset.name} has {size}: leave out --data, for the training data."
            )
        if len(rows) < min(FEWEST, size):
            raise ValueError(
                f"at least {FEWEST} training {nouns()} under --given are needed, got {len(rows)}."
            )
        most = min(ROWS, max(FEWEST, ELEMENTS // max(1, int(np.prod(self.event_shape)))))
        return rows[:most].sort().values

    def incomplete(self) -> tuple[Tensor, Tensor, Rows]:
        """The rows to complete: their numbers, as they are, and with what is missing as NaN.

        Raises:
            ValueError: If `--missing` is no share, no half of an image and no file of data that
                fit.
        """
        options, word = self.options, self.options.missing
        share = as_number(word)
        if word not in HALVES and share is None:
            with allow_missing():
                contract = replace(self.program.contract, allows_missing=True)
                file = replace(read_rows(Path(word)), labels=None)
                self.dataset = contract.new_data(file).dataset
            # All its rows, and their scale.
            self.raw = self.dataset.test
        rows = self.rows(options.n or (8 if self.dataset.is_split else None))
        raw = self.raw[rows]
        values = raw if raw.is_floating_point() else raw.double()
        if word in HALVES or share is not None:
            gaps = missing_elements(word, tuple(raw.shape), options.seed)
            values = values.masked_fill(gaps, torch.nan)
        return rows, raw, self.as_rows(values)

    # ---- classes and covariates -----------------------------------------------------------------

    def condition(self, *, needed: bool = False) -> Condition:
        """The condition that `--given` states; none if it is not given.

        Raises:
            ValueError: If one is needed, or several are left.
        """
        if not self.options.given and not needed:
            return Condition("", {})
        found = conditions(self.program, self.options.given)
        if len(found) != 1:
            raise ValueError(
                f"a {type(self.program).__name__} program needs one condition for "
                f"{self.options.kind}: --given {covariate_names(self.program)[-1]}=VALUE, of "
                f"{', '.join(c.label.rpartition('=')[2] for c in found)}."
            )
        return found[0]

    def y(self) -> Any:
        """The class or the covariates of codes that are generated from; None without.

        Raises:
            ValueError: If they are needed and not given, or the program has none.
        """
        if isinstance(self.program, Clustering):
            return self.check_no_condition()
        manifold = isinstance(self.program, SemiSupervised) and self.options.kind == "manifold"
        return self.condition(needed=self.conditional or manifold).y

    def check_no_condition(self) -> None:
        """Refuse `--given` where it has no meaning.

        Raises:
            ValueError: If it is given.
        """
        if self.options.given:
            raise ValueError(
                f"--given has no meaning for {self.options.kind} of {type(self.program).__name__}."
            )


def missing_elements(word: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Which elements of rows are taken as missing.

    >>> missing_elements("lower-half", (1, 1, 4, 2), 0)[0, 0, :, 0].tolist()
    [False, False, True, True]

    Args:
        word: A share, or one of `HALVES`.
        shape: The shape of the rows, `(n, *event)`. A pixel is missing in all its channels.
        seed: The seed of the choice.

    Raises:
        ValueError: If the share is not between 0 and 1, or rows are not images.
    """
    missing = torch.zeros(shape, dtype=torch.bool)
    if word in HALVES:
        if not is_image(shape[1:]):
            raise ValueError(f"--missing {word} needs images, got rows of shape {shape[1:]}.")
        axis, first = HALVES[word]
        half = shape[axis] // 2
        start, length = (0, half) if first else (half, shape[axis] - half)
        missing.narrow(axis, start, length).fill_(True)
        return missing
    share = float(word)
    if not 0 < share <= 1:
        raise ValueError(f"--missing must be a share above 0 and up to 1, got {word}.")
    generator = torch.Generator().manual_seed(derive_seed(seed, "missing elements"))
    pixels = (shape[0], 1, *shape[2:]) if is_image(shape[1:]) and len(shape) == 4 else shape
    return (torch.rand(pixels, generator=generator) < share).expand(shape)
