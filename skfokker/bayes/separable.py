"""Posteriors that are sums over coordinates: their equilibrium by quadrature, one by one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..flows import AffineFlow, Composition, ElementwiseFlow, Flow, Inverse

_GRID = 4001
_DEEP = 30.0  # nats below the maximum at which a density ends


def is_separable(potential, points: np.ndarray) -> bool:
    """Whether V is a sum over coordinates, as far as points (n, d) show.

    Two points that exchange some of their coordinates keep the sum of their values, and only for
    a sum over coordinates do they always.

    Parameters
    ----------
    potential : Potential
    points : ndarray (n, d)
        Everywhere that counts: of all modes, and wider.
    """
    n, d = points.shape
    if d < 2:
        return False
    rng = np.random.default_rng(0)
    other, mask = points[rng.permutation(n)], rng.uniform(size=(n, d)) < 0.5
    mixed = np.where(mask, points, other), np.where(mask, other, points)
    with torch.no_grad():
        first, second, third, fourth = (
            potential(torch.from_numpy(x)) for x in (points, other, *mixed)
        )
    gap, size = (first + second - third - fourth).abs(), first.abs() + second.abs() + 1
    return bool((gap <= 1e-9 * size).all())  # NaN included: not known


def separable_flow() -> Flow:
    """One spline a coordinate, on the side of the data."""
    return Composition([Inverse(ElementwiseFlow(48, radius=6.0)), AffineFlow(diagonal=True)])


def coordinate_draws(potential, mean: Tensor, scale: Tensor, n: int, seed: int) -> np.ndarray:
    """Points (n, d), each column the n midpoint quantiles of exp(-V) along that coordinate.

    Every coordinate is integrated on a grid that is widened until the density has fallen by 30
    nats at both ends, so that modes of one coordinate have their exact weights, whatever barrier
    lies between them. The columns are shuffled against each other.

    Parameters
    ----------
    potential : Potential
        A sum over coordinates.
    mean, scale : Tensor (d,)
    n, seed : int
    """
    rng = np.random.default_rng(seed)
    levels = (np.arange(n) + 0.5) / n
    out = np.empty((n, len(mean)))
    for i in range(len(mean)):
        half = 8.0
        for _ in range(8):
            grid = torch.linspace(-half, half, _GRID, dtype=torch.float64)
            points = mean.repeat(_GRID, 1)
            points[:, i] += grid * scale[i]
            value = potential(points).detach()
            seen = -torch.where(torch.isfinite(value), value, torch.inf)
            log_p = (seen - seen.max()).numpy()
            if max(log_p[0], log_p[-1]) < -_DEEP:
                break
            half *= 2
        density = np.exp(log_p)
        cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
        rising = np.concatenate([[True], np.diff(cdf) > 0])
        at = np.interp(levels * cdf[-1], cdf[rising], grid.numpy()[rising])
        out[:, i] = float(mean[i]) + float(scale[i]) * rng.permutation(at)
    return out
