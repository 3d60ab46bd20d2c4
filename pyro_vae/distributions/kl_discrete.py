"""Closed-form divergences KL(q || p), in nats, between distributions with atoms."""

from torch import Tensor
from torch.distributions import kl_divergence, register_kl
from torch.nn import functional as F

from pyro_vae.distributions.one_hot import OneHots
from pyro_vae.distributions.spike_and_slab import SpikeAndSlab


@register_kl(OneHots, OneHots)
def kl_one_hots(q: OneHots, p: OneHots) -> Tensor:
    """sum_v sum_k pi_vk log(pi_vk / rho_vk)."""
    return (q.logits.exp() * (q.logits - p.logits)).sum((-2, -1))


@register_kl(SpikeAndSlab, SpikeAndSlab)
def kl_spikes_and_slabs(q: SpikeAndSlab, p: SpikeAndSlab) -> Tensor:
    """KL(Bernoulli(gamma_q) || Bernoulli(gamma_p)) + gamma_q KL(N_q || N_p)."""
    kept = F.logsigmoid(q.logits) - F.logsigmoid(p.logits) + kl_divergence(q.slab, p.slab)
    dropped = F.logsigmoid(-q.logits) - F.logsigmoid(-p.logits)
    return q.logits.sigmoid() * kept + (-q.logits).sigmoid() * dropped
