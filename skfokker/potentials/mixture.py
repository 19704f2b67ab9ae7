"""Gaussian mixtures as potentials."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Potential, as_covariance, as_float64


class GaussianMixture(Potential):
    """V = -log of a normalised mixture of Gaussians.

    At beta = 1 the equilibrium is the mixture itself.

    Parameters
    ----------
    means : array-like (k, d)
        Centres.
    covariances : None, float, array-like (k,) or (k, d, d)
        None is the identity; a number or k numbers are variances of round components; matrices
        are symmetric positive definite.
    weights : array-like (k,), optional
        Positive; divided by their sum. None is equal weights.
    """

    log_normalizer = 0.0

    def __init__(self, means, covariances=None, weights=None):
        self.means = means
        self.covariances = covariances
        self.weights = weights

    def _components(self):
        """Means (k, d), covariances, weights, as the constructor takes them."""
        return self.means, self.covariances, self.weights

    @property
    def n_features_in_(self) -> int:
        return self._centres().shape[1]

    def _centres(self) -> Tensor:
        means = as_float64(self._components()[0], "means")
        if means.ndim != 2 or 0 in means.shape:
            raise ValueError(f"means must have shape (k, d), got {tuple(means.shape)}")
        return means

    def _prepare(self):
        """Means (k, d), precisions and Cholesky factors (k, d, d), log scales, weights (k,)."""
        means = self._centres()
        _, covariances, weights = self._components()
        k, d = means.shape
        given = as_float64(1.0 if covariances is None else covariances, "covariances")
        if given.ndim == 0:
            given = given.expand(k)
        if given.shape not in ((k,), (k, d, d)):
            raise ValueError(
                f"covariances must be None, a number, {k} variances or an array ({k}, {d}, {d}) "
                f"to fit means of shape {(k, d)}, got shape {tuple(given.shape)}"
            )
        full = torch.stack([as_covariance(c, d, "covariances") for c in given])
        weights = as_float64([1.0] * k if weights is None else weights, "weights")
        if weights.shape != (k,) or (weights <= 0).any():
            raise ValueError(f"weights must be {k} positive numbers, got {weights.tolist()}")
        factors = torch.linalg.cholesky(full)
        log_scale = (
            torch.log(weights / weights.sum())
            - factors.diagonal(dim1=1, dim2=2).log().sum(1)
            - 0.5 * d * math.log(2 * math.pi)
        )
        return means, torch.cholesky_inverse(factors), factors, log_scale, weights / weights.sum()

    def _pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log weighted densities (n, k) and pulls Sigma^{-1} (x - m) (n, k, d)."""
        means, precisions, _, log_scale, _ = self._constants(x)
        gap = x[:, None, :] - means
        pull = torch.einsum("nki,kij->nkj", gap, precisions)
        return log_scale - 0.5 * (gap * pull).sum(2), pull

    def __call__(self, x):
        return -torch.logsumexp(self._pull(x)[0], 1)

    def value_and_grad(self, x):
        log_parts, pull = self._pull(x)
        return -torch.logsumexp(log_parts, 1), torch.einsum(
            "nk,nkd->nd", torch.softmax(log_parts, 1), pull
        )

    def sample(self, n_samples: int, seed: int = 0) -> Tensor:
        """Exact samples (n_samples, d) of the mixture, float64."""
        generator = torch.Generator().manual_seed(seed)
        means, _, factors, _, weights = self._constants(torch.zeros(0, dtype=torch.float64))
        which = torch.multinomial(weights, n_samples, replacement=True, generator=generator)
        noise = torch.randn(n_samples, means.shape[1], 1, dtype=torch.float64, generator=generator)
        return means[which] + (factors[which] @ noise)[:, :, 0]


class EightModes(GaussianMixture):
    """Eight round Gaussians of equal weight on the circle of radius 1 about (-1, 0).

    Parameters
    ----------
    variance : float
        0.01; 0.005 is the peaky variant.
    """

    def __init__(self, variance: float = 0.01):
        self.variance = variance

    def _components(self):
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        means = torch.stack([torch.cos(angle) - 1, torch.sin(angle)], 1)
        return means, self.variance, None
