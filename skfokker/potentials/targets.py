"""Unnormalised densities that sampling papers compare on: V = -log density, beta = 1."""

from __future__ import annotations

import math

import torch
from scipy.integrate import quad
from torch import Tensor

from .base import Potential, as_dimension


def _normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


class Funnel(Potential):
    """Neal's funnel: x_0 ~ N(0, scale^2), x_1..d-1 given x_0 ~ N(0, exp(x_0)).

    R. M. Neal, "Slice sampling", Annals of Statistics 31 (2003), section 8.

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    scale : float
        Standard deviation of x_0 (3; papers that use 1 are not comparable).
    """

    log_normalizer = 0.0

    def __init__(self, d: int = 10, scale: float = 3.0):
        self.d = d
        self.scale = scale

    @property
    def n_features_in_(self) -> int:
        if as_dimension(self.d) < 2:
            raise ValueError(f"d must be at least 2 for Funnel, got {self.d!r}")
        return int(self.d)

    def __call__(self, x):
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x):
        neck, rest = x[:, 0], x[:, 1:]
        k = rest.shape[1]
        inverse = torch.exp(-neck)
        energy = 0.5 * rest.square().sum(1) * inverse
        value = (
            0.5 * (neck / self.scale).square()
            + 0.5 * k * neck
            + energy
            + math.log(self.scale)
            + 0.5 * (k + 1) * math.log(2 * math.pi)
        )
        slope = neck / self.scale**2 + 0.5 * k - energy
        return value, torch.cat([slope[:, None], rest * inverse[:, None]], 1)

    def sample(self, n_samples: int, seed: int = 0) -> Tensor:
        """Exact samples (n_samples, d), float64."""
        z = _normal(n_samples, self.n_features_in_, seed=seed)
        neck = self.scale * z[:, :1]
        return torch.cat([neck, torch.exp(0.5 * neck) * z[:, 1:]], 1)


class ManyWell(Potential):
    """V = sum over pairs of x_1^4 - 6 x_1^2 - x_1 / 2 + x_2^2 / 2: 2^(d/2) modes.

    Pairs are coordinates (0, 1), (2, 3), ... . L. I. Midgley et al., "Flow annealed importance
    sampling bootstrap" (2023).

    Parameters
    ----------
    d : int
        Dimension, even.
    """

    def __init__(self, d: int = 32):
        self.d = d

    @property
    def n_features_in_(self) -> int:
        if as_dimension(self.d) % 2:
            raise ValueError(f"d must be even for ManyWell, got {self.d!r}")
        return int(self.d)

    @staticmethod
    def _weight(x: float) -> float:
        return math.exp(-(x**4) + 6 * x**2 + x / 2)

    @property
    def log_normalizer(self) -> float:
        z = quad(self._weight, -5, 0)[0] + quad(self._weight, 0, 5)[0]
        return self.n_features_in_ // 2 * math.log(z * math.sqrt(2 * math.pi))

    @property
    def right_probability(self) -> float:
        """Probability that the double-well coordinate of a pair is positive."""
        left, right = quad(self._weight, -5, 0)[0], quad(self._weight, 0, 5)[0]
        return right / (left + right)

    def __call__(self, x):
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x):
        well, spring = x[:, ::2], x[:, 1::2]
        square = well.square()
        value = ((square - 6) * square - 0.5 * well + 0.5 * spring.square()).sum(1)
        slope = (4 * square - 12) * well - 0.5
        return value, torch.stack([slope, spring], 2).flatten(1)

    def sample(self, n_samples: int, seed: int = 0) -> Tensor:
        """Samples (n_samples, d), float64, by inverting the tabulated distribution function."""
        generator = torch.Generator().manual_seed(seed)
        d = self.n_features_in_
        grid = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
        weight = torch.exp(-(grid**4) + 6 * grid**2 + grid / 2)
        cdf = torch.cumsum((weight[1:] + weight[:-1]) / 2, 0)
        cdf = torch.cat([cdf.new_zeros(1), cdf / cdf[-1]])
        u = torch.rand(n_samples, d // 2, dtype=torch.float64, generator=generator)
        k = torch.searchsorted(cdf, u, right=True).clamp(1, len(grid) - 1)
        share = (u - cdf[k - 1]) / (cdf[k] - cdf[k - 1])
        well = grid[k - 1] + share * (grid[k] - grid[k - 1])
        spring = torch.randn(n_samples, d // 2, dtype=torch.float64, generator=generator)
        return torch.stack([well, spring], 2).flatten(1)


class Mustache(Potential):
    """V = -log N((x_1, x_2 - (x_1^2 - 1)^2); 0, [[1, c], [c, 1]]), in two dimensions.

    The map has unit Jacobian, so the density is normalised.

    Parameters
    ----------
    correlation : float
        c, 0.9 where published.
    """

    log_normalizer = 0.0
    n_features_in_ = 2

    def __init__(self, correlation: float = 0.9):
        self.correlation = correlation

    def __call__(self, x):
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x):
        c, head = self.correlation, x[:, 0]
        square = head.square() - 1
        tail = x[:, 1] - square.square()
        precision = 1 / (1 - c**2)
        value = 0.5 * precision * (head.square() - 2 * c * head * tail + tail.square())
        by_tail = precision * (tail - c * head)
        by_head = precision * (head - c * tail) - 4 * head * square * by_tail
        log_scale = math.log(2 * math.pi) + 0.5 * math.log(1 - c**2)
        return value + log_scale, torch.stack([by_head, by_tail], 1)

    def sample(self, n_samples: int, seed: int = 0) -> Tensor:
        """Exact samples (n_samples, 2), float64."""
        z = _normal(n_samples, 2, seed=seed)
        head = z[:, 0]
        tail = self.correlation * head + math.sqrt(1 - self.correlation**2) * z[:, 1]
        return torch.stack([head, tail + (head.square() - 1).square()], 1)
