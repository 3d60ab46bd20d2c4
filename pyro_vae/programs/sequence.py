"""Sequences: a deep Kalman filter, a VAE whose latent variables form a Markov chain in time.

    z_1 ~ N(0, I),  z_t ~ N(f(z_{t-1}), s(z_{t-1})^2),  x_t ~ p(x_t | z_t)
    q(z | x) = prod_t q(z_t | z_{t-1}, x_t, ..., x_T)

A datum x is one sequence, `(T, *frame)`. The chain is one site "z", z_1, ..., z_T in one vector of
T d numbers: with it the model and the guide are those of `VAE`, and whatever takes a latent vector
takes a chain. Draws take T small steps, which a compiled graph unrolls; all densities and the
decoder take one, with all times in one batch.

`python scripts/svi_train.py --model sequence --data pendulum --likelihood normal` trains it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

import pyro_vae.model
from pyro_vae import networks
from pyro_vae.checks import Part, check_at_least, checked_sizes
from pyro_vae.data import Kind, Units
from pyro_vae.distributions import MarkovNormal
from pyro_vae.model import LIKELIHOOD_OF_KIND, VAE
from pyro_vae.posteriors.posterior import positive_scale
from pyro_vae.rng import evaluation_mode


class MarkovPrior(nn.Module):
    """p(z) = N(z_1 | 0, I) prod_t N(z_t | A z_{t-1} + f(z_{t-1}), diag(s(z_{t-1}))^2).

    f and the scales are a network with a hidden layer. It starts at 0 and A at the identity: the
    chain starts as a random walk.

    Args:
        latent_dim: The dimension d of z_t.
        length: The number T of frames.
        hidden: The width of the hidden layer.
    """

    support: ClassVar[str] = "real"
    zeros: Tensor

    def __init__(self, latent_dim: int, length: int, hidden: int) -> None:
        super().__init__()
        self.length = length
        self.latent_dim = length * latent_dim
        self.linear = nn.Linear(latent_dim, latent_dim)
        self.network = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_dim)
        )
        nn.init.eye_(self.linear.weight)
        for start in (self.linear.bias, self.network[-1].weight, self.network[-1].bias):
            nn.init.zeros_(start)  # pyright: ignore[reportArgumentType]
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return MarkovNormal(self.zeros, self.zeros + 1, self.transition, self.length)

    def transition(
        self, previous: Float[Tensor, "*batch dim"], _context: None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dim"]]:
        """The location and the scale of z_t given z_{t-1}."""
        step, raw_scale = self.network(previous).chunk(2, -1)
        return self.linear(previous) + step, positive_scale(raw_scale)

    def continued(
        self, z: Float[Tensor, "*batch dim"], steps: int
    ) -> Float[Tensor, "*batch steps dim"]:
        """Draws of z_{t+1}, ..., z_{t+steps} given z_t."""
        loc, scale = self.transition(z)
        chain = MarkovNormal(loc, scale, self.transition, steps)
        return chain.sample().unflatten(-1, (steps, -1))


class FrameLikelihood(nn.Module):
    """p(x | z) = prod_t p(x_t | z_t).

    Args:
        frame: The likelihood of a frame.
        length: The number T of frames.
    """

    given_total: ClassVar[bool] = False

    def __init__(self, frame: nn.Module, length: int) -> None:
        super().__init__()
        self.frame: Any = frame
        self.length = length
        self.support = frame.support
        self.event_shape = (length, *self.frame.event_shape)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        return self.frame(z.unflatten(-1, (self.length, -1))).to_event(1)

    @property
    def started(self) -> bool:
        """Whether the likelihood of a frame was initialised from data."""
        return getattr(self.frame, "started", True)

    def start_from(self, train_data: Real[Tensor, " n *event"]) -> None:
        """Initialise the likelihood of a frame from sequences, if it can be."""
        if hasattr(self.frame, "start_from"):
            self.frame.start_from(train_data.flatten(0, 1))


class BackwardPosterior(nn.Module):
    """q(z | x) = prod_t N(z_t | m(c_t), diag(s(c_t))^2), c_t = (tanh(W z_{t-1} + b) + h_t) / 2.

    h_t is the sum of what the encoder makes of x_t and of the state of a recurrent network (GRU)
    that has read this of the frames from the last back to x_t: given z_{t-1}, the exact posterior
    of z_t depends on no earlier frame. z_0 is 0, and m and raw s are linear.

    Args:
        latent_dim: The dimension d of z_t.
        encoder: Output shape -> network that reads a frame.
        length: The number T of frames.
        hidden: The width of h_t, and of what the encoder makes of a frame.

    References:
        Structured Inference Networks for Nonlinear State Space Models (Krishnan, Shalit & Sontag,
        2017), https://arxiv.org/abs/1609.09869
    """

    support: ClassVar[str] = "real"
    has_density: ClassVar[bool] = True

    def __init__(
        self, latent_dim: int, encoder: networks.NetworkFactory, length: int, hidden: int
    ) -> None:
        super().__init__()
        self.latent_dim = length * latent_dim
        self.encoder = encoder((hidden,))
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True)
        self.previous = nn.Linear(latent_dim, hidden)
        self.head = nn.Linear(hidden, 2 * latent_dim)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> MarkovNormal:
        frames = self.encoder(x)
        leading, length = frames.shape[:-2], frames.shape[-2]
        backwards, _ = self.recurrent(frames.flip(-2).reshape(-1, length, frames.shape[-1]))
        h = frames + backwards.flip(-2).reshape(*leading, length, -1)
        start = h.new_zeros(self.previous.in_features)
        loc, scale = self.transition(start, h[..., 0, :])
        return MarkovNormal(loc, scale, self.transition, length, context=h[..., 1:, :])

    def transition(
        self, previous: Float[Tensor, "*batch dim"], h: Float[Tensor, "*batch_h width"]
    ) -> tuple[Float[Tensor, "*batch_loc dim"], Float[Tensor, "*batch_loc dim"]]:
        """The location and the scale of z_t given z_{t-1} and h_t."""
        c = (self.previous(previous).tanh() + h) / 2
        loc, raw_scale = self.head(c).chunk(2, -1)
        return loc, positive_scale(raw_scale)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The chain of locations, each given the one before: z with no noise."""
        q = self(x)
        return q.path(q.loc.new_zeros(q.steps, q.loc.shape[-1]))


class SequenceVAE(VAE):
    """p(x, z) = p(z_1) prod_t p(z_t | z_{t-1}) prod_t p(x_t | z_t), with the guide q(z | x).

    Model and guide are those of `VAE`: z ~ p(z), x ~ p(x | z), and z ~ q(z | x). A code is z_1,
    ..., z_T in one vector.

    Args:
        prior: The Markov chain p(z).
        likelihood: The frames given the chain.
        posterior: The chain given the frames.

    References:
        Deep Kalman Filters (Krishnan, Shalit & Sontag, 2015), https://arxiv.org/abs/1511.05121
    """

    labels: ClassVar[str] = "none"

    def forecast(
        self,
        x: Any,
        steps: int = 10,
        draws: int = 100,
        *,
        observed: int | None = None,
        noise: bool = True,
        seed: int | None = None,
    ) -> Any:
        """Draws of the frames that follow observed ones, in the units of the data.

        z_1, ..., z_t ~ q(z | x_1, ..., x_t), then z_{t+1}, ... by the prior's transitions, then
        each frame from p(x | z). Quantiles over the draws are forecast intervals.

        Args:
            x: Sequences in the units of the data, in any form that `fit` takes. Before training, a
                tensor in the likelihood's support.
            steps: The number of frames to forecast.
            draws: The number of draws for each sequence.
            observed: How many frames are observed, the first ones; None for all.
            noise: Draw each frame from p(x | z) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            `(draws, n, steps, *frame)`, a tensor for a tensor and an array otherwise.

        Raises:
            ValueError: If a number is out of its range, or the data do not fit the program.
        """
        with evaluation_mode(self, seed=seed):
            prepared = self._prepared(x)
            length = prepared.shape[1]
            if observed is not None and not 1 <= observed <= length:
                raise ValueError(f"observed must be from 1 to {length} frames, got {observed}.")
            p: Any = self.next_frames(prepared[:, :observed], steps, draws)
            frames = p.sample() if noise else p.mean
            if self.contract is not None:
                frames = self.contract.to_data_units(frames, draws=noise)
        return frames.to(x.device) if isinstance(x, Tensor) else frames.numpy(force=True)

    def next_frames(
        self, x: Real[Tensor, " n *event"], steps: int, draws: int
    ) -> dist.Distribution:
        """p(x_{t+1} | z), ... at draws of z given prepared sequences with any number t of frames.

        Its batch shape is `(draws, n, steps)`, and its event shape that of a frame.

        Raises:
            ValueError: If `steps` or `draws` is below 1.
        """
        check_at_least(1, steps=steps, draws=draws)
        chain = self.posterior(x).sample((draws,))
        last = chain.unflatten(-1, (x.shape[1], -1))[..., -1, :]
        likelihood: Any = self.likelihood
        return likelihood.frame(self.prior.continued(last, steps))


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    network: Part = networks.MLP,
    hidden: int = 100,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
) -> SequenceVAE:
    """A deep Kalman filter; the defaults are those of the command line.

    >>> program = build((20, 1, 16, 16), latent_dim=4, likelihood="normal")
    >>> program.forecast(torch.rand(3, 20, 1, 16, 16), steps=5, draws=7).shape
    torch.Size([7, 3, 5, 1, 16, 16])

    Args:
        event_shape: The shape of a sequence, `(T, *frame)`.
        latent_dim: The dimension of z_t.
        likelihood: That of a frame, as in `pyro_vae.build`.
        network: For the encoder and the decoder of a frame, as in `pyro_vae.build`.
        hidden: The width of the recurrent state of q, and of the hidden layer of the transition.
        kind: As in `pyro_vae.build`.
        train_data: Likewise.
        train_size: The number of training sequences.
        levels: As in `pyro_vae.build`.
        units: The center and spread of real frames.

    Raises:
        ValueError: If a sequence has fewer than two frames or frames have no axis, a likelihood is
            conditional on totals, or as `pyro_vae.build`.
    """
    event_shape, latent_dim = checked_sizes(event_shape, latent_dim)
    check_at_least(1, hidden=hidden)
    length, frame = event_shape[0], event_shape[1:]
    if not frame or length < 2:
        raise ValueError(
            "a sequence has the shape (T, *frame) with at least two frames, all of one length T, "
            f"got data of shape {event_shape}: arrays (n, T, ...) are read as sequences with "
            'layout "sequence" (--data.layout sequence).'
        )
    sizes = {"length": length, "hidden": hidden}
    # The parts for a frame: the throw-away VAE is the container in which `build` returns them.
    parts = pyro_vae.model.build(
        frame,
        latent_dim,
        prior=partial(MarkovPrior, **sizes),
        likelihood=likelihood,
        posterior=partial(BackwardPosterior, **sizes),
        network=network,
        kind=kind,
        train_data=None if train_data is None else train_data.flatten(0, 1),
        train_size=None if train_size is None else train_size * length,
        levels=levels,
        units=units,
    )
    if getattr(parts.likelihood, "given_total", False):
        raise ValueError(
            f"{type(parts.likelihood).__name__} is conditional on the total of a row, which a "
            "forecast does not know: use a likelihood of counts, such as negative_binomial."
        )
    return SequenceVAE(parts.prior, FrameLikelihood(parts.likelihood, length), parts.posterior)
