"""A proposal that keeps a little of something safe: the fit, mixed with Gaussians at the modes."""

from __future__ import annotations

import math

import torch
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    constraints,
)


class DefensiveLaw(Distribution):
    """The law (1 - share) base + share safe.

    Importance ratios are bounded by 1 / share times those of ``safe``, so that a mode that the fit
    has nearly lost keeps finite weights (T. Hesterberg, "Weighted average importance sampling and
    defensive mixture distributions", 1995).

    Parameters
    ----------
    base, safe : Distribution
        Of the same ``event_shape`` (d,).
    share : float in (0, 1)
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, base: Distribution, safe: Distribution, share: float):
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {share!r}; try 0.1.")
        self.base, self.safe, self.share = base, safe, share
        super().__init__(event_shape=base.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape)
        x, safe = self.base.sample(shape), self.safe.sample(shape)
        chosen = torch.rand(shape, dtype=x.dtype) < self.share
        return torch.where(chosen[..., None], safe.to(x), x)

    def log_prob(self, value):
        return torch.logaddexp(
            math.log1p(-self.share) + self.base.log_prob(value),
            math.log(self.share) + self.safe.log_prob(value),
        )


def best_share(potential, base: Distribution, safe: Distribution, n: int = 1000) -> float:
    """The share of ``safe`` in a :class:`DefensiveLaw` for which the weights vary least.

    From n draws of either: with m the law of both halves together, E_q (p/q)^2 = E_m p^2 / (q m)
    for every mixture q, convex in the share.

    Parameters
    ----------
    potential : callable
        V = -log p; infinite or NaN outside the support.
    base, safe : Distribution
    n : int
        Draws of each.

    Returns
    -------
    float
        0.05 to 0.95; 1 where ``safe`` alone varies as little as any mixture.
    """
    x = torch.cat([base.sample((n,)), safe.sample((n,))])
    log_p = -potential(x).detach()
    log_p = torch.where(torch.isfinite(log_p), log_p, -torch.inf)
    log_base, log_safe = base.log_prob(x), safe.log_prob(x)
    half = torch.logaddexp(log_base, log_safe) - math.log(2)

    def spread(share: float) -> float:
        mixed = log_safe
        if share < 1:
            mixed = torch.logaddexp(math.log1p(-share) + log_base, math.log(share) + log_safe)
        return float(torch.logsumexp(2 * log_p - mixed - half, 0))

    shares = [0.05 * k for k in range(1, 20)]
    best = min(shares, key=spread)
    return 1.0 if spread(1.0) <= spread(best) + 0.01 else best


def laplace_mixture(found) -> Distribution:
    """The mixture of Gaussians of a :class:`Laplace` search."""
    return MixtureSameFamily(
        Categorical(probs=torch.from_numpy(found.shares)),
        MultivariateNormal(torch.from_numpy(found.modes), scale_tril=torch.from_numpy(found.roots)),
    )
