"""Data in time: windows of a long series, the Frey faces in order, and a pendulum."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae.checks import check_at_least, check_choice, check_nonnegative
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.npz_sets import freyface_frames
from pyro_vae.data.units import Units

# Frames of the Frey faces for training, validation and test, in order.
FREYFACE_FRAMES = (1_365, 200, 400)

# The pendulum: gravity over length in 1/s^2, friction in 1/s, seconds between frames, steps of
# integration per frame, and the standard deviation per root second of the random acceleration.
GRAVITY, FRICTION, INTERVAL, SUBSTEPS, KICK = 9.81, 0.1, 0.1, 10, 0.5
# Images of the pendulum reach this many lengths from the pivot; the bob has this radius.
_REACH, _RADIUS = 1.4, 0.25


def windows(
    frames: Real[Tensor, " frames *frame"], length: int, stride: int = 1
) -> Real[Tensor, " n length *frame"]:
    """The windows of `length` frames that start every `stride` frames.

    Windows that share frames are not independent: split a series by time first, and cut each part.

    >>> windows(torch.arange(7), 3, 2)
    tensor([[0, 1, 2],
            [2, 3, 4],
            [4, 5, 6]])

    Raises:
        ValueError: If a number is below 1, or there are fewer than `length` frames.
    """
    check_at_least(1, length=length, stride=stride)
    if len(frames) < length:
        raise ValueError(f"a window of length {length} needs as many frames, got {len(frames)}.")
    # `unfold` puts the frames of a window on the last axis.
    return frames.unfold(0, length, stride).movedim(-1, 1).contiguous()


def freyface_sequences(root: Path, length: int = 20, stride: int = 5) -> Dataset:
    """The Frey faces in the order of the video, cut into windows, 28 x 20 pixels in 256 levels.

    Split by time, then cut: the first 1,365 frames are for training, the next 200 for validation
    and the last 400 for the test, so that no frame is in windows of two splits. Windows overlap
    if `stride` is below `length`; standard errors that assume independence are then too small.

    Args:
        root: The folder that holds `freyface`, see `freyface`.
        length: The number of frames of a window.
        stride: The number of frames from the start of a window to that of the next.

    Raises:
        ValueError: If the file is missing or its hash differs, a number is below 1, or the length
            is above 200.
    """
    parts = freyface_frames(root).split(FREYFACE_FRAMES)
    train, validation, test = (windows(part, length, stride) for part in parts)
    return Dataset(
        "freyface_sequences",
        "integers",
        256,
        train,
        validation,
        test,
        model_units=Units.of_frames({"train": train}, "integers"),
        split_rule="by time, then cut into windows: the same in every run",
        noun="sequence",
    )


def pendulum(
    sequences: int = 1000,
    length: int = 20,
    observed: Literal["image", "position"] = "image",
    noise: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """A damped pendulum, kicked at random: made data of known dynamics, real-valued.

    d theta = omega dt and d omega = -(9.81 sin theta + 0.1 omega) dt + 0.5 dW, in steps of 0.01 s;
    frames are 0.1 s apart. It starts at an angle uniform on (-pi, pi), 0 hanging down, with an
    angular velocity from N(0, 1). A frame is an image of 16 x 16 pixels with a round bob of
    brightness 1 on 0, or the position (sin theta, -cos theta), with normal noise added. One frame
    does not show the velocity. The first 70 % of the sequences are for training, the next 10 % for
    validation, the last 20 % for the test.

    Args:
        sequences: The number of sequences, at least 10.
        length: The number of frames of each.
        observed: What a frame is: "image", (1, 16, 16), or "position", (2,).
        noise: The standard deviation of the noise on each element.
        seed: The seed of the data.

    Raises:
        ValueError: If a number is too small, or `observed` is another word.

    References:
        Deep Variational Bayes Filters (Karl et al., 2017), section 4.1, which has such images of
        a pendulum, https://arxiv.org/abs/1605.06432
    """
    check_at_least(10, sequences=sequences)
    check_at_least(1, length=length)
    check_choice(("image", "position"), observed=observed)
    check_nonnegative(noise=noise)
    rng = np.random.Generator(np.random.PCG64(seed))
    theta = pendulum_angles(rng, sequences, length)
    position = np.stack([np.sin(theta), -np.cos(theta)], -1)
    clean = position if observed == "position" else _draw_bob(position)
    values = torch.from_numpy(clean + noise * rng.standard_normal(clean.shape)).float()
    n = sequences
    train, validation, test = values.split([n - n // 10 - n // 5, n // 10, n // 5])
    return Dataset(
        "pendulum",
        "real",
        None,
        train,
        validation,
        test,
        model_units=Units.of_frames({"train": train}, "real"),
        noun="sequence",
    )


def pendulum_angles(
    rng: np.random.Generator, sequences: int, length: int
) -> Float[np.ndarray, "sequences length"]:
    """theta of `pendulum` at each frame, in radians, 0 hanging down."""
    theta = rng.uniform(-math.pi, math.pi, sequences)
    omega = rng.standard_normal(sequences)
    dt, frames = INTERVAL / SUBSTEPS, [theta]
    for _ in range(length - 1):
        for _ in range(SUBSTEPS):
            kick = KICK * math.sqrt(dt) * rng.standard_normal(sequences)
            omega = omega - (GRAVITY * np.sin(theta) + FRICTION * omega) * dt + kick
            theta = theta + omega * dt
        frames.append(theta)
    return np.stack(frames, -1)


def _draw_bob(
    position: Float[np.ndarray, "n length 2"], size: int = 16
) -> Float[np.ndarray, "n length 1 size size"]:
    """Images of a bob that fades out over about a pixel, the first row at the top."""
    grid = np.linspace(-_REACH, _REACH, size)
    x, y = position[..., 0, None, None], position[..., 1, None, None]
    distance = np.hypot(grid - x, -grid[:, None] - y)
    edge = (_RADIUS - distance) / (_REACH / size)
    return (0.5 + 0.5 * np.tanh(edge))[..., None, :, :]
