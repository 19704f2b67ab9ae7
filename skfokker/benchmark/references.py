"""What the fits are compared with, computed once a run: particles, grids, mode weights."""

from __future__ import annotations

import time

import numpy as np
from scipy.special import rel_entr

from ..problems import GaussianProblem, PlanarProblem, Problem
from ..reference import finite_volumes, finite_volumes_2d

_SEED = 20_000  # of reference particles: no method simulates with it


class References:
    """Cache of reference solutions.

    Parameters
    ----------
    n_particles : int
        Langevin particles that negative log-likelihoods are means over.

    Attributes
    ----------
    grid_seconds : dict
        Wall time of every grid solution, by problem.
    """

    def __init__(self, n_particles: int = 20_000):
        self.n_particles = n_particles
        self._particles: dict = {}
        self._grids: dict = {}
        self.grid_seconds: dict[str, float] = {}

    def particles(self, problem: Problem, t: float) -> np.ndarray:
        """Langevin particles (n, d) of rho_t, made with the problem's converged step."""
        if problem.name not in self._particles:
            times = sorted({*problem.times, problem.t_final})
            x = problem.particles(self.n_particles, times, seed=_SEED)
            self._particles = {problem.name: dict(zip(times, x, strict=True))}
        at = self._particles[problem.name]
        if t not in at:
            at[t] = problem.particles(self.n_particles, t, seed=_SEED)
        return at[t]

    def grid(self, problem: Problem):
        """Converged finite volumes, for d of at most 2."""
        if problem.name not in self._grids:
            if problem.d > 2:
                raise ValueError(f"finite volumes need d <= 2, {problem.name} has d = {problem.d}")
            start = time.perf_counter()
            self._grids[problem.name] = _solved(problem)
            self.grid_seconds[problem.name] = time.perf_counter() - start
        return self._grids[problem.name]

    def mode_floor(self, problem: Problem, t: float) -> float:
        """A lower bound on symKL(rho_t, equilibrium) of a Gaussian mixture of round components.

        The weights of the cells of nearest centres, under particles of rho_t and under samples of
        the equilibrium: merging points can only lower a KL divergence. A solver that is exact
        cannot be closer to the equilibrium than this. Biased upwards by about (modes - 1) / n.
        """
        centres = np.asarray(problem.potential.means)

        def weights(x):
            distance = ((x[:, None, :] - centres) ** 2).sum(2)
            return (np.bincount(distance.argmin(1), minlength=len(centres)) + 0.5) / (
                len(x) + 0.5 * len(centres)
            )

        now = weights(self.particles(problem, t))
        limit = weights(problem.potential.sample(10 * self.n_particles, _SEED).numpy())
        return float(rel_entr(now, limit).sum() + rel_entr(limit, now).sum())

    def has_truth(self, problem: Problem) -> bool:
        """Whether the density of rho_t is known, exact or converged."""
        return problem.has_density or problem.d <= 2

    def is_grid(self, problem: Problem) -> bool:
        """Whether finite volumes for the whole problem are what is known of it."""
        if problem.d == 2:
            return isinstance(problem, PlanarProblem) or not problem.has_density
        return problem.d == 1 and not isinstance(problem, GaussianProblem)


def _solved(problem):
    if isinstance(problem, PlanarProblem):
        return problem.solution
    solve = finite_volumes if problem.d == 1 else finite_volumes_2d
    mean, covariance = problem.initial_mean, problem.initial_covariance
    if problem.d == 1:
        mean, covariance = mean[0], covariance[0, 0]
    return solve(problem.potential, problem.t_final, beta=problem.beta, initial=(mean, covariance))
