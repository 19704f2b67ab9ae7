r"""The self-similar solution of the porous medium equation, by Barenblatt and Pattle.

d rho/dt = beta Laplacian rho^m has, with a = d / (d (m - 1) + 2), k = a (m - 1) / (2 m d) and
s = beta (t + t0),

    rho(x, t) = s^-a (C - k |x|^2 s^(-2 a / d))_+^(1 / (m - 1)) ,

C being what makes it a probability density. (J. L. Vazquez, The Porous Medium Equation, Oxford
University Press (2007), section 4.4.)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.distributions import Distribution, constraints


class Barenblatt:
    """The law that spreads from a point, seen from the time t0 on.

    Parameters
    ----------
    d : int
        Dimension.
    m : float, default=2.0
        Of rho^m, above 1.
    beta : float, default=1.0
    t0 : float, default=1e-3
        Time since it was a point, at t = 0.

    Examples
    --------
    >>> from skfokker.reference import Barenblatt
    >>> exact = Barenblatt(d=3)
    >>> round(exact.radius(0.0), 4), round(exact.radius(0.025), 4)
    (0.4125, 0.7914)
    """

    def __init__(self, d: int, m: float = 2.0, beta: float = 1.0, t0: float = 1e-3):
        if not (m > 1 and beta > 0 and t0 > 0 and d >= 1):
            raise ValueError(
                f"Barenblatt needs d >= 1, m > 1, beta > 0 and t0 > 0, got d={d!r}, m={m!r}, "
                f"beta={beta!r}, t0={t0!r}."
            )
        self.d, self.m, self.beta, self.t0 = d, m, beta, t0
        self._power = 1 / (m - 1)
        self._a = d / (d * (m - 1) + 2)
        self._k = self._a * (m - 1) / (2 * m * d)
        mass = math.lgamma(self._power + 1 + d / 2) - math.lgamma(self._power + 1)
        mass += d / 2 * math.log(self._k / math.pi)
        self._c = math.exp(mass / (self._power + d / 2))

    def _scale(self, t: float) -> float:
        """Factor of lengths at time t."""
        if not t > -self.t0:
            raise ValueError(f"t must lie after the start from a point at {-self.t0:g}, got {t!r}.")
        return (self.beta * (t + self.t0)) ** (self._a / self.d)

    def radius(self, t: float) -> float:
        """Radius of the ball outside of which there is nothing."""
        return math.sqrt(self._c / self._k) * self._scale(t)

    def log_density(self, x: ArrayLike, t: float) -> np.ndarray:
        """Log rho (n,) at x (n, d); minus infinity outside the ball."""
        x, scale = np.asarray(x, dtype=float), self._scale(t)
        inside = self._c - self._k * (x**2).sum(1) / scale**2
        with np.errstate(divide="ignore"):
            return self._power * np.log(np.maximum(inside, 0.0)) - self.d * math.log(scale)

    def moments(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d)."""
        variance = self.radius(t) ** 2 / (self.d + 2 * self._power + 2)
        return np.zeros(self.d), variance * np.eye(self.d)

    def sample(self, n: int, t: float, seed: int = 0) -> np.ndarray:
        """Samples (n, d): the square of the radius has a beta law."""
        generator = np.random.default_rng(seed)
        direction = generator.standard_normal((n, self.d))
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        share = generator.beta(self.d / 2, self._power + 1, n)
        return self.radius(t) * np.sqrt(share)[:, None] * direction

    def law(self, t: float = 0.0) -> Distribution:
        """The law at time t as a torch distribution: a start for ``initial``."""
        return _Law(self, t)


class _Law(Distribution):
    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, solution: Barenblatt, t: float):
        self.solution, self.t = solution, t
        super().__init__(event_shape=torch.Size([solution.d]), validate_args=False)

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape)
        seed = int(torch.randint(2**31, ()))
        points = self.solution.sample(max(1, shape.numel()), self.t, seed)
        return torch.from_numpy(points).reshape(*shape, self.solution.d)

    def log_prob(self, value):
        flat = value.detach().reshape(-1, self.solution.d).numpy()
        return torch.from_numpy(self.solution.log_density(flat, self.t)).reshape(value.shape[:-1])
