r"""The parameters of a layer, from values and gradients of log p at given points.

They minimise

    E_w[(log p - log q - c)^2 + |grad log p - grad log q|^2] / 2

by Gauss-Newton, large residuals counting linearly (P. J. Huber, "Robust estimation of a location
parameter", 1964): the natural gradient of the free energy by regression on the scores, without
noise as soon as the family holds p. Where the points say nothing a layer is to change little: the
change of log q over a normal law twice as wide costs as well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..flows import ConditionalFlow
from .layers import log_normal

_FAR, _N_FAR, _COST = 2.0, 256, 3e-3  # width, number and weight of the points of the wide law


class _Scores:
    """log q, its gradient and the scores of all parameters, at z (n, d)."""

    def __init__(self, flow: ConditionalFlow, theta: Tensor, z: Tensor):
        here = flow.linearize(theta, z, z)
        latent = torch.stack([points.latent[:, 0] for points in here.points], 1)
        self.log_q = log_normal(latent) - here.log_det
        self.slope = torch.zeros_like(z)
        values: list[Tensor] = []
        moved: list[list[tuple[slice, Tensor]]] = [[] for _ in range(z.shape[1])]
        start = 0
        for i, (local, points) in enumerate(zip(here.locals, here.points, strict=True)):
            factor, products = local.factor, local.products
            columns = slice(start, start := start + factor.size)
            values.append(factor.expand(products.values, points.phi[:, 0]))
            self.slope[:, i] += points.score[:, 0]
            moved[i].append((columns, factor.expand(products.values, points.phi_own[:, 0])))
            for j in factor.parents:
                slopes = products.derivative(j)
                change = slopes @ local.table
                latent_change, log_change = points.along(change)
                self.slope[:, j] += (log_change - points.latent * latent_change)[:, 0]
                by_z = factor.expand(slopes, points.phi[:, 0])
                by_z = by_z + factor.expand(products.values, points.phi_moved(change)[:, 0])
                moved[j].append((columns, by_z))
        self.values, self._moved, self.size = torch.cat(values, 1), moved, start

    def derivatives(self):
        """For every coordinate: which parameters its derivative meets, and that of their scores."""
        number = torch.arange(self.size)
        for parts in self._moved:
            yield torch.cat([number[c] for c, _ in parts]), torch.cat([v for _, v in parts], 1)

    def gram(self, by_value: Tensor, by_slope: Tensor) -> Tensor:
        """Weighted second moments of the scores and their gradients (m, m)."""
        out = self.values.T @ (by_value[:, None] * self.values)
        for index, part in self.derivatives():
            out[index[:, None], index] += part.T @ (by_slope[:, None] * part)
        return out


def fit_layer(
    flow: ConditionalFlow,
    z: Tensor,
    log_p: Tensor,
    slope: Tensor,
    weights: Tensor,
    n_iterations: int = 5,
) -> Tensor:
    """theta (m,) from points z (n, d), log p (n,), its gradient (n, d) and weights of sum 1."""
    n, d = z.shape
    theta = torch.zeros(flow.n_parameters(d), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    far = _FAR * torch.randn(_N_FAR, d, generator=generator, dtype=torch.float64)
    even = torch.full((_N_FAR,), _COST / _N_FAR, dtype=torch.float64)
    prior = _Scores(flow, theta, far).gram(even, even)

    def look(theta: Tensor):
        scores = _Scores(flow, theta, z)
        gap, tilt = log_p - scores.log_q, slope - scores.slope
        middle = gap.median()
        gap = gap - (weights * gap.clamp(middle - 5, middle + 5)).sum()
        return scores, gap, tilt

    scores, gap, tilt = look(theta)
    limits = (
        max(1.0, 3 * float(gap.abs().median())),
        max(2 * math.sqrt(d), 3 * float(tilt.norm(dim=1).median())),
    )

    def cost(theta: Tensor, gap: Tensor, tilt: Tensor) -> tuple[float, Tensor, Tensor]:
        first, by_value = _huber(gap.abs(), limits[0])
        second, by_slope = _huber(tilt.norm(dim=1), limits[1])
        total = float((weights * (first + second)).sum() + 0.5 * theta @ prior @ theta)
        return total, weights * by_value, weights * by_slope

    value, by_value, by_slope = cost(theta, gap, tilt)
    damping = 1e-3
    for _ in range(n_iterations):
        scores.values -= (by_value @ scores.values) / by_value.sum()  # c is free
        matrix = scores.gram(by_value, by_slope) + prior
        right = scores.values.T @ (by_value * gap) - prior @ theta
        for k, (index, part) in enumerate(scores.derivatives()):
            right[index] += part.T @ (by_slope * tilt[:, k])
        diagonal = matrix.diagonal() + 1e-8 * matrix.diagonal().max()
        for _ in range(5):
            step = torch.linalg.solve(matrix + torch.diag(damping * diagonal), right)
            found = look(theta + step)
            after = cost(theta + step, *found[1:])
            if after[0] < value:
                break
            damping *= 10
        else:
            return theta
        fallen = value - after[0]
        theta, (scores, gap, tilt), damping = theta + step, found, max(damping / 5, 1e-6)
        value, by_value, by_slope = after
        if fallen < 1e-2 * value:
            break
    return theta


def _huber(length: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Half the square up to a limit, linear beyond; and the weight that makes it a square."""
    loss = torch.where(length < limit, length.square() / 2, limit * (length - limit / 2))
    return loss, limit / length.clamp_min(limit)
