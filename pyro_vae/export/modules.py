"""Encoder, decoder and sampler as modules from tensors to tensors, in the units of the data."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data import DataContract
from pyro_vae.data.missing import KeepMissing
from pyro_vae.data.transforms import transform_of_values
from pyro_vae.export.noise import GammaQuantiles, GivenNoise, RecordedNoise
from pyro_vae.rng import exportable


class Encoder(nn.Module):
    """x -> the code of x, and the standard deviation of q(z | x) if it has one.

    Raw data are prepared as those of training were, and then encoded by `embed`. Where that draws
    random numbers, to binarise or dequantise levels, they are the input `uniform`, of the shape of
    x: x is 1 where u < v / (levels - 1), or (v + u) / levels.

    Args:
        vae: A trained program.
        scale: Whether the standard deviation is an output.
    """

    def __init__(self, vae: Any, scale: bool) -> None:
        super().__init__()
        self.vae, self.scale = vae, scale
        contract: DataContract = vae.contract
        transform, _ = transform_of_values(contract, contract, torch.rand_like)
        self.transform = KeepMissing(transform) if contract.allows_missing else transform
        self.draws = draws_in_preparation(contract)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        x, *covariates = inputs
        uniform = covariates.pop().flatten(1) if self.draws else None
        with GivenNoise(None, uniform):
            prepared = self.transform(x)
        code = self.vae.embed(prepared, *covariates)
        if not self.scale:
            return (code,)
        with exportable():
            return code, self.vae.posterior(prepared).stddev


class Decoder(nn.Module):
    """z -> E[x | z], in the units of the training data.

    Args:
        vae: A trained program.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (decode(self.vae, *inputs),)


class Sampler(nn.Module):
    """Noise -> E[x | z] in the units of the data, and z ~ p(z).

    z is what `prior().sample` makes of the given numbers in place of its own. The prior is
    computed once, here: that of a `Vamp` needs no encoder afterwards.

    Args:
        vae: A trained program.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            p = vae.prior()
            prior = copy.copy(vae.prior)
            prior.forward = lambda: p
            self.vae = copy.copy(vae)
            self.vae._modules = {**vae._modules, "prior": prior}
            recorded = RecordedNoise()
            with recorded:
                self.vae._new_codes(2)
        self.columns = {kind: number for kind, number in recorded.columns.items() if number}
        self.quantiles = [GammaQuantiles(each) for each in recorded.concentrations]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        noise = dict(zip(self.columns, inputs, strict=False))
        covariates = inputs[len(noise) :]
        with GivenNoise(noise.get("normal"), noise.get("uniform"), self.quantiles), exportable():
            z = self.vae._new_codes(inputs[0].shape[0])
        return decode(self.vae, z, *covariates), z


def draws_in_preparation(contract: DataContract) -> bool:
    """Whether the preparation of data draws random numbers."""
    binarised = contract.binarisation not in (None, "threshold")
    dequantised = contract.likelihood_support == "unit" and contract.levels is not None
    return binarised or (dequantised and contract.dequantise)


def decode(vae: Any, z: Tensor, *covariates: Tensor) -> Tensor:
    """E[x | z], in the units of the training data."""
    return vae.contract.to_data_units(vae.decode(z, *covariates), draws=False)
