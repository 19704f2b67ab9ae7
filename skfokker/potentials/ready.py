"""Potentials with closed forms: quadratic, Styblinski-Tang, Rosenbrock, double well, none."""

from __future__ import annotations

import math

import torch

from .base import Potential, as_covariance, as_dimension, as_float64


class Zero(Potential):
    """V = 0: the heat equation.

    Parameters
    ----------
    d : int, optional
        Dimension; None for any.
    """

    def __init__(self, d: int | None = None):
        self.d = d

    @property
    def n_features_in_(self) -> int:
        if self.d is None:
            raise AttributeError("Zero(d=None) works in any dimension")
        return as_dimension(self.d)

    def __call__(self, x):
        return 0.0 * x.sum(1)  # not torch.zeros: the result stays attached to x

    def value_and_grad(self, x):
        return torch.zeros_like(x[:, 0]), torch.zeros_like(x)


class Quadratic(Potential):
    """V = (x - mean)^T covariance^{-1} (x - mean) / 2 (section 6.1 of the paper).

    Its equilibrium is N(mean, beta covariance).

    Parameters
    ----------
    mean : array-like (d,)
        Minimiser.
    covariance : float, array-like (d,) or (d, d)
        Inverse of the Hessian: a variance for every coordinate, d variances, or a symmetric
        positive definite matrix.
    """

    def __init__(self, mean, covariance=1.0):
        self.mean = mean
        self.covariance = covariance

    @property
    def n_features_in_(self) -> int:
        return int(as_float64(self.mean, "mean").numel())

    @property
    def log_normalizer(self) -> float:
        covariance = as_covariance(self.covariance, self.n_features_in_)
        return 0.5 * float(torch.logdet(2 * math.pi * covariance))

    def _prepare(self):
        mean = as_float64(self.mean, "mean")
        if mean.ndim > 1:
            raise ValueError(f"mean must have shape (d,), got {tuple(mean.shape)}")
        mean = mean.reshape(-1)
        covariance = as_covariance(self.covariance, len(mean))
        return mean, torch.cholesky_inverse(torch.linalg.cholesky(covariance))

    def __call__(self, x):
        return self.value_and_grad(x)[0]

    def value_and_grad(self, x):
        mean, precision = self._constants(x)
        gap = x - mean
        gradient = gap @ precision
        return 0.5 * (gap * gradient).sum(1), gradient


class StyblinskiTang(Potential):
    """V = scale sum_i (x_i^4 - 16 x_i^2 + 5 x_i) (section 6.2.1 of the paper).

    Parameters
    ----------
    d : int
        Dimension; the coordinates do not interact.
    scale : float
        3/50 in the paper.
    """

    def __init__(self, d: int, scale: float = 3 / 50):
        self.d = d
        self.scale = scale

    @property
    def n_features_in_(self) -> int:
        return as_dimension(self.d)

    def __call__(self, x):
        return self.scale * (((x.square() - 16) * x + 5) * x).sum(1)

    def value_and_grad(self, x):
        return self(x), self.scale * ((4 * x.square() - 32) * x + 5)


class Rosenbrock(Potential):
    """V = scale sum_{k<d} 10 (x_{k+1} - x_k^2)^2 + (x_k - 1)^2 (section 6.2.2 of the paper).

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    scale : float
        3/50 in the paper.
    """

    def __init__(self, d: int, scale: float = 3 / 50):
        self.d = d
        self.scale = scale

    @property
    def n_features_in_(self) -> int:
        if as_dimension(self.d) < 2:
            raise ValueError(f"d must be at least 2 for Rosenbrock, got {self.d!r}")
        return int(self.d)

    def __call__(self, x):
        head, tail = x[:, :-1], x[:, 1:]
        bend = tail - head.square()
        return self.scale * (10 * bend.square() + (head - 1).square()).sum(1)

    def value_and_grad(self, x):
        head, tail = x[:, :-1], x[:, 1:]
        bend = tail - head.square()
        left = 2 * (head - 1) - 40 * head * bend
        gradient = torch.nn.functional.pad(left, (0, 1)) + torch.nn.functional.pad(
            20 * bend, (1, 0)
        )
        value = (10 * bend.square() + (head - 1).square()).sum(1)
        return self.scale * value, self.scale * gradient


class DoubleWell(Potential):
    """V = height ((x_1 / width)^2 - 1)^2 + (x_2^2 + ... + x_d^2) / 2.

    Two wells at x_1 = -width and width, a barrier of the given height between them, and a unit
    spring along every other coordinate.

    Parameters
    ----------
    d : int
        Dimension.
    height : float
        V at the origin above the wells, in the units of beta.
    width : float
        Half the distance between the wells.
    """

    def __init__(self, d: int = 1, height: float = 1.0, width: float = 1.0):
        self.d = d
        self.height = height
        self.width = width

    @property
    def n_features_in_(self) -> int:
        return as_dimension(self.d)

    def __call__(self, x):
        bend = (x[:, 0] / self.width).square() - 1
        return self.height * bend.square() + 0.5 * x[:, 1:].square().sum(1)

    def value_and_grad(self, x):
        bend = (x[:, :1] / self.width).square() - 1
        slope = 4 * self.height / self.width**2 * bend * x[:, :1]
        return self(x), torch.cat([slope, x[:, 1:]], 1)
