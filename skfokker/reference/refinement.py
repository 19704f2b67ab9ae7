"""What the finite-volume solvers share: boxes that grow, grids that halve, extrapolation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ..potentials import Potential
from .fields import Fields
from .ornstein_uhlenbeck import gaussian_log_density
from .tr_bdf2 import Operator, Unsteady, adaptive, replay

_FLOOR = 1e-26  # of the largest density; what is below is rounding, or even negative


def starting_law(initial, d: int) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Log density of rho_0, and a first box (d, 2) that holds its mass.

    ``initial`` is None (N(0, I)), (mean, covariance or variances), or the log density itself.
    """
    reach = 10.0 if d == 1 else 7.5  # standard deviations
    if callable(initial):
        return (
            lambda x: np.asarray(initial(x if d > 1 else x[:, 0]), dtype=float),
            np.tile([-reach, reach], (d, 1)),
        )
    mean, covariance = (np.zeros(d), np.eye(d)) if initial is None else initial
    mean = np.broadcast_to(np.asarray(mean, dtype=float), (d,))
    covariance = np.asarray(covariance, dtype=float)
    if covariance.ndim < 2:
        covariance = covariance * np.eye(d)
    width = reach * np.sqrt(np.diag(covariance))
    return (
        lambda x: gaussian_log_density(x, mean, covariance),
        np.stack([mean - width, mean + width], 1),
    )


def nodal_values(potential: Potential, points: np.ndarray) -> np.ndarray:
    """V (n,) at points (n, d); a ValueError where it is not finite."""
    with torch.no_grad():
        values = potential(torch.from_numpy(points)).numpy()
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"the potential is {values[bad][0]} at x = {points[bad][0].tolist()}; pass a domain "
            f"on which it is finite"
        )
    return values


def on_grid(fields: Fields, build: Callable[[float], Operator]):
    """The operator of an equation, ``build(t)`` being the one at time t.

    Raises
    ------
    ValueError
        Where particles interact.
    """
    if fields.interaction is not None:
        raise ValueError(
            "finite volumes solve equations that are linear in the law; with an interaction take "
            "reference.langevin"
        )
    return build(0.0) if fields.steady else Unsteady(build)


def hermite(times: np.ndarray, values: np.ndarray, slopes: np.ndarray, t: float) -> np.ndarray:
    """Cubic Hermite interpolation in time of values (k + 1, ...) with their slopes."""
    if not times[0] <= t <= times[-1] * (1 + 1e-12):
        raise ValueError(f"t must lie in [{times[0]:g}, {times[-1]:g}], got {t!r}")
    k = int(np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2))
    h = times[k + 1] - times[k]
    s = (t - times[k]) / h
    if s <= 0:
        return values[k]
    if s >= 1:
        return values[k + 1]
    change = 3 * (values[k + 1] - values[k])  # the limits bind where rho is rounding noise only
    low, high = np.minimum(change, 0) - 0.5, np.maximum(change, 0) + 0.5
    first, last = (np.clip(h * slopes[j], low, high) for j in (k, k + 1))
    return (
        (1 + 2 * s) * (1 - s) ** 2 * values[k]
        + s * (1 - s) ** 2 * first
        + s**2 * (3 - 2 * s) * values[k + 1]
        - s**2 * (1 - s) * last
    )


class _Level:
    """States on one grid at the shared times, as log densities and their slopes in time."""

    def __init__(self, operator, times: np.ndarray, states: list[np.ndarray]):
        self.weights = operator.weights
        density = np.stack(states)
        axes = tuple(range(1, density.ndim))
        floor = _FLOOR * density.max(axes, keepdims=True)
        if not operator.at(times[0]).positive:  # what is below the ripples says nothing
            floor = np.maximum(floor, -density.min(axes, keepdims=True))
        kept = np.maximum(density, floor)
        slope = np.stack([operator.at(t).apply(p) for t, p in zip(times, states, strict=True)])
        self.value = np.log(kept)
        self.slope = np.where(density > floor, slope / kept, 0.0)
        self.mass_error = float(np.abs((density * self.weights).sum(axes) - 1).max())


def _thin(values: np.ndarray) -> np.ndarray:
    """Every second node, on all axes but the first (time)."""
    return values[(slice(None),) + (slice(None, None, 2),) * (values.ndim - 1)]


def _extrapolate(coarse: _Level, fine: _Level) -> tuple[np.ndarray, np.ndarray]:
    """Richardson extrapolation of log rho and its slope to the times and nodes of ``coarse``.

    Both steps are halved from coarse to fine, so the error falls to fourth order. Where the two
    have no digit in common (far tails, walls) the fine one is taken.
    """
    every = 1 if len(fine.value) == len(coarse.value) else 2
    value, slope = _thin(fine.value[::every]), _thin(fine.slope[::every])
    smooth = np.abs(value - coarse.value) < 0.5
    slope = slope + np.where(smooth, (slope - coarse.slope) / 3, 0.0)
    value = value + np.where(smooth, (value - coarse.value) / 3, 0.0)
    axes = tuple(range(1, value.ndim))
    mass = (np.exp(value) * coarse.weights).sum(axes, keepdims=True)
    return value - np.log(mass), slope


def _interpolation_error(times, value, slope, weights) -> float:
    """Error of Hermite interpolation between the times, measured at every second one."""
    guess = np.stack([hermite(times[::2], value[::2], slope[::2], t) for t in times[1::2]])
    return _disagreement(guess, value[1::2], weights) / 8  # 1/16 at half the steps; a margin


def _disagreement(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Largest over time of the root of E[(difference of log densities)^2]."""
    mass = np.exp(second) * weights
    square = np.where(mass > 1e-20, mass * (first - second) ** 2, 0.0)
    return math.sqrt(float(square.sum(tuple(range(1, square.ndim))).max()))


def _start(operator, log_density: np.ndarray) -> np.ndarray:
    density = np.exp(log_density).reshape(operator.weights.shape)
    return density / (operator.weights * density).sum()


def _grow(discretize, box: np.ndarray, t_end: float, n: int) -> np.ndarray:
    """Widen the box (d, 2) wherever its edge ever holds mass."""
    for _ in range(60):
        _, operator, log_initial = discretize(box, n)
        _, states = adaptive(operator, _start(operator, log_initial), t_end, 1e-3)
        masses = np.stack(states) * operator.weights
        largest = masses.max(0)
        d = largest.ndim
        speck = max(1e-18 if d == 1 else 1e-12, -10 * masses.min())  # ripples are no mass
        full = np.zeros((d, 2), dtype=bool)
        for axis in range(d):
            profile = largest.sum(tuple(k for k in range(d) if k != axis))
            full[axis] = profile[:2].max() > speck, profile[-2:].max() > speck
        if not full.any():
            return box
        box = box + np.array([-0.3, 0.3]) * full * np.diff(box)
    raise ValueError(
        f"the mass leaves the box {box.tolist()} by t = {t_end:g}; nothing confines it, pass a "
        f"domain"
    )


def refine(
    discretize: Callable,
    box: np.ndarray,
    grow: bool,
    t_end: float,
    tol: float,
    n: int,
    max_n: int,
) -> tuple:
    """Solve on ever finer grids until two extrapolations agree to ``tol``.

    ``discretize(box, n)`` returns the axes, the operator and log rho_0 at the nodes of a grid
    of n intervals a side.

    Returns
    -------
    times (k + 1,), axes, log density (k + 1, ...), its slope in time, error, mass error
    """
    if not t_end > 0:
        raise ValueError(f"t_end must be positive, got {t_end!r}")
    if grow:
        box = _grow(discretize, box, t_end, n)

    # the grid to start from: one that knows the solution to a percent at the steps in time
    axes, operator, log_initial = discretize(box, n)
    times, states = adaptive(operator, _start(operator, log_initial), t_end, 30 * tol)
    coarse = _Level(operator, times, states)
    while True:
        finer_axes, operator, log_initial = discretize(box, 2 * n)
        start = _start(operator, log_initial)
        fine = _Level(operator, times, replay(operator, start, times, 1))
        if 8 * n > max_n or _disagreement(_thin(fine.value), coarse.value, coarse.weights) < 0.02:
            break
        times, states = adaptive(operator, start, t_end, 30 * tol)
        n, axes, coarse = 2 * n, finer_axes, _Level(operator, times, states)

    # halve both steps, and keep the states in the middle of the first steps as well
    dense = np.sort(np.concatenate([times, (times[1:] + times[:-1]) / 2]))
    substeps, previous, mass_error = 1, None, coarse.mass_error
    while True:
        n *= 2
        finer_axes, operator, log_initial = discretize(box, n)
        start = _start(operator, log_initial)
        fine = _Level(operator, dense, replay(operator, start, dense, substeps))
        mass_error = max(mass_error, fine.mass_error)
        value, slope = _extrapolate(coarse, fine)
        if previous is not None:
            every = 1 if len(previous[0]) == len(value) else 2
            error = _disagreement(previous[0], _thin(value[::every]), previous[1]) / 4
            if error <= tol or 2 * n > max_n:
                break
        previous = value, coarse.weights
        axes, coarse, substeps = finer_axes, fine, 2 * substeps
    error = max(error, _interpolation_error(dense, value, slope, coarse.weights))
    if error > tol:
        warnings.warn(
            f"the finite volumes stopped at {n} intervals with error {error:.1e}, not the tol = "
            f"{tol:.1e} asked for; try a larger max_nodes",
            ConvergenceWarning,
            stacklevel=3,
        )
    return dense, axes, value, slope, error, mass_error
