"""Converged finite-volume solutions in one dimension, density and log density at any (x, t)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.linalg.lapack import dgttrf, dgttrs

from .fields import Fields, read
from .refinement import hermite, nodal_values, on_grid, refine, starting_law


def bernoulli(u: np.ndarray) -> np.ndarray:
    """u / (e^u - 1), without overflow or cancellation."""
    small = np.abs(u) < 1e-8
    safe = np.clip(np.where(small, 1.0, u), -700, 700)
    return np.where(small, 1 - u / 2, safe / np.expm1(safe))


def face_weights(drift: np.ndarray, diffusion: np.ndarray, h: float) -> tuple:
    """Weights (w, v) of the flux w p_i - v p_{i+1} of c p - D p' through faces between nodes.

    Exponential (D. L. Scharfetter and H. K. Gummel, IEEE Trans. Electron Devices 16 (1969)) where
    D > 0: exact for a constant flux. Where D vanishes anywhere the equation carries more than it
    smooths, and there the upwind differences that exponentials turn into are of first order only:
    central ones then.

    Parameters
    ----------
    drift, diffusion : ndarray
        c and D at the faces.
    h : float
        Distance of the nodes.
    """
    if diffusion.min() <= 0:
        return drift / 2 + diffusion / h, diffusion / h - drift / 2
    jump = drift * h / diffusion
    return diffusion / h * bernoulli(-jump), diffusion / h * bernoulli(jump)


class Tridiagonal:
    """Minus the differences of fluxes w p_i - v p_{i+1} on equidistant nodes; none at the ends.

    Conserves sum_i h_i p_i, h_i being the trapezoidal weights.

    Parameters
    ----------
    right, left : ndarray (n - 1,)
        w and v.
    h : float
        Distance of the nodes.
    positive : bool
        Whether w and v are.
    """

    def __init__(self, right: np.ndarray, left: np.ndarray, h: float, positive: bool = True):
        self.weights = np.full(len(right) + 1, h)
        self.weights[[0, -1]] /= 2
        self._right, self._left, self.positive = right, left, positive
        out = np.zeros(len(self.weights))
        out[:-1] += right
        out[1:] += left
        self._diagonal = -out / self.weights

    def at(self, t: float) -> Tridiagonal:
        return self

    def apply(self, p: np.ndarray) -> np.ndarray:
        flux = self._right * p[:-1] - self._left * p[1:]
        return np.diff(-flux, prepend=0.0, append=0.0) / self.weights

    def solver(self, a: float):
        *factors, info = dgttrf(
            -a * self._right / self.weights[1:],
            1 - a * self._diagonal,
            -a * self._left / self.weights[:-1],
        )
        if info:
            raise np.linalg.LinAlgError("singular finite-volume matrix")
        return lambda b: dgttrs(*factors, b)[0]

    def relative_norm(self, error: np.ndarray, p: np.ndarray) -> float:
        floor = 1e-14 * p.max()
        return math.sqrt(float((self.weights * error**2 / np.maximum(p, floor)).sum()))


def scharfetter_gummel(values: np.ndarray, h: float, beta: float) -> Tridiagonal:
    """div(p grad V) + beta Laplacian p on equidistant nodes, from V there; no flux at the ends.

    It has e^{-V / beta} as its exact equilibrium, no negative entry off the diagonal, and an error
    that expands in even powers of h.
    """
    slope = np.diff(values) / h
    right, left = face_weights(-slope, np.full_like(slope, beta), h)
    return Tridiagonal(right, left, h)


def general_operator(fields: Fields, grid: np.ndarray, t: float) -> Tridiagonal:
    """-(b p)' + (D p)'' on equidistant nodes: the flux b p - (D p)' = (b - D') p - D p'.

    The error expands in even powers of h.
    """
    h = grid[1] - grid[0]
    faces = (grid[1:] + grid[:-1])[:, None] / 2
    slope = np.diff(fields.diffusion_at(grid[:, None], t)[:, 0, 0]) / h
    diffusion = fields.diffusion_at(faces, t)[:, 0, 0]
    drift = fields.drift_at(faces, t)[:, 0] - slope
    right, left = face_weights(drift, diffusion, h)
    return Tridiagonal(right, left, h, bool(diffusion.min() > 0))


class FiniteVolumeSolution:
    """rho_t on an interval for all t in [0, t_end].

    Between nodes log rho is a cubic spline in x, between steps a cubic Hermite polynomial in t.
    Beyond the nodes that hold all but 1e-15 of the mass log rho goes on as a falling straight line.

    Attributes
    ----------
    times : ndarray (k + 1,)
        Steps.
    grid : ndarray (n,)
        Nodes, equidistant.
    log_density_ : ndarray (k + 1, n)
        log rho at steps and nodes.
    error : float
        Estimated root of E_rho[(error of log rho)^2], the largest over the steps; half its
        square is the KL divergence between this solution and the true one.
    mass_error : float
        Largest deviation from mass 1 of the march, before extrapolation.
    """

    def __init__(self, times, axes, log_density, slope, error, mass_error):
        self.times, (self.grid,) = times, axes
        self.log_density_, self._slope = log_density, slope
        self.error, self.mass_error = error, mass_error
        self._weights = np.gradient(self.grid)
        self._weights[[0, -1]] /= 2
        self._spline: tuple = (None, None)

    def _nodes(self, t: float) -> np.ndarray:
        """log rho_t at the nodes, normalised."""
        values = hermite(self.times, self.log_density_, self._slope, t)
        return values - np.log((self._weights * np.exp(values)).sum())

    def _at(self, t: float) -> tuple[CubicSpline, float, float]:
        if self._spline[0] != float(t):
            values = self._nodes(t)
            mass = self._weights * np.exp(values)
            low = _edge(values, mass)
            high = len(mass) - 1 - _edge(values[::-1], mass[::-1])
            part = slice(max(low - 2, 0), high + 3)
            spline = CubicSpline(self.grid[part], values[part])
            self._spline = (float(t), (spline, self.grid[low], self.grid[high]))
        return self._spline[1]

    def log_density(self, x: ArrayLike, t: float) -> np.ndarray:
        """Log rho_t at x, an array of any shape (or (n, 1) points), in its shape."""
        spline, low, high = self._at(t)
        x = np.asarray(x, dtype=float)
        edge = np.clip(x, low, high)
        value = spline(edge)
        if (x != edge).any():
            slowest = 1 / (high - low)
            rise, fall = max(spline(low, 1), slowest), min(spline(high, 1), -slowest)
            value = value + np.where(x < edge, rise * (x - edge), fall * (x - edge))
        return value

    def density(self, x: ArrayLike, t: float) -> np.ndarray:
        """rho_t at x, in the shape of x."""
        return np.exp(self.log_density(x, t))

    def expectation(self, function: Callable[[np.ndarray], np.ndarray], t: float) -> float:
        """E[function(X)], X ~ rho_t, by the trapezoidal rule on the nodes.

        ``function`` maps an array (n,) to an array (n,).
        """
        mass = self._weights * np.exp(self._nodes(t))
        values = np.broadcast_to(function(self.grid), mass.shape)
        return float((mass * np.where(mass > 1e-25, values, 0.0)).sum())

    def mean(self, t: float) -> float:
        """E[X] at time t."""
        return self.expectation(lambda x: x, t)

    def variance(self, t: float) -> float:
        """Variance of X at time t."""
        mean = self.mean(t)
        return self.expectation(lambda x: (x - mean) ** 2, t)

    def entropy(self, t: float) -> float:
        """E[-log rho_t], in nats."""
        return -self.expectation(lambda x: self._nodes(t), t)

    def _distribution(self, t: float) -> Callable[[np.ndarray], np.ndarray]:
        """Distribution function of rho_t, on the grid's interval."""
        total = CubicSpline(self.grid, np.exp(self._nodes(t))).antiderivative()
        low, high = self.grid[[0, -1]]
        return lambda x: np.clip(total(np.clip(x, low, high)) / total(high), 0.0, 1.0)

    def cdf(self, x: ArrayLike, t: float) -> np.ndarray:
        """P(X <= x) at time t, in the shape of x."""
        return self._distribution(t)(np.asarray(x, dtype=float))

    def quantile(self, q: ArrayLike, t: float) -> np.ndarray:
        """x with P(X <= x) = q, in the shape of q (which lies in [0, 1])."""
        q = np.asarray(q, dtype=float)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"q must lie in [0, 1], got values from {q.min():g} to {q.max():g}")
        cdf, cell = self._distribution(t), self.grid[1] - self.grid[0]
        values, first = np.unique(np.maximum.accumulate(cdf(self.grid)), return_index=True)
        x = np.interp(q, values, self.grid[first])
        for _ in range(3):  # Newton, kept close to the first guess
            step = (cdf(x) - q) / np.maximum(self.density(x, t), 1e-12)
            x = x - np.clip(step, -cell, cell)
        return x

    def sample(self, n_samples: int, t: float, seed: int = 0) -> np.ndarray:
        """Samples (n_samples, 1) of rho_t."""
        return self.quantile(np.random.default_rng(seed).random(n_samples), t)[:, None]


def _edge(values: np.ndarray, mass: np.ndarray) -> int:
    """First node, from the left, with digits: past 1e-15 of the mass, and past any gap.

    Where the potential is very steep the march may leave specks of mass that should long have
    gone; a gap lies between them and the bulk.
    """
    before = np.cumsum(mass)
    poor = (before < 1e-15) | ((values < values.max() - 42) & (before < 1e-10))
    return int(np.flatnonzero(poor)[-1]) + 1 if poor.any() else 0


def finite_volumes(
    potential,
    t_end: float,
    *,
    beta: float = 1.0,
    initial=None,
    domain: tuple[float, float] | None = None,
    tol: float = 1e-5,
    n_nodes: int = 256,
    max_nodes: int = 2**15,
) -> FiniteVolumeSolution:
    """Solve the 1-D Fokker-Planck equation until refining changes nothing.

    Scharfetter-Gummel fluxes in space (central ones where D vanishes somewhere), TR-BDF2 in time
    with adaptive steps; then both steps are halved, the results extrapolated (Richardson), until
    two extrapolations agree to ``tol``.

    Parameters
    ----------
    potential : Potential, callable or Equation
        V, mapping a torch tensor (n, 1) to (n,), or V(x, t), or an equation with any drift and
        diffusion; finite on the domain.
    t_end : float
        Horizon.
    beta : float
        Diffusion coefficient, where an equation does not say it.
    initial : None, (mean, variance) or callable
        rho_0: None is N(0, 1); a callable is its log density, from an array (n,) to (n,).
    domain : (float, float), optional
        Interval; by default it grows until it holds the mass at all times.
    tol : float
        Wanted ``error`` (see :class:`FiniteVolumeSolution`).
    n_nodes, max_nodes : int
        Intervals of the first grid, and where to give up.

    Returns
    -------
    FiniteVolumeSolution

    Raises
    ------
    ValueError
        Where the potential or a field is not finite on the domain, the domain would have to be
        huge, or the drift depends on the law.

    Warns
    -----
    ConvergenceWarning
        Where ``max_nodes`` does not reach ``tol``.
    """
    given, beta = read(potential, 1, beta, t_end)
    log_initial, guess = starting_law(initial, 1)

    def discretize(box, n):
        grid = np.linspace(*box[0], n + 1)
        if isinstance(given, Fields):
            operator = on_grid(given, lambda t: general_operator(given, grid, t))
        else:
            values = nodal_values(given, grid[:, None])
            operator = scharfetter_gummel(values, grid[1] - grid[0], beta)
        return (grid,), operator, log_initial(grid[:, None])

    box = guess if domain is None else np.array(domain, dtype=float).reshape(1, 2)
    solved = refine(discretize, box, domain is None, t_end, tol, n_nodes, max_nodes)
    return FiniteVolumeSolution(*solved)
