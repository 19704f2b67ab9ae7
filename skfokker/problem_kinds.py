"""Kinds of problems, by how much of the answer is known."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.distributions import Independent, LogNormal

from .dynamics import Equation
from .potentials import (
    Potential,
)
from .reference import (
    Barenblatt,
    FiniteVolumeSolution,
    FiniteVolumeSolution2D,
    LinearMoments,
    finite_volumes,
    finite_volumes_2d,
    gaussian_log_density,
    langevin,
    ornstein_uhlenbeck,
)


def random_rotation(d: int, name: str) -> np.ndarray:
    """An orthogonal matrix (d, d), uniformly distributed, the same for the same name."""
    random = np.random.RandomState(zlib.crc32(f"{name}@{d}".encode()))
    basis, triangle = np.linalg.qr(random.randn(d, d))
    return basis * np.sign(np.diag(triangle))


#: Factories of problems by name; see :func:`skfokker.problems.load`.
REGISTRY: dict[str, Callable[..., Problem]] = {}


def register(*names: str, **fixed):
    """Decorate a factory ``(name, **parameters)``: it makes the problems of these names."""

    def add(factory):
        for name in names:
            REGISTRY[name] = lambda name=name, **given: factory(name, **{**fixed, **given})
        return factory

    return add


@dataclass(frozen=True, eq=False)
class Problem:
    """A Fokker-Planck problem with a Gaussian start, and what is known of its solution.

    This class knows the solution through particles only; :class:`GaussianProblem`,
    :class:`SeparableProblem`, :class:`PlanarProblem` and :class:`ProductProblem` know its density.

    Attributes
    ----------
    name : str
        As in :func:`load`.
    potential : Potential or Equation
        V, or the whole equation: what ``fit`` is handed.
    beta : float
        Diffusion coefficient, where no equation says it.
    t_final : float
        Horizon.
    times : tuple of float
        Where to compare.
    initial_mean, initial_covariance : ndarray (d,) and (d, d)
        rho_0; N(0, I) where not given.
    langevin_steps : int
        Steps to t_final after which halving them changes nothing that 20,000
        particles show.
    tamed : bool
        Whether the particles need the tamed drift of :func:`~skfokker.reference.langevin`.
    weak_order : int
        1 for Euler-Maruyama steps, 2 for steps of second order: in many dimensions the bias of
        a log-likelihood adds up over coordinates.
    """

    name: str
    potential: Potential | Equation
    beta: float
    t_final: float
    times: tuple[float, ...]
    initial_mean: np.ndarray = None  # type: ignore[assignment]  # of N(0, I)
    initial_covariance: np.ndarray = None  # type: ignore[assignment]
    langevin_steps: int = 1000
    tamed: bool = False
    weak_order: int = 1

    def __post_init__(self):
        if self.initial_mean is None:
            object.__setattr__(self, "initial_mean", np.zeros(self.d))
        if self.initial_covariance is None:
            object.__setattr__(self, "initial_covariance", np.eye(self.d))

    @property
    def d(self) -> int:
        """Dimension."""
        given = self.potential
        return given.dimension() if isinstance(given, Equation) else given.n_features_in_

    @property
    def initial(self) -> Any:
        """rho_0 as ``ParametricFokkerPlanck`` takes it."""
        return self.initial_mean, self.initial_covariance

    @property
    def has_density(self) -> bool:
        """Whether :meth:`moments` and :meth:`log_density` work."""
        return type(self) is not Problem

    def moments(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) of rho_t, exact or converged."""
        raise NotImplementedError(f"{self.name} has no reference density; see sample(n, t)")

    def log_density(self, x: ArrayLike, t: float) -> np.ndarray:
        """Log rho_t (n,) at x (n, d), exact or converged."""
        raise NotImplementedError(f"{self.name} has no reference density; see sample(n, t)")

    def start(self, n: int, seed: int = 0) -> np.ndarray:
        """Samples (n, d) of rho_0."""
        noise = np.random.default_rng(seed).standard_normal((n, self.d))
        return self.initial_mean + noise @ np.linalg.cholesky(self.initial_covariance).T

    def particles(self, n: int, times: ArrayLike, seed: int = 0) -> np.ndarray:
        """Langevin particles (k, n, d) at the times, ascending; (n, d) at a single time."""
        share = np.max(times) / self.t_final
        return langevin(
            self.potential,
            times,
            beta=self.beta,
            x0=self.start(n, seed),
            n_steps=max(1, round(self.langevin_steps * share)),
            seed=seed + 1,
            tamed=self.tamed,
            weak_order=self.weak_order,
        )

    def sample(self, n: int, t: float, seed: int = 0) -> np.ndarray:
        """Independent samples (n, d) of rho_t: exact where possible, otherwise particles."""
        return self.particles(n, float(t), seed)

    def stationary_log_density(self, x: ArrayLike) -> np.ndarray:
        """Log of the equilibrium density (n,) at x (n, d), where beta = 1 and it is known."""
        log_normalizer = getattr(self.potential, "log_normalizer", None)
        if log_normalizer is None or self.beta != 1:
            raise NotImplementedError(f"the normalisation of {self.name}'s equilibrium is unknown")
        x = torch.as_tensor(np.asarray(x), dtype=torch.float64)
        return -self.potential(x).numpy() - log_normalizer


@dataclass(frozen=True, eq=False)
class GaussianProblem(Problem):
    """V quadratic or zero, or a linear equation: rho_t is Gaussian, its moments are known."""

    @cached_property
    def _linear(self) -> LinearMoments:
        return LinearMoments.of(
            self.potential, self.t_final, self.initial_mean, self.initial_covariance
        )

    def moments(self, t):
        if isinstance(self.potential, Equation):
            return self._linear(t)
        return ornstein_uhlenbeck(
            self.potential,
            t,
            beta=self.beta,
            mean0=self.initial_mean,
            covariance0=self.initial_covariance,
        )

    def log_density(self, x, t):
        return gaussian_log_density(x, *self.moments(t))

    def sample(self, n, t, seed=0):
        mean, covariance = self.moments(t)
        noise = np.random.default_rng(seed).standard_normal((n, self.d))
        return mean + noise @ np.linalg.cholesky(covariance).T


@dataclass(frozen=True, eq=False)
class SeparableProblem(Problem):
    """V a sum over coordinates, rho_0 a product: rho_t is the product of 1-D solutions.

    Attributes
    ----------
    parts : tuple of Potential
        1-D potentials.
    which : tuple of int
        The part of every coordinate; coordinates of one part also share their start.
    """

    parts: tuple[Potential, ...] = ()
    which: tuple[int, ...] = field(default=(), repr=False)

    @cached_property
    def solutions(self) -> tuple[FiniteVolumeSolution, ...]:
        """Finite-volume solution of every part, solved on first use."""
        first = [self.which.index(k) for k in range(len(self.parts))]
        return tuple(
            finite_volumes(
                part,
                self.t_final,
                beta=self.beta,
                initial=(self.initial_mean[i], self.initial_covariance[i, i]),
            )
            for i, part in zip(first, self.parts, strict=True)
        )

    def marginal(self, i: int) -> FiniteVolumeSolution:
        """Solution of coordinate i."""
        return self.solutions[self.which[i]]

    def moments(self, t):
        means = np.array([s.mean(t) for s in self.solutions])
        variances = np.array([s.variance(t) for s in self.solutions])
        which = list(self.which)
        return means[which], np.diag(variances[which])

    def log_density(self, x, t):
        x = np.asarray(x, dtype=float)
        total = np.zeros(len(x))
        for k, solution in enumerate(self.solutions):
            columns = [i for i, part in enumerate(self.which) if part == k]
            total += solution.log_density(x[:, columns], t).sum(1)
        return total

    def sample(self, n, t, seed=0):
        u = np.random.default_rng(seed).random((n, self.d))
        return np.stack([self.marginal(i).quantile(u[:, i], t) for i in range(self.d)], 1)


@dataclass(frozen=True, eq=False)
class PlanarProblem(Problem):
    """Two coordinates: rho_t is the converged finite-volume solution.

    Attributes
    ----------
    grid : dict
        What :func:`~skfokker.reference.finite_volumes_2d` is told besides: domain, tol, nodes.
    """

    grid: dict = field(default_factory=dict)

    @cached_property
    def solution(self) -> FiniteVolumeSolution2D:
        """Finite-volume solution, solved on first use."""
        start = self.initial_mean, self.initial_covariance
        return finite_volumes_2d(
            self.potential, self.t_final, beta=self.beta, initial=start, **self.grid
        )

    def moments(self, t):
        return self.solution.mean(t), self.solution.covariance(t)

    def log_density(self, x, t):
        return self.solution.log_density(x, t)

    def sample(self, n, t, seed=0):
        return self.solution.sample(n, t, seed)


@dataclass(frozen=True, eq=False)
class ProductProblem(Problem):
    """V a sum over groups of rotated coordinates: rho_t is the product of smaller solutions.

    With z = rotation^T x, V(x) = sum_k V_k(z_k) up to a constant, z_k being the coordinates of
    ``blocks[k]``; where rho_0 is a product in z as well, so is rho_t.

    Attributes
    ----------
    parts : tuple of Problem
        Problems whose density is known; blocks of one part share its solution.
    which : tuple of int
        The part of every block.
    blocks : tuple of tuple of int
        Coordinates of z that every block takes, as many as its part has.
    rotation : ndarray (d, d) or None
        Orthogonal; its columns are the directions of z. None where z = x.

    Raises
    ------
    ValueError
        Where rho_0 is not the product of those of the parts.
    """

    parts: tuple[Problem, ...] = ()
    which: tuple[int, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    rotation: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        super().__post_init__()
        moments = [(part.initial_mean, part.initial_covariance) for part in self.parts]
        mean, covariance = self._together(moments)
        given = self.initial_mean, self.initial_covariance
        if not all(map(np.allclose, (mean, covariance), given)):
            raise ValueError(f"rho_0 of {self.name} is not the product of those of its parts")

    def _together(self, moments):
        """Mean (d,) and covariance (d, d) of x from those of the parts."""
        mean, covariance = np.zeros(self.d), np.zeros((self.d, self.d))
        for k, block in zip(self.which, self.blocks, strict=True):
            mean[list(block)], covariance[np.ix_(block, block)] = moments[k]
        if self.rotation is None:
            return mean, covariance
        return self.rotation @ mean, self.rotation @ covariance @ self.rotation.T

    def moments(self, t):
        return self._together([part.moments(t) for part in self.parts])

    def log_density(self, x, t):
        z = np.asarray(x, dtype=float)
        z = z if self.rotation is None else z @ self.rotation
        total = np.zeros(len(z))
        for k, part in enumerate(self.parts):  # one call a part: its tables are made once a time
            mine = [block for j, block in zip(self.which, self.blocks, strict=True) if j == k]
            points = z[:, mine].reshape(-1, part.d)
            total += part.log_density(points, t).reshape(len(z), -1).sum(1)
        return total

    def sample(self, n, t, seed=0):
        z = np.empty((n, self.d))
        seeds = np.random.SeedSequence(seed).generate_state(len(self.parts))
        for k, part in enumerate(self.parts):
            mine = [block for j, block in zip(self.which, self.blocks, strict=True) if j == k]
            drawn = part.sample(n * len(mine), t, int(seeds[k]))
            z[:, mine] = drawn.reshape(n, len(mine), part.d)
        return z if self.rotation is None else z @ self.rotation.T


@dataclass(frozen=True, eq=False)
class ExpectationProblem(Problem):
    """What is known of rho at t_final are expectations.

    Attributes
    ----------
    functions : tuple of callable
        From points (n, d) to values (n,).
    expected : tuple of float
        Their means under rho.
    """

    has_density = False

    functions: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    expected: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class LogNormalProblem(Problem):
    """log x_i is Gaussian with mean 0 and variance ``variances[i]`` + 1 - e^-t.

    Attributes
    ----------
    variances : ndarray (d,)
        Of log x at t = 0.
    """

    variances: np.ndarray = field(kw_only=True)

    def __post_init__(self):
        mean, covariance = self.moments(0.0)
        object.__setattr__(self, "initial_mean", mean)
        object.__setattr__(self, "initial_covariance", covariance)

    def _variances(self, t):
        return self.variances - np.expm1(-t)

    @property
    def initial(self):
        spread = torch.from_numpy(np.sqrt(self.variances))
        return Independent(LogNormal(torch.zeros_like(spread), spread), 1)

    def moments(self, t):
        s = self._variances(t)
        return np.exp(s / 2), np.diag(np.expm1(s) * np.exp(s))

    def log_density(self, x, t):
        x, s = np.asarray(x, dtype=float), self._variances(t)
        log_x = np.log(np.maximum(x, 1e-300))
        values = -(log_x**2) / (2 * s) - log_x - 0.5 * np.log(2 * np.pi * s)
        return np.where((x > 0).all(1), values.sum(1), -np.inf)

    def start(self, n, seed=0):
        return self.sample(n, 0.0, seed)

    def sample(self, n, t, seed=0):
        noise = np.random.default_rng(seed).standard_normal((n, self.d))
        return np.exp(noise * np.sqrt(self._variances(t)))


@dataclass(frozen=True, eq=False)
class PorousProblem(Problem):
    """A porous medium without a drift, from a self-similar law of compact support.

    Attributes
    ----------
    solution : Barenblatt
    """

    solution: Barenblatt = field(kw_only=True)

    def __post_init__(self):
        mean, covariance = self.solution.moments(0.0)
        object.__setattr__(self, "initial_mean", mean)
        object.__setattr__(self, "initial_covariance", covariance)

    @property
    def initial(self):
        return self.solution.law()

    def moments(self, t):
        return self.solution.moments(t)

    def log_density(self, x, t):
        return self.solution.log_density(x, t)

    def start(self, n, seed=0):
        return self.solution.sample(n, 0.0, seed)

    def sample(self, n, t, seed=0):
        return self.solution.sample(n, t, seed)


@dataclass(frozen=True, eq=False)
class SamplingTarget(Problem):
    """A normalised or normalisable target whose equilibrium is what counts (beta = 1)."""

    has_density = False

    def target_sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Samples (n, d) of the equilibrium."""
        return self.potential.sample(n, seed).numpy()


@dataclass(frozen=True, eq=False)
class SeparableTarget(SeparableProblem):
    """A sampling target that is separable, so that rho_t is known as well."""

    def target_sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Samples (n, d) of the equilibrium."""
        return self.potential.sample(n, seed).numpy()
