"""The competitors: how each one turns a problem into a law that can be asked for densities."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import gaussian_kde

from .. import metrics
from ..certificate import Certificate
from ..estimator import ParametricFokkerPlanck
from ..flows.planar import PlanarFlow
from ..problems import Problem
from ..reference import gaussian_log_density
from ..schemes.adam_nested import AdamNested
from .references import References


class Law:
    """The law at the compared times.

    Attributes
    ----------
    n_points : int
        Points that averages are taken over.
    certificate : Certificate or None
        Bound on its own error.
    solution : FiniteVolumeSolution or None
        Where the law is one on a grid.
    info : dict
        What else is worth knowing: steps, parameters, particles.
    """

    n_points = 20_000
    certificate: Certificate | None = None
    solution = None

    def __init__(self):
        self.info: dict = {}

    def log_density(self, x: np.ndarray, t: float) -> np.ndarray:
        """Log density (n,) at x (n, d)."""
        raise NotImplementedError

    def points(self, t: float) -> np.ndarray:
        """``n_points`` samples (n, d)."""
        raise NotImplementedError

    def gaussian(self, t: float):
        """Mean and covariance, where the law is Gaussian."""
        return None

    def marginals(self, t: float):
        """Points (n, d), log densities of the marginals (n, d), weights (n,); for products."""
        return None


class FitLaw(Law):
    """A fitted ``ParametricFokkerPlanck``."""

    n_points = 2**14

    def __init__(self, fit: ParametricFokkerPlanck):
        super().__init__()
        self.fit, self.certificate = fit, fit.certificate_
        self.info = {"steps": len(fit.times_) - 1, "parameters": fit.thetas_.shape[1]}

    def log_density(self, x, t):
        return self.fit.log_density(x, t)

    def points(self, t):
        """Images of scrambled Sobol points: means over them are better than over draws."""
        z = metrics.sobol_normal(self.n_points, self.fit.n_features_in_, 1).numpy()
        return self.fit.inverse_transform(z, t)

    def gaussian(self, t):
        return metrics.moments(self.fit, t) if self.fit.flow_.affine else None

    def marginals(self, t):
        separable = self.fit.flow_.separable
        return metrics.marginals(self.fit, t) if separable else None


class GaussianLaw(Law):
    """Moments of particles."""

    def __init__(self, particles: dict[float, np.ndarray]):
        super().__init__()
        self.info = {"particles": len(next(iter(particles.values())))}
        self.at = {t: (x.mean(0), np.atleast_2d(np.cov(x.T))) for t, x in particles.items()}

    def log_density(self, x, t):
        return gaussian_log_density(x, *self.at[t])

    def points(self, t):
        mean, covariance = self.at[t]
        noise = np.random.default_rng(0).standard_normal((self.n_points, len(mean)))
        return mean + noise @ np.linalg.cholesky(covariance).T

    def gaussian(self, t):
        return self.at[t]


class KernelLaw(Law):
    """Kernel density estimate on particles; costs (points x particles) an evaluation."""

    n_points = 1000

    def __init__(self, particles: dict[float, np.ndarray]):
        super().__init__()
        self.info = {"particles": len(next(iter(particles.values())))}
        self.at = {t: gaussian_kde(x.T) for t, x in particles.items()}

    def log_density(self, x, t):
        return self.at[t].logpdf(x.T)

    def points(self, t):
        return self.at[t].resample(self.n_points, seed=0).T


class GridLaw(Law):
    """A finite-volume solution."""

    n_points = 20_000

    def __init__(self, solution):
        super().__init__()
        self.solution = solution

    def log_density(self, x, t):
        return self.solution.log_density(x, t).reshape(len(x))


@dataclass
class Bench:
    """What the methods share in a run.

    Attributes
    ----------
    references : References
    seed : int
        Of fits and simulations.
    n_particles : int
        Particles of the baselines.
    sde_steps : int
        Euler-Maruyama steps of the baselines (fewer where the problem says fewer suffice).
    training_steps : int
        Adam steps that a flow fitted to particles gets at least, whatever its budget.
    time_limit : float or None
        Seconds a method may take.
    our_seconds : float
        Time of the default fit on the problem at hand.
    clock : callable
        What time is measured by: ``time.perf_counter``, or ``time.process_time`` on a machine that
        does other things as well.
    """

    references: References
    seed: int = 0
    n_particles: int = 50_000
    sde_steps: int = 500
    training_steps: int = 200
    time_limit: float | None = None
    our_seconds: float = 60.0
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self):
        self._simulated: tuple = (None, None, 0.0)

    def coarse(self, problem: Problem) -> Problem:
        """The problem with the baselines' time steps: few, and of Euler-Maruyama."""
        steps = min(problem.langevin_steps, self.sde_steps)
        return replace(problem, langevin_steps=steps, weak_order=1)

    def simulate(self, problem: Problem, times) -> tuple[dict[float, np.ndarray], float]:
        """Particles by time, and the seconds they took if that was earlier."""
        if self._simulated[0] != (problem.name, tuple(times)):
            start = self.clock()
            x = self.coarse(problem).particles(self.n_particles, list(times), seed=self.seed)
            seconds = self.clock() - start
            particles = dict(zip(times, x, strict=True))
            self._simulated = (problem.name, tuple(times)), particles, seconds
            return particles, 0.0
        return self._simulated[1:]


@dataclass(frozen=True)
class Method:
    """A competitor.

    Attributes
    ----------
    key, title : str
        As in ``--methods``, and in the tables.
    solve : callable
        (problem, times, bench) -> law, and seconds of work that was shared with another method.
    applies : callable
        Whether the method can do a problem.
    has_budget : bool
        Whether it stops by itself when a share of our wall time is spent; no limit applies then.
    """

    key: str
    title: str
    solve: Callable[[Problem, tuple[float, ...], Bench], tuple[Law, float]]
    applies: Callable[[Problem], bool] = lambda problem: True
    has_budget: bool = False


def fit_ours(problem: Problem, seed: int = 0, **parameters) -> ParametricFokkerPlanck:
    """The default fit of a problem; ``parameters`` go to the constructor."""
    model = ParametricFokkerPlanck(
        beta=problem.beta, initial=problem.initial, random_state=seed, **parameters
    )
    return model.fit(problem.potential, t_final=problem.t_final)


def _ours(problem, times, bench):
    return FitLaw(fit_ours(problem, bench.seed)), 0.0


def _adam(problem, times, bench):
    return FitLaw(fit_ours(problem, bench.seed, flow=PlanarFlow(60), scheme=AdamNested())), 0.0


def _gaussian(problem, times, bench):
    particles, earlier = bench.simulate(problem, times)
    return GaussianLaw(particles), earlier


def _kde(problem, times, bench):
    particles, earlier = bench.simulate(problem, times)
    return KernelLaw(particles), earlier


def _nsf(share):
    def solve(problem, times, bench):
        from .nsf import train  # zuko is optional

        budget = share * bench.our_seconds
        law = train(
            bench.coarse(problem),
            times,
            budget,
            bench.n_particles,
            bench.seed,
            bench.training_steps,
            bench.clock,
        )
        return law, 0.0

    return solve


def _grid(problem, times, bench):
    earlier = bench.references.grid_seconds.get(problem.name, 0.0)
    return GridLaw(bench.references.grid(problem)), earlier


#: Every method, by key, in the order they run: the budgets of some are our wall time.
METHODS = {
    method.key: method
    for method in (
        Method("ours", "skfokker", _ours),
        Method("adam", "Algorithm 1 (AdamNested)", _adam, lambda problem: problem.d <= 2),
        Method("grid", "finite volumes", _grid, lambda problem: problem.d <= 2),
        Method("kde", "Langevin + KDE", _kde),
        Method("gaussian", "Langevin + Gaussian moments", _gaussian),
        Method("nsf", "Langevin + NSF(x | t), our time", _nsf(1), has_budget=True),
        Method("nsf3", "Langevin + NSF(x | t), 3 x our time", _nsf(3), has_budget=True),
    )
}
