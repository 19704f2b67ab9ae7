"""Marginals of a fit on one or two coordinates, and of the reference it is compared with."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal, norm

from .. import metrics
from ..equation import log_normal
from ..problems import PlanarProblem, ProductProblem
from ..reference import FiniteVolumeSolution2D
from ..schemes.points import normal_grid, sobol_normal
from ..trajectory import Trajectory

N_DRAWS = 2**16


def points_of(fit, t: float, n: int = N_DRAWS) -> np.ndarray:
    """Images (n, d) of Sobol points: an even sample of the law at t."""
    z = sobol_normal(n, fit.n_features_in_, 0)
    return fit.inverse_transform(z.numpy(), t=t)


def span(fit, times, i: int, margin: float = 0.06) -> tuple[float, float]:
    """Interval that holds coordinate i at all the times, but for a few in ten thousand."""
    low, high = np.inf, -np.inf
    for t in np.atleast_1d(times):
        first, last = np.quantile(points_of(fit, float(t), 2**13)[:, i], [2e-4, 1 - 2e-4])
        low, high = min(low, first), max(high, last)
    return low - margin * (high - low), high + margin * (high - low)


def marginal(fit, t: float, i: int, x: np.ndarray) -> np.ndarray:
    """Density (n,) of coordinate i at time t and x (n,).

    Exact for affine and separable maps and for d <= 2; a narrow kernel estimate from Sobol
    points otherwise.
    """
    d = fit.n_features_in_
    if fit.flow_.affine:
        mean, covariance = metrics.moments(fit, t)
        return norm.pdf(x, mean[i], np.sqrt(covariance[i, i]))
    if d == 1:
        return np.exp(fit.log_density(x[:, None], t))
    if fit.flow_.separable:
        return _separable(fit, t)(i, x)
    if d == 2:
        other = np.linspace(*span(fit, t, 1 - i, 0.3), 201)
        return plane(fit, t, (i, 1 - i), x, other).sum(0) * (other[1] - other[0])
    return smooth(points_of(fit, t)[:, [i]], x)


def plane(fit, t: float, pair: tuple[int, int], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Density (len(y), len(x)) of two coordinates at time t, exact as :func:`marginal` is."""
    i, j = pair
    if fit.flow_.affine:
        return gaussian_plane(*metrics.moments(fit, t), pair, x, y)
    if fit.flow_.separable:
        density = _separable(fit, t)
        return np.outer(density(j, y), density(i, x))
    if fit.n_features_in_ == 2:
        return conditional(fit, t, pair, x, y, np.zeros(2))
    return smooth(points_of(fit, t)[:, [i, j]], x, y, width=0.8)


def _separable(fit, t: float):
    """All marginals of a separable fit: a function of the coordinate and of x (n,)."""
    d = fit.n_features_in_
    z, _ = normal_grid(801, d, half_width=8.0)
    march = Trajectory(fit.times_, fit.thetas_, fit.velocities_, fit.flow_, d)
    at = fit.flow_.linearize(torch.as_tensor(march.at(t)[0]), z)
    log_density = (log_normal(z[:, :1])[:, None] - at.coordinate_slope().log()).numpy()
    y = at.y.numpy()
    return lambda i, x: np.exp(
        np.interp(x, y[:, i], log_density[:, i], left=-np.inf, right=-np.inf)
    )


def conditional(fit, t, pair, x, y, at: np.ndarray) -> np.ndarray:
    """Joint density (len(y), len(x)) on the plane through ``at`` (d,) along two coordinates."""
    points = np.tile(np.asarray(at, dtype=float), (len(x) * len(y), 1))
    points[:, pair[0]] = np.tile(x, len(y))
    points[:, pair[1]] = np.repeat(y, len(x))
    return np.exp(fit.log_density(points, t)).reshape(len(y), len(x))


def smooth(draws, x: np.ndarray, y: np.ndarray | None = None, width: float = 0.5) -> np.ndarray:
    """Kernel density of draws (n, 1) or (n, 2) at x (and y), by a fine histogram and a filter.

    ``width`` is relative to Silverman's rule. Sobol points are even enough for half of it, which
    leaves peaks their height; random draws are not.
    """
    n, dim = draws.shape
    axes = [x] if y is None else [x, y]
    cells = 1024 if dim == 1 else 256
    edges, widths = [], []
    for column, axis in zip(draws.T, axes, strict=True):
        spread = min(column.std(), np.subtract(*np.quantile(column, [0.75, 0.25])) / 1.349)
        widths.append(width * max(spread, 1e-12) * (n * (dim + 2) / 4) ** (-1 / (dim + 4)))
        edges.append(
            np.linspace(
                min(axis[0], column.min()) - 4 * widths[-1],
                max(axis[-1], column.max()) + 4 * widths[-1],
                cells + 1,
            )
        )
    counts, _ = np.histogramdd(draws, edges, density=True)
    cell = [edge[1] - edge[0] for edge in edges]
    density = gaussian_filter(counts, [w / c for w, c in zip(widths, cell, strict=True)])
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    if y is None:
        return np.interp(x, middles[0], density)
    from scipy.interpolate import RegularGridInterpolator

    grid = np.stack(np.meshgrid(x, y), -1)
    read = RegularGridInterpolator(middles, density, bounds_error=False, fill_value=0.0)
    return read(grid)


def gaussian_plane(mean, covariance, pair, x, y) -> np.ndarray:
    """Density (len(y), len(x)) of two coordinates of a Gaussian."""
    block = np.ix_(pair, pair)
    law = multivariate_normal(mean[list(pair)], covariance[block])
    return law.pdf(np.stack(np.meshgrid(x, y), -1))


# ---------------------------------------------------------------------- the reference


def reference_marginal(reference, t: float, i: int, x: np.ndarray) -> np.ndarray:
    """Density (n,) of coordinate i of a reference at x (n,).

    ``reference`` is a problem of :mod:`skfokker.problems`, a finite-volume solution, anything
    with ``moments(t)`` (a Gaussian) or ``sample(n, t)``, or a function ``(x, t) -> density``.
    """
    reference = _grid_of(reference)
    if isinstance(reference, FiniteVolumeSolution2D):
        return np.interp(x, reference.axes[i], reference.marginal(i, t), left=0.0, right=0.0)
    if hasattr(reference, "marginal"):
        return reference.marginal(i).density(x, t)
    if _knows_moments(reference):
        mean, covariance = reference.moments(t)
        return norm.pdf(x, mean[i], np.sqrt(covariance[i, i]))
    if hasattr(reference, "density"):
        return reference.density(x, t)
    if hasattr(reference, "sample"):
        return smooth(reference.sample(20_000, t)[:, [i]], x, width=1.0)
    return reference(x, t)


def reference_plane(reference, t: float, pair, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Density (len(y), len(x)) of two coordinates; ``reference`` as above.

    A function is called with points (n, 2).
    """
    grid = np.stack(np.meshgrid(x, y), -1)
    points = grid.reshape(-1, 2)
    reference = _grid_of(reference)
    if isinstance(reference, FiniteVolumeSolution2D):
        return reference.density(points[:, list(np.argsort(pair))], t).reshape(grid.shape[:2])
    if hasattr(reference, "marginal"):
        first, second = (reference.marginal(i) for i in pair)
        return np.outer(second.density(y, t), first.density(x, t))
    if _knows_moments(reference):
        mean, covariance = reference.moments(t)
        return gaussian_plane(mean, covariance, pair, x, y)
    if hasattr(reference, "sample"):
        return smooth(reference.sample(20_000, t)[:, list(pair)], x, y, width=1.0)
    return np.asarray(reference(points, t)).reshape(grid.shape[:2])


def _grid_of(reference):
    return reference.solution if isinstance(reference, PlanarProblem) else reference


def _knows_moments(reference) -> bool:
    """Whether the reference is the Gaussian of its moments."""
    if isinstance(reference, ProductProblem):
        return False
    return hasattr(reference, "moments") and getattr(reference, "has_density", True)
