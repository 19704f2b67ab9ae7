"""Converged finite-volume solutions in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from scipy.interpolate import RectBivariateSpline
from scipy.sparse.linalg import splu

from .fields import Fields, read
from .finite_volumes import face_weights
from .refinement import hermite, nodal_values, on_grid, refine, starting_law


class Lattice:
    """Nodes of a rectangle and the faces between neighbours.

    Parameters
    ----------
    axes : tuple of two ndarrays
        Nodes along either axis, equidistant.
    """

    def __init__(self, axes):
        self.axes, self.shape = axes, tuple(map(len, axes))
        self.spacing = tuple(axis[1] - axis[0] for axis in axes)
        self._sides = []
        for n, h in zip(self.shape, self.spacing, strict=True):
            side = np.full(n, h)
            side[[0, -1]] /= 2
            self._sides.append(side)
        self.weights = np.outer(*self._sides)
        self.nodes = np.arange(self.weights.size).reshape(self.shape)

    @property
    def points(self) -> np.ndarray:
        """The nodes (n, 2)."""
        return np.stack(np.meshgrid(*self.axes, indexing="ij"), -1).reshape(-1, 2)

    def faces(self, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes before and behind every face across an axis, and lengths of the faces."""
        before, behind = np.delete(self.nodes, -1, axis), np.delete(self.nodes, 0, axis)
        lengths = np.broadcast_to(np.expand_dims(self._sides[1 - axis], axis), before.shape)
        return before.ravel(), behind.ravel(), lengths.ravel()

    def shifted(self, axis: int, by: int) -> np.ndarray:
        """The neighbour of every node along an axis; the node itself at the side."""
        n = self.shape[axis]
        return np.take(self.nodes, np.clip(np.arange(n) + by, 0, n - 1), axis).ravel()


class FluxOperator:
    """Minus the divergence of fluxes through the faces of a rectangle; none through its sides.

    Conserves sum_i w_i p_i, w_i being the trapezoidal weights.

    Parameters
    ----------
    lattice : Lattice
    fluxes : iterable of (axis, face, node, weight)
        Arrays: the flux through a face is the sum of its weights times p at the nodes.
    positive : bool
        Whether no entry off the diagonal is negative.
    """

    def __init__(self, lattice: Lattice, fluxes, positive: bool = True):
        self.weights, self.positive = lattice.weights, positive
        rows, columns, entries = [], [], []
        for axis, face, node, weight in fluxes:
            before, behind, lengths = lattice.faces(axis)
            out = lengths[face] * weight
            rows += [before[face], behind[face]]
            columns += [node, node]
            entries += [-out, out]
        flow = scipy.sparse.csr_matrix(
            (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))),
            shape=(self.weights.size,) * 2,
        )
        self._matrix = scipy.sparse.diags(1 / self.weights.ravel()) @ flow

    def at(self, t: float) -> FluxOperator:
        return self

    def apply(self, p: np.ndarray) -> np.ndarray:
        return (self._matrix @ p.ravel()).reshape(p.shape)

    def solver(self, a: float):
        matrix = scipy.sparse.identity(self._matrix.shape[0]) - a * self._matrix
        factors = splu(  # an M-matrix, or close to one: no pivoting needed
            matrix.tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        return lambda b: factors.solve(b.ravel()).reshape(b.shape)

    def relative_norm(self, error: np.ndarray, p: np.ndarray) -> float:
        floor = (1e-12 if self.positive else 1e-6) * p.max()
        return math.sqrt(float((self.weights * error**2 / np.maximum(p, floor)).sum()))


def scharfetter_gummel(lattice: Lattice, values: np.ndarray, beta: float) -> FluxOperator:
    """div(p grad V) + beta Laplacian p, from V (n,) at the nodes.

    The flux of :func:`.finite_volumes.scharfetter_gummel` along either axis.
    """
    fluxes = []
    for axis, h in enumerate(lattice.spacing):
        before, behind, _ = lattice.faces(axis)
        face, slope = np.arange(len(before)), (values[behind] - values[before]) / h
        right, left = face_weights(-slope, np.full_like(slope, beta), h)
        fluxes += [(axis, face, before, right), (axis, face, behind, -left)]
    return FluxOperator(lattice, fluxes)


def general_operator(fields: Fields, lattice: Lattice, t: float) -> FluxOperator:
    """-div(b p) + sum_ij d_i d_j (D_ij p) at time t.

    Through a face across axis k goes b_k p - d_k (D_kk p), as in one dimension, and -d_j (D_kj p)
    of the other axis j: the mean of central differences at the two nodes. The error expands in
    even powers of the spacings.
    """
    points = lattice.points
    D = fields.diffusion_at(points, t)
    fluxes, positive = [], True
    for axis, h in enumerate(lattice.spacing):
        before, behind, _ = lattice.faces(axis)
        face, middle = np.arange(len(before)), (points[before] + points[behind]) / 2
        slope = (D[behind, axis, axis] - D[before, axis, axis]) / h
        drift = fields.drift_at(middle, t)[:, axis] - slope
        along = fields.diffusion_at(middle, t)[:, axis, axis]
        right, left = face_weights(drift, along, h)
        fluxes += [(axis, face, before, right), (axis, face, behind, -left)]
        positive &= bool(along.min() > 0)
        across = D[:, axis, 1 - axis]
        if across.any():
            positive = False
            for by in (1, -1):
                neighbour = lattice.shifted(1 - axis, by)
                for end in (before, behind):
                    node = neighbour[end]
                    weight = -by * across[node] / (4 * lattice.spacing[1 - axis])
                    fluxes.append((axis, face, node, weight))
    return FluxOperator(lattice, fluxes, positive)


class FiniteVolumeSolution2D:
    """rho_t on a rectangle for all t in [0, t_end].

    Between nodes log rho is a bicubic spline, between steps a cubic Hermite polynomial in t.
    Points outside the rectangle get the value of the nearest point on its edge.

    Attributes
    ----------
    times : ndarray (k + 1,)
        Steps.
    axes : tuple of two ndarrays
        Nodes along x_1 and x_2, equidistant.
    log_density_ : ndarray (k + 1, n, n)
        log rho at steps and nodes; below 1e-16 of the maximum it is rounding noise.
    error, mass_error : float
        As in :class:`~.finite_volumes.FiniteVolumeSolution`.
    """

    def __init__(self, times, axes, log_density, slope, error, mass_error):
        self.times, self.axes = times, axes
        self.log_density_, self._slope = log_density, slope
        self.error, self.mass_error = error, mass_error
        sides = [np.full(len(axis), axis[1] - axis[0]) for axis in axes]
        for side in sides:
            side[[0, -1]] /= 2
        self._sides = sides
        self._spline: tuple = (None, None)

    def _nodes(self, t: float) -> np.ndarray:
        """log rho_t at the nodes, cut off where it drowns in rounding."""
        values = hermite(self.times, self.log_density_, self._slope, t)
        values = values - np.log((np.exp(values) * np.outer(*self._sides)).sum())
        return np.maximum(values, values.max() - 60)

    def log_density(self, x: ArrayLike, t: float) -> np.ndarray:
        """Log rho_t (n,) at x (n, 2)."""
        if self._spline[0] != float(t):
            self._spline = (float(t), RectBivariateSpline(*self.axes, self._nodes(t)))
        x = np.asarray(x, dtype=float)
        clipped = [np.clip(x[:, k], axis[0], axis[-1]) for k, axis in enumerate(self.axes)]
        return self._spline[1](*clipped, grid=False)

    def density(self, x: ArrayLike, t: float) -> np.ndarray:
        """rho_t (n,) at x (n, 2)."""
        return np.exp(self.log_density(x, t))

    def _mass(self, t: float) -> np.ndarray:
        return np.exp(self._nodes(t)) * np.outer(*self._sides)

    def expectation(self, function: Callable[[np.ndarray], np.ndarray], t: float) -> float:
        """E[function(X)], X ~ rho_t, on the nodes; ``function`` maps (n, 2) to (n,)."""
        points = np.stack(np.meshgrid(*self.axes, indexing="ij"), -1).reshape(-1, 2)
        mass = self._mass(t).ravel()
        kept = mass > 1e-20
        return float((mass[kept] * function(points[kept])).sum())

    def mean(self, t: float) -> np.ndarray:
        """E[X] (2,) at time t."""
        mass = self._mass(t)
        return np.array([mass.sum(1) @ self.axes[0], mass.sum(0) @ self.axes[1]])

    def covariance(self, t: float) -> np.ndarray:
        """Covariance (2, 2) of X at time t."""
        mass = self._mass(t)
        first, second = (axis - m for axis, m in zip(self.axes, self.mean(t), strict=True))
        cross = first @ mass @ second
        return np.array([[mass.sum(1) @ first**2, cross], [cross, mass.sum(0) @ second**2]])

    def marginal(self, axis: int, t: float) -> np.ndarray:
        """Density of coordinate ``axis`` (0 or 1) at the nodes ``axes[axis]``."""
        return self._mass(t).sum(1 - axis) / self._sides[axis]

    def entropy(self, t: float) -> float:
        """E[-log rho_t], in nats."""
        return -float((self._mass(t) * self._nodes(t)).sum())

    def sample(self, n_samples: int, t: float, seed: int = 0) -> np.ndarray:
        """Samples (n_samples, 2) of rho_t, by rejection from a constant on every cell.

        The constant is the largest density at the corners and a fifth more, which bounds the
        spline wherever the grid resolves the law.
        """
        random = np.random.default_rng(seed)
        density = np.exp(self._nodes(t))
        corners = density[:-1, :-1], density[1:, :-1], density[:-1, 1:], density[1:, 1:]
        bound = 1.2 * np.max(corners, axis=0)
        share = np.cumsum(bound.ravel())
        lengths = np.array([axis[1] - axis[0] for axis in self.axes])
        low = np.array([axis[0] for axis in self.axes])
        kept, missing = [], n_samples
        while missing > 0:
            u = random.random((2 * missing + 100, 4))
            cell = np.searchsorted(share, u[:, 0] * share[-1], side="right")
            corner = np.stack(np.unravel_index(cell.clip(max=len(share) - 1), bound.shape), 1)
            x = low + (corner + u[:, 1:3]) * lengths
            accepted = u[:, 3] * bound[tuple(corner.T)] < self.density(x, t)
            kept.append(x[accepted])
            missing -= int(accepted.sum())
        return np.concatenate(kept)[:n_samples]


def finite_volumes_2d(
    potential,
    t_end: float,
    *,
    beta: float = 1.0,
    initial=None,
    domain: ArrayLike | None = None,
    tol: float = 1e-3,
    n_nodes: int | tuple[int, int] = 64,
    max_nodes: int = 512,
) -> FiniteVolumeSolution2D:
    """Solve the 2-D Fokker-Planck equation until refining changes nothing.

    As :func:`~.finite_volumes.finite_volumes`, with sparse LU factors. Takes seconds to a
    minute.

    Parameters
    ----------
    potential : Potential, callable or Equation
        V, mapping a torch tensor (n, 2) to (n,), or V(x, t), or an equation with any drift and
        diffusion, zeros of D included; finite on the domain.
    t_end : float
        Horizon.
    beta : float
        Diffusion coefficient, where an equation does not say it.
    initial : None, (mean, covariance) or callable
        rho_0: None is N(0, I); a callable is its log density, from an array (n, 2) to (n,).
    domain : array-like (2, 2), optional
        ``((low, high), (low, high))``; by default it grows until it holds the mass.
    tol : float
        Wanted ``error``; the KL divergence to the true solution is half its square.
    n_nodes : int or (int, int)
        Intervals of the first grid, along either axis where they differ.
    max_nodes : int
        Where to give up: intervals along the axis that has more.

    Returns
    -------
    FiniteVolumeSolution2D

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
    given, beta = read(potential, 2, beta, t_end)
    log_initial, guess = starting_law(initial, 2)
    first = np.broadcast_to(n_nodes, (2,))
    most = int(first.max())

    def discretize(box, n):
        sizes = n * first // most
        lattice = Lattice(tuple(np.linspace(*s, k + 1) for s, k in zip(box, sizes, strict=True)))
        points = lattice.points
        if isinstance(given, Fields):
            operator = on_grid(given, lambda t: general_operator(given, lattice, t))
        else:
            operator = scharfetter_gummel(lattice, nodal_values(given, points), beta)
        return lattice.axes, operator, log_initial(points)

    box = guess if domain is None else np.array(domain, dtype=float).reshape(2, 2)
    solved = refine(discretize, box, domain is None, t_end, tol, most, max_nodes)
    return FiniteVolumeSolution2D(*solved)
