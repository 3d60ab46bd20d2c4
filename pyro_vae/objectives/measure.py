"""What the log densities of draws are densities of, and whether a gradient can follow the draws."""

from pyro.distributions import (
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)
from torch.distributions import Distribution, Independent

from pyro_vae.distributions import SpikeAndSlab
from pyro_vae.log_densities import LogDensities, distribution_at

_STEPS = (SpikeAndSlab, RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough)


def check_weights(name: str, terms: LogDensities) -> None:
    """Make sure that p(z) / q(z | x) is a ratio of densities, or of masses, at every latent site.

    Args:
        name: The objective's, for the message.
        terms: The terms of the pair.

    Raises:
        ValueError: If one is a density and the other a mass: their ratio is no weight.
    """
    for site in terms.guide_sites:
        if site not in terms.model_sites:
            continue
        q, p = (distribution_at(trace, site) for trace in (terms.guide_trace, terms.model_trace))
        if _kind(q) != _kind(p):
            raise ValueError(
                f"{name} weighs draws by p(z) / q(z | x), but at site {site!r} the model's "
                f"{_named(p)} has {_kind(p)} and the guide's {_named(q)} has {_kind(q)}: use a guide "
                "of the prior's kind."
            )


def check_path(name: str, terms: LogDensities) -> None:
    """Make sure that the gradient of log q(z | x) splits into the score and one along the draws.

    Args:
        name: The objective's, for the message.
        terms: The terms of the pair.

    Raises:
        ValueError: If there are several latent sites, if the site has a plate of its own, or if its
            draws step from value to value, so that their straight-through gradient is no path.
    """
    if len(terms.guide_sites) != 1:
        raise ValueError(
            f"{name} tells the score of one latent site apart, but the guide has the sites "
            f"{', '.join(terms.guide_sites)}: use the objective iwae or elbo."
        )
    (site,) = terms.guide_sites
    q = distribution_at(terms.guide_trace, site)
    if isinstance(_base(q), _STEPS) or _kind(q) != "a density":
        raise ValueError(
            f"{name} follows the path of the draws, but those of the {_named(q)} at site {site!r} step, "
            "and have a straight-through gradient alone: use the objective elbo or iwae."
        )
    if q.batch_shape != terms.log_posterior.shape:
        raise ValueError(
            f"{name} tells the score apart in the plate over data alone, but the {_named(q)} at site "
            f"{site!r} is in a plate of its own: declare it as an event, or use the objective iwae or elbo."
        )


def _kind(distribution: Distribution) -> str:
    """What `log_prob` is the logarithm of, in words."""
    base = _base(distribution)
    if isinstance(base, SpikeAndSlab):
        return "a density beside a mass at 0"
    try:
        return "a mass" if base.support is not None and base.support.is_discrete else "a density"
    except NotImplementedError:  # A distribution need not declare its support.
        return "a density"


def _base(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _named(distribution: Distribution) -> str:
    return type(_base(distribution)).__name__
