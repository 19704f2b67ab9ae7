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


def laplace_mixture(found) -> Distribution:
    """The mixture of Gaussians of a :class:`Laplace` search."""
    return MixtureSameFamily(
        Categorical(probs=torch.from_numpy(found.shares)),
        MultivariateNormal(torch.from_numpy(found.modes), scale_tril=torch.from_numpy(found.roots)),
    )
