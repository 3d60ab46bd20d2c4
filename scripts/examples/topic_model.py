"""A model file to copy: a topic model, with hidden layers in its encoder and none in its decoder.

`python scripts/svi_train.py --model scripts/examples/topic_model.py --data newsgroups
--network.norm batch --lr 0.01` trains it. On the command line alone encoder and decoder are one
kind of network; here the network is the encoder's, and the decoder is below. theta ~ p(theta) are
the shares of the topics in a post, and x ~ Multinomial(N, theta beta): latent Dirichlet allocation
with its words' topics summed out, and a network as the guide.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, posteriors, priors


class Topics(nn.Module):
    """log(sum_k theta_k beta_k), beta_k = softmax(B_k): the logits of the words in a mixture.

    Row k of beta is topic k, the chance of each word there; it is p(word | theta = e_k).

    Args:
        topics: The number of topics.
        output_shape: The likelihood's `(1, words)`.

    References:
        Latent Dirichlet Allocation (Blei, Ng & Jordan, 2003),
        https://www.jmlr.org/papers/v3/blei03a.html; Autoencoding Variational Inference for Topic
        Models (Srivastava & Sutton, 2017), https://arxiv.org/abs/1703.01488
    """

    def __init__(self, topics: int, output_shape: Sequence[int]) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        # Apart from the start: topics that are alike have nothing to tell them apart.
        self.logits = nn.Parameter(torch.randn(topics, math.prod(output_shape)))

    def forward(self, theta: Float[Tensor, "*batch topics"]) -> Float[Tensor, "*batch_output"]:
        """Logits whose softmax is the mixture itself, with any leading axes of theta."""
        words = theta @ self.logits.softmax(-1)
        # Underflow leaves 0, whose logarithm is not finite.
        words = words.clamp(min=torch.finfo(words.dtype).tiny)
        return words.log().reshape(*theta.shape[:-1], *self.output_shape)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 20,
    *,
    prior: Callable[..., nn.Module] = priors.Dirichlet,
    likelihood: Callable[..., nn.Module] = likelihoods.Multinomial,
    posterior: Callable[..., nn.Module] = posteriors.LogisticNormal,
    network: Callable[..., nn.Module] = networks.MLP,
    train_data: Real[Tensor, " n *event"] | None = None,
) -> VAE:
    """A topic model from the classes of its parts; the defaults are the command line's.

    Args:
        event_shape: The number of words, `(words,)`.
        latent_dim: The number of topics.
        prior: Of the shares of the topics.
        likelihood: Of the counts of words.
        posterior: Its class.
        network: The encoder's class, which reads log(1 + x).
        train_data: Training data, for the mean length of a post.
    """
    encoder = networks.on_log_scale(partial(network, tuple(event_shape)))
    return VAE(
        prior=prior(latent_dim),
        likelihood=likelihood(event_shape, partial(Topics, latent_dim), train_data=train_data),
        posterior=posterior(latent_dim, encoder),
    )
