"""The classes and covariates that data are generated under, from words such as `class=7`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyro_vae.checks import or_meant
from pyro_vae.programs.clustering import Clustering
from pyro_vae.programs.conditional import Conditional
from pyro_vae.programs.semi_supervised import SemiSupervised


@dataclass(frozen=True)
class Condition:
    """A class, or values of covariates.

    Args:
        label: Its name; empty for none.
        arguments: The arguments of the program's `sample`.
    """

    label: str
    arguments: Mapping[str, Any]

    @property
    def y(self) -> Any:
        """The argument y of the other methods; None without."""
        return self.arguments.get("y")


def covariate_names(program: Any) -> tuple[str, ...]:
    """The names of a program's classes or covariates; none without."""
    if isinstance(program, Clustering):
        return ("cluster",)
    if isinstance(program, SemiSupervised):
        return ("class",)
    if not isinstance(program, Conditional):
        return ()
    columns = program.covariates.columns
    names = () if program.contract is None else program.contract.label_names
    if columns == 1:
        return ("class",)
    return names if len(names) == columns else tuple(map(str, range(columns)))


def conditions(program: Any, words: Sequence[str]) -> list[Condition]:
    """All conditions that words leave: one for each class, cluster or free category.

    Numbers among covariates that are not given are at their mean.

    Args:
        program: A program; one without classes or covariates has no conditions.
        words: Such as `class=7`, with the name of a class or its number.

    Raises:
        ValueError: If a name or a value is not known, or the categories of several columns are
            free.
    """
    names, given = covariate_names(program), {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in names:
            allowed = ", ".join(f"{each}=VALUE" for each in names) or "nothing"
            raise ValueError(
                f"--given takes {allowed} for {type(program).__name__}, got {word!r}"
                f"{or_meant(name, names)}"
            )
        given[name] = value
    if isinstance(program, Clustering | SemiSupervised):
        (name,) = names
        contract = program.contract
        labels = () if contract is None or name == "cluster" else contract.label_names
        values = _values(name, given.get(name), [*range(program.classes)], labels)
        key = "y" if name == "class" else "cluster"
        return [Condition(_label(name, v, labels), {key: int(v)}) for v in values]
    return _of_covariates(program, names, given) if isinstance(program, Conditional) else []


def _of_covariates(
    program: Conditional, names: Sequence[str], given: Mapping[str, str]
) -> list[Condition]:
    """The conditions of a conditional program."""
    covariates = program.covariates
    labels = program.names if len(names) == 1 else ()
    columns = []
    for k, name in enumerate(names):
        categories = covariates.categories(k)
        if categories or name in given:
            columns.append(_values(name, given.get(name), categories, labels))
        else:
            columns.append(covariates.value[covariates.column == k].tolist())
    free = [k for k, values in enumerate(columns) if len(values) > 1]
    if len(free) > 1:
        listed = ", ".join(names[k] for k in free)
        raise ValueError(
            f"--given must state all but one of {listed}, such as --given "
            f"{names[free[0]]}={columns[free[0]][0]:g}."
        )
    whole = all(covariates.categories(k) for k in range(len(names)))
    found = []
    for index in range(max(map(len, columns))):
        row = [values[index if len(values) > 1 else 0] for values in columns]
        called = [_label(name, v, labels) for name, v in zip(names, row, strict=True)]
        y = torch.tensor(row, dtype=torch.int64 if whole else torch.float64)
        found.append(Condition(", ".join(called), {"y": y[0] if len(names) == 1 else y}))
    return found


def _label(name: str, value: float, labels: Sequence[str]) -> str:
    whole = value == int(value) and 0 <= value < len(labels)
    return f"{name}={labels[int(value)] if whole else f'{value:.4g}'}"


def _values(
    name: str, word: str | None, allowed: Sequence[int], labels: Sequence[str]
) -> list[float]:
    """The values of a class or covariate: the one given, by its name or number, or all."""
    if word is None:
        return [float(each) for each in allowed]
    names = {label: k for k, label in enumerate(labels) if not allowed or k in allowed}
    if word in names:
        return [float(names[word])]
    value = as_number(word)
    if value is None or (allowed and value not in allowed):
        words = [*names] or [f"{each:g}" for each in allowed] or ["a number"]
        raise ValueError(
            f"--given {name} must be one of {', '.join(words)}, got {word!r}"
            f"{or_meant(word, words)}"
        )
    return [value]


def as_number(word: str) -> float | None:
    """A finite number; None if the word is none."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
