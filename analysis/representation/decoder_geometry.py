"""How the decoder stretches the latent space: singular values of the Jacobian of its mean."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.check import Check, Plot
from analysis.model_samples import column_spreads, device_of
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.latent_space import check_codes, continuous_support
from analysis.result import Result
from pyro_vae.rng import evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure

# A direction is used if its median singular value is at least this share of the largest.
USED = 0.01
# Rotations of the coordinates that the off-diagonal share is compared with.
ROTATIONS = 20
# Coordinates are the decoder's axes if their off-diagonal share is at most the first part of that
# of rotated coordinates, and no better than chance above the second.
ALIGNED, AS_ROTATED = 0.5, 0.8
# The space is stretched unevenly if the largest singular values at 5 % and 95 % of codes differ by
# this factor.
UNEVEN = 3.0
# Elements of Jacobians in memory at a time.
_ELEMENTS = 2**23


@dataclass(frozen=True)
class DecoderGeometry(Result):
    """Singular values of J(z) = d E[x | z] / dz at some codes.

    Args:
        singular_values: At each code, the largest first, in units of the data per unit of z.
        off_diagonal: sum_{i != j} G_ij^2 / sum_ij G_ij^2 of G = J^T J at each code: 0 where the
            coordinates move the data at right angles. None where coordinates cannot move one at a
            time, as on a sphere or a simplex.
        rotated_off_diagonal: The mean of the same over random rotations of the coordinates.
    """

    FIELDS: ClassVar = ("codes", "dimensions", "spectrum", "directions_used")

    singular_values: Float[np.ndarray, "codes rank"]
    off_diagonal: Float[np.ndarray, " codes"] | None
    rotated_off_diagonal: Float[np.ndarray, " codes"] | None

    codes = property(lambda self: len(self.singular_values))
    dimensions = property(lambda self: self.singular_values.shape[1])

    @cached_property
    def spectrum(self) -> Float[np.ndarray, " rank"]:
        """The median over codes of the singular value of each rank."""
        return np.median(self.singular_values, axis=0)

    @cached_property
    def effective_rank(self) -> Float[np.ndarray, " codes"]:
        """exp(-sum_i p_i log p_i), p_i = s_i^2 / sum_j s_j^2, from 1 to d."""
        squares = self.singular_values**2
        total = squares.sum(1, keepdims=True)
        shares = squares / np.where(total > 0, total, 1)
        logs = np.log(np.where(shares > 0, shares, 1))
        return np.exp(-(shares * logs).sum(1))

    @property
    def directions_used(self) -> int:
        """The number of directions with a median singular value of at least 1 % of the largest."""
        return int((self.spectrum >= USED * self.spectrum[0]).sum()) if self._moves else 0

    @property
    def condition_number(self) -> Float[np.ndarray, " codes"]:
        """The largest over the smallest singular value; infinite if a direction moves nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.singular_values[:, 0] / self.singular_values[:, -1]

    @property
    def log_volume(self) -> Float[np.ndarray, " codes"]:
        """log det(J^T J) / 2 over the directions used."""
        with np.errstate(divide="ignore"):
            return np.log(self.singular_values[:, : max(1, self.directions_used)]).sum(1)

    @property
    def _moves(self) -> bool:
        return bool(self.spectrum[0] > 1e-10)

    def extra(self) -> dict[str, Any]:
        """Medians over codes with 5 % and 95 % quantiles."""
        record: dict[str, Any] = {}
        for name, values in (
            ("largest_singular_value", self.singular_values[:, 0]),
            ("effective_rank", self.effective_rank),
            ("condition_number", self.condition_number),
            ("log_volume", self.log_volume),
            ("off_diagonal", self.off_diagonal),
            ("rotated_off_diagonal", self.rotated_off_diagonal),
        ):
            low = mid = high = None
            if values is not None:
                # Interpolated quantiles between infinite values are NaN.
                low, mid, high = np.quantile(values, [0.05, 0.5, 0.95], method="nearest")
            record |= {name: mid, f"{name}_5_95": [low, high]}
        volume = self.log_volume
        known = np.isfinite(volume).all()
        return record | {"log_volume_deviation": volume.std() if known else None}

    def reading(self) -> str:
        """How many directions move the data, how evenly, and whether they are the coordinates."""
        if not self._moves:
            return "No direction of the code moves the decoded mean: the decoder ignores the code."
        low, high = np.quantile(self.singular_values[:, 0], [0.05, 0.95])
        axes = ""
        if self.off_diagonal is not None and self.rotated_off_diagonal is not None:
            share, chance = np.median(self.off_diagonal), np.median(self.rotated_off_diagonal)
            how = "not" if share >= AS_ROTATED * chance else "partly"
            how = "close to" if share <= ALIGNED * chance else how
            axes = f", and the coordinates are {how} its axes"
            if chance < 0.01:
                axes = ", with no preferred axes"
        return (
            f"At a typical code {self.directions_used} of {self.dimensions} directions move the "
            "decoded mean "
            f"(effective rank {np.median(self.effective_rank):.1f}); the decoder stretches the "
            "latent space "
            f"{'unevenly' if high > UNEVEN * low else 'evenly'}{axes}."
        )


def decoder_geometry(
    vae: Any, codes: Float[np.ndarray, "n latent"], *, num_codes: int = 100, seed: int = 0
) -> DecoderGeometry:
    """J(z) = d E[x | z] / dz and its singular values, in float64, at codes chosen at random.

    On a sphere and a simplex z can move within the tangent space only, and J refers to an
    orthonormal basis of it.

    Args:
        vae: A program with `decode(z)` and one latent site.
        codes: Codes of data, `vae.embed(x)`.
        num_codes: The number of codes used.
        seed: The seed of that choice and of the rotations.

    Returns:
        Singular values in units of the data (in spreads of the columns of a table with different
        units) per unit of z. An `effective_rank` near the latent dimension means that all
        directions move the data alike, near 1 that a single one does.

    Raises:
        UndefinedCheckError: If there are several latent sites, or codes are one-hot.
        ValueError: If there are no codes, they are not finite, or `num_codes` is below 1.

    References:
        Latent Space Oddity: on the Curvature of Deep Generative Models (Arvanitidis, Hansen &
        Hauberg, 2018), https://arxiv.org/abs/1710.11379; Variational Autoencoders Pursue PCA
        Directions (by Accident) (Rolinek, Zietlow & Martius, 2019),
        https://arxiv.org/abs/1812.06775 (right angles); The effective rank: A measure of effective
        dimensionality (Roy & Vetterli, 2007), https://ieeexplore.ieee.org/document/7098875 (of the
        singular values; here of their squares)
    """
    support = continuous_support(vae)
    check_codes(codes, 1)
    if num_codes < 1:
        raise ValueError(f"num_codes must be at least 1, got {num_codes}.")
    rng = np.random.default_rng(seed)
    z = codes[rng.permutation(len(codes))[:num_codes]]
    axes = support not in ("sphere", "simplex")
    values, shares, rotated = [], [], []
    latent = z.shape[1]
    rotations = None if latent < 2 else _rotations(latent, rng)
    spreads = np.atleast_1d(column_spreads(vae))[:, None]
    for code, jacobian in zip(z, jacobians(vae, z), strict=True):
        jacobian = jacobian / spreads
        tangent = jacobian if axes else jacobian @ _tangent_basis(code, support)
        found = np.linalg.svd(tangent, compute_uv=False)
        # With more coordinates than elements the others move nothing.
        values.append(np.pad(found, (0, tangent.shape[1] - len(found))))
        if axes and rotations is not None:
            gram = jacobian.T @ jacobian
            shares.append(off_diagonal_share(gram))
            rotated.append(float(np.mean([off_diagonal_share(r.T @ gram @ r) for r in rotations])))
    return DecoderGeometry(
        np.stack(values),
        np.array(shares) if shares else None,
        np.array(rotated) if rotated else None,
    )


def jacobians(vae: Any, z: Float[np.ndarray, "n latent"]) -> list[np.ndarray]:
    """d E[x | z] / dz at each code, `(elements, latent)`, in float64."""
    # A copy, so that the program keeps its own precision.
    program = copy.deepcopy(vae).double().requires_grad_(False)
    codes = torch.as_tensor(z, dtype=torch.double, device=device_of(vae))
    found: list[np.ndarray] = []
    # A distribution's checks read values, which a derivative cannot carry.
    with evaluation_mode(program, seed=0), pyro.validation_enabled(False):
        elements = program.decode(codes[:1]).numel()
        for block in codes.split(max(1, _ELEMENTS // max(1, elements * z.shape[1]))):
            found.extend(_jacobian(program.decode, block))
    return found


def off_diagonal_share(gram: Float[np.ndarray, "latent latent"]) -> float:
    """sum_{i != j} G_ij^2 / sum_ij G_ij^2; 0 for a matrix of zeros."""
    total = float((gram**2).sum())
    return 1 - float((np.diag(gram) ** 2).sum()) / total if total > 0 else 0.0


def _jacobian(decode: Any, z: Float[Tensor, "n latent"]) -> Float[np.ndarray, "n elements latent"]:
    # Not forward-mode differentiation, whose first call spends seconds on compiling scripts: J^T v
    # is linear in v, and its derivative by v along e_i is column i of J.
    with torch.enable_grad():
        z = z.clone().requires_grad_()
        mean = decode(z).flatten(1)
        if not mean.requires_grad:
            return np.zeros((*mean.shape, z.shape[1]))
        v = torch.zeros_like(mean, requires_grad=True)
        (pulled,) = torch.autograd.grad(mean, z, v, create_graph=True, materialize_grads=True)
        columns = [
            torch.autograd.grad(pulled[:, i].sum(), v, retain_graph=True)[0]
            for i in range(z.shape[1])
        ]
    return torch.stack(columns, -1).cpu().numpy()


def _tangent_basis(z: np.ndarray, support: str) -> np.ndarray:
    """Orthonormal directions, in columns, in which z can move."""
    normal = z if support == "sphere" else np.ones_like(z)
    # The columns after the first are orthogonal to it.
    return np.linalg.qr(np.column_stack([normal, np.eye(len(z))]))[0][:, 1:]


def _rotations(latent: int, rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((ROTATIONS, latent, latent)))
    signs = np.sign(np.diagonal(r, axis1=1, axis2=2))
    return q * signs[:, None, :]


def plot_jacobian_spectrum(found: DecoderGeometry) -> "matplotlib.figure.Figure":
    """Draw the singular values of the decoder's Jacobian by rank, and how they vary over codes."""
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    values = found.singular_values
    rank = np.arange(1, values.shape[1] + 1)
    foot = max(float(values.max()) * 1e-6, 1e-12)
    low, high = np.quantile(values, [0.05, 0.95], axis=0).clip(foot)
    left.fill_between(rank, low, high, color=BLUE, alpha=0.2, lw=0, label="90% of codes")
    median = found.spectrum.clip(foot)
    left.plot(rank, median, "o-", color=BLUE, markersize=3, label="median over codes")
    level, label = max(USED * found.spectrum[0], foot), f"{USED:.0%} of the largest"
    left.axhline(level, color=GREY, linestyle="--", label=label)
    left.set(yscale="log", xlabel="rank", ylabel="singular value (data per unit of z)")
    title = (
        f"{found.directions_used} of {len(rank)} directions move the decoded mean; effective rank "
    )
    left.set_title(f"{title}{np.median(found.effective_rank):.1f}", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    if found.off_diagonal is None or found.rotated_off_diagonal is None:
        right.hist(found.effective_rank, bins=20, color=BLUE)
        right.set(xlabel="effective rank", ylabel="codes")
    else:
        bins = np.linspace(0, 1, 31).tolist()
        right.hist(found.off_diagonal, bins=bins, color=BLUE, alpha=0.8, label="as they are")
        right.hist(found.rotated_off_diagonal, bins=bins, color=ORANGE, alpha=0.6, label="rotated")
        right.set(xlabel="off-diagonal share of JᵀJ", ylabel="codes", xlim=(0, 1))
        right.set_title("Coordinates at right angles in data: near 0", fontsize=10)
        right.legend(frameon=False, fontsize=9)
    tidy([left, right])
    figure.suptitle("The decoder's Jacobian J = dE[x | z] / dz at codes of test data")
    return figure


DECODER_GEOMETRY = Check(
    "decoder_geometry",
    lambda subject: decoder_geometry(
        subject.vae,
        subject.compute(RepresentationInputs).codes,
        seed=subject.seed_of("decoder geometry"),
    ),
    (
        Plot(
            "jacobian_spectrum",
            "In how many directions does the decoder move, and how unevenly?",
            lambda found, _: plot_jacobian_spectrum(found),
        ),
    ),
    headline=lambda found: {
        "directions that move the data": f"{found.directions_used} of {found.dimensions}"
    },
)
