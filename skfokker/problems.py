"""Problems that others have published or whose solution is known, under one roof.

>>> from skfokker import problems
>>> problem = problems.load("quadratic-2d-iso")
>>> mean, covariance = problem.moments(0.1)
>>> mean.round(3).tolist()
[0.989, 0.989]
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.datasets import make_spd_matrix

from .potentials import (
    CallablePotential,
    DoubleWell,
    EightModes,
    Funnel,
    GaussianMixture,
    ManyWell,
    Mustache,
    Potential,
    Quadratic,
    Rosenbrock,
    StyblinskiTang,
    Zero,
)
from .reference import (
    FiniteVolumeSolution,
    finite_volumes,
    gaussian_log_density,
    langevin,
    ornstein_uhlenbeck,
)


@dataclass(frozen=True, eq=False)
class Problem:
    """A Fokker-Planck problem with a Gaussian start, and what is known of its solution.

    This class knows the solution through particles only; :class:`GaussianProblem` and
    :class:`SeparableProblem` know its density.

    Attributes
    ----------
    name : str
        As in :func:`load`.
    potential : Potential
        V.
    beta : float
        Diffusion coefficient.
    t_final : float
        Horizon.
    times : tuple of float
        Where to compare.
    initial_mean, initial_covariance : ndarray (d,) and (d, d)
        rho_0; N(0, I) where not given.
    langevin_steps : int
        Euler-Maruyama steps to t_final after which halving them changes nothing that 20,000
        particles show.
    tamed : bool
        Whether the particles need the tamed drift of :func:`~skfokker.reference.langevin`.
    """

    name: str
    potential: Potential
    beta: float
    t_final: float
    times: tuple[float, ...]
    initial_mean: np.ndarray = None
    initial_covariance: np.ndarray = None
    langevin_steps: int = 1000
    tamed: bool = False

    def __post_init__(self):
        if self.initial_mean is None:
            object.__setattr__(self, "initial_mean", np.zeros(self.d))
        if self.initial_covariance is None:
            object.__setattr__(self, "initial_covariance", np.eye(self.d))

    @property
    def d(self) -> int:
        """Dimension."""
        return self.potential.n_features_in_

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
    """V quadratic or zero: rho_t is Gaussian, its moments are the Ornstein-Uhlenbeck ones."""

    def moments(self, t):
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


_REGISTRY: dict[str, Callable[..., Problem]] = {}


def _register(*names: str, **fixed):
    def add(factory):
        for name in names:
            _REGISTRY[name] = lambda name=name, **given: factory(name, **{**fixed, **given})
        return factory

    return add


def names() -> list[str]:
    """Names that :func:`load` knows, sorted."""
    return sorted(_REGISTRY)


def load(name: str, **parameters) -> Problem:
    """Return the problem of that name.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    **parameters
        ``d`` and ``k`` (the number of the random target) for ou-benchmark, ou-spectrum and
        nine-gaussians; ``d`` for styblinski-tang, rosenbrock, heat and double-well; ``beta`` for
        styblinski-tang and double-well.

    Raises
    ------
    ValueError
        Where there is no such problem.
    """
    if name not in _REGISTRY:
        close = difflib.get_close_matches(str(name), _REGISTRY, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "problems.names() lists them"
        raise ValueError(f"there is no problem named {name!r}; {hint}")
    return _REGISTRY[name](**parameters)


@_register("quadratic-2d-iso")
def _quadratic_iso(name):
    """Section 6.1.1 of the paper."""
    times = (0.05, 0.1, 0.15, 0.2, 0.35, 0.7)
    return GaussianProblem(name, Quadratic([3.0, 3.0], 0.25), 1.0, 0.7, times)


@_register("quadratic-2d-aniso")
def _quadratic_aniso(name):
    """Section 6.1.1 of the paper."""
    times = (0.1, 0.2, 0.4, 0.7, 1.4)
    return GaussianProblem(name, Quadratic([3.0, 3.0], [1.0, 0.25]), 1.0, 1.4, times)


@_register("quadratic-10d")
def _quadratic_10d(name):
    """Section 6.1.2 of the paper.

    Sigma = diag(Sigma_A, I, Sigma_B, I, Sigma_C), blocks of two: Sigma_A = [[5, -3], [-3, 5]] / 8,
    Sigma_B = diag(1, 1/4), Sigma_C = I/4; mu = (1, 1, 0, 0, 1, 2, 0, 0, 2, 3). The numbers are
    those of the authors' program (github.com/LSLSliushu/Parametric-Fokker-Planck-Equation,
    Quadratic_Function_high_dimension.py, which states Sigma^-1). The exact solution follows
    from them; the one printed in the paper is wrong in the block Sigma_A, where the mean is
    (1 - e^{-4t}) (1, 1).
    """
    covariance = np.diag([0.0, 0.0, 1, 1, 1, 0.25, 1, 1, 0.25, 0.25])
    covariance[:2, :2] = np.array([[5, -3], [-3, 5]]) / 8
    mean = [1.0, 1, 0, 0, 1, 2, 0, 0, 2, 3]
    return GaussianProblem(name, Quadratic(mean, covariance), 1.0, 2.0, (0.1, 0.2, 0.5, 1.0, 2.0))


_TANG_TIMES = (0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 3.0)


def _styblinski_tang(name, d, beta=1.0):
    """Section 6.2.1 of the paper (beta = 1, d = 30), and the study of beta in its section 6."""
    return SeparableProblem(
        name,
        StyblinskiTang(d),
        beta,
        3.0,
        _TANG_TIMES,
        langevin_steps=2000,
        parts=(StyblinskiTang(1),),
        which=(0,) * d,
    )


for _d in (1, 10, 30, 100):
    _register(f"styblinski-tang-{_d}d", d=_d)(_styblinski_tang)
    for _beta in (0.1, 10):
        _register(f"styblinski-tang-{_d}d-beta{_beta}", d=_d, beta=float(_beta))(_styblinski_tang)


@_register("rosenbrock-2d", d=2)
@_register("rosenbrock-10d", d=10)
def _rosenbrock(name, d):
    """Section 6.2.2 of the paper (d = 10)."""
    return Problem(name, Rosenbrock(d), 1.0, 1.0, (0.1, 0.5, 1.0), langevin_steps=2000)


@_register("ou-benchmark")
def _ou_benchmark(name, d=2, k=0):
    """Mokrov et al., "Large-Scale Wasserstein Gradient Flows" (2021): target k of fifteen."""
    random = np.random.RandomState(zlib.crc32(f"abacaba@{d}@{k}numpy".encode()))
    covariance = make_spd_matrix(d, random_state=random)
    return GaussianProblem(
        f"{name}-{d}d-{k}", Quadratic(random.randn(d), covariance), 1.0, 0.9, (0.5, 0.9)
    )


@_register("ou-spectrum")
def _ou_spectrum(name, d=2, k=0):
    """Variational Wasserstein gradient flow: mean N(0, I), eigenvalues uniform in [0.5, 1]."""
    random = np.random.RandomState(zlib.crc32(f"ou-spectrum@{d}@{k}".encode()))
    basis, _ = np.linalg.qr(random.randn(d, d))
    covariance = (basis * random.uniform(0.5, 1.0, d)) @ basis.T
    return GaussianProblem(
        f"{name}-{d}d-{k}", Quadratic(random.randn(d), covariance), 1.0, 0.9, (0.5, 0.9)
    )


@_register("nine-gaussians")
def _nine_gaussians(name, d=2, k=0):
    """Mokrov et al.: nine unit Gaussians, centres uniform in [-5, 5]^d, rho_0 = N(0, 16 I).

    The seeds of the published targets are not known; these are our own.
    """
    random = np.random.RandomState(zlib.crc32(f"nine-gaussians@{d}@{k}".encode()))
    return Problem(
        f"{name}-{d}d-{k}",
        GaussianMixture(random.uniform(-5, 5, (9, d))),
        1.0,
        4.0,
        (0.5, 1.0, 2.0, 4.0),
        initial_covariance=16 * np.eye(d),
        langevin_steps=1000,
    )


@_register("heat-8d", d=8)
def _heat(name, d):
    """V = 0: exactly N(0, (1 + 2t) I)."""
    return GaussianProblem(name, Zero(d), 1.0, 5.0, (0.5, 1.0, 2.0, 5.0))


@_register("double-well-1d", d=1)
@_register("double-well-2d", d=2)
def _double_well(name, d, beta=0.5):
    """Two wells at -1 and 1 behind a barrier of two beta."""
    parts = (DoubleWell(1), Quadratic([0.0]))[: min(d, 2)]
    return SeparableProblem(
        name,
        DoubleWell(d),
        beta,
        2.0,
        (0.1, 0.5, 1.0, 2.0),
        parts=parts,
        which=(0,) + (1,) * (d - 1),
    )


@dataclass(frozen=True, eq=False)
class SamplingTarget(Problem):
    """A normalised or normalisable target whose equilibrium is what counts (beta = 1)."""

    has_density = False

    def target_sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Samples (n, d) of the equilibrium."""
        return self.potential.sample(n, seed).numpy()


@_register("funnel-10")
def _funnel(name):
    return SamplingTarget(name, Funnel(10), 1.0, 5.0, (1.0, 5.0), langevin_steps=5000)


@_register("gaussian-grid-25")
def _gaussian_grid(name):
    """Variance 0.3, centres {-10, -5, 0, 5, 10}^2; started from a Gaussian of equal spread."""
    side = np.arange(-10.0, 11.0, 5.0)
    centres = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    return SamplingTarget(
        name,
        GaussianMixture(centres, 0.3),
        1.0,
        5.0,
        (1.0, 5.0),
        initial_covariance=50.3 * np.eye(2),
        langevin_steps=2000,
    )


def _well(x):
    square = x[:, 0].square()
    return (square - 6) * square - 0.5 * x[:, 0]


@dataclass(frozen=True, eq=False)
class SeparableTarget(SeparableProblem):
    """A sampling target that is separable, so that rho_t is known as well."""

    def target_sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Samples (n, d) of the equilibrium."""
        return self.potential.sample(n, seed).numpy()


@_register("many-well-32", d=32)
def _many_well(name, d):
    return SeparableTarget(
        name,
        ManyWell(d),
        1.0,
        5.0,
        (1.0, 5.0),
        langevin_steps=5000,
        parts=(CallablePotential(_well, 1), Quadratic([0.0])),
        which=(0, 1) * (d // 2),
    )


@_register("mustache")
def _mustache(name):
    times = (1.0, 5.0)
    return SamplingTarget(name, Mustache(), 1.0, 5.0, times, langevin_steps=20_000, tamed=True)


@_register("eight-modes", variance=0.01)
@_register("eight-modes-peaky", variance=0.005)
def _eight_modes(name, variance):
    """Circle of radius 1 about (-1, 0)."""
    return SamplingTarget(name, EightModes(variance), 1.0, 5.0, (1.0, 5.0), langevin_steps=20_000)
