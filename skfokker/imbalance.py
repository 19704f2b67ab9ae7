r"""What a moving law misses the equation by, pointwise: the density of its L1 error rate.

    eps = d/dt log rho_theta - rho_theta^{-1} L* rho_theta
        = d/dt log rho_theta - [Laplacian V + grad V . s + beta (div s + |s|^2)],

s = grad log rho_theta, at fixed y. It needs no velocity field; with any that moves the law, and its
residual r = v + grad V + beta s, it is -(div r + r . s).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .distribution import chunk_rows
from .divergence import colour, divergence, spread_out, steps
from .equation import FokkerPlanck, log_normal
from .flows.base import Flow

_MOST_GROUPS = 8  # of coordinates that differences of the residual are taken in, one by one
_FEWEST = 32  # points at a time
_MOST_GRADIENTS = 2**13  # of V at a time, for its Laplacian


@dataclass
class Imbalance:
    """Computes eps for one equation and one family.

    Where the family is in ``closed_form`` only the Laplacian of V is by differences; otherwise the
    divergence of the whole residual is, whose parts need not cancel to rounding. In many
    dimensions differences are taken along random signs in groups of coordinates: eps then carries
    noise of mean zero, and by Jensen's inequality E|eps + noise| >= E|eps| still bounds it.

    Parameters
    ----------
    equation : FokkerPlanck
    flow : Flow
    generator : torch.Generator
        Of the signs.
    interacts : ndarray (d, d) of bool, optional
        Which coordinates V lets interact, as far as is known. Where this misses some, eps becomes
        noisy, and the bound larger.
    """

    equation: FokkerPlanck
    flow: Flow
    generator: torch.Generator
    interacts: np.ndarray | None = None

    def __post_init__(self):
        d, known = self.equation.d, self.interacts is not None
        if self.closed:
            self.groups = colour(self.interacts) if known else spread_out(d, d)
        elif self.flow.separable and self.equation.separable:
            self.groups = spread_out(d, 1)
        else:
            self.groups = spread_out(d, _MOST_GROUPS)

    def n_points(self, work: int) -> int:
        """Points at a time, a power of two, for the work of evaluating so many residuals."""
        each = 1 + 2 * len(self.groups)
        afford = min(_MOST_GRADIENTS // each, work) if self.closed else work // each
        return 2 ** int(np.log2(max(_FEWEST, afford)))

    @torch.no_grad()
    def at(self, theta: Tensor, dtheta: Tensor, y: Tensor) -> Tensor:
        """eps (n,) at points y (n, d), where theta (m,) moves with dtheta (m,)."""
        scale, rows = steps(y), chunk_rows(self.flow, y.shape[1])
        work = self._closed if self.closed else self._by_differences
        return torch.cat([work(theta, dtheta, part, scale) for part in y.split(rows)])

    @property
    def closed(self) -> bool:
        """Whether only the divergence of what the equation gives is by differences."""
        if self.equation.has_energy:
            return self.flow.closed_form
        return self.equation.diagonal and hasattr(self.flow, "score_curvature_and_rate")

    def _closed(self, theta, dtheta, y, scale):
        flow, equation = self.flow, self.equation
        if not equation.has_energy:
            score, curvature, rate = flow.score_curvature_and_rate(theta, dtheta, y)
            pull, log_density = equation.pull(y), None
            if equation.porous is not None:
                x, log_det = flow.inverse(theta, y)
                log_density = log_normal(x) + log_det
            return rate - equation.balance(
                y, pull, score, curvature, scale, self.groups, self.generator, log_density
            )
        score, curvature, rate = flow.score_divergence_and_rate(theta, dtheta, y)
        gradient = equation.pull(y)
        laplacian = divergence(equation.pull, y, scale, self.groups, self.generator)
        right = laplacian + (gradient * score).sum(1)
        right = right + equation.beta * (curvature + score.square().sum(1))
        return rate - right

    def _by_differences(self, theta, dtheta, y, scale):
        def residual(y):
            x = self.flow.inverse(theta, y)[0]
            at = self.flow.linearize(theta, x)
            score = at.push_score(-x)
            force = self.equation.driving_force(y, score, log_normal(x) - at.log_det)
            return at.law_velocity(dtheta) + force, score

        r, score = residual(y)
        groups = self.groups
        change = divergence(lambda y: residual(y)[0], y, scale, groups, self.generator)
        return -change - (r * score).sum(1)
