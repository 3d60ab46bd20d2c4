"""What is exported: each function with examples of its inputs, and what Python gives for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.data import DataContract
from pyro_vae.export.modules import Decoder, Encoder, Sampler, decode
from pyro_vae.export.noise import GivenNoise, RecordedNoise
from pyro_vae.model import VAE
from pyro_vae.programs import labels_of_program

FUNCTIONS = ("encoder", "decoder", "sampler")
# Rows that a file is tried on.
ROWS = 7


@dataclass(frozen=True)
class Function:
    """A function to export.

    Args:
        module: The function, of the tensors `inputs`.
        inputs: An example of each input, `ROWS` rows.
        expected: For each output, what Python's own calls give for these inputs.
        texts: What each input and output is.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    texts: dict[str, str]

    def signature(self) -> dict[str, Any]:
        """Names, types and shapes of inputs and outputs, in values that JSON can hold."""
        return {
            kind: [
                {
                    "name": name,
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": ["batch", *tensor.shape[1:]],
                    "description": self.texts[name],
                }
                for name, tensor in tensors.items()
            ]
            for kind, tensors in (("inputs", self.inputs), ("outputs", self.expected))
        }


def functions_of(vae: Any, names: Sequence[str], data: Any = None) -> dict[str, Function]:
    """The functions of a program, with examples.

    Args:
        vae: A trained program on the CPU, in evaluation mode.
        names: Some of `FUNCTIONS`.
        data: Rows to try, in the units of the training data; None to draw some.

    Raises:
        ValueError: If the program was not trained, or lacks a part that a function needs.
    """
    contract = check_program(vae, names)
    x = torch.as_tensor(np.asarray(example_rows(vae) if data is None else data)[:ROWS])
    if len(x) < ROWS:
        x = x[torch.arange(ROWS) % len(x)]
    x = x.to(torch.float64 if contract.units.double else torch.float32)
    y = example_covariates(vae)
    makers: dict[str, Callable[..., Function]] = {
        "encoder": _encoder,
        "decoder": _decoder,
        "sampler": _sampler,
    }
    return {name: makers[name](vae, x, y) for name in names}


def check_program(vae: Any, names: Sequence[str]) -> DataContract:
    """Check that a program has what its functions need.

    Raises:
        ValueError: If not.
    """
    name = type(vae).__name__
    if getattr(vae, "contract", None) is None:
        raise ValueError(
            f"{name} was not trained, so the units of its data are not known: fit it first."
        )
    needed = {"encoder": "embed", "decoder": "decode", "sampler": "_new_codes"}
    possible = [each for each in FUNCTIONS if hasattr(vae, needed[each])]
    if lacking := [each for each in names if each not in possible]:
        method = "sample` of `pyro_vae.generation.Generation" if lacking == ["sampler"] else None
        raise ValueError(
            f"the {lacking[0]} of {name} cannot be exported, because it has no method "
            f"`{method or needed[lacking[0]]}`; those of its functions that can be are "
            f"{', '.join(possible) or 'none'}."
        )
    if labels_of_program(vae) == "always" and not hasattr(vae, "covariates"):
        raise ValueError(
            f"{name} reads labels with its data in its own way, and cannot be exported: a program "
            "needs `covariates`, as that of --model conditional."
        )
    return vae.contract


def example_rows(vae: Any) -> Any:
    """Rows of data: random levels, or draws from the model."""
    contract: DataContract = vae.contract
    if contract.levels is not None:
        generator = np.random.default_rng(0)
        return generator.integers(0, contract.levels, (ROWS, *contract.event_shape))
    y = example_covariates(vae)
    return vae.sample(ROWS, noise=True, seed=0, **({} if y is None else {"y": y}))


def example_covariates(vae: Any) -> Tensor | None:
    """Covariates of each row: the categories in turn, and the means of numbers."""
    if labels_of_program(vae) != "always":
        return None
    covariates = vae.covariates
    columns = []
    for k in range(covariates.columns):
        known = covariates.categories(k) or covariates.value[covariates.column == k].tolist()
        columns.append([known[row % len(known)] for row in range(ROWS)])
    y = torch.tensor(columns).T
    return y[:, 0].contiguous() if covariates.columns == 1 else y.contiguous()


# ---- the three functions ------------------------------------------------------------------------


def _encoder(vae: Any, x: Tensor, y: Tensor | None) -> Function:
    contract: DataContract = vae.contract
    recorded = RecordedNoise()
    with recorded:
        prepared = vae.prepare(x.numpy())
    inputs = {"x": x, **_given(y)}
    if recorded.drawn:
        (inputs["uniform"],) = recorded.drawn
    expected = {"z": vae.embed(x.numpy(), *_given(y).values())}
    scale = _scale(vae, prepared, expected["z"])
    if scale is not None:
        expected["scale"] = scale
    texts = {
        "x": f"data in the units of training{_columns(contract)}{_described(contract)}",
        "y": "the covariates, as those of training",
        "uniform": _uniform_text(contract),
        "z": "the code of x, as embed gives it",
        "scale": "the standard deviation of q(z | x)",
    }
    return Function(Encoder(vae, scale is not None), inputs, expected, texts)


def _decoder(vae: Any, x: Tensor, y: Tensor | None) -> Function:
    z = vae.embed(x.numpy(), *_given(y).values())
    texts = {"z": "codes", "y": "the covariates, as those of training", "x": _mean(vae.contract)}
    expected = {"x": decode(vae, z, *_given(y).values())}
    return Function(Decoder(vae), {"z": z, **_given(y)}, expected, texts)


def _sampler(vae: Any, x: Tensor, y: Tensor | None) -> Function:
    sampler = Sampler(vae)
    generator = torch.Generator().manual_seed(0)
    draws = {"normal": torch.randn, "uniform": torch.rand}
    noise = {
        kind: draws[kind](ROWS, number, generator=generator)
        for kind, number in sampler.columns.items()
    }
    given = GivenNoise(noise.get("normal"), noise.get("uniform"), sampler.quantiles)
    with given:
        z = vae._new_codes(ROWS)
    texts = {
        "normal": "independent standard normal numbers",
        "uniform": "independent numbers, uniform on [0, 1)",
        "y": "the covariates, as those of training",
        "x": _mean(vae.contract),
        "z": "draws of p(z)",
    }
    expected = {"x": decode(vae, z, *_given(y).values()), "z": z}
    return Function(sampler, {**noise, **_given(y)}, expected, texts)


def _given(y: Tensor | None) -> dict[str, Tensor]:
    return {} if y is None else {"y": y}


def _scale(vae: Any, prepared: Tensor, z: Tensor) -> Tensor | None:
    """The standard deviation of q(z | x); None if it has none, or heavy tails without one."""
    if not isinstance(vae, VAE):
        return None
    try:
        scale = vae.posterior(prepared).stddev
    except (NotImplementedError, AttributeError):
        return None
    usable = scale.shape == z.shape and scale.isfinite().all() and (scale > 0).any()
    return scale if usable else None


# ---- descriptions -------------------------------------------------------------------------------


def _columns(contract: DataContract) -> str:
    return ", with the columns in the order of `columns`" if contract.event_names else ""


def _described(contract: DataContract) -> str:
    if contract.levels is not None:
        return f": levels 0 to {contract.levels - 1}"
    gaps = ", NaN where it is missing" if contract.allows_missing else ""
    return f": {contract.support} values{gaps}"


def _uniform_text(contract: DataContract) -> str:
    numbers = "independent numbers, uniform on [0, 1), or 0.5 everywhere for the same z each time"
    if contract.binarisation is not None:
        top = "x" if contract.levels is None else f"x / {contract.levels - 1}"
        return f"{numbers}: the encoder reads 1 where uniform < {top}, and 0 elsewhere"
    return f"{numbers}: the encoder reads (x + uniform) / {contract.levels}"


def _mean(contract: DataContract) -> str:
    if contract.binarisation is not None:
        return "E[x | z]: the probability of each element to be 1"
    return f"E[x | z] in the units of training{_columns(contract)}"
